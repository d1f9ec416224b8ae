//! When a result becomes the check's status: results in a row, against two thresholds.
//!
//! A change to passing or warning waits for `success_before_passing` successes in a row, a change to
//! critical for `failures_before_critical` failures in a row; passing and warning both are
//! successes. The count starts at zero with the check. (The reference's releases differ: 1.8 starts
//! with full counters, so that the first result of a new check counts whatever the thresholds; later
//! ones start at zero as we do. A freshly started instance is what the thresholds are for.)

use super::Status;

/// Number of equal results in a row that a change needs. 0 and 1 both mean: the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thresholds {
    /// To become passing or warning.
    pub success_before_passing: u32,
    /// Of failures, to become warning; without it none do.
    pub failures_before_warning: Option<u32>,
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
    /// Counts a result. Answers what it makes of a check that now has the status `current`, if it
    /// counts.
    ///
    /// A result equal to the current status always does (its output is news), and breaks the
    /// opposite streak.
    pub fn observe(
        &mut self,
        thresholds: Thresholds,
        current: Status,
        result: Status,
    ) -> Option<Status> {
        if result == Status::Critical {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= thresholds.failures_before_critical || current == result {
                return Some(Status::Critical);
            }
            let warns = thresholds.failures_before_warning.filter(|least| self.failures >= *least);
            return warns.map(|_| Status::Warning);
        }
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        (self.successes >= thresholds.success_before_passing || current == result).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds results (`p`, `w`, `c`) to a check that starts as `start`; the answer is its status
    /// after each.
    fn after(success: u32, failures: u32, start: Status, results: &str) -> String {
        let thresholds = Thresholds {
            success_before_passing: success,
            failures_before_warning: None,
            failures_before_critical: failures,
        };
        under(thresholds, start, results)
    }

    fn under(thresholds: Thresholds, start: Status, results: &str) -> String {
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
                current = streak.observe(thresholds, current, result).unwrap_or(current);
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

    #[test]
    fn failures_may_warn_first() {
        use Status::{Critical, Passing, Warning};
        let rows = [
            (Some(1), 3, Passing, "ccc", "wwc"),
            (Some(2), 3, Passing, "cccpc", "pwcpp"),
            (Some(2), 4, Warning, "cwccc", "wwwww"),
            // it cannot warn when it is critical already
            (Some(3), 3, Passing, "ccc", "ppc"),
            (Some(5), 2, Passing, "ccc", "pcc"),
            (Some(0), 2, Passing, "cc", "wc"),
            // what is critical does not get better by failing
            (Some(1), 3, Critical, "cc", "cc"),
            (None, 3, Passing, "ccc", "ppc"),
        ];
        for (warning, critical, start, results, expected) in rows {
            let thresholds = Thresholds {
                success_before_passing: 0,
                failures_before_warning: warning,
                failures_before_critical: critical,
            };
            assert_eq!(under(thresholds, start, results), expected, "{thresholds:?} {results}");
        }
    }
}
