//! The truth: nodes, services, checks, keys and sessions as one value.
//!
//! A [`Store`] knows no clock, no randomness, no settings and no log output. Everything that
//! changes it is a [`Command`]; the same commands give the same bytes on every server. Cloning
//! costs a few pointers, so every reader works on a snapshot of its own.
//!
//! `catalog`, `kv` and `session` are its tables, each ignorant of the others. `apply` passes on
//! what concerns another table: a check that turns critical or goes ends the sessions that depend
//! on it, a node ends those on it, and a session releases or deletes the keys it holds.

pub mod acl;
mod apply;
mod autopilot;
mod catalog;
mod command;
mod judge;
mod kv;
mod refusal;
mod restore;
mod scope;
mod session;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod txn;

pub use autopilot::{Autopilot, AutopilotChange};
pub use catalog::{Catalog, Check, CheckStatus, Instance, Node, Service, ServiceAddress, Weights};
pub use command::{
    Change, Command, DecodeError, Deregister, KvChange, KvVerb, Register, Reply, Timestamp,
};
pub use judge::INDEX_MAX;
pub use kv::{Entry, Kv};
pub(crate) use refusal::Quoted;
pub use restore::Restore;
pub use scope::{Scope, Scopes};
pub use session::{Behavior, Session, SessionId, Sessions};
pub use txn::{CatalogVerb, TxnError, TxnOp, TxnResult};

use std::sync::Arc;

/// Position in the replicated log: the only clock that clients see (`X-Consul-Index`).
pub type Index = u64;

/// Rows that a read found, the index they are true at, and the scopes whose change can alter them.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// The rows.
    pub rows: T,
    /// The highest index that shaped this answer (may be 0 in an empty store; interfaces answer 1).
    pub index: Index,
    /// Waiting on these misses no change of the answer. Their number never grows with the rows.
    pub scopes: Scopes,
}

/// Result of applying one command.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The answer to whoever proposed the command. Bad input is a reply, never a panic.
    pub reply: Reply,
    /// Its index as clients see it.
    pub index: Index,
    /// Scopes whose readers must look again, sorted. Empty when nothing changed.
    pub touched: Vec<Scope>,
}

/// The replicated state of one datacenter.
#[derive(Debug, Clone, Default)]
pub struct Store {
    index: Index,
    /// Difference between indexes and positions in the log: a restored state may come from a cluster
    /// with a longer history, and no index may go back.
    ahead: Index,
    /// Counts restores: a cached answer of an earlier epoch is worthless even at an equal index.
    /// Each server's own, so it is in no snapshot.
    epoch: u64,
    catalog: Catalog,
    kv: Kv,
    sessions: Sessions,
    autopilot: Option<Arc<Autopilot>>,
    acl: acl::Acl,
    /// A state that is on its way in, and will replace this one.
    staging: Option<restore::Staging>,
}

/// Numbers of rows in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Nodes.
    pub nodes: usize,
    /// Service names.
    pub services: usize,
    /// Instances of services.
    pub instances: usize,
    /// Checks.
    pub checks: usize,
    /// Keys.
    pub keys: usize,
    /// Deleted keys that are remembered.
    pub tombstones: usize,
    /// Sessions.
    pub sessions: usize,
}

impl Store {
    /// Index of the last applied command.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Number of times this state was replaced by a snapshot.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Nodes, services and checks.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Keys and values.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Lock holders.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Tokens, policies, roles.
    pub fn acl(&self) -> &acl::Acl {
        &self.acl
    }

    /// Autopilot settings; `None` until a leader has written them.
    pub fn autopilot(&self) -> Option<&Arc<Autopilot>> {
        self.autopilot.as_ref()
    }

    /// The index of the entry at this position in the log, as clients see it.
    pub fn index_of(&self, position: Index) -> Index {
        position + self.ahead
    }

    /// Numbers of rows, for metrics. Reads lengths only.
    pub fn counts(&self) -> Counts {
        Counts {
            nodes: self.catalog.node_count(),
            services: self.catalog.service_count(),
            instances: self.catalog.instance_count(),
            checks: self.catalog.check_count(),
            keys: self.kv.len(),
            tombstones: self.kv.tombstones(),
            sessions: self.sessions.len(),
        }
    }

    /// This state without another one that may be on its way in: what is worth saving.
    #[must_use]
    pub fn settled(&self) -> Store {
        Store { staging: None, ..self.clone() }
    }

    /// This state as the successor of `previous`, which a snapshot has replaced: a new epoch, so
    /// that cached answers are dropped. If the snapshot is older than what clients have seen (an
    /// operator restored it), every index is raised to what they have seen: none slides back.
    /// Everybody who waits must be woken with [`Scope::Everything`].
    #[must_use]
    pub fn restored_over(mut self, previous: &Store) -> Store {
        self.epoch = previous.epoch.max(self.epoch) + 1;
        if self.index < previous.index {
            self.raise(previous.index);
        }
        self
    }

    /// This state with no index below `floor`. For a restore that goes through the log: with the
    /// position of the restoring entry as `floor`, all servers arrive at equal bytes.
    pub fn raise(&mut self, floor: Index) {
        self.index = self.index.max(floor);
        self.catalog.raise(floor);
        self.kv.raise(floor);
        self.sessions.raise(floor);
        self.acl.raise(floor);
    }
}
