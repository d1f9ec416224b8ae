//! Names as they travel: labels with their length before them, a zero at the end.

use std::fmt;

/// Bytes of a whole name, its last zero included.
const BYTES_MAX: usize = 255;
/// Bytes of a label.
const LABEL_BYTES_MAX: usize = 63;
/// A name of 255 bytes holds at most 127 labels; each jump leads backward, so more than this many
/// are a loop.
const JUMPS_MAX: usize = 127;

/// A domain name, never compressed, spelt as its writer spelt it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The name of everything: no label at all.
    pub fn root() -> Name {
        Name(Box::new([0]))
    }

    /// A name out of labels. `None` if one is empty or too long, or all together are.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Name> {
        let mut bytes = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return None;
            }
            bytes.push(u8::try_from(label.len()).ok()?);
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
        (bytes.len() <= BYTES_MAX).then(|| Name(bytes.into()))
    }

    /// A name out of text with dots; a dot at its end is not needed.
    pub fn from_text(text: &str) -> Option<Name> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(Name::root());
        }
        Name::from_labels(text.split('.').map(str::as_bytes))
    }

    /// `text`, which may have dots, and then this name.
    #[must_use]
    pub fn below(&self, text: &str) -> Option<Name> {
        Name::from_labels(text.split('.').map(str::as_bytes).chain(self.labels()))
    }

    /// Reads a name out of a message, and where the bytes behind it begin.
    ///
    /// A jump must lead before the place where it stands, and before all that was read so far:
    /// this alone makes loops impossible.
    pub fn read(message: &[u8], at: usize) -> Option<(Name, usize)> {
        let mut bytes = Vec::with_capacity(32);
        let (mut at, mut end, mut floor, mut jumps) = (at, None, at, 0);
        loop {
            let length = *message.get(at)?;
            match length & 0xC0 {
                0 if length == 0 => break,
                0 => {
                    let label = message.get(at..at + 1 + usize::from(length))?;
                    bytes.extend_from_slice(label);
                    if bytes.len() >= BYTES_MAX {
                        return None;
                    }
                    at += label.len();
                }
                0xC0 => {
                    let low = *message.get(at + 1)?;
                    let target = usize::from(length & 0x3F) << 8 | usize::from(low);
                    end.get_or_insert(at + 2);
                    jumps += 1;
                    if target >= floor || jumps > JUMPS_MAX {
                        return None;
                    }
                    (at, floor) = (target, target);
                }
                _ => return None,
            }
        }
        bytes.push(0);
        Some((Name(bytes.into()), end.unwrap_or(at + 1)))
    }

    /// Position behind a name in a message, without reading it.
    pub(super) fn skip(message: &[u8], mut at: usize) -> Option<usize> {
        loop {
            let length = *message.get(at)?;
            match length & 0xC0 {
                0 if length == 0 => return Some(at + 1),
                0 => at += 1 + usize::from(length),
                0xC0 => return message.get(at + 1).map(|_| at + 2),
                _ => return None,
            }
        }
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels, the most special one first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, more) = rest.split_first()?;
            let (label, more) = more.split_at_checked(usize::from(*length))?;
            rest = more;
            (!label.is_empty()).then_some(label)
        })
    }

    /// The form in which names are compared: ASCII letters small. (Lengths are below 64 and so
    /// never letters.)
    #[must_use]
    pub fn folded(&self) -> Name {
        Name(self.0.to_ascii_lowercase().into())
    }

    /// Ends this name with `suffix`, letters compared without regard to case? Then the bytes
    /// before it.
    pub fn before(&self, suffix: &Name) -> Option<&[u8]> {
        let cut = self.0.len().checked_sub(suffix.0.len())?;
        let (front, back) = self.0.split_at(cut);
        if !back.eq_ignore_ascii_case(&suffix.0) {
            return None;
        }
        // The cut must lie between labels, not inside one that happens to end so.
        let mut at = 0;
        while at < cut {
            at += 1 + usize::from(self.0[at]);
        }
        (at == cut).then_some(front)
    }
}

impl fmt::Display for Name {
    /// As text, bytes that are not plain as `\DDD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                    0x21..=0x7E => write!(f, "{}", char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn text_and_bytes() {
        assert_eq!(name("").bytes(), b"\0");
        assert_eq!(name(".").bytes(), b"\0");
        assert_eq!(name("a.bc").bytes(), b"\x01a\x02bc\0");
        assert_eq!(name("a.bc.").to_string(), "a.bc.");
        assert_eq!(name("a b.c").to_string(), "a\\032b.c.");
        for wrong in ["a..b", ".a", &"x".repeat(64), &format!("{}a", "a.".repeat(127))] {
            assert!(Name::from_text(wrong).is_none(), "{wrong}");
        }
        assert!(Name::from_text(&"a.".repeat(127)).is_some());
    }

    #[test]
    fn ends_with_whole_labels_only() {
        let rows = [
            ("web.service.consul", "consul", Some(&b"\x03web\x07service"[..])),
            ("web.service.CONSUL", "consul", Some(b"\x03web\x07service")),
            ("consul", "consul", Some(b"")),
            ("webconsul", "consul", None),
            ("a.b", "", Some(b"\x01a\x01b")),
            ("consul", "web.consul", None),
        ];
        for (whole, suffix, expected) in rows {
            assert_eq!(name(whole).before(&name(suffix)), expected, "{whole} {suffix}");
        }
        // A label that contains the bytes of a shorter name is still one label.
        let inside = Name::from_labels([&b"x\x06consul"[..]]).unwrap();
        assert_eq!(inside.before(&name("consul")), None);
    }

    #[test]
    fn jumps_lead_back_or_nowhere() {
        type Expected = Option<(&'static str, usize)>;
        let rows: [(&[u8], usize, Expected); 9] = [
            (b"\x01a\0", 0, Some(("a", 3))),
            (b"\x01a\0\x01b\xC0\0", 3, Some(("b.a", 7))),
            (b"\xC0\0", 0, None),
            (b"\x01a\xC0\0", 0, None),
            (b"\x01a\xC0\x02", 0, None),
            (b"\xC0\x02\x01a\0", 0, None),
            (b"\x01a", 0, None),
            (b"\x40a\0", 0, None),
            (b"\x01a\0\xC0", 3, None),
        ];
        for (message, at, expected) in rows {
            let expected = expected.map(|(text, end)| (name(text), end));
            assert_eq!(Name::read(message, at), expected, "{message:?}");
        }
    }
}
