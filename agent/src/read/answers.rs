//! Shared answers: equal questions are evaluated and encoded once per change.
//!
//! A [`Slot`] holds the newest answer to one question. Whoever finds it outdated evaluates under
//! the slot's lock; the others, who came for the same change, wait those microseconds and take the
//! result. An answer is good for a state if that state is not newer than the one it was made
//! from, or if the question can name its index cheaply and that has not moved.
//!
//! Bounded twice: by bytes (the longest unused go first) and by time (bodies that nobody asked for
//! in a minute go, questions after an hour).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::store::{Found, Index, Store};

/// Bodies that nobody asked for in this time are dropped.
const BODY_IDLE_MAX: Duration = Duration::from_mins(1);
/// Questions that nobody asked in this time are forgotten.
const SLOT_IDLE_MAX: Duration = Duration::from_hours(1);
/// More questions than this per shard are not remembered.
const SLOTS_MAX: usize = 4096;
/// Independent locks, so that many cores do not meet at one.
const SHARDS: usize = 16;

/// A question whose answer may be shared.
pub trait Query: Send + Sync {
    /// The canonical text, the asker's authority included: equal texts have equal answers at
    /// equal states.
    fn text(&self) -> String;
    /// Is evaluating it once no dearer than looking a shared answer up?
    fn is_cheap(&self) -> bool {
        false
    }
    /// The index that `evaluate` would give, if that is known without evaluating.
    fn index(&self, store: &Store) -> Option<Index> {
        let _ = store;
        None
    }
    /// Rows, encoded.
    fn evaluate(&self, store: &Store) -> Found<Body>;
}

/// The encoded form of an answer, with its gzip form made when first asked for.
#[derive(Debug, Default)]
pub struct Body {
    bytes: Bytes,
    exists: bool,
    next: Option<String>,
    zipped: OnceLock<Bytes>,
}

impl Body {
    /// An answer with something in it.
    pub fn new(bytes: impl Into<Bytes>) -> Body {
        Body { bytes: bytes.into(), exists: true, next: None, zipped: OnceLock::new() }
    }
    /// One page of an answer: the rest begins after this row.
    #[must_use]
    pub fn with_next(mut self, next: Option<String>) -> Body {
        self.next = next;
        self
    }
    /// After which row the next page begins, if there is one.
    pub fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }
    /// "There is no such thing."
    pub fn missing() -> Body {
        Body::default()
    }
    /// Does what was asked for exist?
    pub fn exists(&self) -> bool {
        self.exists
    }
    /// As encoded.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// Compressed by `zip`, which is called once for all who ask.
    pub fn zipped(&self, zip: impl FnOnce(&[u8]) -> Bytes) -> &Bytes {
        self.zipped.get_or_init(|| zip(&self.bytes))
    }
    fn size(&self) -> usize {
        self.bytes.len() + self.zipped.get().map_or(0, Bytes::len)
    }
}

#[derive(Debug)]
pub(super) struct Answers {
    shards: Vec<Mutex<HashMap<String, Arc<Slot>>>>,
    hasher: RandomState,
    /// Of all bodies together, about: gzip forms made later are counted at the next sweep.
    bytes: AtomicUsize,
    bytes_max: usize,
    started: Instant,
}

/// One question and its newest answer.
#[derive(Debug, Default)]
struct Slot {
    latest: Mutex<Option<Made>>,
    /// Milliseconds after `Answers::started`.
    used: AtomicU64,
    cached: AtomicBool,
}

/// An answer and the state it is known to be good for.
#[derive(Debug)]
struct Made {
    epoch: u64,
    at: Index,
    found: Arc<Found<Body>>,
}

impl Answers {
    pub(super) fn new(bytes_max: usize) -> Answers {
        Answers {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            bytes: AtomicUsize::new(0),
            bytes_max,
            started: Instant::now(),
        }
    }

    /// The answer to `query` (whose text is `key`) at `store`, by `evaluate` if need be.
    pub(super) fn get(
        &self,
        key: &str,
        query: &dyn Query,
        store: &Store,
        evaluate: impl FnOnce(&Store) -> Found<Body>,
    ) -> Arc<Found<Body>> {
        let slot = self.slot(key);
        let mut latest = slot.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = latest.as_mut()
            && made.epoch == store.epoch()
        {
            if made.at >= store.index() {
                return Arc::clone(&made.found);
            }
            if query.index(store) == Some(made.found.index) {
                made.at = store.index();
                return Arc::clone(&made.found);
            }
        }
        let found = Arc::new(evaluate(store));
        let before = latest.as_ref().map_or(0, |made| made.found.rows.size());
        let made = Made { epoch: store.epoch(), at: store.index(), found: Arc::clone(&found) };
        *latest = Some(made);
        drop(latest);
        let added = found.rows.size();
        let account = |bytes: usize| Some(bytes.saturating_sub(before).saturating_add(added));
        let bytes = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, account);
        if bytes.is_ok_and(|bytes| bytes > self.bytes_max) {
            self.sweep();
        }
        found
    }

    /// Marks a question as asked with `?cached`; says whether it already was.
    pub(super) fn note_cached(&self, key: &str) -> bool {
        self.slot(key).cached.swap(true, Ordering::Relaxed)
    }

    fn slot(&self, key: &str) -> Arc<Slot> {
        let now = self.now();
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards[at].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = shard.get(key) {
            slot.used.store(now, Ordering::Relaxed);
            return Arc::clone(slot);
        }
        if shard.len() >= SLOTS_MAX {
            // Half at a time, so that this is rare.
            let mut ages: Vec<u64> =
                shard.values().map(|slot| slot.used.load(Ordering::Relaxed)).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            shard.retain(|_, slot| slot.used.load(Ordering::Relaxed) > middle);
        }
        let slot = Arc::new(Slot { used: AtomicU64::new(now), ..Slot::default() });
        shard.insert(key.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Drops what nobody asked for lately, and then the longest unused until the bound holds.
    pub(super) fn sweep(&self) {
        let now = self.now();
        let mut kept: Vec<(u64, Arc<Slot>)> = Vec::new();
        let mut bytes = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, slot| {
                now.saturating_sub(slot.used.load(Ordering::Relaxed)) < millis(SLOT_IDLE_MAX)
            });
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
            kept.extend(
                shard.values().map(|slot| (slot.used.load(Ordering::Relaxed), Arc::clone(slot))),
            );
        }
        kept.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        for (used, slot) in kept {
            // A slot whose lock is held is in use this instant: its turn comes with the next sweep.
            let Ok(mut latest) = slot.latest.try_lock() else { continue };
            let size = latest.as_ref().map_or(0, |made| made.found.rows.size());
            if now.saturating_sub(used) >= millis(BODY_IDLE_MAX) || bytes + size > self.bytes_max {
                *latest = None;
            } else {
                bytes += size;
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
