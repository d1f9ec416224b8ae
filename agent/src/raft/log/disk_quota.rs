//! Disk quota of the log: a change that does not fit on the disk is refused before it begins.
//!
//! An entry that the library has taken cannot be refused any more: it would have to be written, and a
//! server that cannot is of no use. So a change asks here first. It is promised room together with all
//! that is under way, or waits until the store has made more, or hears why there is none. Entries that
//! come from a leader do not ask: a follower without room waits for it and acknowledges nothing.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::raft::log::lock;

/// Bytes of an entry beside its command, including those of a batch of its own.
const ENTRY_BYTES: u64 = 192;

/// The room of one log. Clones are the same.
#[derive(Clone, Default)]
pub struct DiskQuota(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something changed for those who wait for room.
    changed: Notify,
    supply: OnceLock<Box<dyn QuotaSource>>,
}

/// Source of more space.
pub(super) trait QuotaSource: Send + Sync {
    /// So many bytes are wanted in all. The answer comes by [`DiskQuota::holds`] or [`DiskQuota::deny`].
    fn ask(&self, bytes: u64);
    /// The log is about to end: nobody may wait for room that is not there.
    fn end(&self);
}

#[derive(Default)]
struct State {
    refusal: Option<Reason>,
    /// Bytes that can be written without asking the file system for more; `None`: not counted.
    holds: Option<u64>,
    /// Bytes promised to changes under way; never more than `holds` when they were given.
    promised: u64,
    /// More has been asked for, up to here.
    asked: u64,
    /// Somebody waits for news.
    awaited: bool,
    /// Number of failed requests, and the reason of the last one.
    denials: u64,
    denial: Option<Reason>,
}

impl State {
    fn take(&mut self, bytes: u64) -> bool {
        let needed = self.promised + bytes;
        let there = self.holds.is_none_or(|holds| needed <= holds);
        if there {
            self.promised = needed;
        }
        there
    }
}

struct Reason {
    kind: io::ErrorKind,
    text: String,
}

impl Reason {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl std::fmt::Debug for DiskQuota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.0.state);
        f.debug_struct("Room")
            .field("refusal", &state.refusal.as_ref().map(|reason| &reason.text))
            .field("holds", &state.holds)
            .field("promised", &state.promised)
            .finish()
    }
}

/// Room for one change, for as long as it is under way.
#[derive(Debug)]
pub struct Reservation {
    quota: DiskQuota,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = lock(&self.quota.0.state);
        state.promised -= self.bytes;
        self.quota.tell(state);
    }
}

impl DiskQuota {
    /// The error that every new write must be refused with, if any.
    pub fn refusal(&self) -> Option<io::Error> {
        lock(&self.0.state).refusal.as_ref().map(Reason::error)
    }

    /// Promises room to a change of so many bytes, or says why there is none. Waits while the disk
    /// is asked for more, and while others have it that are about to be done.
    pub async fn promise(&self, bytes: u64) -> io::Result<Reservation> {
        let bytes = bytes + ENTRY_BYTES;
        let mut denials = None;
        loop {
            // From here on no news is missed.
            let changed = self.0.changed.notified();
            if let Some(promise) = self.try_promise(bytes, &mut denials)? {
                return Ok(promise);
            }
            changed.await;
        }
    }

    /// Promises it if there is room now.
    pub fn promise_at_once(&self, bytes: u64) -> io::Result<Option<Reservation>> {
        let bytes = bytes + ENTRY_BYTES;
        let mut state = lock(&self.0.state);
        if let Some(refusal) = &state.refusal {
            return Err(refusal.error());
        }
        Ok(state.take(bytes).then(|| Reservation { quota: self.clone(), bytes }))
    }

