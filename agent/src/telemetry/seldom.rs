//! Log lines about what others can repeat as often as they like: one now and then, with a count.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines of one kind.
const EVERY: Duration = Duration::from_secs(10);

/// Decides which of many equal events are logged. One for each kind of line, as a `static`.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug)]
struct State {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Seldom {
    /// Nothing is logged yet.
    pub(crate) const fn new() -> Seldom {
        Seldom(Mutex::new(State { logged: None, unlogged: 0 }))
    }

    /// Counts an event. If a line is due, returns the number of events since the last one, this one included.
    pub(crate) fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        state.unlogged += 1;
        if state.logged.is_some_and(|logged| now.saturating_duration_since(logged) < EVERY) {
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_then_one_with_the_count_of_all() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        assert_eq!(seldom.due_at(start), Some(1));
        for _ in 0..9000 {
            assert_eq!(seldom.due_at(start + EVERY / 2), None);
        }
        assert_eq!(seldom.due_at(start + EVERY), Some(9001));
        assert_eq!(seldom.due_at(start + EVERY), None);
    }
}
