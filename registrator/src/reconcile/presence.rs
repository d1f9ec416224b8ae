//! Damping of services that come and go: a container in a crash loop would otherwise cost two
//! writes for each of its short lives, and every one of them wakes all who watch the service. Pure.
//!
//! ```text
//!   container    ███  ███  ███  ███  ███  ███████████████████
//!   quick        0    1    2    3    4    5
//!   held for     -    -    -    1 s  2 s  4 s
//!   registered   ███  ███  ███                 ██████████████
//! ```
//!
//! A service that comes back soon after a short life is held back until it has lived for a time that
//! doubles with every such return, up to a bound. Two returns are free: a restart, and the restart
//! that corrects it, are never held. A life longer than [`STEADY`] clears the account.

use std::time::{Duration, Instant};

/// A life that is no sign of trouble.
const STEADY: Duration = Duration::from_secs(30);
/// Quick returns that are not held.
const FREE: u32 = 2;
/// How long the first return beyond those is held; doubled for each that follows.
const HOLD_FIRST: Duration = Duration::from_secs(1);
/// A service that was gone this long begins anew.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_mins(5);

/// The comings and goings of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Presence {
    /// When it last came.
    since: Instant,
    /// When it went, unless it is there.
    gone: Option<Instant>,
    /// Returns in a row after short lives.
    quick: u32,
}

impl Presence {
    /// It is there for the first time.
    pub(super) fn first(now: Instant) -> Self {
        Self { since: now, gone: None, quick: 0 }
    }

    /// It went.
    pub(super) fn leave(&mut self, now: Instant) {
        self.gone.get_or_insert(now);
    }

    /// It is there. Says whether it was away.
    pub(super) fn arrive(&mut self, now: Instant) -> bool {
        let Some(gone) = self.gone.take() else { return false };
        let life = gone.saturating_duration_since(self.since);
        self.quick = if life >= STEADY { 0 } else { self.quick.saturating_add(1) };
        self.since = now;
        true
    }

    /// Since when it is gone.
    pub(super) fn gone(&self) -> Option<Instant> {
        self.gone
    }

    /// Quick returns in a row.
    pub(super) fn quick(&self) -> u32 {
        self.quick
    }

    /// How long it is held back after it came.
    pub(super) fn hold(&self, max: Duration) -> Duration {
        match self.quick.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => HOLD_FIRST.saturating_mul(1 << doublings.min(16)).min(max),
        }
    }

    /// Until when it is held back.
    pub(super) fn held_until(&self, max: Duration) -> Instant {
        self.since + self.hold(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lives and absences in seconds; how long it is held after each return.
    fn holds(lives: &[(u64, u64)]) -> Vec<u64> {
        let mut now = Instant::now();
        let mut presence = Presence::first(now);
        let mut holds = Vec::new();
        for (life, absence) in lives {
            now += Duration::from_secs(*life);
            presence.leave(now);
            // Said twice, it is gone since the first time.
            presence.leave(now + Duration::from_mins(1));
            now += Duration::from_secs(*absence);
            assert!(presence.arrive(now) && !presence.arrive(now));
            holds.push(presence.hold(Duration::from_secs(30)).as_secs());
        }
        holds
    }

    #[test]
    fn the_time_grows_with_every_quick_return() {
        for (lives, expected) in [
            (&[(1, 0); 10][..], &[0, 0, 1, 2, 4, 8, 16, 30, 30, 30][..]),
            // A restart now and then is none of it.
            (&[(40, 1); 10], &[0; 10]),
            (&[(1, 0), (1, 0), (1, 0), (40, 0), (1, 0)], &[0, 0, 1, 0, 0]),
            (&[(29, 0), (29, 100), (29, 0)], &[0, 0, 1]),
        ] {
            assert_eq!(holds(lives), expected, "{lives:?}");
        }
    }
}
