//! Texts that other formats need: hexadecimal, quoted for nginx, durations.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One word for an nginx configuration: in double quotes, with what would end the word or read a variable escaped.
///
/// # Errors
/// nginx has no way to write a control character, nor a `$` that is not the start of a variable.
pub(super) fn nginx_quote(text: &str) -> Result<String, String> {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(letter);
            }
            '$' => return Err(format!("`{text}` has a `$`, which nginx would read as a variable")),
            letter if letter.is_control() => {
                return Err(format!("{text:?} has a control character"));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

/// The longest name that [`nginx_name`] writes out in full.
const NAME_BYTES_MAX: usize = 100;

/// A name for an nginx upstream, zone or variable. Two different texts never get the same name, also where nginx does
/// not tell capital letters from small ones: a small letter or a digit stands for itself, any other byte is `_` and
/// its two hexadecimal digits. Of a long text the beginning is kept, and a hash of all of it.
pub(super) fn nginx_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "_{byte:02x}");
        }
    }
    if name.len() > NAME_BYTES_MAX {
        name.truncate(NAME_BYTES_MAX);
        // No short name has two `_` in a row, nor so many letters.
        let _ = write!(name, "__{}", hex(&Sha256::digest(text)[..16]));
    }
    name
}

/// `host:port`, with an IPv6 address in brackets.
pub(crate) fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A duration as Go and the configuration files of this field write it: `300ms`, `1.5s`, `2m30s`, `1h`.
///
/// # Errors
/// The text with what is wrong with it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as `300ms`, `1.5s` or `2m30s`");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..number_end].parse().map_err(|_| wrong())?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("300ms", Some(300)),
            ("1.5s", Some(1500)),
            ("2m30s", Some(150_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1 s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn words_for_nginx() {
        for (text, expected) in [
            ("plain", Some(r#""plain""#)),
            (r#"a "b" \c"#, Some(r#""a \"b\" \\c""#)),
            ("a;b {}", Some(r#""a;b {}""#)),
            ("$host", None),
            ("a\nb", None),
        ] {
            assert_eq!(nginx_quote(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn names_for_nginx_are_distinct() {
        for (text, expected) in [
            ("web", "web"),
            ("Web", "_57eb"),
            ("my-api", "my_2dapi"),
            ("my_2dapi", "my_5f2dapi"),
            ("a.b", "a_2eb"),
            ("ü", "_c3_bc"),
        ] {
            assert_eq!(nginx_name(text), expected, "{text}");
        }
        let long = |end: &str| nginx_name(&format!("{}{end}", "a".repeat(300)));
        assert_ne!(long("x"), long("y"));
        assert!(long("x").len() < 140);
        assert_ne!(nginx_name(&long("x")), long("x"));
    }

    #[test]
    fn addresses() {
        assert_eq!(host_port("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(host_port("fe80::1", 80), "[fe80::1]:80");
    }
}
