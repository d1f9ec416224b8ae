//! The end of the side that answers: what began is finished, nothing new begins.
//!
//! ```text
//!   stop ─▶ "leaving" to callers ─▶ new calls refused ─▶ calls end, or have had their time ─▶ closed
//! ```
//!
//! A write that was cut off in the middle may have been done or not, and whoever asked cannot try it
//! again. Messages of agreement go on meanwhile: without them no write would end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Class;

/// Time in which calls arrive that were sent before their sender heard that this agent leaves.
const LEAVING_MIN: Duration = Duration::from_millis(100);
/// For calls to end. Those that wait for a change end elsewhere.
const LEAVING_MAX: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// For connections to close after that.
pub(super) const CLOSING_MAX: Duration = Duration::from_millis(250);

/// Calls in progress for other agents, over all connections.
#[derive(Debug, Default)]
pub(super) struct Draining {
    is_leaving: AtomicBool,
    calls: AtomicUsize,
}

/// A call that runs; dropped at its end.
#[derive(Debug)]
pub(super) struct Counted(Arc<Draining>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Draining {
    /// Counts a call; `None` if no new ones begin any more.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Counted> {
        // Counted first: who looks for the last call must not miss one that is let in.
        self.calls.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(self));
        (!self.is_leaving.load(Ordering::Acquire)).then_some(counted)
    }

    /// From now on nothing new begins.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    /// Resolves when a connection may be closed after [`Draining::leave`].
    pub(super) async fn finished(&self) {
        let began = Instant::now();
        let mut is_idle = false;
        loop {
            tokio::time::sleep(LOOK).await;
            let left = began.elapsed();
            let was_idle = std::mem::replace(&mut is_idle, self.calls.load(Ordering::Acquire) == 0);
            // An answer is queued before its call ends, and written by the next look.
            if left >= LEAVING_MAX || (left >= LEAVING_MIN && is_idle && was_idle) {
                return;
            }
        }
    }
}

/// Do calls of this class begin until the very end? Those of agreement do.
pub(super) fn goes_on(class: Class) -> bool {
    class != Class::Forward
}
