//! What a read depends on and what a change touches.

use std::sync::Arc;

/// A part of the truth that can change. Names are in look-up form (lower case).
///
/// A touched scope wakes every waiter of an overlapping scope: equal ones, and for keys
/// `Key(k)` overlaps `Prefix(p)` when `k` starts with `p`, `Prefix(a)` overlaps `Prefix(b)` when
/// one starts with the other. `Everything` (a restore) overlaps all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The list of nodes: their rows, not their services.
    Nodes,
    /// One node: its row, its services, its checks.
    Node(Arc<str>),
    /// The map of service names and tags over all nodes.
    Services,
    /// All instances of a service with their nodes' rows and all checks that bear on them.
    Service(Arc<str>),
    /// The table of all checks (`/v1/health/state/...`).
    Checks,
    /// The checks of one service name (`/v1/health/checks/...`).
    ServiceChecks(Arc<str>),
    /// The checks of one node (`/v1/health/node/...`).
    NodeChecks(Arc<str>),
    /// One key, spelt exactly.
    Key(Arc<str>),
    /// Every key that starts so.
    Prefix(Arc<str>),
    /// The table of sessions.
    Sessions,
    /// One session, by id.
    Session(Arc<str>),
    /// The sessions of one node.
    NodeSessions(Arc<str>),
    /// The state was replaced.
    Everything,
}

/// A handful of scopes.
pub type Scopes = Vec<Scope>;
