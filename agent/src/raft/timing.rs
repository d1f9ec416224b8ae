//! Which figure a change belongs to: when it is proposed, and when it is applied.

use crate::store::{Change, KvVerb};
use crate::telemetry::metrics::{Timing, names};

/// Metric of the time that the proposer waited.
pub(super) fn of_proposal(change: &Change) -> Option<&'static Timing> {
    Some(match change {
        Change::Register(_) => &names::CATALOG_REGISTER,
        Change::Deregister(_) => &names::CATALOG_DEREGISTER,
        Change::Kv(_) => &names::KVS_APPLY,
        Change::SessionCreate(_) | Change::SessionDestroy { .. } => &names::SESSION_APPLY,
        Change::Txn(_) => &names::TXN_APPLY,
        Change::Noop
        | Change::TombstonesReap { .. }
        | Change::Autopilot(_)
        | Change::Acl(_)
        | Change::Restore(_) => return None,
    })
}

/// Metric of the time that applying took.
pub(super) fn of_entry(change: &Change) -> Option<&'static Timing> {
    Some(match change {
        Change::Register(_) => &names::FSM_REGISTER,
        Change::Deregister(_) => &names::FSM_DEREGISTER,
        Change::Kv(change) => match change.verb {
            KvVerb::Set => &names::FSM_KVS_SET,
            KvVerb::Cas(_) => &names::FSM_KVS_CAS,
            KvVerb::Delete => &names::FSM_KVS_DELETE,
            KvVerb::DeleteCas(_) => &names::FSM_KVS_DELETE_CAS,
            KvVerb::DeleteTree => &names::FSM_KVS_DELETE_TREE,
            KvVerb::Lock(_) => &names::FSM_KVS_LOCK,
            KvVerb::Unlock(_) => &names::FSM_KVS_UNLOCK,
        },
        Change::SessionCreate(_) => &names::FSM_SESSION_CREATE,
        Change::SessionDestroy { .. } => &names::FSM_SESSION_DESTROY,
        Change::Txn(_) => &names::FSM_TXN,
        Change::TombstonesReap { .. } => &names::FSM_TOMBSTONE,
        Change::Autopilot(_) => &names::FSM_AUTOPILOT,
        Change::Noop | Change::Acl(_) | Change::Restore(_) => return None,
    })
}
