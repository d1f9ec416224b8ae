//! The truth: nodes, services, checks, keys and sessions as one value.
//!
//! A [`Store`] knows no clock, no randomness, no settings and no log output. Everything that
//! changes it is a [`Command`]; the same commands give the same bytes on every server. Cloning
//! costs a few pointers, so every reader works on a snapshot of its own.

mod catalog;
mod command;
mod kv;
mod scope;
mod session;
pub mod snapshot;
mod txn;

pub use catalog::{Catalog, Check, CheckStatus, Instance, Node, Service, ServiceAddress, Weights};
pub use command::{Change, Command, Deregister, KvChange, KvVerb, Register, Reply, Timestamp};
pub use kv::{Entry, Kv};
pub use scope::{Scope, Scopes};
pub use session::{Behavior, Session, SessionId, Sessions};
pub use txn::{CatalogVerb, TxnError, TxnOp, TxnResult};

/// Position in the replicated log: the only clock that clients see (`X-Consul-Index`).
pub type Index = u64;

/// Rows that a read found, the index they are true at, and the scopes whose change can alter them.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// What was asked for.
    pub rows: T,
    /// The highest index that shaped this answer (may be 0 in an empty store; doors answer 1).
    pub index: Index,
    /// Waiting on these misses no change of the answer. Their number never grows with the rows.
    pub scopes: Scopes,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The answer to whoever proposed the command. Bad input is a reply, never a panic.
    pub reply: Reply,
    /// Scopes whose readers must look again. Empty when nothing changed.
    pub touched: Vec<Scope>,
}

/// The replicated state of one datacenter.
#[derive(Debug, Clone, Default)]
pub struct Store {
    index: Index,
    /// Counts restores: a cached answer of an earlier epoch is worthless even at an equal index.
    epoch: u64,
    catalog: Catalog,
    kv: Kv,
    sessions: Sessions,
}

impl Store {
    /// Index of the last applied command.
    pub fn index(&self) -> Index {
        self.index
    }
    /// How often this state was replaced by a snapshot.
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
    /// Applies one committed command. Deterministic and total.
    pub fn apply(&mut self, index: Index, command: &Command) -> Applied {
        let _ = (index, command);
        todo!("owner: store")
    }
}
