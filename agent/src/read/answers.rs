//! Shared answers: equal questions are evaluated and encoded once per change.
//!
//! A [`Slot`] holds the newest answer to one question. Whoever finds it outdated evaluates under
//! the slot's lock; the others, who came for the same change, wait those microseconds and take the
//! result. An answer is good for a state if that state is not newer than the one it was made
//! from, or if the question can name its index cheaply and that has not moved.
//!
//! Bounded twice: by bytes, those of the questions included (the longest unused go first), and by time (what nobody
//! asked for in a minute goes; that a question was asked with `?cached` is remembered for an hour). Questions that are
//! very long are answered and forgotten.

use std::any;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::body::Body;
use crate::store::{Found, Index, Scope, Store};

/// Answers that nobody asked for in this time are dropped.
const BODY_IDLE_MAX: Duration = Duration::from_mins(1);
/// Questions that were asked with `?cached`, and not again in this time, are forgotten.
const CACHED_IDLE_MAX: Duration = Duration::from_hours(1);
/// More questions than this per shard are not remembered.
const SLOTS_MAX: usize = 4096;
/// Bytes of a question whose answer is kept. Nobody has a crowd of readers for a longer one.
const QUESTION_BYTES_MAX: usize = 16 << 10;
/// Bytes that a question takes besides its text and its answer: the table's entry, the slot, its counts.
const SLOT_BYTES: usize = 256;
/// Independent locks, so that many cores do not meet at one.
const SHARDS: usize = 16;

/// A question whose answer may be shared.
///
/// Its `Debug` shows all that the answer depends on, the asker's authority included. Derive it: then no parameter can
/// be forgotten.
pub trait Query: fmt::Debug + Send + Sync {
    /// The canonical text: equal texts have equal answers at equal states.
    fn text(&self) -> String {
        // Structs of several modules may have one name.
        format!("{} {self:?}", any::type_name::<Self>())
    }
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

#[derive(Debug)]
pub(super) struct SharedAnswers {
    shards: Vec<Mutex<HashMap<String, Arc<Slot>>>>,
    hasher: RandomState,
    /// Of all questions and answers together, about: forms made later are counted at the next sweep.
    bytes: AtomicUsize,
    bytes_max: usize,
    started: Instant,
}

/// One question and its newest answer.
#[derive(Debug, Default)]
struct Slot {
    latest: Mutex<Option<Made>>,
    /// Milliseconds after `SharedAnswers::started`.
    used: AtomicU64,
    cached: AtomicBool,
    /// Bytes of the question.
    question_bytes: usize,
    /// Found to be too much by a sweep.
    doomed: AtomicBool,
}

/// An answer and the state it is known to be good for.
#[derive(Debug)]
struct Made {
    epoch: u64,
    at: Index,
    found: Arc<Found<Body>>,
}

impl SharedAnswers {
    pub(super) fn new(bytes_max: usize) -> SharedAnswers {
        SharedAnswers {
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
        if key.len() > QUESTION_BYTES_MAX {
            return Arc::new(evaluate(store));
        }
        let slot = self.slot(key);
        let mut latest = slot.latest.lock();
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
        let before = latest.as_ref().map_or(0, Made::size);
        let made = Made { epoch: store.epoch(), at: store.index(), found: Arc::clone(&found) };
        let added = made.size();
        *latest = Some(made);
        drop(latest);
        let account = |bytes: usize| Some(bytes.saturating_sub(before).saturating_add(added));
        // An `account` that always gives a number cannot fail.
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, account);
        self.keep_bound();
        found
    }

    /// Marks a question as asked with `?cached`; says whether it already was.
    pub(super) fn note_cached(&self, key: &str) -> bool {
        if key.len() > QUESTION_BYTES_MAX {
            return false;
        }
        let before = self.slot(key).cached.swap(true, Ordering::Relaxed);
        self.keep_bound();
        before
    }

    /// Sweeps if there is too much, and then well below the bound, so that this is rare.
    fn keep_bound(&self) {
        if self.bytes.load(Ordering::Relaxed) > self.bytes_max {
            self.sweep_to(self.bytes_max / 4 * 3);
        }
    }

