//! Answers that were prepared and are still true. Each is made once per change of what it says.
//!
//! Only names that are there are kept, so that nobody can fill this with inventions; both the
//! number and the size are bounded all the same. A full part is emptied: what is asked for often is
//! back at once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::lookup::{Lookup, version};
use super::prepared::Prepared;
use super::wire::Name;
use crate::store::{Index, Store};

/// Parts with a lock of their own. A power of two above the number of readers.
const PARTS: usize = 16;
/// Answers in a part.
const ANSWERS_MAX: usize = 1024;
/// Records in a part, of all its answers: about 100 bytes each.
const RECORDS_MAX: usize = 32 << 10;

/// Prepared answers by name and type.
#[derive(Debug)]
pub(super) struct Cache {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    answers: HashMap<(Name, u16), Arc<Kept>>,
    records: usize,
}

/// An answer with what it depends on.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) prepared: Prepared,
    lookup: Lookup,
    epoch: u64,
    version: Index,
    /// The newest state that it was found true at.
    seen: AtomicU64,
}

impl Kept {
    pub(super) fn new(prepared: Prepared, lookup: Lookup, store: &Store) -> Kept {
        let version = version(store, &lookup);
        let seen = AtomicU64::new(store.index());
        Kept { prepared, lookup, epoch: store.epoch(), version, seen }
    }

    /// Does it say whose an address is?
    pub(super) fn asks_owner(&self) -> bool {
        matches!(self.lookup, Lookup::Reverse { .. })
    }

    fn holds(&self, store: &Store) -> bool {
        if self.epoch != store.epoch() {
            return false;
        }
        if self.seen.load(Ordering::Relaxed) == store.index() {
            return true;
        }
        let holds = self.version == version(store, &self.lookup);
        if holds {
            self.seen.store(store.index(), Ordering::Relaxed);
        }
        holds
    }

    fn records(&self) -> usize {
        let answers: usize = self.prepared.groups.iter().map(|group| group.records.len()).sum();
        let extras: usize = self.prepared.extras.iter().map(Vec::len).sum();
        1 + answers + extras
    }
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { hasher: RandomState::new(), parts: std::array::from_fn(|_| Mutex::default()) }
    }

    fn part(&self, key: &(Name, u16)) -> &Mutex<Part> {
        // The remainder is below the number of parts.
        let at = usize::try_from(self.hasher.hash_one(key) % PARTS as u64).unwrap_or(0);
        &self.parts[at]
    }

    /// A kept answer that is true in `store`.
    pub(super) fn get(&self, key: &(Name, u16), store: &Store) -> Option<Arc<Kept>> {
        let part = self.part(key).lock().unwrap_or_else(PoisonError::into_inner);
        let kept = Arc::clone(part.answers.get(key)?);
        drop(part);
        kept.holds(store).then_some(kept)
    }

    /// Keeps an answer.
    pub(super) fn put(&self, key: (Name, u16), kept: Arc<Kept>) {
        let records = kept.records();
        if records > RECORDS_MAX {
            return;
        }
        let mut part = self.part(&key).lock().unwrap_or_else(PoisonError::into_inner);
        if part.answers.len() >= ANSWERS_MAX || part.records + records > RECORDS_MAX {
            *part = Part::default();
        }
        part.records += records;
        if let Some(old) = part.answers.insert(key, kept) {
            part.records -= old.records();
        }
    }
}
