//! The one read path of all interfaces: consistency first, then blocking, then sharing.
//!
//! ```text
//! options ─▶ settle ──▶ look at the newest store ──▶ newer than asked? ──yes──▶ answer
//!            (leader?)        ▲                              │ no
//!                             └──── woken, or time is up ◀── wait on the answer's scopes
//! ```
//!
//! A reader registers for the scopes of what it found, looks once more, and only then sleeps: a
//! change between the two looks is never lost. While it sleeps it holds neither the state nor the
//! answer, only its question.
//!
//! [`Reader::answer`] shares: equal questions (same text, same authority) of any number of readers
//! are evaluated and encoded once per change; see `answers.rs`.
//!
//! This module knows nothing of HTTP: it is told what to look at by a closure or a [`Query`].

mod answers;
pub(crate) mod body;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub use answers::Query;
use answers::SharedAnswers;
pub use body::Body;
pub use waits::Waits;

use crate::raft::{self, Consensus};
use crate::store::{Found, Index, Scopes, Store};
use crate::telemetry::metrics::names;

/// Interval at which a reader without a leader looks whether there is one.
const LEADER_RETRY: Duration = Duration::from_millis(50);

/// Settings of the read path.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Time that reads and writes wait for a leader before they give up (`rpc_hold_timeout`).
    pub leader_wait: Duration,
    /// Bytes of encoded answers that are kept for equal readers.
    pub answers_bytes_max: usize,
    /// Times of blocking reads.
    pub waits: Waits,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            leader_wait: Duration::from_secs(7),
            answers_bytes_max: 64 << 20,
            waits: Waits::default(),
        }
    }
}

/// Consistency mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The leader's state, as long as it believes to lead.
    #[default]
    Default,
    /// The leader's state, after it has confirmed that it leads.
    Consistent,
    /// This server's state; with a bound, unless the leader was not heard for longer.
    Stale {
        /// Beyond this, read as [`Consistency::Default`].
        max: Option<Duration>,
    },
}

/// Options of a read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Consistency mode.
    pub consistency: Consistency,
    /// Answer once there is something newer than this; 0 answers at once.
    pub index: Index,
    /// Time to wait for it, within [`Settings::waits`]; zero names no time.
    pub wait: Duration,
}

/// Rows with what the headers of an answer say about them.
#[derive(Debug, Clone)]
pub struct ReadResult<T> {
    /// The rows.
    pub found: Arc<Found<T>>,
    /// At least 1: clients take 0 for "no index".
    pub index: Index,
    /// Effective consistency mode: a stale read beyond its bound is a default one.
    pub consistency: Consistency,
    /// Does anybody lead?
    pub known_leader: bool,
    /// Time since the leader was heard.
    pub last_contact: Duration,
}

/// A read was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody led for as long as reads wait for it.
    #[error("No cluster leader")]
    NoLeader,
    /// The cluster's own reasons.
    #[error(transparent)]
    Consensus(raft::Error),
}

impl From<raft::Error> for Error {
    fn from(error: raft::Error) -> Self {
        match error {
            raft::Error::NoLeader => Error::NoLeader,
            other => Error::Consensus(other),
        }
    }
}

/// Counters of the read path; read by tests and by `/v1/agent/metrics`.
#[derive(Debug, Default)]
pub struct Counters {
    evaluations: AtomicU64,
    shared: AtomicU64,
    waits: AtomicU64,
    wakes: AtomicU64,
    waiting: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Questions that were answered from the state and encoded.
    pub evaluations: u64,
    /// Questions that got an answer which an equal one had paid for.
    pub shared: u64,
    /// Blocking reads that went to sleep.
    pub waits: u64,
    /// Times that a sleeping reader was woken by a change.
    pub wakes: u64,
    /// Readers asleep now.
    pub waiting: u64,
}

/// Cheap handle on the read path.
#[derive(Debug, Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    consensus: Consensus,
    settings: Settings,
    answers: SharedAnswers,
    counters: Counters,
}

