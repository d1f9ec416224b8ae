//! Holds back checks that flap: a check that went up and down too often stays down until it has been
//! up for a while. Pure.
//!
//! ```text
//!   results   p c p c p c p p p p ...          limit 3 changes in the window
//!   shown     p c p c c c c c c c ... p
//!                   ▲                 ▲
//!                   the limit         better without a break for one window
//! ```
//!
//! Getting worse is shown at once, always: the damper keeps traffic away, it never sends any. Without
//! it every change is written to the catalog and wakes all who watch the service.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::checks::Status;

/// Limit on status changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlapLimit {
    /// Changes in the window that are shown as they come.
    pub changes_max: usize,
    /// The time that is looked back, and for which a check must then be better without a break.
    pub window: Duration,
}

/// When one check changed, as far back as matters.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Bounded by the limit; empty without damping.
    changes: VecDeque<Instant>,
    /// It changed too often: it is not shown to be better until it has been for a while.
    held: bool,
    /// Better than shown since then, without a break.
    better_since: Option<Instant>,
}

impl History {
    /// May a check that is shown as `current` be shown as `next`?
    pub fn admits(
        &mut self,
        flap_limit: FlapLimit,
        now: Instant,
        current: Status,
        next: Status,
    ) -> bool {
        if next >= current {
            self.better_since = None;
            if next > current {
                self.note(flap_limit, now);
            }
            return true;
        }
        let past = |at: Instant| now.saturating_duration_since(at) >= flap_limit.window;
        while self.changes.front().is_some_and(|at| past(*at)) {
            self.changes.pop_front();
        }
        self.held |= self.changes.len() >= flap_limit.changes_max;
        let since = *self.better_since.get_or_insert(now);
        if self.held && !past(since) {
            return false;
        }
        self.held = false;
        self.better_since = None;
        self.note(flap_limit, now);
        true
    }

    fn note(&mut self, flap_limit: FlapLimit, now: Instant) {
        self.changes.push_back(now);
        // More than the limit decide nothing.
        while self.changes.len() > flap_limit.changes_max.max(1) {
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A result (`p`, `w`, `c`) a second; what is shown after each.
    fn shown(changes_max: usize, window_secs: u64, results: &str) -> String {
        let flap_limit = FlapLimit { changes_max, window: Duration::from_secs(window_secs) };
        let (mut history, mut now) = (History::default(), Instant::now());
        let mut current = Status::Passing;
        let mut out = String::new();
        for letter in results.chars() {
            now += Duration::from_secs(1);
            let next = match letter {
                'p' => Status::Passing,
                'w' => Status::Warning,
                _ => Status::Critical,
            };
            if history.admits(flap_limit, now, current, next) {
                current = next;
            }
            out.push(match current {
                Status::Passing => 'p',
                Status::Warning => 'w',
                Status::Critical => 'c',
            });
        }
        out
    }

    #[test]
    fn what_flaps_stays_down_until_it_is_quiet() {
        let rows = [
            // under the limit all is shown as it comes
            (3, 10, "pcpppp", "pcpppp"),
            (3, 10, "pcppppppppppcp", "pcppppppppppcp"),
            // the third change is down: as long as it flaps it stays there
            (3, 10, "pcpcpcpcpcpcpcpc", "pcpccccccccccccc"),
            // ten seconds of nothing but better
            (3, 10, "cpcppppppppppppp", "cpcccccccccccppp"),
            // a break begins them anew
            (3, 5, "cpcppppcppppppp", "cpcccccccccccpp"),
            // worse is shown at once, even when it is held
            (2, 5, "wpwcppppppp", "wpwccccccpp"),
            // a limit of nothing holds every recovery
            (0, 3, "cppppp", "ccccpp"),
        ];
        for (changes_max, window, results, expected) in rows {
            assert_eq!(shown(changes_max, window, results), expected, "{changes_max} {results}");
        }
    }
}
