//! Decides whether a list may replace the one served before.
//!
//! An empty or suddenly short answer is more often a fault of the catalog, of a deployment or of the network than the
//! wish to serve nobody. So each call of `service()` (and of the other lists) has limits, and the last list that
//! kept within them is remembered per call:
//!
//! | the new list                              | `keep` (default)                           | `render` | `error` |
//! |-------------------------------------------|--------------------------------------------|----------|---------|
//! | has at least `max(min, 1)` entries        | used                                       | used     | used    |
//! | is shorter, something is remembered       | the remembered one, for at most `keep_for` | used     | fails   |
//! | is shorter, nothing remembered, no `min`  | used                                       | used     | fails   |
//! | is shorter, nothing remembered, a `min`   | the group waits                            | used     | fails   |
//!
//! `max_shrink` asks for a confirmation: a list that lost more than that share of its entries is used only after it
//! has stayed that short for `confirm_after`. Plain values in, plain values out: no clock, no settings.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tera::Value;

/// What to do when a list has fewer entries than it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEmpty {
    /// Go on with the last good list, for a limited time.
    #[default]
    Keep,
    /// Use the list as it is.
    Render,
    /// Fail the template: the files stay as they are.
    Error,
}

/// The limits of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// What to do with a list that is too short.
    pub on_empty: OnEmpty,
    /// The fewest entries that are not too short. 0 and 1 mean the same, except that without a `min` an empty list is
    /// accepted as long as nothing better was ever seen.
    pub min: usize,
    /// The largest share of its entries a list may lose at once, 0.0 to 1.0. 1.0 switches the rule off.
    pub max_shrink: f64,
    /// How long a list that shrank too much must stay that short to be believed.
    pub confirm_after: Duration,
    /// How long a remembered list replaces one that is too short.
    pub keep_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            on_empty: OnEmpty::Keep,
            min: 0,
            max_shrink: 1.0,
            confirm_after: Duration::from_secs(2),
            keep_for: Duration::from_mins(15),
        }
    }
}

/// Why a list was not used as it came. The name is the `reason` of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It has no entry.
    Empty,
    /// It has fewer entries than `min`.
    BelowMinimum,
    /// It lost more than `max_shrink` of its entries.
    Shrunk,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::BelowMinimum => "below_minimum",
            Self::Shrunk => "shrunk",
        })
    }
}

/// What to do with a list.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Use it.
    Use,
    /// Use this remembered list instead.
    Keep {
        /// The list to use.
        value: Value,
        /// Why.
        reason: Reason,
        /// When to decide again, even if nothing changes.
        until: Instant,
    },
    /// Do not render yet.
    Wait(Reason),
    /// Fail the template.
    Fail(Reason),
}

/// What is remembered of one call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Remembered {
    /// The last list that kept within the limits.
    good: Option<Value>,
    /// Since when the list is too short.
    short_since: Option<Instant>,
    /// Since when the list has shrunk too much.
    shrunk_since: Option<Instant>,
}

/// What is remembered of all calls of a group of templates, by the text of the call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    calls: BTreeMap<String, Remembered>,
}

impl Memory {
    /// Decides about `fresh`, the new answer of `call`, and remembers it if it is good.
    pub fn decide(&mut self, call: &str, fresh: &Value, limits: &Limits, now: Instant) -> Verdict {
        let entry = self.calls.entry(call.to_owned()).or_default();
        entry.decide(fresh, limits, now)
    }

    /// The good lists, for a file that survives a restart.
    pub fn save(&self) -> BTreeMap<&str, &Value> {
        self.calls
            .iter()
            .filter_map(|(call, kept)| Some((call.as_str(), kept.good.as_ref()?)))
            .collect()
    }

    /// The memory that [`Memory::save`] wrote.
    pub fn load(saved: BTreeMap<String, serde_json::Value>) -> Self {
        let remember = |value| Remembered {
            good: Some(Value::from_serializable(&value)),
            ..Remembered::default()
        };
        Self { calls: saved.into_iter().map(|(call, value)| (call, remember(value))).collect() }
    }

    /// Forgets the calls the templates no longer make.
    pub fn retain(&mut self, made: impl Fn(&str) -> bool) {
        self.calls.retain(|call, _| made(call));
    }
}

impl Remembered {
    fn decide(&mut self, fresh: &Value, limits: &Limits, now: Instant) -> Verdict {
        let count = fresh.len().unwrap_or(0);
        if count < limits.min.max(1) {
            let reason = if count == 0 { Reason::Empty } else { Reason::BelowMinimum };
            return self.too_short(reason, limits, now);
        }
        self.short_since = None;
        if let Some(good) = &self.good
            && shrunk_too_much(good.len().unwrap_or(0), count, limits.max_shrink)
        {
            let until = *self.shrunk_since.get_or_insert(now) + limits.confirm_after;
            if now < until {
                return Verdict::Keep { value: good.clone(), reason: Reason::Shrunk, until };
            }
        }
        self.shrunk_since = None;
        self.good = Some(fresh.clone());
        Verdict::Use
    }

