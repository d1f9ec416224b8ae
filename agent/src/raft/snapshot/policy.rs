//! When the log is worth a snapshot, and how much of it stays behind one.
//!
//! A snapshot writes the whole state, so it must not come more often than the log has grown by as
//! much: then all snapshots together cost no more than the log itself. A small log is left alone,
//! a quiet server saves every half minute at most, and a log of few but large entries counts by its
//! bytes. What stays behind a snapshot for followers that lag is bounded by entries (the library's
//! setting) and by bytes (here).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// As the reference: it looks every 30 s.
const INTERVAL_MIN: Duration = Duration::from_secs(30);

/// A log as large as this is saved even if the state is small.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// Bytes of entries kept behind a snapshot, at most.
const TRAILING_BYTES_MAX: u64 = 64 << 20;

/// Precision of `TRAILING_BYTES_MAX`.
const MARK_BYTES: u64 = 1 << 20;

/// Bytes of an entry beside its command.
const ENTRY_BYTES: u64 = 48;

/// Counts what was applied since the last snapshot.
#[derive(Debug)]
pub struct Policy {
    threshold: u64,
    grown: Mutex<Grown>,
    due: Notify,
    finished: Notify,
}

#[derive(Debug)]
struct Grown {
    since_snapshot: Growth,
    snapshot_bytes: u64,
    saved_at: Instant,
    /// Bytes applied in all, and where each further MiB began.
    bytes: u64,
    marks: VecDeque<(u64, u64)>,
}

/// Entries and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Growth {
    /// Number of entries.
    pub entries: u64,
    /// In the log.
    pub bytes: u64,
}

impl Policy {
    /// `threshold`: entries that make a snapshot worth while (`raft_snapshot_threshold`).
    pub fn new(threshold: u64) -> Policy {
        let grown = Grown {
            since_snapshot: Growth::default(),
            snapshot_bytes: 0,
            saved_at: Instant::now(),
            bytes: 0,
            marks: VecDeque::new(),
        };
        Policy {
            threshold: threshold.max(1),
            grown: Mutex::new(grown),
            due: Notify::new(),
            finished: Notify::new(),
        }
    }

    fn grown(&self) -> MutexGuard<'_, Grown> {
        self.grown.lock()
    }

    /// A batch up to `index` was applied; its commands were so many bytes.
    pub fn applied(&self, index: u64, entries: u64, command_bytes: u64) {
        let mut grown = self.grown();
        let bytes = command_bytes + entries * ENTRY_BYTES;
        grown.since_snapshot.entries += entries;
        grown.since_snapshot.bytes += bytes;
        grown.bytes += bytes;
        let total = grown.bytes;
        if grown.marks.back().is_none_or(|(_, at)| total - at >= MARK_BYTES) {
            grown.marks.push_back((index, total));
        }
        // One mark older than needed tells where to cut.
        while grown.marks.get(1).is_some_and(|(_, at)| total - at > TRAILING_BYTES_MAX) {
            grown.marks.pop_front();
        }
        if grown.is_due(self.threshold) {
            self.due.notify_one();
        }
    }

    /// Growth that a snapshot taken now covers.
    pub fn growth(&self) -> Growth {
        self.grown().since_snapshot
    }

    /// A snapshot of `bytes` that covers `growth` is safe on disk.
    pub fn saved(&self, growth: Growth, bytes: u64) {
        let mut grown = self.grown();
        let since = &mut grown.since_snapshot;
        since.entries = since.entries.saturating_sub(growth.entries);
        since.bytes = since.bytes.saturating_sub(growth.bytes);
        grown.snapshot_bytes = bytes;
        grown.saved_at = Instant::now();
        drop(grown);
        self.finished.notify_one();
    }

    /// A snapshot could not be written.
    pub fn not_saved(&self) {
        self.finished.notify_one();
    }

    /// Resolves when a snapshot is due.
    pub async fn due(&self) {
        loop {
            let due = self.due.notified();
            let wait = {
                let grown = self.grown();
                if grown.is_due(self.threshold) {
                    return;
                }
                // Enough entries, but too soon: time alone makes it due.
                let enough = grown.since_snapshot.entries >= self.threshold;
                enough.then(|| INTERVAL_MIN.saturating_sub(grown.saved_at.elapsed()))
            };
            match wait {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait + Duration::from_millis(1), due).await;
                }
                None => due.await,
            }
        }
    }

    /// Resolves when an attempt to save has ended.
    pub async fn finished(&self) {
        self.finished.notified().await;
    }

    /// Entries up to this index need not be kept behind a snapshot, for their bytes.
    pub fn purgeable(&self) -> Option<u64> {
        let grown = self.grown();
        let (index, at) = *grown.marks.front()?;
        (grown.bytes - at > TRAILING_BYTES_MAX).then_some(index)
    }
}

impl Grown {
    fn is_due(&self, threshold: u64) -> bool {
        is_due(threshold, self.since_snapshot, self.snapshot_bytes, self.saved_at.elapsed())
    }
}

fn is_due(threshold: u64, grown: Growth, snapshot_bytes: u64, since: Duration) -> bool {
    let worth_it = grown.bytes >= snapshot_bytes;
    let enough = grown.entries >= threshold && (worth_it || since >= INTERVAL_MIN);
    enough || (worth_it && grown.bytes >= LOG_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_cost_no_more_than_the_log() {
        const MIB: u64 = 1 << 20;
        // (entries, bytes, size of the last snapshot, seconds since) with a threshold of 1,000
        let table = [
            ((0, 0, 0, 3600), false),
            ((999, 50_000, 0, 3600), false),
            ((1000, 50_000, 0, 0), true),
            ((1000, 50_000, 60_000, 0), false),
            ((1000, 50_000, 60_000, 29), false),
            ((1000, 50_000, 60_000, 30), true),
            ((2000, 100_000, 60_000, 1), true),
            ((10, 63 * MIB, 0, 3600), false),
            ((10, 64 * MIB, 0, 0), true),
            ((10, 64 * MIB, 100 * MIB, 3600), false),
            ((10, 101 * MIB, 100 * MIB, 0), true),
        ];
        for (row, expected) in table {
            let (entries, bytes, snapshot_bytes, seconds) = row;
            let growth = Growth { entries, bytes };
            let due = is_due(1000, growth, snapshot_bytes, Duration::from_secs(seconds));
            assert_eq!(due, expected, "{row:?}");
        }
    }

    #[test]
    fn few_but_large_entries_are_purged_by_their_bytes() {
        let snapshot_policy = Policy::new(1_000_000);
        for index in 0..200 {
            assert!(index > 64 || snapshot_policy.purgeable().is_none());
            snapshot_policy.applied(index, 1, 1 << 20);
        }
        let purgeable = snapshot_policy.purgeable().unwrap();
        assert!((130..=136).contains(&purgeable), "{purgeable}");
    }

    #[test]
    fn what_came_during_a_snapshot_counts_for_the_next() {
        let snapshot_policy = Policy::new(10);
        snapshot_policy.applied(10, 10, 100);
        let growth = snapshot_policy.growth();
        snapshot_policy.applied(13, 3, 30);
        snapshot_policy.saved(growth, 500);
        assert_eq!(snapshot_policy.growth(), Growth { entries: 3, bytes: 30 + 3 * ENTRY_BYTES });
    }
}
