//! The query string: parameters, percent escapes, numbers.

use std::borrow::Cow;

/// The parameters of a query string, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Splits a query string. `None` if an escape in it is wrong.
    pub(crate) fn parse(query: &str) -> Option<Params> {
        if query.is_empty() {
            return Some(Params::default());
        }
        let mut pairs = Vec::with_capacity(4);
        for part in query.split(['&', ';']).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((parameter(name)?, parameter(value)?));
        }
        Some(Params(pairs))
    }

    /// Is there such a parameter, with any value?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The first value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All of them, escaped and sorted by name: how the reference repeats them in errors.
    pub(crate) fn encoded(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self.0.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let parts: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
            .collect();
        parts.join("&")
    }

    /// Every value.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A name or a value of the query string. Bytes that are not UTF-8 are allowed there, as in the reference: nothing
/// known has them, so they name an unknown parameter or are a wrong value for the one that they stand under.
fn parameter(text: &str) -> Option<String> {
    let bytes = unescaped_bytes(text, true)?;
    Some(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into()))
}

/// Escapes a name or a value of the query string, as the reference does.
pub(super) fn escape(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b' ');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string().replace(' ', "+")
}

/// Undoes the percent escapes of a path. `None` for a wrong escape or for bytes that are not UTF-8.
pub(super) fn unescape(text: &str) -> Option<String> {
    unescaped(text).map(Cow::into_owned)
}

/// The same without a copy where nothing is escaped.
pub(super) fn unescaped(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    String::from_utf8(unescaped_bytes(text, false)?).ok().map(Cow::Owned)
}

/// Undoes percent escapes, and `+` for a blank if `plus`. `None` for a wrong escape.
fn unescaped_bytes(text: &str, plus: bool) -> Option<Vec<u8>> {
    if !text.contains(['%', '+']) {
        return Some(text.as_bytes().to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let high = char::from(*bytes.get(at + 1)?).to_digit(16)?;
                let low = char::from(*bytes.get(at + 2)?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
                at += 3;
                continue;
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    Some(out)
}

/// A number as the reference reads it: decimal digits only, 64 bits. The error is the reference's.
pub(crate) fn go_unsigned(text: &str) -> Result<u64, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
    } else {
        Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_split_and_unescaped() {
        let params = Params::parse("a=1&b&c=x+y%2Bz;tag=t1&tag=t2&=v").unwrap();
        assert_eq!(params.get("a"), Some("1"));
        assert!(params.has("b") && params.get("b") == Some(""));
        assert_eq!(params.get("c"), Some("x y+z"));
        assert_eq!(params.all("tag").collect::<Vec<_>>(), ["t1", "t2"]);
        for wrong in ["a=%", "a=%z1", "%f=1", "a=%f&b=1"] {
            assert!(Params::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_spoil_their_own_parameter_alone() {
        let params = Params::parse("%ff=1&index=%ff&a=%c3%a9&b=x%ffy").unwrap();
        assert_eq!(params.get("a"), Some("\u{e9}"));
        assert_eq!(params.get("b"), Some("x\u{fffd}y"));
        assert!(go_unsigned(params.get("index").unwrap()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_split_or_refused(query in "\\PC{0,60}|([%&;=+]|[0-9a-f]{1,2}){0,40}") {
            if let Some(params) = Params::parse(&query) {
                // What is sent back in errors reads as the same parameters.
                let again = Params::parse(&params.encoded()).expect("its own escapes");
                for (name, value) in &params.0 {
                    proptest::prop_assert!(again.all(name).any(|it| it == value));
                }
            }
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(go_unsigned("18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "-1", "+1", "1_000", "0x1", "18446744073709551616"] {
            assert!(go_unsigned(wrong).is_err(), "{wrong}");
        }
    }
}
