//! Durations as people write them in labels and flags: `10s`, `1m30s`, `1.5h`, `250ms`.

use std::time::Duration;

/// Longest duration that is accepted: a hundred years.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;

/// Reads a duration with units (`h m s ms us µs ns`, several in a row, with fractions), as Go and
/// the catalog's own API do. A bare number has no meaning there except `0`; see
/// [`parse_seconds`]. Negative, endless and overlong values give `None`.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += digits.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}

/// As [`parse`], and a bare number means seconds, as the old tool's flags do.
pub fn parse_seconds(text: &str) -> Option<Duration> {
    match text.trim().parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => parse(text),
    }
}

/// Writes a duration in a form that [`parse`] and the catalog read back exactly.
pub fn format(duration: Duration) -> String {
    match (duration.as_nanos() % 1_000_000_000, duration.as_millis()) {
        (0, _) => format!("{}s", duration.as_secs()),
        (nanos, millis) if nanos % 1_000_000 == 0 => format!("{millis}ms"),
        _ => format!("{}ns", duration.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_does() {
        for (text, expected) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("250ms", Some(250)),
            (".5s", Some(500)),
            ("0", Some(0)),
            ("10", None),
            ("-1s", None),
            ("s", None),
            ("10 s", None),
            ("10d", None),
            ("1..2s", None),
            ("99999999999h", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
        }
        assert_eq!(parse_seconds("10"), Some(Duration::from_secs(10)));
        assert_eq!(parse_seconds("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_seconds("-10"), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for duration in [
            Duration::ZERO,
            Duration::from_secs(75),
            Duration::from_millis(1_500),
            Duration::from_micros(7),
        ] {
            assert_eq!(parse(&format(duration)), Some(duration));
        }
    }
}
