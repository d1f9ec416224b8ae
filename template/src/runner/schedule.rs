//! When a change is put in place. A value that is told what happened and when, and says when to act.
//!
//! ```text
//! change ──▶ quiet for quiet_min, but no later than quiet_max after the first ──▶ due
//!            and no sooner than interval_min after the last commit began
//! failure ─▶ the same version again after 1 s, 2 s, 4 s ... 60 s; another version as any change
//! ```

use std::time::{Duration, Instant};

use crate::config::Pace;

/// The pauses before a version that failed is tried again.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// The pauses after failures: 1 s, 2 s, 4 s ... 60 s.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retry {
    next: Option<(Instant, Duration)>,
}

impl Retry {
    /// When to try again; `None` if nothing has failed.
    pub(super) fn at(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// It failed, for the first time or again.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause = self.next.map_or(RETRY_MIN, |(_, pause)| (pause * 2).min(RETRY_MAX));
        self.next = Some((now + pause, pause));
    }

    /// Nothing is to be tried again.
    pub(super) fn succeeded(&mut self) {
        self.next = None;
    }

    /// What made it fail has changed: it is tried again at once.
    pub(super) fn hurry(&mut self) {
        self.next = None;
    }
}

/// The timing of one group.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pace: Pace,
    first_change: Option<Instant>,
    last_change: Option<Instant>,
    last_start: Option<Instant>,
    retry: Retry,
    /// Whether nothing was put in place yet: the first time needs no quiet.
    first: bool,
}

impl Schedule {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            first_change: None,
            last_change: None,
            last_start: None,
            retry: Retry::default(),
            first: true,
        }
    }

    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// The wanted version is another than before.
    pub(super) fn changed(&mut self, now: Instant) {
        self.first_change.get_or_insert(now);
        self.last_change = Some(now);
        self.retry.succeeded();
    }

    /// What was wanted is in place already after all.
    pub(super) fn settled(&mut self) {
        self.first_change = None;
        self.last_change = None;
        self.retry.succeeded();
    }

    /// When to act; `None` if there is nothing to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let Some((first, last)) = self.first_change.zip(self.last_change) else {
            return self.retry.at();
        };
        if self.first {
            return Some(first);
        }
        let quiet = (last + self.pace.quiet_min).min(first + self.pace.quiet_max);
        Some(self.last_start.map_or(quiet, |start| quiet.max(start + self.pace.interval_min)))
    }

    /// The change is being put in place.
    pub(super) fn started(&mut self, now: Instant) {
        self.first_change = None;
        self.last_change = None;
        self.last_start = Some(now);
        self.first = false;
    }

    /// It is in place.
    pub(super) fn succeeded(&mut self) {
        self.retry.succeeded();
    }

    /// It is not in place; the same version is tried again later.
    pub(super) fn failed(&mut self, now: Instant) {
        self.retry.failed(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_after_each_failure() {
        let zero = Instant::now();
        let mut retry = Retry::default();
        let mut pauses = Vec::new();
        let mut now = zero;
        for _ in 0..9 {
            retry.failed(now);
            let at = retry.at().unwrap();
            pauses.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        retry.succeeded();
        assert_eq!(retry.at(), None);
    }

    #[derive(Clone, Copy)]
    enum Step {
        Change,
        Start,
        Fail,
        Succeed,
    }

    #[test]
    fn due_times() {
        use Step::{Change, Fail, Start, Succeed};
        let pace = Pace {
            quiet_min: Duration::from_millis(10),
            quiet_max: Duration::from_millis(100),
            interval_min: Duration::from_millis(200),
        };
        for (name, steps, expected) in [
            ("nothing", &[][..], None),
            ("the first time at once", &[(5, Change)][..], Some(5)),
            (
                "quiet after a change",
                &[(0, Change), (0, Start), (0, Succeed), (1000, Change)],
                Some(1010),
            ),
            (
                "each change prolongs",
                &[(0, Change), (0, Start), (0, Succeed), (1000, Change), (1008, Change)],
                Some(1018),
            ),
            (
                "but not for ever",
                &[(0, Change), (0, Start), (0, Succeed), (1000, Change), (1095, Change)],
                Some(1100),
            ),
            (
                "not too soon after the last",
                &[(0, Change), (0, Start), (90, Succeed), (100, Change)],
                Some(200),
            ),
            (
                "changed while it runs",
                &[(0, Change), (0, Start), (50, Change), (90, Succeed)],
                Some(200),
            ),
            ("done", &[(0, Change), (0, Start), (90, Succeed)], None),
            ("failed", &[(0, Change), (0, Start), (90, Fail)], Some(1090)),
            (
                "failed twice",
                &[(0, Change), (0, Start), (90, Fail), (1090, Start), (1100, Fail)],
                Some(3100),
            ),
            (
                "another version after a failure",
                &[(0, Change), (0, Start), (90, Fail), (500, Change)],
                Some(510),
            ),
        ] {
            let zero = Instant::now();
            let mut schedule = Schedule::new(pace);
            for (at, step) in steps {
                let now = zero + Duration::from_millis(*at);
                match step {
                    Change => schedule.changed(now),
                    Start => schedule.started(now),
                    Fail => schedule.failed(now),
                    Succeed => schedule.succeeded(),
                }
            }
            let due = schedule.due().map(|due| (due - zero).as_millis());
            assert_eq!(due, expected, "{name}");
        }
    }
}
