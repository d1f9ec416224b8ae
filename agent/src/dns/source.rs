//! Source of rows: this server's own state, or, in an agent without one, a server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::lookup::{Lookup, Rows, look};
use super::settings::Settings;
use crate::read::{Consistency, Options, Reader};
use crate::store::{Found, Store};

/// Consistency of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// As old as this; older, and the leader is asked.
    Stale {
        /// The bound.
        max: Duration,
    },
    /// The leader's state.
    Leader,
}

/// Nobody can be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the catalog cannot be reached")]
pub struct Unavailable;

/// Looks things up at a server, for agents without a catalog. Servers answer with [`find`].
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Has `lookup` done.
    async fn find(&self, lookup: &Lookup, freshness: Freshness) -> Result<Rows, Unavailable>;
}

/// Source of rows.
#[derive(Clone)]
pub enum Source {
    /// This server's state.
    Own(Reader),
    /// Another server's.
    Remote(Arc<dyn Remote>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Source::Own(_) => "Own",
            Source::Remote(_) => "Remote",
        })
    }
}

impl Settings {
    pub(super) fn freshness(&self) -> Freshness {
        if self.allow_stale { Freshness::Stale { max: self.max_stale } } else { Freshness::Leader }
    }
}

impl Source {
    /// The state, if it may be read without waiting for anything.
    pub(super) fn at_once(&self, freshness: Freshness) -> Option<Arc<Store>> {
        let Source::Own(reader) = self else { return None };
        let consensus = reader.consensus();
        let may = consensus.is_leader()
            || matches!(freshness, Freshness::Stale { max } if consensus.last_contact() <= max);
        let store = may.then(|| consensus.store())?;
        // A server that has nothing yet does not know that a name is absent.
        (store.index() > 0).then_some(store)
    }

    /// Looks up, however long that takes.
    pub(super) async fn find(
        &self,
        lookup: &Lookup,
        freshness: Freshness,
    ) -> Result<Rows, Unavailable> {
        match self {
            Source::Own(reader) => find(reader, lookup, freshness).await,
            Source::Remote(remote) => remote.find(lookup, freshness).await,
        }
    }
}

/// Looks up in a server's state once it is fresh enough.
pub async fn find(
    reader: &Reader,
    lookup: &Lookup,
    freshness: Freshness,
) -> Result<Rows, Unavailable> {
    let wanted = match freshness {
        Freshness::Stale { max } if reader.consensus().store().index() > 0 => {
            Consistency::Stale { max: Some(max) }
        }
        Freshness::Stale { .. } | Freshness::Leader => Consistency::Default,
    };
    let options = Options { consistency: wanted, ..Options::default() };
    let read = reader.read(options, |store| Found {
        rows: look(store, lookup),
        index: store.index(),
        scopes: Vec::new(),
    });
    match read.await {
        Ok(outcome) => Ok(outcome.found.rows.clone()),
        Err(error) => {
            tracing::debug!(%error, "a name was not looked up");
            Err(Unavailable)
        }
    }
}
