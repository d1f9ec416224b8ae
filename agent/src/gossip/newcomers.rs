//! Limit on new names.
//!
//! Anybody who reaches an open pool can make up names, and each costs memory in every member and a row of the
//! catalog. A fleet that starts at once needs thousands within seconds; nobody needs that minute after minute.

use std::time::Duration;

/// New names in a minute, and at once. Fleets of 5,000 agents start without being held back.
pub const NEW_NAMES_A_MINUTE: u32 = 6_000;

const MINUTE: Duration = Duration::from_mins(1);
const COST: Duration = Duration::from_millis(60_000 / NEW_NAMES_A_MINUTE as u64);

/// Counts new names. A minute's worth may come at once, then one for each that has had its time.
#[derive(Debug, Default)]
pub struct Newcomers {
    /// The names taken so far are paid off at this moment.
    paid_at: Duration,
    /// Names taken besides: an answer that was asked for brings them.
    expected: usize,
}

impl Newcomers {
    /// May another new name come in?
    pub fn admit(&mut self, now: Duration) -> bool {
        if self.expected > 0 {
            self.expected -= 1;
            return true;
        }
        let paid_at = self.paid_at.max(now) + COST;
        if paid_at > now + MINUTE {
            return false;
        }
        self.paid_at = paid_at;
        true
    }

    /// So many names come in besides: they are the answer to this member's own wish to join, and a pool may have
    /// tens of thousands. 0 ends that.
    pub(super) fn expect(&mut self, names: usize) {
        self.expected = names;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(newcomers: &mut Newcomers, now: Duration, wanted: usize) -> usize {
        (0..wanted).filter(|_| newcomers.admit(now)).count()
    }

    #[test]
    fn a_fleet_starts_at_once_and_a_flood_does_not() {
        let (mut newcomers, start) = (Newcomers::default(), MINUTE * 1000);
        assert_eq!(admitted(&mut newcomers, start, 5_000), 5_000);
        assert_eq!(admitted(&mut newcomers, start, 100_000), 1_000);
        assert_eq!(admitted(&mut newcomers, start + MINUTE / 2, 100_000), 3_000);
        assert_eq!(admitted(&mut newcomers, start + MINUTE, 100_000), 3_000);
        assert_eq!(admitted(&mut newcomers, start + 100 * MINUTE, 100_000), 6_000);
        newcomers.expect(50_000);
        assert_eq!(admitted(&mut newcomers, start + 100 * MINUTE, 50_001), 50_000);
        newcomers.expect(10);
        newcomers.expect(0);
        assert_eq!(admitted(&mut newcomers, start + 100 * MINUTE, 10), 0);
    }
}
