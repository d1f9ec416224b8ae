//! Following one question over time.
//!
//! The rules of blocking queries, kept in one place: an index that goes back starts again from
//! nothing; index 0 is never sent as "wait"; failures are retried for ever with growing, jittered
//! pauses; an answer equal to the last is not reported; neither a server that answers at once
//! without news nor one with news all the time can drive us into a hot loop.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::time::Instant;
use tracing::warn;

use crate::rows::listed;
use crate::transport::accepted;
use crate::types::{CatalogNode, HealthCheck, KvPair, Node, ServiceEntry};
use crate::{Client, Consistency, Error, OddRow, ReadOptions, ServiceQuery};

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

/// One question, followed until it is dropped.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    query: Query,
    settings: WatchSettings,
    index: u64,
    last: Option<Answer>,
    /// Rows that are missing in it.
    odd_rows: Vec<OddRow>,
    failures: u32,
    /// Answers at once and without news in a row, from a server that does not wait.
    restless: u32,
    /// Not before this moment is the next question sent.
    not_before: Option<Instant>,
}

/// Least time from one question to the next: many changes in a moment become one answer.
const PACE: Duration = Duration::from_millis(10);
/// The same when nothing was new: the index moved for the sake of others.
const IDLE_PACE: Duration = Duration::from_millis(100);
/// The same at most, when the server does not wait at all (a proxy may drop what we ask it).
const RESTLESS_PACE: Duration = Duration::from_secs(5);
/// Pause between questions that the server cannot wait for.
const POLL_PAUSE: Duration = Duration::from_secs(15);

impl Client {
    /// Follows one question.
    pub fn watch(&self, query: Query, settings: WatchSettings) -> Watch {
        Watch {
            client: self.clone(),
            query,
            settings,
            index: 0,
            last: None,
            odd_rows: Vec::new(),
            failures: 0,
            restless: 0,
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
                    self.failures = self.failures.saturating_add(1);
                    self.not_before = Some(Instant::now() + self.backoff());
                    // A server that was away may be another one now: start from nothing.
                    self.index = 0;
                    return Update::Unreachable(error);
                }
                Ok((answer, index, odd_rows)) => {
                    self.note_odd(odd_rows);
                    let recovered = std::mem::take(&mut self.failures) > 0;
                    let news = recovered || self.last.as_ref() != Some(&answer);
                    // Index 0 asks without waiting, so the first answer to an index comes at once.
                    let restless = !news
                        && index == self.index
                        && index != 0
                        && asked.elapsed() < self.settings.wait.min(IDLE_PACE);
                    self.restless = if restless { self.restless.saturating_add(1) } else { 0 };
                    self.not_before = Some(asked + self.pace(news, index));
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
        &self.odd_rows
    }

    fn note_odd(&mut self, odd_rows: Vec<OddRow>) {
        if odd_rows != self.odd_rows {
            if !odd_rows.is_empty() {
                let (query, rows) = (&self.query, listed(&odd_rows));
                warn!(?query, rows, "rows that cannot be read are left out of the answer");
            }
            self.odd_rows = odd_rows;
        }
    }

    /// How long after the last question the next one may be sent. Of no effect where the server
    /// held the last one longer.
    fn pace(&self, news: bool, index: u64) -> Duration {
        if index == 0 {
            POLL_PAUSE
        } else if news {
            PACE
        } else {
            IDLE_PACE.saturating_mul(1 << self.restless.min(8)).min(RESTLESS_PACE)
        }
    }

    fn backoff(&self) -> Duration {
        let doubled =
            self.settings.backoff_min.saturating_mul(1 << self.failures.min(16).saturating_sub(1));
        let longest = doubled.min(self.settings.backoff_max);
        // Between half and all of it, so that many clients do not come back at once.
        longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    async fn ask(&self) -> Result<(Answer, u64, Vec<OddRow>), Error> {
        let options = ReadOptions {
            index: (self.index > 0).then_some(self.index),
            wait: Some(self.settings.wait),
            consistency: self.settings.consistency,
            datacenter: self.settings.datacenter.clone(),
            near: self.settings.near.clone(),
            filter: self.settings.filter.clone(),
            ..ReadOptions::default()
        };
        let (catalog, health, kv) = (self.client.catalog(), self.client.health(), self.client.kv());
        macro_rules! answer {
            ($call:expr, $variant:ident) => {{
                let response = $call.await?;
                // Servers count from 1; a 0 here would be taken for "there is no index".
                let index = response.meta.index.max(1);
                (Answer::$variant(response.value), index, response.meta.odd_rows)
            }};
        }
        Ok(match &self.query {
            Query::Service { name, query } => {
                answer!(health.service(name, query, &options), Service)
            }
            Query::Services => answer!(catalog.services(&options), Services),
            Query::Nodes => answer!(catalog.nodes(&options), Nodes),
            Query::Node { name } => answer!(catalog.node(name, &options), Node),
            Query::Key { path } => answer!(kv.get(path, &options), Key),
            Query::KeyPrefix { prefix } => answer!(kv.list(prefix, &options), KeyPrefix),
            Query::Checks { state } => answer!(health.state(state, &options), Checks),
            Query::Path { path, parameters } => {
                let mut query = Vec::new();
                options.append(&mut query);
                query.extend(parameters.iter().map(|(name, value)| (name.as_str(), value.clone())));
                let patience = options.patience();
                let raw =
                    self.client.call(Method::GET, path, &query, Bytes::new(), patience).await?;
                let index = raw.meta().index.max(1);
                if raw.status == StatusCode::NOT_FOUND {
                    (Answer::Path(None), index, Vec::new())
                } else {
                    (Answer::Path(Some(accepted(raw)?.body)), index, Vec::new())
                }
            }
            Query::Datacenters => {
                (Answer::Datacenters(catalog.datacenters().await?), 0, Vec::new())
            }
        })
    }
}
