//! The leader's housekeeping of deleted keys.
//!
//! A deleted key leaves a tombstone, so that the index of its prefix does not slide back under a
//! waiting reader. Nobody waits for longer than a blocking query may: after [`TTL`] a tombstone can
//! go. The store then remembers the highest index that it forgot, and stays right.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::raft::Consensus;
use crate::store::{Change, Index};
use crate::telemetry::metrics::names;

/// Age at which a tombstone goes; as the reference's, and longer than any blocking query.
const TTL: Duration = Duration::from_mins(15);
/// Interval of the leader's purge: several deletions share one entry of the log.
const GRANULARITY: Duration = Duration::from_secs(30);
/// More tombstones than this are not kept, however young: memory is bounded first.
const COUNT_MAX: usize = 1_000_000;

/// Past ends of the log with their times: the age of an index.
#[derive(Debug, Default)]
struct Marks {
    /// Oldest first, one for each look.
    seen: VecDeque<(Instant, Index)>,
}

impl Marks {
    /// Notes that the log ends at `end` now; says up to where tombstones are to go, if any.
    fn look(&mut self, now: Instant, end: Index, tombstones: usize) -> Option<Index> {
        let mut due = None;
        while let Some((at, index)) = self.seen.front().copied()
            && (now.duration_since(at) >= TTL || tombstones > COUNT_MAX)
        {
            due = Some(index);
            self.seen.pop_front();
        }
        if self.seen.back().is_none_or(|(_, last)| *last < end) {
            self.seen.push_back((now, end));
        }
        due.filter(|_| tombstones > 0)
    }
}

/// Reaps while this server leads, until `shutdown`. A new leader counts ages from its start: that
/// keeps tombstones longer, never shorter.
pub async fn run(consensus: Consensus, shutdown: CancellationToken) {
    let mut marks = Marks::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(GRANULARITY) => {}
        }
        if !consensus.is_leader() {
            marks = Marks::default();
            continue;
        }
        let store = consensus.store();
        let (end, count) = (store.index(), store.kv().tombstones());
        drop(store);
        let Some(up_to) = marks.look(Instant::now(), end, count) else { continue };
        let begun = Instant::now();
        if let Err(error) = consensus.propose(Change::TombstonesReap { up_to }).await {
            // The next look tries again with a later mark.
            tracing::debug!(%error, "old tombstones could not be reaped");
        }
        names::LEADER_REAP_TOMBSTONES.took(begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_goes_when_it_is_old_and_not_before() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        let mut marks = Marks::default();
        assert_eq!(marks.look(at(0), 10, 3), None);
        assert_eq!(marks.look(at(1), 20, 3), None);
        assert_eq!(marks.look(at(14), 20, 3), None);
        assert_eq!(marks.look(at(15), 30, 3), Some(10));
        assert_eq!(marks.look(at(15), 30, 2), None, "only once");
        assert_eq!(marks.look(at(40), 30, 2), Some(30), "all marks are old by then");
        assert_eq!(marks.look(at(60), 40, 0), None, "nothing to reap, nothing written");
    }

    #[test]
    fn too_many_go_however_young() {
        let start = Instant::now();
        let mut marks = Marks::default();
        assert_eq!(marks.look(start, 10, COUNT_MAX + 1), None, "no mark yet");
        assert_eq!(marks.look(start, 20, COUNT_MAX + 1), Some(10));
    }
}