    fn too_short(&mut self, reason: Reason, limits: &Limits, now: Instant) -> Verdict {
        match (limits.on_empty, &self.good) {
            (OnEmpty::Keep, None) if limits.min > 0 => Verdict::Wait(reason),
            (OnEmpty::Render, _) | (OnEmpty::Keep, None) => Verdict::Use,
            (OnEmpty::Error, _) => Verdict::Fail(reason),
            (OnEmpty::Keep, Some(good)) => {
                let until = *self.short_since.get_or_insert(now) + limits.keep_for;
                if now < until {
                    Verdict::Keep { value: good.clone(), reason, until }
                } else {
                    // Kept long enough: the emptiness is meant. Nothing is forgotten, so that the next good list
                    // starts afresh, but no timer runs any more.
                    Verdict::Use
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "lists have far fewer than 2^52 entries")]
fn shrunk_too_much(before: usize, now: usize, max_shrink: f64) -> bool {
    now < before && (before - now) as f64 > before as f64 * max_shrink
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: u64) -> Value {
        Value::from((0..entries).map(Value::from).collect::<Vec<_>>())
    }

    /// Feeds lists of these sizes at these seconds and returns the size used each time, or the verdict's name.
    fn play(limits: &Limits, steps: &[(u64, u64)]) -> Vec<String> {
        let start = Instant::now();
        let mut memory = Memory::default();
        let mut verdicts = Vec::new();
        for (second, entries) in steps {
            let now = start + Duration::from_secs(*second);
            verdicts.push(match memory.decide("call", &list(*entries), limits, now) {
                Verdict::Use => format!("use {entries}"),
                Verdict::Keep { value, reason, until } => {
                    format!(
                        "keep {} {reason} until {}",
                        value.len().unwrap(),
                        (until - start).as_secs()
                    )
                }
                Verdict::Wait(reason) => format!("wait {reason}"),
                Verdict::Fail(reason) => format!("fail {reason}"),
            });
        }
        verdicts
    }

    #[test]
    fn limits() {
        let keep = Limits { keep_for: Duration::from_mins(1), ..Limits::default() };
        let with_min = Limits { min: 2, ..keep.clone() };
        let careful =
            Limits { max_shrink: 0.5, confirm_after: Duration::from_secs(2), ..keep.clone() };
        let render = Limits { on_empty: OnEmpty::Render, min: 2, ..keep.clone() };
        let error = Limits { on_empty: OnEmpty::Error, ..keep.clone() };
        for (name, limits, steps, expected) in [
            ("never seen", &keep, &[(0, 0)][..], &["use 0"][..]),
            (
                "kept, then back",
                &keep,
                &[(0, 3), (1, 0), (59, 0), (60, 2), (61, 0)],
                &[
                    "use 3",
                    "keep 3 empty until 61",
                    "keep 3 empty until 61",
                    "use 2",
                    "keep 2 empty until 121",
                ],
            ),
            (
                "kept too long",
                &keep,
                &[(0, 3), (1, 0), (61, 0)],
                &["use 3", "keep 3 empty until 61", "use 0"],
            ),
            (
                "minimum",
                &with_min,
                &[(0, 0), (1, 1), (2, 2), (3, 1)],
                &["wait empty", "wait below_minimum", "use 2", "keep 2 below_minimum until 63"],
            ),
            (
                "shrink is confirmed",
                &careful,
                &[(0, 10), (1, 5), (2, 2), (3, 1), (4, 2)],
                &["use 10", "use 5", "keep 5 shrunk until 4", "keep 5 shrunk until 4", "use 2"],
            ),
            (
                "shrink was a blip",
                &careful,
                &[(0, 10), (1, 2), (2, 10), (9, 2)],
                &["use 10", "keep 10 shrunk until 3", "use 10", "keep 10 shrunk until 11"],
            ),
            ("render", &render, &[(0, 3), (1, 0)], &["use 3", "use 0"]),
            ("error", &error, &[(0, 3), (1, 0)], &["use 3", "fail empty"]),
        ] {
            assert_eq!(play(limits, steps), expected, "{name}");
        }
    }

    #[test]
    fn memory_survives_a_restart() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut memory = Memory::default();
        assert_eq!(memory.decide("call", &list(2), &limits, now), Verdict::Use);
        let text = serde_json::to_string(&memory.save()).unwrap();
        let mut restored = Memory::load(serde_json::from_str(&text).unwrap());
        let verdict = restored.decide("call", &list(0), &limits, now);
        assert!(matches!(verdict, Verdict::Keep { value, .. } if value.len() == Some(2)));
    }
}
