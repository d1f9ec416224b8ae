//! Many questions that share few connections.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::driver::Driver;
use super::pacing::{Answered, Pacing};
use super::question::{Found, Question};
use super::rotation::Id;
use super::{Answer, OddRows, Query, Update, WatchSettings};
use crate::{Client, Error, OddRow};

/// Follows any number of questions on few connections. Clones are the same set.
///
/// An agent that answers `POST /v1/watch` is asked all of them on one connection. Another one, of the reference, is asked
/// in turns: at most as many at the same time as [`crate::Settings::connections_max`] leaves, each with a wait that is
/// short enough for every question to have its turn within some 5 s.
///
/// ```no_run
/// # async fn example() -> Result<(), muster_client::Error> {
/// use muster_client::{Client, Query, Update, WatchSettings};
///
/// let set = Client::from_env()?.watch_set();
/// let mut color = set.watch(Query::Key { path: "color".into() }, WatchSettings::default());
/// let mut nodes = set.watch(Query::Nodes, WatchSettings::default());
/// loop {
///     tokio::select! {
///         update = color.next() => println!("the color: {update:?}"),
///         update = nodes.next() => println!("the nodes: {update:?}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct WatchSet {
    inner: Arc<Inner>,
}

/// One question of a set. It is forgotten when this is dropped.
#[derive(Debug)]
pub struct SharedWatch {
    inner: Arc<Inner>,
    id: Id,
    question: Arc<Question>,
    news: Arc<Notify>,
    last: Option<Answer>,
    odd_rows: OddRows,
    failed: bool,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Begun with the first question.
    driver: OnceLock<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }
}

impl Client {
    /// A set of questions, still empty, that share connections to this agent.
    pub fn watch_set(&self) -> WatchSet {
        let shared = Arc::new(Shared {
            client: self.clone(),
            questions: Mutex::default(),
            changed: Notify::new(),
            hasher: RandomState::new(),
        });
        WatchSet { inner: Arc::new(Inner { shared, driver: OnceLock::new() }) }
    }
}

impl WatchSet {
    /// Follows one more question. Must be called within a Tokio runtime.
    pub fn watch(&self, query: Query, settings: WatchSettings) -> SharedWatch {
        let shared = &self.inner.shared;
        let question = Arc::new(Question { query, settings });
        let news = Arc::new(Notify::new());
        let id = shared.add(Arc::clone(&question), Arc::clone(&news));
        self.inner.driver.get_or_init(|| tokio::spawn(Driver::new(Arc::clone(shared)).run()));
        let inner = Arc::clone(&self.inner);
        SharedWatch {
            inner,
            id,
            question,
            news,
            last: None,
            odd_rows: OddRows::default(),
            failed: false,
        }
    }

    /// How many questions it follows.
    pub fn len(&self) -> usize {
        self.inner.shared.questions().by_id.len()
    }

    /// Whether it follows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SharedWatch {
    /// The next change or failure. Never ends; drop it to stop. Safe to cancel. Whoever comes late finds the newest
    /// answer only.
    pub async fn next(&mut self) -> Update {
        loop {
            match self.inner.shared.take(self.id) {
                None => self.news.notified().await,
                Some(Err(error)) => {
                    self.failed = true;
                    return Update::Unreachable(error);
                }
                Some(Ok(found)) => match self.question.answer(found.body.as_ref()) {
                    Err(error) => {
                        self.failed = true;
                        return Update::Unreachable(error);
                    }
                    Ok((answer, odd_rows)) => {
                        self.odd_rows.note(&self.question.query, odd_rows);
                        let recovered = std::mem::take(&mut self.failed);
                        if recovered || self.last.as_ref() != Some(&answer) {
                            self.last = Some(answer.clone());
                            return Update::Value(answer, found.index);
                        }
                    }
                },
            }
        }
    }
}

impl SharedWatch {
    /// The rows that could not be read and are missing in the last answer.
    pub fn odd_rows(&self) -> &[OddRow] {
        &self.odd_rows.0
    }
}

impl Drop for SharedWatch {
    fn drop(&mut self) {
        self.inner.shared.forget(self.id);
    }
}

/// The questions of a set: what their owners and the task that asks for them share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    questions: Mutex<Questions>,
    /// Questions came or went.
    pub(super) changed: Notify,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Questions {
    by_id: BTreeMap<Id, Entry>,
    next_id: Id,
    /// Counts the times that questions came or went.
    edition: u64,
}

