//! Who waits for which scope. A wake costs well under a microsecond, a write that nobody watches
//! next to nothing.

use crate::store::Scope;

/// The registry of waiters.
#[derive(Debug, Default)]
pub struct Watches {
    // owner: raft
}

/// One registration; dropping it forgets it. Register first, read the state second, wait last:
/// then no change is lost.
#[derive(Debug)]
pub struct Waiter {
    // owner: raft
}

impl Watches {
    /// Registers for any of `scopes` (and, always, for [`Scope::Everything`]).
    pub fn register(&self, scopes: &[Scope]) -> Waiter {
        let _ = scopes;
        todo!("owner: raft")
    }
    /// Wakes every waiter of an overlapping scope.
    pub fn wake(&self, touched: &[Scope]) {
        let _ = touched;
        todo!("owner: raft")
    }
}

impl Waiter {
    /// Resolves once a registered scope was touched since `register`.
    pub async fn woken(&mut self) {
        todo!("owner: raft")
    }
}
