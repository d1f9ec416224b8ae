//! Texts as numbers and bools, by the rules and with the words of the reference's parsers.

/// A whole number in 64 bits, with an optional sign and one of the prefixes `0x 0o 0b 0`; single
/// underscores may stand between digits.
pub(super) fn int(text: &str) -> Result<i64, String> {
    let invalid = || format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
        None => return Err(invalid()),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(body) = lower.strip_prefix("0x") {
        (16, body)
    } else if let Some(body) = lower.strip_prefix("0o") {
        (8, body)
    } else if let Some(body) = lower.strip_prefix("0b") {
        (2, body)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // An underscore may follow the prefix, but neither end the number nor follow another.
    let prefixed = radix != 10;
    if body.is_empty()
        || body.ends_with('_')
        || body.contains("__")
        || (body.starts_with('_') && !prefixed)
    {
        return Err(invalid());
    }
    let mut magnitude: u128 = 0;
    for digit in body.chars().filter(|c| *c != '_') {
        let digit = digit.to_digit(radix).ok_or_else(invalid)?;
        // Saturates far above 64 bits; the range is judged below, after all digits were seen.
        magnitude = magnitude.saturating_mul(u128::from(radix)).saturating_add(digit.into());
    }
    let limit = i64::MAX.unsigned_abs() + u64::from(negative);
    if magnitude > u128::from(limit) {
        return Err(format!("strconv.ParseInt: parsing {text:?}: value out of range"));
    }
    let magnitude = i128::try_from(magnitude).expect("it was compared with a 64-bit limit");
    let signed = if negative { -magnitude } else { magnitude };
    Ok(i64::try_from(signed).expect("it was compared with a 64-bit limit"))
}

/// `true` or `false` in the reference's spellings.
pub(super) fn bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// A quoted text without its quotes: raw between backquotes, with escapes between double quotes.
/// `None` for escapes that do not exist and for line ends between double quotes.
pub(super) fn unquote(quoted: &str) -> Option<String> {
    let inner = quoted.get(1..quoted.len().checked_sub(1)?)?;
    if quoted.starts_with('`') {
        return Some(inner.replace('\r', ""));
    }
    // Escapes may name single bytes, so the text is put together from bytes.
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' => return None,
            '\\' => escape(&mut rest, &mut out)?,
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    // Bytes that are no text equal no text of a row; the replacement character stands for them.
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn escape(rest: &mut std::str::Chars<'_>, out: &mut Vec<u8>) -> Option<()> {
    let kind = rest.next()?;
    let mut digits = |count: usize, radix: u32, first: Option<char>| {
        let mut number = first.map_or(Some(0), |c| c.to_digit(radix))?;
        for _ in 0..count {
            number = number * radix + rest.next()?.to_digit(radix)?;
        }
        Some(number)
    };
    let byte = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' | '"' => u8::try_from(kind).ok()?,
        'x' => u8::try_from(digits(2, 16, None)?).ok()?,
        '0'..='7' => u8::try_from(digits(2, 8, Some(kind))?).ok()?,
        'u' | 'U' => {
            let c = char::from_u32(digits(if kind == 'u' { 4 } else { 8 }, 16, None)?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(());
        }
        _ => return None,
    };
    out.push(byte);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let rows = [
            ("80", Ok(80)),
            ("-5", Ok(-5)),
            ("+80", Ok(80)),
            ("0", Ok(0)),
            ("0x50", Ok(80)),
            ("-0X50", Ok(-80)),
            ("0b1010000", Ok(80)),
            ("0o120", Ok(80)),
            ("0120", Ok(80)),
            ("8_0", Ok(80)),
            ("0x_50", Ok(80)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err("value out of range")),
            ("99999999999999999999999999999999999999999999999", Err("value out of range")),
            ("", Err("invalid syntax")),
            ("-", Err("invalid syntax")),
            ("x", Err("invalid syntax")),
            (" 80", Err("invalid syntax")),
            ("80.0", Err("invalid syntax")),
            ("0x", Err("invalid syntax")),
            ("08", Err("invalid syntax")),
            ("_8", Err("invalid syntax")),
            ("8_", Err("invalid syntax")),
            ("8__0", Err("invalid syntax")),
        ];
        for (text, expected) in rows {
            let expected =
                expected.map_err(|why| format!("strconv.ParseInt: parsing {text:?}: {why}"));
            assert_eq!(int(text), expected, "{text}");
        }
    }

    #[test]
    fn quotes() {
        let rows = [
            (r#""a b""#, Some("a b")),
            (r#""""#, Some("")),
            (r"`a\n`", Some(r"a\n")),
            ("`a\r\nb`", Some("a\nb")),
            (r#""\u0077\x65\142\U00000031""#, Some("web1")),
            (r#""\a\b\f\n\r\t\v\\""#, Some("\u{7}\u{8}\u{c}\n\r\t\u{b}\\")),
            (r#""\d""#, None),
            (r#""\'""#, None),
            (r#""\""#, None),
            (r#""\x7""#, None),
            (r#""\477""#, None),
            (r#""\ud800""#, None),
            ("\"a\nb\"", None),
        ];
        for (quoted, expected) in rows {
            assert_eq!(unquote(quoted).as_deref(), expected, "{quoted}");
        }
    }
}
