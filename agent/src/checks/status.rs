//! When a result becomes the check's status: results in a row, against two thresholds.
//!
//! A change to passing or warning waits for `success_before_passing` successes in a row, a change to
//! critical for `failures_before_critical` failures in a row; passing and warning both are
//! successes. The count starts at zero with the check. (The reference's releases differ: 1.8 starts
//! with full counters, so that the first result of a new check counts whatever the thresholds; later
//! ones start at zero as we do. A freshly started instance is what the thresholds are for.)

use super::Status;

/// How many equal results in a row a change needs. 0 and 1 both mean: the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thresholds {
    /// To become passing or warning.
    pub success_before_passing: u32,
    /// To become critical.
    pub failures_before_critical: u32,
}

/// Results in a row of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streak {
    successes: u32,
    failures: u32,
}

impl Streak {
    /// Counts a result. Does it count for a check that now has the status `current`?
    ///
    /// A result equal to the current status always does (its output is news), and breaks the
    /// opposite streak.
    pub fn observe(&mut self, thresholds: Thresholds, current: Status, result: Status) -> bool {
        let enough = if result == Status::Critical {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            self.failures >= thresholds.failures_before_critical
        } else {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            self.successes >= thresholds.success_before_passing
        };
        enough || result == current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds results (`p`, `w`, `c`) to a check that starts as `start`; the answer is its status
    /// after each.
    fn after(success: u32, failures: u32, start: Status, results: &str) -> String {
        let thresholds =
            Thresholds { success_before_passing: success, failures_before_critical: failures };
        let mut streak = Streak::default();
        let mut current = start;
        let letter = |status| match status {
            Status::Passing => 'p',
            Status::Warning => 'w',
            Status::Critical => 'c',
        };
        results
            .chars()
            .map(|result| {
                let result = match result {
                    'p' => Status::Passing,
                    'w' => Status::Warning,
                    _ => Status::Critical,
                };
                if streak.observe(thresholds, current, result) {
                    current = result;
                }
                letter(current)
            })
            .collect()
    }

    #[test]
    fn results_in_a_row() {
        use Status::{Critical, Passing, Warning};
        let rows = [
            // without thresholds every result counts
            (0, 0, Critical, "pcwp", "pcwp"),
            (1, 1, Critical, "pcwp", "pcwp"),
            // three successes to pass, counted from the start
            (3, 0, Critical, "ppp", "ccp"),
            (3, 0, Critical, "ppcppp", "cccccp"),
            // warnings are successes
            (3, 0, Critical, "pwp", "ccp"),
            (3, 0, Critical, "ppw", "ccw"),
            (2, 0, Passing, "pwpw", "pwpw"),
            // two failures to fail
            (0, 2, Passing, "cpcc", "pppc"),
            (0, 2, Warning, "cwcc", "wwwc"),
            (0, 2, Critical, "c", "c"),
            // both
            (2, 2, Critical, "pcppcpcc", "cccppppc"),
            (2, 3, Passing, "ccpccc", "pppppc"),
        ];
        for (success, failures, start, results, expected) in rows {
            assert_eq!(
                after(success, failures, start, results),
                expected,
                "{success} {failures} {start:?} {results}"
            );
        }
    }
}
