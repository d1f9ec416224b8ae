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
//! `keep_failing` is `keep` for those instances alone that are still registered and fail. What was deregistered or
//! drained is gone on purpose, and nobody is sent there any more.
//!
//! `max_shrink` asks for a confirmation: a list that lost more than that share of its entries is used only after it
//! has stayed that short for `confirm_after`. Plain values in, plain values out: no clock, no settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tera::Value;
use tera::value::Key;

/// What to do when a list has fewer entries than it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEmpty {
    /// Go on with the last good list, for a limited time.
    #[default]
    Keep,
    /// Go on with those entries of the last good list that are still registered and fail, for a limited time.
    KeepFailing,
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
    /// The names that a call has given so far; `None` for one that is there now, else since when it is gone.
    names: BTreeMap<String, BTreeMap<String, Option<Instant>>>,
}

/// The most names that are remembered of one call after they are gone.
const GONE_MAX: usize = 4096;

/// What the key of a saved list of names begins with; no call does.
const NAMES: &str = "names ";

/// What an answer says besides the list that the call asks for.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The list that the call asks for.
    pub chosen: &'a Value,
    /// The entries that are registered and fail.
    pub failing: &'a [Value],
}

impl Memory {
    /// Decides about the new answer of `call`, and remembers it if it is good.
    pub fn decide(
        &mut self,
        call: &str,
        answer: Answer<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Verdict {
        let entry = self.calls.entry(call.to_owned()).or_default();
        entry.decide(answer, limits, now)
    }

    /// Notes the names that `call` gives now. Returns those that it gave before, not longer than `keep` ago, and when
    /// the first of them is to be forgotten.
    pub fn gone(
        &mut self,
        call: &str,
        names: &BTreeSet<String>,
        keep: Duration,
        now: Instant,
    ) -> (Vec<String>, Option<Instant>) {
        let known = self.names.entry(call.to_owned()).or_default();
        for (name, gone) in known.iter_mut() {
            *gone = if names.contains(name) { None } else { gone.or(Some(now)) };
        }
        known.retain(|_, gone| gone.is_none_or(|since| now < since + keep));
        let mut gone: Vec<_> =
            known.iter().filter_map(|(name, gone)| Some(((*gone)?, name.clone()))).collect();
        if gone.len() > GONE_MAX {
            // Those that are gone longest are forgotten first.
            gone.sort();
            for (_, name) in gone.drain(..gone.len() - GONE_MAX) {
                known.remove(&name);
            }
        }
        for name in names.iter().filter(|name| !known.contains_key(*name)).collect::<Vec<_>>() {
            known.insert(name.clone(), None);
        }
        let until = gone.iter().map(|(since, _)| *since + keep).min();
        let mut gone: Vec<_> = gone.into_iter().map(|(_, name)| name).collect();
        gone.sort();
        (gone, until)
    }

    /// The good lists and the names, for a file that survives a restart.
    pub fn save(&self) -> BTreeMap<String, Value> {
        let lists =
            self.calls.iter().filter_map(|(call, kept)| Some((call.clone(), kept.good.clone()?)));
        let names = self.names.iter().map(|(call, names)| {
            let names = names.keys().map(|name| Value::from(name.clone())).collect::<Vec<_>>();
            (format!("{NAMES}{call}"), Value::from(names))
        });
        lists.chain(names).collect()
    }

    /// The memory that [`Memory::save`] wrote.
    pub fn load(saved: BTreeMap<String, serde_json::Value>) -> Self {
        let mut memory = Self::default();
        for (call, value) in saved {
            if let Some(call) = call.strip_prefix(NAMES) {
                let names = value.as_array().into_iter().flatten().filter_map(|name| name.as_str());
                let names = names.map(|name| (name.to_owned(), None)).collect();
                memory.names.insert(call.to_owned(), names);
            } else {
                let good = Some(Value::from_serializable(&value));
                memory.calls.insert(call, Remembered { good, ..Remembered::default() });
            }
        }
        memory
    }

    /// Forgets the calls the templates no longer make.
    pub fn retain(&mut self, made: impl Fn(&str) -> bool) {
        self.calls.retain(|call, _| made(call));
        self.names.retain(|call, _| made(call));
    }
}

impl Remembered {
    fn decide(&mut self, answer: Answer<'_>, limits: &Limits, now: Instant) -> Verdict {
        let fresh = answer.chosen;
        let count = fresh.len().unwrap_or(0);
        if count < limits.min.max(1) {
            let reason = if count == 0 { Reason::Empty } else { Reason::BelowMinimum };
            if limits.on_empty == OnEmpty::KeepFailing {
                self.forget_what_left(answer);
            }
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

    /// Forgets the entries that are neither in the list nor failing, and takes over what is now known of the others.
    fn forget_what_left(&mut self, answer: Answer<'_>) {
        let Some(good) = self.good.take() else { return };
        let fresh = answer.chosen.as_array().unwrap_or_default();
        let good: BTreeSet<_> = good.as_array().into_iter().flatten().map(identity).collect();
        let failing = answer.failing.iter().filter(|entry| good.contains(&identity(entry)));
        let staying: Vec<_> = fresh.iter().chain(failing).cloned().collect();
        if staying.len() > fresh.len() {
            self.good = Some(Value::from(staying));
        }
    }

    fn too_short(&mut self, reason: Reason, limits: &Limits, now: Instant) -> Verdict {
        match (limits.on_empty, &self.good) {
            (OnEmpty::Keep | OnEmpty::KeepFailing, None) if limits.min > 0 => Verdict::Wait(reason),
            (OnEmpty::Render, _) | (OnEmpty::Keep | OnEmpty::KeepFailing, None) => Verdict::Use,
            (OnEmpty::Error, _) => Verdict::Fail(reason),
            (OnEmpty::Keep | OnEmpty::KeepFailing, Some(good)) => {
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

/// By what an instance is known: its id, which is unique on its node, and the node.
fn identity(entry: &Value) -> (Option<&str>, Option<&str>) {
    let part = |name| entry.as_map()?.get(&Key::Str(name))?.as_str();
    (part("id"), part("node"))
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

    fn fresh(chosen: &Value) -> Answer<'_> {
        Answer { chosen, failing: &[] }
    }

    /// Feeds lists of these sizes at these seconds and returns the size used each time, or the verdict's name.
    fn play(limits: &Limits, steps: &[(u64, u64)]) -> Vec<String> {
        let start = Instant::now();
        let mut memory = Memory::default();
        let mut verdicts = Vec::new();
        for (second, entries) in steps {
            let now = start + Duration::from_secs(*second);
            verdicts.push(match memory.decide("call", fresh(&list(*entries)), limits, now) {
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
    fn only_what_is_registered_and_fails_is_kept() {
        let rows = |ids: &str| -> Vec<Value> {
            let row = |id| Value::from_serializable(&serde_json::json!({"id": id, "node": "n"}));
            ids.split_whitespace().map(row).collect()
        };
        let limits = Limits { on_empty: OnEmpty::KeepFailing, ..Limits::default() };
        let start = Instant::now();
        for (name, steps, expected) in [
            ("all fail", &[("a b", ""), ("", "a b")][..], "a b"),
            ("the last one is drained", &[("a", ""), ("", "")], ""),
            ("one is drained, one fails", &[("a b", ""), ("", "b")], "b"),
            ("one failed all the time, the other is drained", &[("a", "b"), ("", "b")], ""),
            ("fails, then is deregistered", &[("a", ""), ("", "a"), ("", "")], ""),
            ("comes back failing", &[("a", ""), ("", ""), ("", "a")], ""),
            ("never seen", &[("", "a")], ""),
        ] {
            let mut memory = Memory::default();
            let mut used = Vec::new();
            for (chosen, failing) in steps {
                let (chosen, failing) = (Value::from(rows(chosen)), rows(failing));
                let answer = Answer { chosen: &chosen, failing: &failing };
                let list = match memory.decide("call", answer, &limits, start) {
                    Verdict::Keep { value, .. } => value,
                    Verdict::Use => chosen,
                    other => panic!("{name}: {other:?}"),
                };
                used = list.as_array().unwrap().to_vec();
            }
            assert_eq!(used, rows(expected), "{name}");
        }
    }

    #[test]
    fn names_are_remembered_for_a_while() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let mut memory = Memory::default();
        let mut gone = |second, now: &str| {
            let (gone, until) =
                memory.gone("call", &names(now), Duration::from_mins(1), at(second));
            (gone.join(" "), until.map(|until| (until - start).as_secs()))
        };
        assert_eq!(gone(0, "a b"), (String::new(), None));
        assert_eq!(gone(10, "b c"), ("a".into(), Some(70)));
        assert_eq!(gone(20, "a"), ("b c".into(), Some(80)));
        assert_eq!(gone(80, "a"), (String::new(), None));

        let saved = serde_json::to_string(&memory.save()).unwrap();
        let mut restored = Memory::load(serde_json::from_str(&saved).unwrap());
        let (gone, _) = restored.gone("call", &names(""), Duration::from_mins(1), at(90));
        assert_eq!(gone, ["a"]);
        let many = (0..5000).map(|number| number.to_string()).collect();
        restored.gone("call", &many, Duration::from_mins(1), at(91));
        let (gone, _) = restored.gone("call", &names(""), Duration::from_mins(1), at(92));
        assert_eq!(gone.len(), GONE_MAX);
    }

    #[test]
    fn memory_survives_a_restart() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut memory = Memory::default();
        assert_eq!(memory.decide("call", fresh(&list(2)), &limits, now), Verdict::Use);
        let text = serde_json::to_string(&memory.save()).unwrap();
        let mut restored = Memory::load(serde_json::from_str(&text).unwrap());
        let verdict = restored.decide("call", fresh(&list(0)), &limits, now);
        assert!(matches!(verdict, Verdict::Keep { value, .. } if value.len() == Some(2)));
    }
}