impl Reader {
    /// A read path over the given state.
    pub fn new(consensus: Consensus, settings: Settings) -> Reader {
        let answers = SharedAnswers::new(settings.answers_bytes_max);
        Reader {
            inner: Arc::new(Inner { consensus, settings, answers, counters: Counters::default() }),
        }
    }

    /// The state that is read.
    pub fn consensus(&self) -> &Consensus {
        &self.inner.consensus
    }

    /// Time that reads and writes wait for a leader.
    pub fn leader_wait(&self) -> Duration {
        self.inner.settings.leader_wait
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.inner.counters;
        Counts {
            evaluations: counters.evaluations.load(Ordering::Relaxed),
            shared: counters.shared.load(Ordering::Relaxed),
            waits: counters.waits.load(Ordering::Relaxed),
            wakes: counters.wakes.load(Ordering::Relaxed),
            waiting: counters.waiting.load(Ordering::Relaxed),
        }
    }

    /// Drops shared answers that nobody asked for lately. Called now and then by an interface.
    pub fn forget_idle_answers(&self) {
        self.inner.answers.sweep();
    }

    /// Reads with a closure of the caller's own. It is called once, or, in a blocking read, again
    /// after each change that may matter; it must not wait.
    pub async fn read<T>(
        &self,
        options: Options,
        mut look: impl FnMut(&Store) -> Found<T>,
    ) -> Result<ReadResult<T>, Error> {
        self.run(options, move |store| Arc::new(look(store))).await
    }

    /// Reads a shared question; the body comes encoded.
    pub async fn answer(
        &self,
        options: Options,
        query: &dyn Query,
    ) -> Result<ReadResult<Body>, Error> {
        // A plain read of one row costs less than keeping its answer would.
        if options.index == 0 && query.is_cheap() {
            return self.read(options, |store| self.evaluate(query, store)).await;
        }
        let key = query.text();
        self.run(options, |store| self.shared(&key, query, store)).await
    }

    /// Answers at once if that needs no waiting at all: what [`Reader::answer`] gives for a read
    /// that does not block while this server leads. `None` means: ask `answer`.
    pub fn answer_now(&self, options: Options, query: &dyn Query) -> Option<ReadResult<Body>> {
        let consensus = &self.inner.consensus;
        let settled = match options.consistency {
            Consistency::Default => consensus.may_answer(),
            Consistency::Consistent => consensus.leads_alone(),
            Consistency::Stale { max: None } => true,
            Consistency::Stale { max: Some(max) } => consensus.last_contact() <= max,
        };
        if options.index > 0 || !settled {
            return None;
        }
        names::RPC_QUERY.add();
        let store = consensus.store();
        let found = if query.is_cheap() {
            Arc::new(self.evaluate(query, &store))
        } else {
            self.shared(&query.text(), query, &store)
        };
        Some(self.outcome(found, options.consistency))
    }

    /// Has this question been asked through [`Reader::note_cached`] before? Remembers that it was.
    /// Answers of the shared kind are always as fresh as the state, so that `?cached` costs no
    /// freshness here; clients still want to be told a miss from a hit.
    pub fn note_cached(&self, query: &dyn Query) -> bool {
        self.inner.answers.note_cached(&query.text())
    }

    fn evaluate(&self, query: &dyn Query, store: &Store) -> Found<Body> {
        self.inner.counters.evaluations.fetch_add(1, Ordering::Relaxed);
        query.evaluate(store)
    }

