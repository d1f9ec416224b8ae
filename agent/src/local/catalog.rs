//! The catalog as an agent sees it whose services are to be in it: what is held of one node, and how that is
//! changed.
//!
//! A server asks the cluster it is part of; an agent without server mode asks servers. Neither knows here where the
//! rows are kept, so that both follow the same rules of correction.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::raft::{self, Consensus};
use crate::store::{Change, Check, Index, Node, Reply, Scopes, Service, Store};

/// Interval of looking for a leader while there is none.
const LEADER_POLL: Duration = Duration::from_millis(100);
/// A look that waits for a change ends after this long: whoever waits may no longer want it.
pub const LOOK_MAX: Duration = Duration::from_mins(1);

/// Rows of the catalog for one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Another one when the rows are others; 0: nothing was read.
    pub mark: u64,
    /// Number of nodes in the catalog: intervals grow with it.
    pub nodes: usize,
    /// The node's row.
    pub node: Option<Arc<Node>>,
    /// Its services.
    pub services: Vec<Arc<Service>>,
    /// Its checks, those of its services included.
    pub checks: Vec<Arc<Check>>,
}

/// The catalog could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Nobody keeps it now: as soon as somebody does, it is worth another try.
    #[error("{0}")]
    NoLeader(String),
    /// It was asked, and something broke.
    #[error("{0}")]
    Failed(String),
}

/// Access to the catalog.
pub trait CatalogAccess: fmt::Debug + Send + Sync + 'static {
    /// Resolves when there is somebody to ask.
    fn reachable(&self) -> BoxFuture<'_, ()>;

    /// Counts how often those that keep the catalog came back: what they hold is then worth a comparison. Closed if
    /// they never go.
    fn returns(&self) -> watch::Receiver<u64>;

    /// Reads the leader's rows of a node: at once, or, unless `after` is 0, when its mark is another
    /// or [`LOOK_MAX`] is over.
    fn held(&self, node: Arc<str>, after: u64) -> BoxFuture<'_, Result<Held, Unavailable>>;

    /// Is it known, without asking anybody, that a node's service is held just so?
    fn holds_service(&self, node: &str, row: &Service) -> bool {
        let _ = (node, row);
        false
    }

    /// The same for a check.
    fn holds_check(&self, node: &str, row: &Check) -> bool {
        let _ = (node, row);
        false
    }

    /// Has the cluster agree on a change.
    fn propose(&self, change: Change) -> BoxFuture<'_, Result<Reply, Unavailable>>;
}

impl Held {
    /// Reads what `store` holds, and what has to change for it to be another.
    pub fn look(store: &Store, node: &str) -> (Held, Scopes) {
        let catalog = store.catalog();
        let (services, checks) = (catalog.node_services(node), catalog.node_checks(node));
        let mut scopes = services.scopes;
        scopes.extend(checks.scopes);
        let mut held = Held { nodes: catalog.node_count(), ..Held::default() };
        if let Some((row, services)) = services.rows {
            (held.node, held.services, held.checks) = (Some(row), services, checks.rows);
        }
        held.mark = held.fingerprint();
        (held, scopes)
    }

    /// Looks again as soon as the rows are others than at `mark`.
    pub async fn watch(consensus: &Consensus, node: &str, mark: u64) -> Held {
        let (held, scopes) = Held::look(&consensus.store(), node);
        if mark == 0 || held.mark != mark {
            return held;
        }
        let mut waiter = consensus.watches().register(&scopes);
        // What changed before the registration woke nobody.
        let (held, _) = Held::look(&consensus.store(), node);
        if held.mark != mark {
            return held;
        }
        let _ = tokio::time::timeout(LOOK_MAX, waiter.woken()).await;
        Held::look(&consensus.store(), node).0
    }

    /// Of the rows with their indexes. The tables' own indexes move with every other node as well.
    fn fingerprint(&self) -> u64 {
        let mut hasher = crc32fast::Hasher::new();
        let mut row = |kind: u8, id: &str, index: Index| {
            hasher.update(&[kind]);
            hasher.update(id.as_bytes());
            hasher.update(&index.to_le_bytes());
        };
        if let Some(node) = &self.node {
            row(0, &node.name, node.modify_index);
        }
        for service in &self.services {
            row(1, &service.id, service.modify_index);
        }
        for check in &self.checks {
            row(2, &check.id, check.modify_index);
        }
        u64::from(hasher.finalize()) + 1
    }
}

impl From<raft::Error> for Unavailable {
    fn from(error: raft::Error) -> Unavailable {
        match error {
            raft::Error::NoLeader => Unavailable::NoLeader(error.to_string()),
            other => {
                let mut text = other.to_string();
                if let Some(source) = std::error::Error::source(&other) {
                    text = format!("{text}: {source}");
                }
                Unavailable::Failed(text)
            }
        }
    }
}

impl CatalogAccess for Consensus {
    fn reachable(&self) -> BoxFuture<'_, ()> {
        async {
            while self.leader().is_none() {
                tokio::select! {
                    () = self.leadership_changed(false) => {}
                    () = tokio::time::sleep(LEADER_POLL) => {}
                }
            }
        }
        .boxed()
    }

    /// A server has all that its cluster agreed on: nothing is lost while there is no leader.
    fn returns(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn held(&self, node: Arc<str>, after: u64) -> BoxFuture<'_, Result<Held, Unavailable>> {
        async move {
            if !self.is_leader() {
                self.read_barrier().await?;
            }
            Ok(Held::watch(self, &node, after).await)
        }
        .boxed()
    }

    fn holds_service(&self, node: &str, row: &Service) -> bool {
        let store = self.store();
        store.catalog().node_service(node, &row.id).is_some_and(|held| row.same(held))
    }

    fn holds_check(&self, node: &str, row: &Check) -> bool {
        let store = self.store();
        store.catalog().node_check(node, &row.id).is_some_and(|held| row.same(held))
    }

    fn propose(&self, change: Change) -> BoxFuture<'_, Result<Reply, Unavailable>> {
        async move { Ok(Consensus::propose(self, change).await?.0) }.boxed()
    }
}