    fn slot(&self, key: &str) -> Arc<Slot> {
        let now = self.now();
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards[at].lock();
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
            // What these took is found out by the next sweep.
            shard.retain(|_, slot| slot.used.load(Ordering::Relaxed) > middle);
        }
        let question_bytes = SLOT_BYTES + key.len();
        self.bytes.fetch_add(question_bytes, Ordering::Relaxed);
        let slot = Slot { used: AtomicU64::new(now), question_bytes, ..Slot::default() };
        let slot = Arc::new(slot);
        shard.insert(key.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Drops what nobody asked for lately, and then the longest unused until the bound holds.
    pub(super) fn sweep(&self) {
        self.sweep_to(self.bytes_max);
    }

    fn sweep_to(&self, bytes_max: usize) {
        let now = self.now();
        let mut kept: Vec<(u64, Arc<Slot>)> = Vec::new();
        self.retain(|slot| {
            let used = slot.used.load(Ordering::Relaxed);
            let unused = now.saturating_sub(used);
            let cached = slot.cached.load(Ordering::Relaxed);
            let keeps = unused < millis(if cached { CACHED_IDLE_MAX } else { BODY_IDLE_MAX });
            if keeps {
                kept.push((used, Arc::clone(slot)));
            }
            keeps
        });
        kept.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        let (mut bytes, mut dooms) = (0, false);
        for (used, slot) in kept {
            // A slot whose lock is held is in use this instant: its turn comes with the next sweep.
            let Some(mut latest) = slot.latest.try_lock() else { continue };
            let answer = latest.as_ref().map_or(0, Made::size);
            if bytes + slot.question_bytes > bytes_max {
                slot.doomed.store(true, Ordering::Relaxed);
                dooms = true;
                *latest = None;
                continue;
            }
            bytes += slot.question_bytes;
            if now.saturating_sub(used) >= millis(BODY_IDLE_MAX) || bytes + answer > bytes_max {
                *latest = None;
            } else {
                bytes += answer;
            }
        }
        if dooms {
            self.retain(|slot| !slot.doomed.load(Ordering::Relaxed));
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn retain(&self, mut keeps: impl FnMut(&Arc<Slot>) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, slot| keeps(slot));
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
        }
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Made {
    fn size(&self) -> usize {
        let scopes: usize = self.found.scopes.iter().map(Scope::bytes).sum();
        size_of::<Found<Body>>() + self.found.rows.size() + scopes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question about a name that nobody has.
    #[derive(Debug)]
    struct Named {
        name: String,
        answer_bytes: usize,
    }

    impl Query for Named {
        fn evaluate(&self, _: &Store) -> Found<Body> {
            let rows = Body::new(vec![b'x'; self.answer_bytes]);
            let scopes = vec![Scope::Service(self.name.as_str().into())];
            Found { rows, index: 1, scopes }
        }
    }

    impl SharedAnswers {
        fn ask(&self, name: String, answer_bytes: usize) {
            let query = Named { name, answer_bytes };
            self.get(&query.text(), &query, &Store::default(), |store| query.evaluate(store));
        }

        /// Bytes that are really held, without the tables.
        fn held(&self) -> usize {
            let held = |shard: &Mutex<HashMap<String, Arc<Slot>>>| {
                let shard = shard.lock();
                let each = |(key, slot): (&String, &Arc<Slot>)| {
                    key.capacity() + slot.latest.lock().as_ref().map_or(0, Made::size)
                };
                shard.iter().map(each).sum::<usize>()
            };
            self.shards.iter().map(held).sum()
        }
    }

    mod other {
        use super::*;

        #[derive(Debug)]
        pub(super) struct Named {
            pub(super) name: String,
            pub(super) answer_bytes: usize,
        }

        impl Query for Named {
            fn evaluate(&self, _: &Store) -> Found<Body> {
                let rows = Body::new(self.name.repeat(self.answer_bytes));
                Found { rows, index: 1, scopes: Vec::new() }
            }
        }
    }

    #[test]
    fn questions_that_differ_in_anything_have_different_texts() {
        let named = |name: &str, answer_bytes| Named { name: name.into(), answer_bytes };
        let text = |query: &dyn Query| query.text();
        let first = text(&named("a", 1));
        assert_eq!(first, text(&named("a", 1)));
        assert_ne!(first, text(&named("b", 1)));
        assert_ne!(first, text(&named("a", 2)));
        assert_ne!(first, text(&other::Named { name: "a".into(), answer_bytes: 1 }));
    }

    #[test]
    fn questions_count_as_their_answers_do() {
        const BYTES_MAX: usize = 1 << 20;
        // Bytes of the question, bytes of the answer.
        for (question, answer) in [(12_000, 2), (60_000, 2), (20, 2), (8000, 8000), (20, 300_000)] {
            let answers = SharedAnswers::new(BYTES_MAX);
            for n in 0..2000 {
                answers.ask(format!("{n:0question$}"), answer);
                assert!(answers.held() <= BYTES_MAX, "{question} {answer}: {}", answers.held());
                if n % 2 == 0 {
                    answers.note_cached(&format!("cached {n:0question$}"));
                }
            }
            assert!(answers.bytes.load(Ordering::Relaxed) <= BYTES_MAX);
            answers.sweep();
            assert!(answers.held() <= answers.bytes.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn what_is_asked_again_is_not_asked_of_the_state() {
        let answers = SharedAnswers::new(1 << 20);
        let store = Store::default();
        let query = Named { name: "web".into(), answer_bytes: 10 };
        let mut evaluations = 0;
        for _ in 0..3 {
            answers.get("web", &query, &store, |store| {
                evaluations += 1;
                query.evaluate(store)
            });
        }
        assert_eq!(evaluations, 1);
        assert!(!answers.note_cached("web") && answers.note_cached("web"));
    }
}
