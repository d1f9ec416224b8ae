//! Durations in the form that the API writes and reads: `10s`, `1m30s`, `250ms`.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a number with a unit, such as `10s`, `1m30s` or `250ms`")]
pub struct NotADuration(pub String);

/// Reads a duration with units `h m s ms us µs ns`, several in a row, fractions allowed, as the
/// reference does. Negative ones are refused (no field of the API has a use for them); `0` needs
/// no unit.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let fail = || NotADuration(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" || text == "-0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ns" => 1,
            _ => return Err(fail()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(fail());
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| fail())? };
        let mut part = whole.checked_mul(scale).ok_or_else(fail)?;
        let mut unit_left = scale;
        for digit in fraction.bytes() {
            unit_left /= 10;
            part += u128::from(digit - b'0') * unit_left;
        }
        nanos = nanos.checked_add(part).ok_or_else(fail)?;
        rest = tail;
    }
    // The reference counts nanoseconds in a signed 64-bit number.
    match u64::try_from(nanos) {
        Ok(nanos) if i64::try_from(nanos).is_ok() => Ok(Duration::from_nanos(nanos)),
        _ => Err(fail()),
    }
}

/// Writes a duration as the reference prints it: `1m30s`, `1.5s`, `250ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |nanos: u128, scale: u128, unit: &str| {
        let rest = nanos % scale;
        if rest == 0 {
            return format!("{}{unit}", nanos / scale);
        }
        let width = scale.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        format!("{}.{}{unit}", nanos / scale, digits.trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_durations() {
        let rows = [
            ("0", 0),
            ("0s", 0),
            ("1ns", 1),
            ("10us", 10_000),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90_000_000_000),
            (".5s", 500_000_000),
            ("1h", 3_600_000_000_000),
            ("250ms", 250_000_000),
            ("+1s", 1_000_000_000),
        ];
        for (text, nanos) in rows {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "1", "s", "1x", "-1s", "1.2.3s", ".s", "1s2", "99999999999h", " 1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn printed_as_the_reference_prints() {
        let rows = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (15_000_000_000, "15s"),
        ];
        for (nanos, text) in rows {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }
}
