//! Quick repeats of a new check's first run, for programs that are registered before they listen.
//! Pure.
//!
//! ```text
//!   run       |  |    |        |                |           ...      |                   |
//!   seconds   0 0.2  0.6      1.4              3.0         6.2      10                  20
//!   counts    x                                                     x                   x
//! ```
//!
//! Without them a program that listens 0.3 s after it was registered is out of service for a whole
//! interval. A repeat that fails does not count, whether nobody was heard or the answer was bad (a
//! program that is still starting says so): thresholds see the failures of the regular runs alone,
//! and nothing is written. The first success counts at once, is the first of the regular runs, and
//! ends the repeats. So does the second regular run: there are at most as many repeats as an
//! interval has doublings.

use std::time::Duration;

use tokio::time::Instant;

use super::{CheckResult, Status};

/// From the first run to the first repeat; doubled from each to the next.
const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// Progress of a check in its first interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Warmup {
    /// Its first run is still to come.
    Before,
    /// Nobody was heard at first, and no run has succeeded so far.
    Repeating {
        /// From the next repeat to the one after it.
        pause: Duration,
        /// When the second regular run is due.
        regular: Instant,
    },
    /// It runs once in an interval.
    Over,
}

/// Outcome of a run, as far as repeats depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nobody listens there.
    Nobody,
    /// The check failed in another way.
    Failure,
    /// It is passing or warning.
    Success,
}

impl From<&CheckResult> for Heard {
    fn from(result: &CheckResult) -> Heard {
        match result.status {
            _ if result.unheard => Heard::Nobody,
            Status::Critical => Heard::Failure,
            Status::Passing | Status::Warning => Heard::Success,
        }
    }
}

/// Step after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// The next run.
    pub(super) due: Instant,
    /// The result that led here counts.
    pub(super) counts: bool,
}

impl Warmup {
    /// A run ended at `now`.
    pub(super) fn next(&mut self, now: Instant, interval: Duration, heard: Heard) -> Next {
        let (pause, regular, counts) = match (*self, heard) {
            (Warmup::Before, Heard::Nobody) => (PAUSE_FIRST, now + interval, true),
            (Warmup::Repeating { pause, regular }, Heard::Nobody | Heard::Failure) => {
                (pause, regular, false)
            }
            _ => {
                *self = Warmup::Over;
                return Next { due: now + interval, counts: true };
            }
        };
        let repeat = now + pause;
        if repeat < regular {
            *self = Warmup::Repeating { pause: pause.saturating_mul(2), regular };
            Next { due: repeat, counts }
        } else {
            *self = Warmup::Over;
            Next { due: regular.max(now), counts }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that hears nobody (`u`), fails in another way (`b`) or succeeds (`h`) each time one is due; the moments in
    /// tenths of a second, those whose result counts with a `+`.
    fn runs(interval_tenths: u64, results: &str) -> String {
        let (begun, interval) = (Instant::now(), Duration::from_millis(interval_tenths * 100));
        let (mut warmup, mut now) = (Warmup::Before, begun);
        let mut shown = Vec::new();
        for result in results.chars() {
            let heard = match result {
                'u' => Heard::Nobody,
                'b' => Heard::Failure,
                _ => Heard::Success,
            };
            let next = warmup.next(now, interval, heard);
            let mark = if next.counts { "+" } else { "" };
            shown.push(format!("{}{mark}", (now - begun).as_millis() / 100));
            now = next.due;
        }
        shown.join(" ")
    }

    #[test]
    fn repeats_are_quick_few_and_silent() {
        for (interval, results, expected) in [
            (100, "hhh", "0+ 100+ 200+"),
            (100, "uhhh", "0+ 2+ 102+ 202+"),
            (100, "uuhh", "0+ 2 6+ 106+"),
            // Unheard for good: as many repeats as doublings, and the regular runs are where they
            // would be without any.
            (100, "uuuuuuuuu", "0+ 2 6 14 30 62 100+ 200+ 300+"),
            // Once heard, a failure waits as ever.
            (100, "uhuu", "0+ 2+ 102+ 202+"),
            (100, "huuu", "0+ 100+ 200+ 300+"),
            (10, "uuuuu", "0+ 2 6 10+ 20+"),
            // A program that is still starting may answer badly: that counts at the regular runs only.
            (100, "ubbhh", "0+ 2 6 14+ 114+"),
            (100, "ubuuuuubb", "0+ 2 6 14 30 62 100+ 200+ 300+"),
            (10, "ubbb", "0+ 2 6 10+"),
            // A bad answer at first is not repeated.
            (100, "bub", "0+ 100+ 200+"),
            // Not where there is no room for one.
            (2, "uuu", "0+ 2+ 4+"),
            (1, "uuu", "0+ 1+ 2+"),
        ] {
            assert_eq!(runs(interval, results), expected, "{interval} {results}");
        }
        let hour = runs(36_000, &"u".repeat(40));
        let silent = hour.split(' ').filter(|run| !run.ends_with('+')).count();
        assert_eq!(silent, 14, "{hour}");
    }

    #[test]
    fn other_first_runs_are_never_repeated() {
        let (mut warmup, now) = (Warmup::Over, Instant::now());
        let hour = Duration::from_hours(1);
        assert_eq!(warmup.next(now, hour, Heard::Nobody), Next { due: now + hour, counts: true });
    }
}