/// One question and what was heard last.
#[derive(Debug)]
struct Entry {
    question: Arc<Question>,
    /// What it takes to ask it together with others; `None`: no server can wait for it.
    request_bytes: Option<usize>,
    /// Of the last answer; 0 to begin anew.
    index: u64,
    /// Of the last answer, which is not kept once its owner has it.
    hash: Option<u64>,
    pacing: Pacing,
    /// What its owner has not taken yet: never more than one.
    heard: Option<Result<Found, Error>>,
    news: Arc<Notify>,
}

impl Entry {
    fn tell(&mut self, heard: Result<Found, Error>) {
        self.heard = Some(heard);
        self.news.notify_one();
    }

    /// A server that was away may be another one now: its indexes may be others.
    fn begin_anew(&mut self) {
        self.index = 0;
    }
}

impl Shared {
    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, question: Arc<Question>, news: Arc<Notify>) -> Id {
        let request_bytes =
            question.can_wait().then(|| question.request(&self.client, u64::MAX).len());
        let mut questions = self.questions();
        questions.next_id += 1;
        questions.edition += 1;
        let id = questions.next_id;
        let pacing = Pacing::default();
        let entry =
            Entry { question, request_bytes, index: 0, hash: None, pacing, heard: None, news };
        questions.by_id.insert(id, entry);
        drop(questions);
        self.changed.notify_one();
        id
    }

    fn forget(&self, id: Id) {
        let mut questions = self.questions();
        questions.edition += 1;
        let forgotten = questions.by_id.remove(&id);
        drop((questions, forgotten));
        self.changed.notify_one();
    }

    fn take(&self, id: Id) -> Option<Result<Found, Error>> {
        self.questions().by_id.get_mut(&id)?.heard.take()
    }

    /// All questions, if any came or went since `edition`, with the bytes of their requests; `None` for those that no
    /// server can wait for.
    pub(super) fn since(&self, edition: u64) -> Option<(u64, BTreeMap<Id, Option<usize>>)> {
        let questions = self.questions();
        (questions.edition != edition).then(|| {
            let wanted = questions.by_id.iter();
            let wanted = wanted.map(|(id, entry)| (*id, entry.request_bytes)).collect();
            (questions.edition, wanted)
        })
    }

    /// A question and the index that it has come to.
    pub(super) fn get(&self, id: Id) -> Option<(Arc<Question>, u64)> {
        let questions = self.questions();
        let entry = questions.by_id.get(&id)?;
        Some((Arc::clone(&entry.question), entry.index))
    }

    /// Takes in an answer of the event stream.
    pub(super) fn streamed(&self, id: Id, datum: Bytes, index: u64) {
        let mut questions = self.questions();
        let Some(entry) = questions.by_id.get_mut(&id) else { return };
        let found = entry.question.found(datum, index);
        self.accept(entry, found);
    }

    /// Takes in an answer to a question that was asked alone. Returns how long after that the next may be asked.
    pub(super) fn answered(
        &self,
        id: Id,
        found: Found,
        asked: u64,
        began: Instant,
        wait: Duration,
    ) -> Duration {
        let mut questions = self.questions();
        let Some(entry) = questions.by_id.get_mut(&id) else { return wait };
        let index = found.index;
        let news = self.accept(entry, found);
        if index < asked {
            entry.begin_anew();
        }
        entry.pacing.answered(Answered { news, asked, index, took: began.elapsed(), wait })
    }

    /// Keeps an answer for its owner if it is another than the last, or the first after a failure.
    fn accept(&self, entry: &mut Entry, found: Found) -> bool {
        entry.index = found.index;
        let hash = self.hasher.hash_one(&found.body);
        let news = entry.hash.replace(hash) != Some(hash);
        if news {
            entry.tell(Ok(found));
        }
        news
    }

    /// Takes in a failure of one question. Returns the pause after which it may be asked again.
    pub(super) fn failed(&self, id: Id, error: Error) -> Duration {
        let mut questions = self.questions();
        let Some(entry) = questions.by_id.get_mut(&id) else { return Duration::ZERO };
        entry.begin_anew();
        entry.hash = None;
        let pause = entry.pacing.failed(&entry.question.settings);
        entry.tell(Err(error));
        pause
    }

    /// The agent was lost, with all these questions: they begin anew. With an error their owners are told.
    pub(super) fn lost(&self, ids: &BTreeSet<Id>, error: Option<&Error>) {
        let mut questions = self.questions();
        for (_, entry) in questions.by_id.iter_mut().filter(|(id, _)| ids.contains(id)) {
            entry.begin_anew();
            if let Some(error) = error {
                entry.hash = None;
                entry.tell(Err(error.repeated()));
            }
        }
    }
}
