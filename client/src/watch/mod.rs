//! Following questions over time: one alone ([`Watch`]), or many on few connections ([`WatchSet`]).
//!
//! | file | owns |
//! |---|---|
//! | `question` | a question as a request, an answer from what comes back |
//! | `pacing` | when to ask again |
//! | `set` | many questions, and who waits for which |
//! | `driver` | the task that asks for a set: on one event stream, or in turns |
//! | `events` | the event stream of `POST /v1/watch` |
//! | `rotation` | whose turn it is |
//!
//! The rules of blocking queries, kept in one place: an index that goes back starts again from
//! nothing; index 0 is never sent as "wait"; failures are retried for ever with growing, jittered
//! pauses; an answer equal to the last is not reported; neither a server that answers at once
//! without news nor one with news all the time can drive us into a hot loop.

mod driver;
mod events;
mod pacing;
mod question;
mod rotation;
mod set;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::warn;

pub use set::{SharedWatch, WatchSet};

use crate::rows::listed;
use crate::types::{CatalogNode, HealthCheck, KvPair, Node, ServiceEntry};
use crate::{Client, Consistency, Error, OddRow, ServiceQuery};
use pacing::{Answered, Pacing};
use question::Question;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Query {
    /// Instances of a service with their checks.
    Service {
        /// The service's name.
        name: String,
        /// Which of them.
        query: ServiceQuery,
    },
    /// Names and tags of all services.
    Services,
    /// All nodes.
    Nodes,
    /// One node with its services.
    Node {
        /// Its name.
        name: String,
    },
    /// One key.
    Key {
        /// Its full path.
        path: String,
    },
    /// Every key under a prefix.
    KeyPrefix {
        /// Plain text that keys start with.
        prefix: String,
    },
    /// Checks in a state.
    Checks {
        /// `any`, `passing`, `warning` or `critical`.
        state: String,
    },
    /// Names of all datacenters. The server cannot wait for it, so it is asked now and then.
    Datacenters,
    /// Any other path that can be waited for, such as `/v1/event/list`.
    Path {
        /// From `/v1` on.
        path: String,
        /// Names and values; the latter may be empty.
        parameters: Vec<(String, String)>,
    },
}

/// The answer to a [`Query`], in the variant of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Instances.
    Service(Vec<ServiceEntry>),
    /// Names and tags.
    Services(BTreeMap<String, Vec<String>>),
    /// Nodes.
    Nodes(Vec<Node>),
    /// A node, if it exists.
    Node(Option<CatalogNode>),
    /// A key, if it exists.
    Key(Option<KvPair>),
    /// Pairs.
    KeyPrefix(Vec<KvPair>),
    /// Checks.
    Checks(Vec<HealthCheck>),
    /// Names.
    Datacenters(Vec<String>),
    /// The body as it came; `None` for 404.
    Path(Option<Bytes>),
}

/// How to follow.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// How long the server holds each question.
    pub wait: Duration,
    /// How fresh answers must be.
    pub consistency: Consistency,
    /// Another datacenter.
    pub datacenter: Option<String>,
    /// Sort by distance from this node.
    pub near: Option<String>,
    /// Only rows for which this expression holds.
    pub filter: Option<String>,
    /// First pause after a failure; doubled up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest pause after a failure.
    pub backoff_max: Duration,
}

impl Default for WatchSettings {
    fn default() -> WatchSettings {
        WatchSettings {
            wait: Duration::from_mins(1),
            consistency: Consistency::Default,
            datacenter: None,
            near: None,
            filter: None,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Update {
    /// A first or a changed answer, with its index. After failures also an unchanged one: it tells
    /// that the agent is back and the answer current.
    Value(Answer, u64),
    /// The question failed; it is asked again after a pause. Reported once for each attempt. Not
    /// every such error passes by itself: see [`Error::is_transient`].
    Unreachable(Error),
}

/// One question, followed on a connection of its own until it is dropped.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    question: Question,
    index: u64,
    last: Option<Answer>,
    odd_rows: OddRows,
    pacing: Pacing,
    /// Not before this moment is the next question sent.
    not_before: Option<Instant>,
}

impl Client {
    /// Follows one question on a connection of its own. Programs with more than a few questions use a
    /// [`Client::watch_set`].
    pub fn watch(&self, query: Query, settings: WatchSettings) -> Watch {
        Watch {
            client: self.clone(),
            question: Question { query, settings },
            index: 0,
            last: None,
            odd_rows: OddRows::default(),
            pacing: Pacing::default(),
            not_before: None,
        }
    }
}

impl Watch {
    /// The next change or failure. Never ends; drop it to stop. Safe to cancel.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(moment) = self.not_before {
                tokio::time::sleep_until(moment).await;
                self.not_before = None;
            }
            let asked = Instant::now();
            match self.ask().await {
                Err(error) => {
                    let pause = self.pacing.failed(&self.question.settings);
                    self.not_before = Some(Instant::now() + pause);
                    // A server that was away may be another one now: start from nothing.
                    self.index = 0;
                    return Update::Unreachable(error);
                }
                Ok(((answer, odd_rows), index)) => {
                    self.odd_rows.note(&self.question.query, odd_rows);
                    let recovered = self.pacing.is_failing();
                    let news = recovered || self.last.as_ref() != Some(&answer);
                    let pace = self.pacing.answered(Answered {
                        news,
                        asked: self.index,
                        index,
                        took: asked.elapsed(),
                        wait: self.question.settings.wait,
                    });
                    self.not_before = Some(asked + pace);
                    self.index = if index < self.index { 0 } else { index };
                    if news {
                        self.last = Some(answer.clone());
                        return Update::Value(answer, index);
                    }
                }
            }
        }
    }

    /// The rows that could not be read and are missing in the last answer. A watch says so in the
    /// log, too, whenever they become others.
    pub fn odd_rows(&self) -> &[OddRow] {
        &self.odd_rows.0
    }

    async fn ask(&self) -> Result<((Answer, Vec<OddRow>), u64), Error> {
        let wait = self.question.settings.wait;
        let found = self.question.ask(&self.client, self.index, wait).await?;
        Ok((self.question.answer(found.body.as_ref())?, found.index))
    }
}

/// The rows that are missing in an answer.
#[derive(Debug, Default)]
struct OddRows(Vec<OddRow>);

impl OddRows {
    fn note(&mut self, query: &Query, odd_rows: Vec<OddRow>) {
        if odd_rows != self.0 {
            if !odd_rows.is_empty() {
                let rows = listed(&odd_rows);
                warn!(?query, rows, "rows that cannot be read are left out of the answer");
            }
            self.0 = odd_rows;
        }
    }
}
