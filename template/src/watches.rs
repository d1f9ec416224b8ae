//! One watch for each distinct question, started when a template asks it first and stopped when none asks any more.
//!
//! What a watch hears is sent to the runner as [`News`]; retries, pauses and index rules are the catalog client's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tera::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::facts::Query;

/// What a watch heard.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// The answer, now or for the first time.
    Answer(Value),
    /// The catalog does not answer; the watch goes on trying.
    Unreachable(String),
    /// The question itself is wrong (a filter that does not parse, a token that may not read it).
    Refused(String),
}

/// Where questions are asked.
pub trait Catalog: Send + Sync {
    /// Asks `query` for ever, sending what is heard. Never ends by itself.
    fn watch(&self, query: Query, news: mpsc::Sender<(Query, News)>) -> JoinHandle<()>;
}

/// The running watches.
pub struct Watches {
    catalog: Arc<dyn Catalog>,
    news: mpsc::Sender<(Query, News)>,
    running: BTreeMap<Query, JoinHandle<()>>,
}

impl Watches {
    /// No watches yet; news will go to `news`.
    pub fn new(catalog: Arc<dyn Catalog>, news: mpsc::Sender<(Query, News)>) -> Self {
        Self { catalog, news, running: BTreeMap::new() }
    }

    /// Starts the watches that are wanted and do not run, stops those nobody wants.
    pub fn want(&mut self, wanted: &BTreeSet<Query>) {
        self.running.retain(|query, task| {
            let keep = wanted.contains(query);
            if !keep {
                tracing::debug!(%query, "nobody asks any more");
                task.abort();
            }
            keep
        });
        for query in wanted {
            if !self.running.contains_key(query) {
                tracing::debug!(%query, "watching");
                let task = self.catalog.watch(query.clone(), self.news.clone());
                self.running.insert(query.clone(), task);
            }
        }
    }

    /// Asks everything anew of another catalog.
    pub fn replace(&mut self, catalog: Arc<dyn Catalog>) {
        self.catalog = catalog;
        let wanted = self.running.keys().cloned().collect();
        self.want(&BTreeSet::new());
        self.want(&wanted);
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}
