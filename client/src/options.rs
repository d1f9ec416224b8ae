//! How to read, and what comes with an answer.

use std::time::Duration;

use crate::OddRow;
use crate::types::format_duration;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub enum Consistency {
    /// As the leader sees it.
    #[default]
    Default,
    /// As any server sees it, even without a leader.
    Stale,
    /// As a majority confirms it.
    Consistent,
}

/// How to read. The default asks once and answers at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Wait until something is newer than this index; 0 never waits.
    pub index: Option<u64>,
    /// Wait at most this long.
    pub wait: Option<Duration>,
    /// How fresh.
    pub consistency: Consistency,
    /// Another datacenter.
    pub datacenter: Option<String>,
    /// Only rows for which this expression holds.
    pub filter: Option<String>,
    /// Sort by distance from this node.
    pub near: Option<String>,
    /// Only nodes with these pairs.
    pub node_meta: Vec<(String, String)>,
    /// The agent may answer from its cache.
    pub cached: bool,
}

impl ReadOptions {
    /// Blocks until newer than `index`, at most `wait`.
    pub fn blocking(index: u64, wait: Duration) -> ReadOptions {
        ReadOptions { index: Some(index), wait: Some(wait), ..ReadOptions::default() }
    }

    pub(crate) fn append(&self, query: &mut Vec<(&str, String)>) {
        // An index of 0 would mean "do not wait": never send it.
        if let Some(index) = self.index.filter(|index| *index > 0) {
            query.push(("index", index.to_string()));
            if let Some(wait) = self.wait {
                query.push(("wait", format_duration(wait)));
            }
        }
        match self.consistency {
            Consistency::Default => {}
            Consistency::Stale => query.push(("stale", String::new())),
            Consistency::Consistent => query.push(("consistent", String::new())),
        }
        if let Some(datacenter) = &self.datacenter {
            query.push(("dc", datacenter.clone()));
        }
        if let Some(filter) = &self.filter {
            query.push(("filter", filter.clone()));
        }
        if let Some(near) = &self.near {
            query.push(("near", near.clone()));
        }
        for (key, value) in &self.node_meta {
            query.push(("node-meta", format!("{key}:{value}")));
        }
        if self.cached {
            query.push(("cached", String::new()));
        }
    }

    /// How long the server may hold the request.
    pub(crate) fn patience(&self) -> Duration {
        match (self.index, self.wait) {
            (Some(1..), Some(wait)) => wait + wait / 16,
            // The server's own default, with its jitter.
            (Some(1..), None) => Duration::from_secs(320),
            _ => Duration::ZERO,
        }
    }
}

/// Which instances of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceQuery {
    /// With all these tags.
    pub tags: Vec<String>,
    /// Only with every check passing.
    pub passing: bool,
}

impl ServiceQuery {
    /// Only instances with every check passing.
    pub fn passing() -> ServiceQuery {
        ServiceQuery { passing: true, ..ServiceQuery::default() }
    }
}

/// What comes with an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The index to wait on; 0 if the endpoint has none.
    pub index: u64,
    /// Whether the server knows a leader.
    pub known_leader: Option<bool>,
    /// How long ago it heard of the leader.
    pub last_contact: Option<Duration>,
    /// Whether the agent's cache answered.
    pub cache_hit: Option<bool>,
    /// Rows that could not be read, and are missing in the answer.
    pub odd_rows: Vec<OddRow>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Response<T> {
    /// What was asked for.
    pub value: T,
    /// What comes with it.
    pub meta: Meta,
}
