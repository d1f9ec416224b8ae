//! Scopes: the parts of the state that a read depends on and that a change touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Index, Timestamp};

/// A part of the truth that can change. Names are in look-up form (lower case).
///
/// A touched scope wakes every waiter of an overlapping scope: equal ones, and for keys
/// `Key(k)` overlaps `Prefix(p)` when `k` starts with `p`, `Prefix(a)` overlaps `Prefix(b)` when
/// one starts with the other. `Everything` (a restore) overlaps all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The list of nodes: their rows, not their services.
    Nodes,
    /// One node: its row and its services (its checks are [`Scope::NodeChecks`]).
    Node(Arc<str>),
    /// The map of service names and tags over all nodes.
    Services,
    /// Which node runs which service under which tags: what the map of services depends on when
    /// only some nodes count.
    ServicesByNode,
    /// All instances of a service with their nodes' rows and all checks that bear on them.
    Service(Arc<str>),
    /// All instances of a service with their nodes' rows, whatever their health.
    ServiceNodes(Arc<str>),
    /// The table of all checks (`/v1/health/state/any`).
    Checks,
    /// The checks in one state, spelt exactly (`/v1/health/state/...`).
    ChecksInState(Arc<str>),
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
    /// The table of tokens.
    AclTokens,
    /// The table of policies.
    AclPolicies,
    /// The table of roles.
    AclRoles,
    /// The table of ways to log in.
    AclAuthMethods,
    /// The table of what logins grant.
    AclBindingRules,
    /// The state was replaced.
    Everything,
}

/// A handful of scopes.
pub type Scopes = Vec<Scope>;

impl Scope {
    /// Bytes of memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let name = match self {
            Scope::Node(name)
            | Scope::Service(name)
            | Scope::ServiceNodes(name)
            | Scope::ChecksInState(name)
            | Scope::ServiceChecks(name)
            | Scope::NodeChecks(name)
            | Scope::Key(name)
            | Scope::Prefix(name)
            | Scope::Session(name)
            | Scope::NodeSessions(name) => name.len(),
            Scope::Nodes
            | Scope::Services
            | Scope::ServicesByNode
            | Scope::Checks
            | Scope::Sessions
            | Scope::AclTokens
            | Scope::AclPolicies
            | Scope::AclRoles
            | Scope::AclAuthMethods
            | Scope::AclBindingRules
            | Scope::Everything => 0,
        };
        size_of::<Scope>() + name
    }

    /// Must a waiter of `self` look again after `touched`? Symmetric.
    pub fn overlaps(&self, touched: &Scope) -> bool {
        match (self, touched) {
            (Scope::Everything, _) | (_, Scope::Everything) => true,
            (Scope::Key(key), Scope::Prefix(prefix)) | (Scope::Prefix(prefix), Scope::Key(key)) => {
                key.starts_with(&**prefix)
            }
            (Scope::Prefix(a), Scope::Prefix(b)) => a.starts_with(&**b) || b.starts_with(&**a),
            (a, b) => a == b,
        }
    }
}

/// One command on its way through the tables: where and when it happens, and what it did so far.
///
/// Tables do not know each other. What concerns another table (a check that fell, a node that
/// went) is noted here, and the store passes it on.
#[derive(Debug)]
pub(super) struct ApplyContext {
    /// Position of the command in the log.
    pub(super) index: Index,
    /// When its proposer made it.
    pub(super) at: Timestamp,
    /// Sorted and each once, so that equal commands answer equally everywhere.
    touched: BTreeSet<Scope>,
    /// Checks that became critical or went: (node, check), in look-up form.
    pub(super) fallen_checks: Vec<(Arc<str>, Arc<str>)>,
    /// Nodes that went, in look-up form.
    pub(super) gone_nodes: Vec<Arc<str>>,
}

impl ApplyContext {
    pub(super) fn new(index: Index, at: Timestamp) -> Self {
        ApplyContext {
            index,
            at,
            touched: BTreeSet::new(),
            fallen_checks: Vec::new(),
            gone_nodes: Vec::new(),
        }
    }

    pub(super) fn touch(&mut self, scope: Scope) {
        self.touched.insert(scope);
    }

    pub(super) fn into_touched(self) -> Vec<Scope> {
        self.touched.into_iter().collect()
    }
}

/// The form in which names are looked up: lower case, as the reference's tables.
pub(super) fn fold(name: &str) -> std::borrow::Cow<'_, str> {
    if name.chars().any(|c| !c.is_ascii() || c.is_ascii_uppercase()) {
        name.to_lowercase().into()
    } else {
        name.into()
    }
}

/// [`fold`] that shares the name where it is in look-up form already.
pub(super) fn fold_shared(name: &Arc<str>) -> Arc<str> {
    match fold(name) {
        std::borrow::Cow::Borrowed(_) => name.clone(),
        std::borrow::Cow::Owned(folded) => folded.into(),
    }
}
