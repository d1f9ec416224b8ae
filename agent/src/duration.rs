//! Durations as the API writes them: `300ms`, `1.5h`, `2h45m`, `-1s`, `0`.

use std::time::Duration;

/// Nanoseconds of each unit, longest spelling first where one starts like another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration in nanoseconds. `None` if it is none, or beyond what 63 bits hold.
pub fn parse_ns(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let whole: u64 = if whole_digits == 0 { 0 } else { rest[..whole_digits].parse().ok()? };
        rest = &rest[whole_digits..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            fraction = &after[..digits];
            rest = &after[digits..];
        }
        if whole_digits == 0 && fraction.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        rest = &rest[end..];
        let mut part = whole.checked_mul(*unit)?;
        let mut scale = *unit;
        for digit in fraction.bytes() {
            scale /= 10;
            part = part.checked_add(scale.checked_mul(u64::from(digit - b'0'))?)?;
        }
        total = total.checked_add(part)?;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

/// Reads a duration that is not negative.
pub fn parse(text: &str) -> Option<Duration> {
    u64::try_from(parse_ns(text)?).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_api_writes_them() {
        let rows = [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h2m3s", Some(3_723_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("-300ms", Some(-300_000_000)),
            ("+1us", Some(1_000)),
            ("1\u{b5}s", Some(1_000)),
            ("10", None),
            ("", None),
            ("-", None),
            ("s", None),
            (".s", None),
            ("1x", None),
            ("1 s", None),
            ("9999999999h", None),
            ("99999999999999999999s", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_ns(text), expected, "{text}");
        }
    }
}
