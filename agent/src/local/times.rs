//! When checks were last heard of, for people who ask why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Local;

/// When something happened to a check; `None`: not since the agent started.
#[derive(Debug, Clone, Copy)]
pub struct Times<T = SystemTime> {
    /// Its last run or report, whatever that found.
    pub reported: Option<T>,
    /// Its status became what it is.
    pub changed: Option<T>,
}

impl<T> Default for Times<T> {
    fn default() -> Self {
        Times { reported: None, changed: None }
    }
}

impl Local {
    /// When the checks of this agent were last heard of, by id.
    #[expect(clippy::disallowed_methods, reason = "people are told the time of day")]
    pub fn check_times(&self) -> BTreeMap<Arc<str>, Times> {
        let (now, today) = (Instant::now(), SystemTime::now());
        let shown = |at: Instant| today.checked_sub(now.saturating_duration_since(at));
        let registrations = self.registrations();
        let times = |claim: &super::state::RegisteredCheck| Times {
            reported: claim.times.reported.and_then(shown),
            changed: claim.times.changed.and_then(shown),
        };
        registrations.checks().iter().map(|(id, claim)| (Arc::clone(id), times(claim))).collect()
    }
}
