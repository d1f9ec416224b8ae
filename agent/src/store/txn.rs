//! Transactions: several operations, all or nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Check, Entry, KvChange, Node, Service, SessionId};

/// One operation. `check_*` verbs only test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnOp {
    /// A write to the key-value table.
    Kv(KvChange),
    /// Reads a key; fails if it does not exist.
    KvGet(String),
    /// Reads a key; an absent one yields no row.
    KvGetOrEmpty(String),
    /// Reads every key under a prefix.
    KvGetTree(String),
    /// Fails unless the key's ModifyIndex is this.
    KvCheckIndex(String, u64),
    /// Fails unless the key is locked by this session.
    KvCheckSession(String, SessionId),
    /// Fails if the key exists.
    KvCheckNotExists(String),
    /// Node operations.
    Node(CatalogVerb, Box<Node>),
    /// Service operations on a node.
    Service(CatalogVerb, String, Box<Service>),
    /// Check operations.
    Check(CatalogVerb, Box<Check>),
    /// Ends a session.
    SessionDelete(SessionId),
}

/// What a catalog operation of a transaction does. `Cas` and `DeleteCas` compare with the row's
/// own `modify_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogVerb {
    /// Reads; fails if absent.
    Get,
    /// Writes.
    Set,
    /// Writes if unchanged.
    Cas,
    /// Removes.
    Delete,
    /// Removes if unchanged.
    DeleteCas,
}

/// A row that an operation yields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnResult {
    /// A key; `value` is present only for reads.
    Kv(Arc<Entry>, bool),
    /// A node.
    Node(Arc<Node>),
    /// A service.
    Service(Arc<Service>),
    /// A check.
    Check(Arc<Check>),
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TxnError {
    /// Position in the list of operations.
    pub op_index: usize,
    /// The reference's text.
    pub what: String,
}
