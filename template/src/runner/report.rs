//! What the daemon shows of itself: a plain value, made anew after each turn of the loop.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

/// The state of the daemon.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether the catalog answered when it was last asked. `None` while nothing was asked of it.
    pub catalog_reachable: Option<bool>,
    /// The last thing the catalog's watches complained about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog_error: Option<String>,
    /// The questions that the catalog refuses to answer, and in which words. What was known before stays in use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// How many distinct questions are watched.
    pub watches: usize,
    /// The supervised child, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// Whether that child runs.
    #[serde(skip)]
    pub child_runs: bool,
    /// The groups by name.
    pub groups: BTreeMap<String, GroupReport>,
}

/// The state of one group.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GroupReport {
    /// `waiting`, `current`, `changing` or `failed`.
    pub state: &'static str,
    /// Why, when it is not current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The files.
    pub files: Vec<String>,
    /// What its templates ask.
    pub asks: Vec<String>,
    /// The questions that have no answer yet.
    pub missing: Vec<String>,
    /// The lists that were replaced by the ones served before, and why.
    pub held: BTreeMap<String, String>,
    /// What the texts go without because it is odd, and why.
    pub left_out: BTreeMap<String, String>,
    /// What changed last, and when the group was rendered because of it, as the log shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cause: Option<String>,
    /// What happened so far.
    pub counts: Counts,
}

/// What happened so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Renders, complete or not.
    pub renders: u64,
    /// Changes put in place.
    pub commits: u64,
    /// Changes that failed, by step; `render` for templates that could not be rendered.
    pub failures: BTreeMap<String, u64>,
    /// Lists held back, by reason.
    pub held: BTreeMap<String, u64>,
    /// Seconds spent in each step of the changes put in place.
    pub seconds: BTreeMap<String, f64>,
}

impl Counts {
    /// Adds the time that one step took.
    pub(super) fn took(&mut self, step: &str, time: Duration) {
        *self.seconds.entry(step.to_owned()).or_default() += time.as_secs_f64();
    }
}

impl Report {
    /// Why the daemon is not ready; empty when it is. Being ready means: what is known is served, and it is up to date.
    pub fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.catalog_reachable == Some(false) {
            let why = self.catalog_error.as_deref().unwrap_or("no answer");
            reasons.push(format!("the catalog is away: {why}"));
        }
        reasons
            .extend(self.refused.iter().map(|(query, why)| format!("{query} is refused: {why}")));
        for (name, group) in &self.groups {
            if group.state == "waiting" || group.state == "failed" {
                reasons.push(format!(
                    "group {name} is {}: {}",
                    group.state,
                    group.reason.as_deref().unwrap_or("?")
                ));
            }
        }
        if let Some(child) = self.child.as_ref().filter(|_| !self.child_runs) {
            reasons.push(format!("the child {child}"));
        }
        reasons
    }

    /// The state as Prometheus reads it.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, rows: Vec<(String, f64)>| {
            if !rows.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "# TYPE {name} {kind}");
                for (labels, value) in rows {
                    let _ = writeln!(text, "{name}{labels} {value}");
                }
            }
        };
        let flag = |value: bool| f64::from(u8::from(value));
        let reachable = self.catalog_reachable.map(|value| (String::new(), flag(value)));
        line("muster_template_catalog_reachable", "gauge", reachable.into_iter().collect());
        #[expect(clippy::cast_precision_loss, reason = "counters stay far below 2^52")]
        let count = |value: u64| value as f64;
        line("muster_template_watches", "gauge", vec![(String::new(), count(self.watches as u64))]);
        let each = |rows: &dyn Fn(&GroupReport) -> Vec<(String, f64)>| -> Vec<(String, f64)> {
            let labelled = self.groups.iter().flat_map(|(name, group)| {
                rows(group)
                    .into_iter()
                    .map(move |(more, value)| (format!("{{group=\"{name}\"{more}}}"), value))
            });
            labelled.collect()
        };
        let map = |map: &BTreeMap<String, u64>, label: &str| -> Vec<(String, f64)> {
            map.iter().map(|(key, value)| (format!(",{label}=\"{key}\""), count(*value))).collect()
        };
        line(
            "muster_template_current",
            "gauge",
            each(&|g| vec![(String::new(), flag(g.state == "current"))]),
        );
        line(
            "muster_template_renders_total",
            "counter",
            each(&|g| vec![(String::new(), count(g.counts.renders))]),
        );
        line(
            "muster_template_commits_total",
            "counter",
            each(&|g| vec![(String::new(), count(g.counts.commits))]),
        );
        line(
            "muster_template_failures_total",
            "counter",
            each(&|g| map(&g.counts.failures, "step")),
        );
        let left_out = |g: &GroupReport| vec![(String::new(), count(g.left_out.len() as u64))];
        line("muster_template_left_out", "gauge", each(&left_out));
        line("muster_template_held_total", "counter", each(&|g| map(&g.counts.held, "reason")));
        let seconds = |g: &GroupReport| {
            g.counts
                .seconds
                .iter()
                .map(|(step, time)| (format!(",step=\"{step}\""), *time))
                .collect()
        };
        line("muster_template_step_seconds_total", "counter", each(&seconds));
        text
    }
}

/// How long ago something was, for logs.
pub(super) fn ago(then: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(then).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let counts = Counts {
            renders: 4,
            commits: 2,
            failures: [("validate".to_owned(), 1)].into(),
            held: [("empty".to_owned(), 3)].into(),
            seconds: [("reload".to_owned(), 0.5)].into(),
        };
        let failed = GroupReport {
            state: "failed",
            reason: Some("no `x`".into()),
            counts,
            ..GroupReport::default()
        };
        let current = GroupReport { state: "current", ..GroupReport::default() };
        Report {
            catalog_reachable: Some(false),
            catalog_error: Some("no route".into()),
            refused: [("key(a)".to_owned(), "denied".to_owned())].into(),
            watches: 3,
            child: Some("waits for its files".to_owned()),
            child_runs: false,
            groups: [("a".to_owned(), failed), ("b".to_owned(), current)].into(),
        }
    }

    #[test]
    fn readiness() {
        assert_eq!(
            report().unready(),
            [
                "the catalog is away: no route",
                "key(a) is refused: denied",
                "group a is failed: no `x`",
                "the child waits for its files"
            ]
        );
        assert!(Report::default().unready().is_empty());
    }

    #[test]
    fn metrics() {
        insta::assert_snapshot!(report().metrics());
    }
}
