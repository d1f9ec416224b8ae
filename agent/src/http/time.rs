//! Moments as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in whole seconds, as in `2026-11-21T12:24:58Z`.
pub(crate) fn rfc3339(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (date, time) = date_and_time(seconds);
    format!("{date}T{time}Z")
}

/// Date and time of day of a Unix time, in UTC.
pub(crate) fn date_and_time(seconds: u64) -> (String, String) {
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    (format!("{year:04}-{month:02}-{day:02}"), format!("{hour:02}:{minute:02}:{second:02}"))
}

/// The Gregorian date of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times() {
        let rows = [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (19_722, (2023, 12, 31)),
            (19_723, (2024, 1, 1)),
        ];
        for (days, expected) in rows {
            assert_eq!(date(days), expected, "{days}");
        }
    }

    #[test]
    fn moments_are_written_as_the_api_does() {
        let at = |seconds: u64| UNIX_EPOCH + std::time::Duration::from_millis(seconds * 1000 + 999);
        assert_eq!(rfc3339(at(1_795_263_898)), "2026-11-21T12:24:58Z");
        assert_eq!(rfc3339(at(951_782_400)), "2000-02-29T00:00:00Z");
    }
}
