//! Lock holders: sessions, what ends them, and the lock-delay after they end.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Found, Index, Timestamp};

/// A session's UUID in its usual text form.
pub type SessionId = Arc<str>;

/// What happens to a session's keys when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// The locks are released, the keys stay.
    Release,
    /// The keys go.
    Delete,
}

/// One lock holder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Chosen by the proposer.
    pub id: SessionId,
    /// For people.
    pub name: String,
    /// The node it lives on and dies with.
    pub node: String,
    /// Nanoseconds; as given, capped at 60 s only when applied.
    pub lock_delay_ns: u64,
    /// What happens to its keys at its end.
    pub behavior: Behavior,
    /// As given by its user: `""` or a duration such as `"15s"`.
    pub ttl: String,
    /// Node checks it depends on.
    pub node_checks: Vec<String>,
    /// Service checks it depends on: `(id, namespace)`.
    pub service_checks: Vec<(String, String)>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// The table of sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions {}

impl Sessions {
    /// One session by id.
    pub fn get(&self, id: &str) -> Found<Option<Arc<Session>>> {
        let _ = id;
        todo!("owner: store")
    }
    /// All sessions.
    pub fn list(&self) -> Found<Vec<Arc<Session>>> {
        todo!("owner: store")
    }
    /// The sessions of one node.
    pub fn of_node(&self, node: &str) -> Found<Vec<Arc<Session>>> {
        let _ = node;
        todo!("owner: store")
    }
    /// Until when `key` cannot be locked because its last holder was invalidated.
    pub fn lock_delay_until(&self, key: &str) -> Option<Timestamp> {
        let _ = key;
        todo!("owner: store")
    }
}
