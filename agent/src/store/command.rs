//! All that the log can carry, and what each entry answers.

use serde::{Deserialize, Serialize};

use super::{Check, Node, Service, Session, SessionId, TxnError, TxnOp, TxnResult};

/// Milliseconds since the Unix epoch, stamped by the proposer: the store has no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// When the proposer made it; the only time that `apply` knows.
    pub at: Timestamp,
    /// What is to change.
    pub change: Change,
}

/// Every change of the truth. Adding a variant is compatible; changing one needs a new name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Does nothing; a leader's first entry and barriers.
    Noop,
    /// Puts a node, and with it a service and checks, into the catalog.
    Register(Box<Register>),
    /// Removes a node, one of its services or one of its checks.
    Deregister(Deregister),
    /// One write to the key-value table.
    Kv(KvChange),
    /// Creates a session; its id was chosen by the proposer.
    SessionCreate(Box<Session>),
    /// Ends a session: destroyed by its user, or expired by the leader.
    SessionDestroy {
        /// Which one; an unknown id changes nothing.
        id: SessionId,
    },
    /// All or nothing.
    Txn(Vec<TxnOp>),
    /// Forgets tombstones of deleted keys up to this index (the leader's housekeeping).
    TombstonesReap {
        /// Inclusive.
        up_to: u64,
    },
}

/// As `PUT /v1/catalog/register` means it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// The node's row. Its indexes are ignored.
    pub node: Node,
    /// Leave an existing node row as it is.
    pub skip_node_update: bool,
    /// A service of that node.
    pub service: Option<Service>,
    /// Checks of that node or of that service.
    pub checks: Vec<Check>,
}

/// As `PUT /v1/catalog/deregister` means it. Unknown things change nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deregister {
    /// The node, or the owner of what goes.
    pub node: String,
    /// Only this service.
    pub service_id: Option<String>,
    /// Only this check.
    pub check_id: Option<String>,
}

/// One write to one key or prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvChange {
    /// What to do.
    pub verb: KvVerb,
    /// The key, or the prefix for a tree.
    pub key: String,
    /// New value (ignored by deletes).
    pub value: bytes::Bytes,
    /// Opaque to us.
    pub flags: u64,
}

/// What a [`KvChange`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvVerb {
    /// Writes; a lock on the key stays with its holder.
    Set,
    /// Writes if the key's ModifyIndex is this; 0 means: must not exist.
    Cas(u64),
    /// Removes.
    Delete,
    /// Removes if the key's ModifyIndex is this.
    DeleteCas(u64),
    /// Removes every key under the prefix.
    DeleteTree,
    /// Writes and takes the lock for the session.
    Lock(SessionId),
    /// Writes and gives the lock back.
    Unlock(SessionId),
}

/// The answer to a proposer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done (or nothing to do).
    Done,
    /// A lost compare-and-set, a lock held by another: an answer, not an error.
    Decided(bool),
    /// A transaction's results, or all its errors (then nothing was applied).
    Txn {
        /// One for each operation that yields a row.
        results: Vec<TxnResult>,
        /// Empty on success.
        errors: Vec<TxnError>,
    },
    /// Refused; the text is the reference's, for the client's eyes.
    Refused(String),
}