    /// Wakes those who wait, if anybody does.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.awaited) {
            drop(state);
            self.0.changed.notify_waiters();
        }
    }

    fn try_promise(
        &self,
        bytes: u64,
        denials: &mut Option<u64>,
    ) -> io::Result<Option<Reservation>> {
        let mut state = lock(&self.0.state);
        if let Some(refusal) = &state.refusal {
            return Err(refusal.error());
        }
        if state.take(bytes) {
            return Ok(Some(Reservation { quota: self.clone(), bytes }));
        }
        let needed = state.promised + bytes;
        // What was denied to others before this one came says nothing about now.
        let known = *denials.get_or_insert(state.denials);
        if state.denials > known
            && let Some(denial) = &state.denial
        {
            return Err(denial.error());
        }
        state.awaited = true;
        if needed > state.asked
            && let Some(supply) = self.0.supply.get()
        {
            state.asked = needed;
            supply.ask(needed);
        }
        Ok(None)
    }

    /// The log is about to end: a writer that waits for room gives up.
    pub fn end(&self) {
        if let Some(supply) = self.0.supply.get() {
            supply.end();
        }
    }

    /// Sets the source of more space, once.
    pub(super) fn supplied_by(&self, supply: impl QuotaSource + 'static) {
        // A second log over the same room would be a mistake of its opener; the first one counts.
        let _ = self.0.supply.set(Box::new(supply));
    }

    /// So much can be written without asking the file system for more.
    pub(super) fn holds(&self, bytes: u64) {
        let mut state = lock(&self.0.state);
        state.holds = Some(bytes);
        state.asked = 0;
        self.tell(state);
    }

    /// From now on only so much can be written, unless more is promised already: then nothing changes.
    pub(super) fn holds_only(&self, bytes: u64) -> bool {
        let mut state = lock(&self.0.state);
        let granted = state.promised <= bytes;
        if granted {
            state.holds = Some(bytes);
        }
        granted
    }

    /// There is no more than there is: who asked for more hears why.
    pub(super) fn deny(&self, error: &io::Error, text: String) {
        let mut state = lock(&self.0.state);
        if state.denial.is_none() {
            tracing::error!("{text}; large writes are refused until there is room");
        }
        state.asked = 0;
        state.denials += 1;
        state.denial = Some(Reason { kind: error.kind(), text });
        self.tell(state);
    }

    /// Nothing can be taken on any more.
    pub(super) fn refuse(&self, error: &io::Error, text: String) {
        let mut state = lock(&self.0.state);
        if state.refusal.is_none() {
            tracing::error!("{text}; writes are refused until there is room");
        }
        state.asked = 0;
        state.refusal = Some(Reason { kind: error.kind(), text });
        self.tell(state);
    }

    /// There is room again.
    pub(super) fn accept(&self) {
        let mut state = lock(&self.0.state);
        let denied = state.denial.take().is_some();
        if state.refusal.take().is_some() || denied {
            tracing::info!("the log has room again; writes are accepted");
            self.tell(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt;

    use super::*;

    #[derive(Default, Clone)]
    struct Asked(Arc<AtomicU64>);

    impl QuotaSource for Asked {
        fn ask(&self, bytes: u64) {
            self.0.store(bytes, Ordering::Relaxed);
        }
        fn end(&self) {}
    }

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    #[test]
    fn what_is_under_way_never_exceeds_what_there_is() {
        let (quota, asked) = (DiskQuota::default(), Asked::default());
        quota.supplied_by(asked.clone());
        // Nobody counts yet.
        drop(quota.promise(u64::from(u32::MAX)).now_or_never().unwrap().unwrap());
        quota.holds(1000);
        let first = quota.promise(500).now_or_never().unwrap().unwrap();
        let mut second = Box::pin(quota.promise(300));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(asked.0.load(Ordering::Relaxed), 800 + 2 * ENTRY_BYTES);
        drop(first);
        drop(second.now_or_never().unwrap().unwrap());

        let mut large = Box::pin(quota.promise(5000));
        assert!(large.as_mut().now_or_never().is_none());
        quota.holds(6000);
        let large = large.now_or_never().unwrap().unwrap();
        assert!(!quota.holds_only(5000), "it is promised");
        drop(large);
        assert!(quota.holds_only(5000));
        assert!(quota.promise(5000).now_or_never().is_none());
    }

    #[test]
    fn who_waits_hears_that_there_is_none() {
        let quota = DiskQuota::default();
        quota.holds(1000);
        quota.deny(&full(), "too late for who asks now".to_owned());
        let mut large = Box::pin(quota.promise(5000));
        assert!(large.as_mut().now_or_never().is_none());
        quota.deny(&full(), "no room for 5000".to_owned());
        let error = large.now_or_never().unwrap().unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (full().kind(), "no room for 5000"));
        // A small one still has room.
        let small = quota.promise(100).now_or_never().unwrap().unwrap();

        let mut waits = Box::pin(quota.promise(900));
        assert!(waits.as_mut().now_or_never().is_none());
        quota.refuse(&full(), "none at all".to_owned());
        assert_eq!(waits.now_or_never().unwrap().unwrap_err().to_string(), "none at all");
        drop(small);
        assert!(quota.promise(1).now_or_never().unwrap().is_err());
        quota.accept();
        quota.promise(1).now_or_never().unwrap().unwrap();
    }
}
