//! When to ask again: the pauses between questions, so that no server drives a client into a hot loop.

use std::time::Duration;

use super::WatchSettings;

/// Least time from one question to the next: many changes in a moment become one answer.
const PACE: Duration = Duration::from_millis(10);
/// The same when nothing was new: the index moved for the sake of others.
const IDLE_PACE: Duration = Duration::from_millis(100);
/// The same at most, when the server does not wait at all (a proxy may drop what we ask it).
const RESTLESS_PACE: Duration = Duration::from_secs(5);
/// Pause between questions that the server cannot wait for.
const POLL_PAUSE: Duration = Duration::from_secs(15);

/// What an answer says about the server's patience.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// Is it another answer than the last?
    pub(super) news: bool,
    /// The index that was waited on; 0: the question did not wait.
    pub(super) asked: u64,
    /// The index that came; 0: the server cannot wait.
    pub(super) index: u64,
    /// How long the answer took.
    pub(super) took: Duration,
    /// How long it might have taken.
    pub(super) wait: Duration,
}

/// The recent past of one question.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    failures: u32,
    /// Answers at once and without news in a row, from a server that does not wait.
    restless: u32,
}

impl Pacing {
    /// Takes in an answer. The next question may be sent this long after the last one was; of no effect where the
    /// server held that one longer.
    pub(super) fn answered(&mut self, it: Answered) -> Duration {
        self.failures = 0;
        // Index 0 asks without waiting, so the first answer to an index comes at once.
        let restless =
            !it.news && it.asked == it.index && it.index != 0 && it.took < it.wait.min(IDLE_PACE);
        self.restless = if restless { self.restless.saturating_add(1) } else { 0 };
        if it.index == 0 {
            POLL_PAUSE
        } else if it.news {
            PACE
        } else {
            IDLE_PACE.saturating_mul(1 << self.restless.min(8)).min(RESTLESS_PACE)
        }
    }

    /// Takes in a failure. The next question may be sent after this pause.
    pub(super) fn failed(&mut self, settings: &WatchSettings) -> Duration {
        self.failures = self.failures.saturating_add(1);
        backoff(self.failures, settings.backoff_min, settings.backoff_max)
    }

    /// Did the last attempt fail?
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

/// The pause after so many failures in a row: between half and all of a doubled one, so that many clients do not come
/// back at once.
pub(super) fn backoff(failures: u32, min: Duration, max: Duration) -> Duration {
    let doubled = min.saturating_mul(1 << failures.min(16).saturating_sub(1));
    doubled.min(max).mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
