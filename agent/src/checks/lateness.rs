//! Lateness of runs: metrics of the last thousand.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// Runs that are remembered.
const REMEMBERED: usize = 1024;

/// Written by every run, without a lock; a reader may see a few of the newest missing.
#[derive(Debug)]
pub(super) struct Lateness {
    millis: Vec<AtomicU32>,
    runs: AtomicUsize,
}

/// Lateness of the last runs, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Late {
    /// Runs since the start of the agent.
    pub runs: u64,
    /// Half of them were not later.
    pub median: u32,
    /// 99 of 100 were not later.
    pub p99: u32,
    /// None was later.
    pub max: u32,
}

impl Default for Lateness {
    fn default() -> Lateness {
        Lateness {
            millis: (0..REMEMBERED).map(|_| AtomicU32::new(0)).collect(),
            runs: AtomicUsize::new(0),
        }
    }
}

impl Lateness {
    pub(super) fn note(&self, late: Duration) {
        let place = self.runs.fetch_add(1, Ordering::Relaxed) % REMEMBERED;
        let millis = u32::try_from(late.as_millis()).unwrap_or(u32::MAX);
        self.millis[place].store(millis, Ordering::Relaxed);
    }

    pub(super) fn late(&self) -> Late {
        let runs = self.runs.load(Ordering::Relaxed);
        let known = self.millis.iter().take(runs);
        let mut millis: Vec<u32> = known.map(|one| one.load(Ordering::Relaxed)).collect();
        millis.sort_unstable();
        let Some(last) = millis.len().checked_sub(1) else { return Late::default() };
        Late {
            runs: runs as u64,
            median: millis[last / 2],
            p99: millis[last * 99 / 100],
            max: millis[last],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_runs_count() {
        let lateness = Lateness::default();
        assert_eq!(lateness.late(), Late::default());
        for millis in 1..=100 {
            lateness.note(Duration::from_millis(millis));
        }
        assert_eq!(lateness.late(), Late { runs: 100, median: 50, p99: 99, max: 100 });
        for _ in 0..REMEMBERED {
            lateness.note(Duration::from_hours(2000));
        }
        let late = u32::MAX;
        assert_eq!(lateness.late(), Late { runs: 1124, median: late, p99: late, max: late });
    }
}