    fn shared(&self, key: &str, query: &dyn Query, store: &Store) -> Arc<Found<Body>> {
        let mut evaluated = false;
        let found = self.inner.answers.get(key, query, store, |store| {
            evaluated = true;
            self.evaluate(query, store)
        });
        if !evaluated {
            self.inner.counters.shared.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    async fn run<T>(
        &self,
        options: Options,
        mut look: impl FnMut(&Store) -> Arc<Found<T>>,
    ) -> Result<ReadResult<T>, Error> {
        names::RPC_QUERY.add();
        let consistency = self.settle(options.consistency).await?;
        let (epoch, found) = {
            let store = self.inner.consensus.store();
            (store.epoch(), look(&store))
        };
        if options.index == 0 || found.index.max(1) > options.index {
            return Ok(self.outcome(found, consistency));
        }
        let deadline = Instant::now() + self.inner.settings.waits.with_jitter(options.wait);
        self.inner.counters.waits.fetch_add(1, Ordering::Relaxed);
        let _asleep = Asleep::new(&self.inner.counters.waiting);
        let mut scopes: Scopes = found.scopes.clone();
        drop(found);
        loop {
            let mut waiter = self.inner.consensus.watches().register(&scopes);
            // What changed before the registration woke nobody: look again before sleeping.
            let newer = self.look_for_newer(options.index, epoch, &mut look);
            match newer {
                Ok(found) => return Ok(self.outcome(found, consistency)),
                Err(now_on) if now_on != scopes => {
                    scopes = now_on;
                    continue;
                }
                Err(_) => {}
            }
            if tokio::time::timeout_at(deadline, waiter.woken()).await.is_err() {
                break;
            }
            drop(waiter);
            self.inner.counters.wakes.fetch_add(1, Ordering::Relaxed);
            match self.look_for_newer(options.index, epoch, &mut look) {
                Ok(found) => return Ok(self.outcome(found, consistency)),
                Err(now_on) => scopes = now_on,
            }
        }
        let consistency = self.settle(options.consistency).await?;
        let store = self.inner.consensus.store();
        Ok(self.outcome(look(&store), consistency))
    }

    /// Rows newer than `index` (everything is, once the state was replaced), or the scopes to
    /// wait on for it.
    fn look_for_newer<T>(
        &self,
        index: Index,
        epoch: u64,
        look: &mut impl FnMut(&Store) -> Arc<Found<T>>,
    ) -> Result<Arc<Found<T>>, Scopes> {
        let store = self.inner.consensus.store();
        let found = look(&store);
        if found.index.max(1) > index || store.epoch() != epoch {
            Ok(found)
        } else {
            Err(found.scopes.clone())
        }
    }

    fn outcome<T>(&self, found: Arc<Found<T>>, consistency: Consistency) -> ReadResult<T> {
        let consensus = &self.inner.consensus;
        ReadResult {
            index: found.index.max(1),
            found,
            consistency,
            known_leader: consensus.knows_leader(),
            last_contact: consensus.last_contact(),
        }
    }

    /// Waits until this server may answer with the wanted freshness; says with which one it will.
    async fn settle(&self, wanted: Consistency) -> Result<Consistency, Error> {
        let consensus = &self.inner.consensus;
        let wanted = match wanted {
            Consistency::Stale { max: Some(max) } if consensus.last_contact() > max => {
                Consistency::Default
            }
            other => other,
        };
        match wanted {
            Consistency::Stale { .. } => return Ok(wanted),
            Consistency::Default if consensus.may_answer() => return Ok(wanted),
            Consistency::Default | Consistency::Consistent => {}
        }
        let deadline = Instant::now() + self.inner.settings.leader_wait;
        // In a box: a reader that sleeps for minutes must not carry room for the rare case.
        let barrier = Box::pin(async {
            loop {
                let settled = match wanted {
                    Consistency::Default => consensus.read_lease().await,
                    _ => consensus.read_barrier().await,
                };
                match settled {
                    Err(raft::Error::NoLeader) => tokio::time::sleep(LEADER_RETRY).await,
                    done => return done,
                }
            }
        });
        let begun = Instant::now();
        let settled = tokio::time::timeout_at(deadline, barrier).await;
        if wanted == Consistency::Consistent {
            names::RPC_CONSISTENT.took(begun.elapsed());
        }
        match settled {
            Ok(done) => done.map(|()| wanted).map_err(Error::from),
            Err(_) => Err(Error::NoLeader),
        }
    }
}

/// Counts a sleeping reader for as long as it lives.
struct Asleep<'a>(&'a AtomicU64);

impl<'a> Asleep<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Asleep(count)
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
