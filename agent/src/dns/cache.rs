//! Answers that were prepared and are still true. Each is made once per change of what it says.
//!
//! Only names that are there are kept, so that nobody can fill this with inventions; both the
//! number and the bytes are bounded all the same. A full part is emptied: what is asked for often is
//! back at once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::lookup::{Lookup, version};
use super::wire::{Name, Record};
use crate::dns::draft::{Draft, Group};
use crate::store::{Index, Store};

/// Parts with a lock of their own. A power of two above the number of readers.
const PARTS: usize = 16;
/// Answers in a part.
const ANSWERS_MAX: usize = 1024;
/// Bytes in a part, of all its answers and their names.
const BYTES_MAX: usize = 3 << 20;

/// Prepared answers by name and type.
#[derive(Debug)]
pub(super) struct Cache {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    answers: HashMap<(Name, u16), Arc<CachedAnswer>>,
    bytes: usize,
}

/// An answer with what it depends on.
#[derive(Debug)]
pub(super) struct CachedAnswer {
    pub(super) draft: Draft,
    lookup: Lookup,
    epoch: u64,
    version: Index,
    /// The newest state that it was found true at.
    seen: AtomicU64,
}

impl CachedAnswer {
    pub(super) fn new(draft: Draft, lookup: Lookup, store: &Store) -> CachedAnswer {
        let version = version(store, &lookup);
        let seen = AtomicU64::new(store.index());
        CachedAnswer { draft, lookup, epoch: store.epoch(), version, seen }
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

    /// Bytes of memory that it takes, about.
    fn bytes(&self) -> usize {
        let records = |records: &[Record]| records.iter().map(Record::memory).sum::<usize>();
        let group = |group: &Group| {
            size_of::<Group>() + records(&group.records) + size_of_val(group.extras.as_slice())
        };
        let groups: usize = self.draft.groups.iter().map(group).sum();
        let extra = |extra: &Vec<Record>| size_of::<Vec<Record>>() + records(extra);
        let extras: usize = self.draft.extras.iter().map(extra).sum();
        size_of::<CachedAnswer>() + self.lookup.bytes() + groups + extras
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
    pub(super) fn get(&self, key: &(Name, u16), store: &Store) -> Option<Arc<CachedAnswer>> {
        let part = self.part(key).lock();
        let kept = Arc::clone(part.answers.get(key)?);
        drop(part);
        kept.holds(store).then_some(kept)
    }

    /// Keeps an answer.
    pub(super) fn put(&self, key: (Name, u16), kept: Arc<CachedAnswer>) {
        let bytes = size_of_val(&key) + key.0.bytes().len() + kept.bytes();
        if bytes > BYTES_MAX {
            return;
        }
        let mut part = self.part(&key).lock();
        if part.answers.len() >= ANSWERS_MAX || part.bytes + bytes > BYTES_MAX {
            *part = Part::default();
        }
        part.bytes += bytes;
        let key_bytes = bytes - kept.bytes();
        if let Some(old) = part.answers.insert(key, kept) {
            part.bytes -= key_bytes + old.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Data, Owner};
    use super::*;

    fn kept(name: &str, records: usize, text_bytes: usize) -> Arc<CachedAnswer> {
        let record =
            Record { owner: Owner::Asked, ttl: 0, data: Data::Txt(vec![0; text_bytes].into()) };
        let draft = Draft { extras: vec![vec![record; records]], ..Draft::empty() };
        let lookup = Lookup::Node { name: name.to_owned() };
        Arc::new(CachedAnswer::new(draft, lookup, &Store::default()))
    }

    #[test]
    fn every_byte_of_an_answer_counts() {
        // Answers, their records, bytes of each.
        for (answers, records, text_bytes) in
            [(4000, 1, 60_000), (4000, 500, 0), (40_000, 0, 0), (3, 1, 9 << 20)]
        {
            let cache = Cache::new();
            for n in 0..answers {
                let name = format!("n{}.node.consul", n % 20_000);
                let key = (Name::from_text(&name).unwrap(), 16);
                cache.put(key, kept(&name, records, text_bytes));
            }
            for part in &cache.parts {
                let part = part.lock();
                let held: usize = part
                    .answers
                    .iter()
                    .map(|(key, kept)| size_of_val(key) + key.0.bytes().len() + kept.bytes())
                    .sum();
                assert_eq!(held, part.bytes, "{answers} {records} {text_bytes}");
                assert!(held <= BYTES_MAX && part.answers.len() <= ANSWERS_MAX);
            }
        }
    }
}
