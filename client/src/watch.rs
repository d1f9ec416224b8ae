//! Following one question over time.
//!
//! The rules of blocking queries, kept in one place: an index that goes back starts again from
//! nothing; index 0 is never sent as "wait"; failures are retried for ever with growing, jittered
//! pauses; an answer equal to the last is not reported; a server that answers at once without
//! news cannot drive us into a hot loop.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{CatalogNode, HealthCheck, KvPair, Node, ServiceEntry};
use crate::{Client, Consistency, Error, ReadOptions, ServiceQuery};

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
    /// A first or a changed answer, with its index.
    Value(Answer, u64),
    /// The question failed; it is asked again after a pause. Reported once for each attempt.
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
    failures: u32,
    /// Not before this moment is the next question sent.
    not_before: Option<Instant>,
}

/// Pause between questions that the server answers at once without news.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
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
            failures: 0,
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
            match self.ask().await {
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.not_before = Some(Instant::now() + self.backoff());
                    // A server that was away may be another one now: start from nothing.
                    self.index = 0;
                    return Update::Unreachable(error);
                }
                Ok((answer, index)) => {
                    let recovered = std::mem::take(&mut self.failures) > 0;
                    let slid_back = index < self.index;
                    let moved = index != self.index;
                    self.index = if slid_back { 0 } else { index };
                    if index == 0 {
                        self.not_before = Some(Instant::now() + POLL_PAUSE);
                    }
                    if self.last.as_ref() != Some(&answer) || recovered {
                        self.last = Some(answer.clone());
                        return Update::Value(answer, index);
                    }
                    if moved && self.not_before.is_none() {
                        self.not_before = Some(Instant::now() + IDLE_PAUSE);
                    }
                }
            }
        }
    }

    fn backoff(&self) -> Duration {
        let doubled =
            self.settings.backoff_min.saturating_mul(1 << self.failures.min(16).saturating_sub(1));
        let longest = doubled.min(self.settings.backoff_max);
        // Between half and all of it, so that many clients do not come back at once.
        longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    async fn ask(&self) -> Result<(Answer, u64), Error> {
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
                (Answer::$variant(response.value), response.meta.index.max(1))
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
            Query::Datacenters => (Answer::Datacenters(catalog.datacenters().await?), 0),
        })
    }
}
