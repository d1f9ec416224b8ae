//! Times of blocking reads: one rule for requests, streams and forwarded requests.

use std::time::Duration;

/// The longest wait unless configured (`max_query_time`).
const MAX: Duration = Duration::from_mins(10);
/// The wait of a read that names none, unless configured (`default_query_time`).
const DEFAULT: Duration = Duration::from_mins(5);
/// A wait is prolonged by up to this part of itself, so that a crowd does not return as one.
const JITTER_PART: u32 = 16;

/// The bounds of waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    default: Option<Duration>,
    max: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { default: None, max: MAX }
    }
}

impl Waits {
    /// The wait of a read that names none, if this agent is to choose it, and the longest of all. Zero is as if not
    /// given.
    pub fn new(default: Option<Duration>, max: Duration) -> Waits {
        Waits {
            default: default.filter(|wait| !wait.is_zero()),
            max: if max.is_zero() { MAX } else { max },
        }
    }

    /// The wait of a read that asks for `asked`; zero names no time.
    pub fn bounded(self, asked: Duration) -> Duration {
        let wait = if asked.is_zero() { self.default.unwrap_or(DEFAULT) } else { asked };
        wait.min(self.max)
    }

    /// The same, prolonged by chance.
    pub fn with_jitter(self, asked: Duration) -> Duration {
        let wait = self.bounded(asked);
        wait + (wait / JITTER_PART).mul_f64(rand::random::<f64>())
    }

    /// Is it known here how long a read that asks for `asked` waits? Else the server that answers it chooses.
    pub fn decide(self, asked: Duration) -> bool {
        !asked.is_zero() || self.default.is_some()
    }

    /// No read waits longer, whoever chooses, the prolongation included.
    pub fn longest(self) -> Duration {
        self.max + self.max / JITTER_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_and_prolonged_by_a_sixteenth_at_most() {
        let secs = Duration::from_secs;
        let usual = Waits::default();
        let own = Waits::new(Some(secs(3)), secs(8));
        let short = Waits::new(Some(secs(30)), secs(8));
        let rows = [
            (usual, Duration::ZERO, DEFAULT),
            (usual, secs(16), secs(16)),
            (usual, Duration::from_hours(1), MAX),
            (own, Duration::ZERO, secs(3)),
            (own, secs(5), secs(5)),
            (own, secs(9), secs(8)),
            (short, Duration::ZERO, secs(8)),
            (Waits::new(None, secs(8)), Duration::ZERO, secs(8)),
            (Waits::new(Some(Duration::ZERO), Duration::ZERO), Duration::ZERO, DEFAULT),
        ];
        for (waits, asked, base) in rows {
            assert_eq!(waits.bounded(asked), base);
            for _ in 0..100 {
                let wait = waits.with_jitter(asked);
                assert!(wait >= base && wait <= base + base / 16, "{asked:?} became {wait:?}");
                assert!(wait <= waits.longest());
            }
        }
        assert!(
            !usual.decide(Duration::ZERO) && usual.decide(secs(1)) && own.decide(Duration::ZERO)
        );
    }
}
