//! Durations in the form that the API writes and reads: `10s`, `1m30s`, `250ms`.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a number with a unit, such as `10s`, `1m30s` or `250ms`")]
pub struct NotADuration(pub String);

/// Reads a duration that is not negative, with units `h m s ms us µs ns`, several in a row, fractions
/// allowed; `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    parse_nanos(text)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| NotADuration(text.to_owned()))
}

/// Writes a duration as the API does: `1m30s`, `1.5s`, `250ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    format_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

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
pub fn parse_nanos(text: &str) -> Option<i64> {
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

/// Writes nanoseconds as the API does: `1h30m0s`, `1.5s`, `300ms`, `0s`.
pub fn format_nanos(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    let decimal = |whole: u64, rest: u64, digits: usize, unit: &str| {
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{sign}{whole}{dot}{fraction}{unit}")
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{ns}ns"),
        1_000..1_000_000 => decimal(ns / 1_000, ns % 1_000, 3, "\u{b5}s"),
        1_000_000..1_000_000_000 => decimal(ns / 1_000_000, ns % 1_000_000, 6, "ms"),
        _ => {
            let seconds = ns / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let last = decimal(seconds % 60, ns % 1_000_000_000, 9, "s");
            let last = last.trim_start_matches('-');
            match (hours, minutes) {
                (0, 0) => format!("{sign}{last}"),
                (0, minutes) => format!("{sign}{minutes}m{last}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{last}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_api_does() {
        let rows = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (300_000_000, "300ms"),
            (1_500_000_000, "1.5s"),
            (10_000_000_000, "10s"),
            (90_000_000_000, "1m30s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
            (-61_500_000_000, "-1m1.5s"),
        ];
        for (ns, expected) in rows {
            assert_eq!(format_nanos(ns), expected);
            assert_eq!(parse_nanos(expected), Some(ns));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(ns in -i64::MAX..i64::MAX) {
            proptest::prop_assert_eq!(parse_nanos(&format_nanos(ns)), Some(ns));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.a-z\u{b5}]{0,24}|\\PC{0,10}") {
            let _ = parse_nanos(&text);
        }
    }

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
            assert_eq!(parse_nanos(text), expected, "{text}");
        }
    }

    #[test]
    fn what_has_no_use_for_negative_ones_refuses_them() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("-0"), Ok(Duration::ZERO));
        for text in ["", "1", "-1s", "1.2.3s", "1s2", " 1s"] {
            assert_eq!(parse_duration(text), Err(NotADuration(text.to_owned())));
        }
        assert_eq!(format_duration(Duration::from_millis(1500)), "1.5s");
    }
}
