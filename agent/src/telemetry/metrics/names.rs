//! All figures with a fixed name. They are the reference's, and mean here what they mean there.

use super::{Counter, Timing};

macro_rules! timings {
    ($($constant:ident = $timing:expr, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub static $constant: Timing = $timing;)*
        /// All timings here.
        pub(super) static TIMINGS: &[&Timing] = &[$(&$constant),*];
    };
}

macro_rules! counters {
    ($($constant:ident = $name:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub static $constant: Counter = Counter::new($name);)*
        /// All counters here.
        pub(super) static COUNTERS: &[&Counter] = &[$(&$constant),*];
    };
}

timings! {
    CATALOG_DEREGISTER = Timing::new("catalog.deregister"), "A removal from the catalog, at the leader.";
    CATALOG_REGISTER = Timing::new("catalog.register"), "A registration in the catalog, at the leader.";
    DNS_DOMAIN = Timing::of_node("dns.domain_query"), "A question for a name of our domain.";
    DNS_PTR = Timing::of_node("dns.ptr_query"), "A question for the name of an address.";
    FSM_AUTOPILOT = Timing::new("fsm.autopilot"), "Applying rules for servers.";
    FSM_DEREGISTER = Timing::new("fsm.deregister"), "Applying a removal from the catalog.";
    FSM_KVS_CAS = Timing::labelled("fsm.kvs", &[("op", "cas")]), "Applying a conditional write.";
    FSM_KVS_DELETE = Timing::labelled("fsm.kvs", &[("op", "delete")]), "Applying the removal of a key.";
    FSM_KVS_DELETE_CAS = Timing::labelled("fsm.kvs", &[("op", "delete-cas")]), "Applying a conditional removal.";
    FSM_KVS_DELETE_TREE = Timing::labelled("fsm.kvs", &[("op", "delete-tree")]), "Applying the removal of a tree.";
    FSM_KVS_LOCK = Timing::labelled("fsm.kvs", &[("op", "lock")]), "Applying a lock.";
    FSM_KVS_SET = Timing::labelled("fsm.kvs", &[("op", "set")]), "Applying a write.";
    FSM_KVS_UNLOCK = Timing::labelled("fsm.kvs", &[("op", "unlock")]), "Applying the return of a lock.";
    FSM_REGISTER = Timing::new("fsm.register"), "Applying a registration.";
    FSM_SESSION_CREATE = Timing::labelled("fsm.session", &[("op", "create")]), "Applying a new session.";
    FSM_SESSION_DESTROY = Timing::labelled("fsm.session", &[("op", "destroy")]), "Applying the end of a session.";
    FSM_TOMBSTONE = Timing::labelled("fsm.tombstone", &[("op", "reap")]), "Forgetting deleted keys.";
    FSM_TXN = Timing::new("fsm.txn"), "Applying a transaction.";
    KVS_APPLY = Timing::new("kvs.apply"), "A write of a key, at the leader.";
    LEADER_BARRIER = Timing::new("leader.barrier"), "A new leader waits for what was acknowledged before.";
    LEADER_REAP_TOMBSTONES = Timing::new("leader.reapTombstones"), "The leader has deleted keys forgotten.";
    LEADER_RECONCILE = Timing::new("leader.reconcile"), "The leader compares all members with the catalog.";
    LEADER_RECONCILE_MEMBER = Timing::new("leader.reconcileMember"), "The leader corrects what is known of a member.";
    RAFT_COMMIT = Timing::new("raft.commitTime"), "From a proposal to its being agreed on and applied, at the leader.";
    RAFT_FSM_APPLY = Timing::new("raft.fsm.apply"), "Applying an entry of the log.";
    RAFT_LAST_CONTACT = Timing::new("raft.leader.lastContact"), "How long ago a voter answered, seen by the leader.";
    RPC_CONSISTENT = Timing::new("rpc.consistentRead"), "Making sure of leadership before a consistent read.";
    SESSION_APPLY = Timing::new("session.apply"), "The begin or the end of a session, at the leader.";
    TXN_APPLY = Timing::new("txn.apply"), "A transaction, at the leader.";
}

counters! {
    CLIENT_RPC = "client.rpc", "Requests to a server, by an agent that is none.";
    CLIENT_RPC_EXCEEDED = "client.rpc.exceeded", "Requests to a server that `limits.rpc_rate` did not let pass.";
    CLIENT_RPC_FAILED = "client.rpc.failed", "Requests to a server that failed there or on the way.";
    MEMBER_FAILED = "serf.member.failed", "Members that failed.";
    MEMBER_JOINED = "serf.member.join", "Members that joined.";
    MEMBER_LEFT = "serf.member.left", "Members that left.";
    MEMBER_REAPED = "serf.member.reap", "Members that were forgotten.";
    MEMBER_UPDATED = "serf.member.update", "Members that say other things of themselves.";
    RAFT_APPLY = "raft.apply", "Changes that this server proposed as the leader.";
    RAFT_CANDIDATE = "raft.state.candidate", "Elections in which this server stood.";
    RAFT_FOLLOWER = "raft.state.follower", "Times that this server began to follow.";
    RAFT_LEADER = "raft.state.leader", "Elections that this server won.";
    RPC_ACCEPT = "rpc.accept_conn", "Connections of other agents.";
    RPC_QUERY = "rpc.query", "Reads that this server answered.";
    RPC_REQUEST = "rpc.request", "Requests of other agents.";
    USER_EVENTS = "serf.events", "Events that went through the pool.";
}
