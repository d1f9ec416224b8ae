//! The catalog of an agent whose name or id may belong to another one in the pool.
//!
//! Two agents with one name, and perhaps one id, would each correct the other's rows: the one that the
//! pool does not believe waits until both are its own.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::gossip::Members;
use crate::local::{CatalogAccess, Held, Unavailable};
use crate::store::{Change, Check, Reply, Service};

/// Between two looks while the name is another one's.
const LOOK: Duration = Duration::from_millis(500);

/// A catalog that is asked and changed only while the agent's name is its own.
#[derive(Debug)]
pub(super) struct WhileNamed {
    pub(super) catalog: Arc<dyn CatalogAccess>,
    pub(super) members: Members,
}

impl WhileNamed {
    fn is_disowned(&self) -> bool {
        self.members.vitals().is_disowned
    }
}

impl CatalogAccess for WhileNamed {
    fn reachable(&self) -> BoxFuture<'_, ()> {
        async {
            while self.is_disowned() {
                tokio::time::sleep(LOOK).await;
            }
            self.catalog.reachable().await;
        }
        .boxed()
    }

    fn returns(&self) -> watch::Receiver<u64> {
        self.catalog.returns()
    }

    fn held(&self, node: Arc<str>, after: u64) -> BoxFuture<'_, Result<Held, Unavailable>> {
        self.catalog.held(node, after)
    }

    fn holds_service(&self, node: &str, row: &Service) -> bool {
        self.catalog.holds_service(node, row)
    }

    fn holds_check(&self, node: &str, row: &Check) -> bool {
        self.catalog.holds_check(node, row)
    }

    fn propose(&self, change: Change) -> BoxFuture<'_, Result<Reply, Unavailable>> {
        if self.is_disowned() {
            let name = self.members.name();
            let why = format!(
                "another agent has the name `{name}`, or the id of this one, in this cluster"
            );
            return std::future::ready(Err(Unavailable::NoLeader(why))).boxed();
        }
        self.catalog.propose(change)
    }
}
