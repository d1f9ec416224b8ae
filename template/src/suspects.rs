//! Finds what made a check refuse the files, so that it alone is left out.
//!
//! One service that a program does not take (an odd name, an address that nobody can resolve) must not hold up the
//! changes of all others. What has changed since the last version in use is suspect. Suspects are put back to what
//! they were then (or to nothing, if they were not there), all of them at first, and taken in again by halves as long
//! as the check accepts the result:
//!
//! ```text
//! without all ─▶ refused: something else is wrong, nothing is left out
//!             └▶ accepted ─▶ with the first half? with the second? ... until single ones are refused
//! ```
//!
//! Of a service that is refused, single instances are looked for in the same way. Plain values but for the check.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use tera::Value;
use tera::value::Key;

use crate::facts::{Facts, Query};
use crate::render::left_out::shown;

/// The most checks of one search. What is still suspect then is left out as a whole.
const CHECKS_MAX: usize = 200;

/// A part of the answers that can be put back alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// A service: its entry in lists of services, and its instances.
    Service(String),
    /// One instance.
    Instance {
        /// Of this service.
        service: String,
        /// Its id.
        id: String,
        /// Its node.
        node: String,
    },
    /// A key.
    Key(String),
    /// A node.
    Node(String),
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {}", shown(name)),
            Self::Instance { service, id, .. } => {
                write!(f, "instance {}", shown(&format!("{service} {id}")))
            }
            Self::Key(path) => write!(f, "key {}", shown(path)),
            Self::Node(name) => write!(f, "node {}", shown(name)),
        }
    }
}

/// What differs between two states of knowledge and can be put back.
pub fn between(before: &Facts, now: &Facts) -> BTreeSet<Suspect> {
    let mut suspects = BTreeSet::new();
    for query in now.queries() {
        let (old, new) = (before.get(query), now.get(query));
        if old == new {
            continue;
        }
        match query {
            Query::Service { name, .. } => drop(suspects.insert(Suspect::Service(name.clone()))),
            Query::Key { path, .. } => drop(suspects.insert(Suspect::Key(path.clone()))),
            Query::Node { name, .. } => drop(suspects.insert(Suspect::Node(name.clone()))),
            Query::Services { .. } | Query::Nodes { .. } | Query::KeyPrefix { .. } => {
                let old = entries(old);
                let new = entries(new).into_iter().filter(|entry| !old.contains(entry));
                suspects.extend(new.filter_map(|entry| entry_of(query, entry)));
            }
            Query::Datacenters | Query::File { .. } => {}
        }
    }
    suspects
}

/// The instances of a service that differ.
pub fn instances(before: &Facts, now: &Facts, service: &str) -> BTreeSet<Suspect> {
    let mut suspects = BTreeSet::new();
    for query in now.queries() {
        if matches!(query, Query::Service { name, .. } if name == service) {
            let old = entries(before.get(query));
            let new = entries(now.get(query)).into_iter().filter(|entry| !old.contains(entry));
            suspects.extend(new.map(|entry| instance_of(service, entry)));
        }
    }
    suspects
}

/// What is known `now`, with these suspects as they were `before`.
pub fn without(now: &Facts, before: &Facts, suspects: &BTreeSet<Suspect>) -> Facts {
    let mut facts = now.clone();
    if suspects.is_empty() {
        return facts;
    }
    for query in now.queries() {
        let back = |empty: Value| before.get(query).cloned().unwrap_or(empty);
        let answer = match query {
            Query::Service { name, .. } if suspects.contains(&Suspect::Service(name.clone())) => {
                back(Value::from(Vec::<Value>::new()))
            }
            Query::Service { name, .. } => {
                let suspect = |entry: &Value| suspects.contains(&instance_of(name, entry));
                entries_back(before.get(query), now.get(query), suspect, |entry| {
                    (text(entry, "id"), text(entry, "node"))
                })
            }
            Query::Key { path, .. } if suspects.contains(&Suspect::Key(path.clone())) => {
                back(Value::none())
            }
            Query::Node { name, .. } if suspects.contains(&Suspect::Node(name.clone())) => {
                back(Value::none())
            }
            Query::Services { .. } | Query::Nodes { .. } | Query::KeyPrefix { .. } => {
                let suspect = |entry: &Value| {
                    entry_of(query, entry).is_some_and(|entry| suspects.contains(&entry))
                };
                entries_back(before.get(query), now.get(query), suspect, |entry| {
                    entry_of(query, entry)
                })
            }
            _ => continue,
        };
        facts.set(query.clone(), answer);
    }
    facts
}

/// All that is known of a suspect: as long as that stays, so does the verdict.
pub fn known_of(facts: &Facts, suspect: &Suspect) -> Vec<Value> {
    let mut known = Vec::new();
    for query in facts.queries() {
        let answer = facts.get(query);
        match (query, suspect) {
            (Query::Service { name, .. }, Suspect::Service(other)) if name == other => {
                known.extend(answer.cloned());
            }
            (Query::Service { name, .. }, Suspect::Instance { service, .. }) if name == service => {
                let same = |entry: &&&Value| instance_of(name, entry) == *suspect;
                known.extend(entries(answer).iter().filter(same).map(|entry| (*entry).clone()));
            }
            (Query::Key { path, .. }, Suspect::Key(other)) if path == other => {
                known.extend(answer.cloned());
            }
            (Query::Node { name, .. }, Suspect::Node(other)) if name == other => {
                known.extend(answer.cloned());
            }
            (Query::Services { .. } | Query::Nodes { .. } | Query::KeyPrefix { .. }, _) => {
                let same = |entry: &&&Value| entry_of(query, entry).as_ref() == Some(suspect);
                known.extend(entries(answer).iter().filter(same).map(|entry| (*entry).clone()));
            }
            _ => {}
        }
    }
    known
}

/// The list with the suspects among its entries as they were before; those that were not there are left out.
fn entries_back<K: PartialEq>(
    before: Option<&Value>,
    now: Option<&Value>,
    suspect: impl Fn(&Value) -> bool,
    key: impl Fn(&Value) -> K,
) -> Value {
    let before = entries(before);
    let mut list = Vec::new();
    for entry in entries(now) {
        if !suspect(entry) {
            list.push(entry.clone());
        } else if let Some(old) = before.iter().find(|old| key(old) == key(entry)) {
            list.push((*old).clone());
        }
    }
    Value::from(list)
}

fn entries(answer: Option<&Value>) -> Vec<&Value> {
    answer.and_then(Value::as_array).into_iter().flatten().collect()
}

/// The suspect that an entry of a list is.
fn entry_of(query: &Query, entry: &Value) -> Option<Suspect> {
    match query {
        Query::Services { .. } => Some(Suspect::Service(text(entry, "name"))),
        Query::Nodes { .. } => Some(Suspect::Node(text(entry, "name"))),
        Query::KeyPrefix { .. } => Some(Suspect::Key(text(entry, "path"))),
        _ => None,
    }
}

fn instance_of(service: &str, entry: &Value) -> Suspect {
    let (id, node) = (text(entry, "id"), text(entry, "node"));
    Suspect::Instance { service: service.to_owned(), id, node }
}

fn text(entry: &Value, key: &str) -> String {
    let found = entry.as_map().and_then(|map| map.get(&Key::Str(key)));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What says whether something would do.
#[async_trait]
pub trait Check: Send {
    /// Whether everything without `out` would do; the error is why not.
    async fn check(&mut self, out: &BTreeSet<Suspect>) -> Result<(), String>;
}

/// Looks for those of the suspects that a check refuses.
pub struct Search<C> {
    check: C,
    checks: usize,
}

impl<C: Check> Search<C> {
    /// A search by this check.
    pub fn new(check: C) -> Self {
        Self { check, checks: 0 }
    }

    /// Those to be left out, each with the reason, besides the ones in `out`; `None` if even without all of them the
    /// check refuses.
    pub async fn run(
        &mut self,
        out: &BTreeSet<Suspect>,
        suspects: &BTreeSet<Suspect>,
    ) -> Option<BTreeMap<Suspect, String>> {
        let mut left_out = out | suspects;
        if suspects.is_empty() || self.check(&left_out).await.is_err() {
            return None;
        }
        let mut culprits = BTreeMap::new();
        let mut parts = vec![suspects.iter().cloned().collect::<Vec<_>>()];
        while let Some(mut part) = parts.pop() {
            let taken: BTreeSet<_> = part.iter().cloned().collect();
            let rest = &left_out - &taken;
            match self.check(&rest).await {
                Ok(()) => left_out = rest,
                Err(why) if part.len() == 1 => {
                    culprits.extend(part.pop().map(|culprit| (culprit, why)));
                }
                Err(why) if self.checks >= CHECKS_MAX => {
                    culprits.extend(part.into_iter().map(|culprit| (culprit, why.clone())));
                }
                Err(_) => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
            }
        }
        Some(culprits)
    }

    async fn check(&mut self, out: &BTreeSet<Suspect>) -> Result<(), String> {
        self.checks += 1;
        self.check.check(out).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::facts::Scope;

    /// A check that needs nothing but what is left out.
    struct By<F>(F);

    #[async_trait]
    impl<F: FnMut(&BTreeSet<Suspect>) -> Result<(), String> + Send> Check for By<F> {
        async fn check(&mut self, out: &BTreeSet<Suspect>) -> Result<(), String> {
            (self.0)(out)
        }
    }

    fn services() -> Query {
        Query::Services { scope: Scope::default() }
    }

    fn service(name: &str) -> Query {
        Query::Service { name: name.into(), scope: Scope::default() }
    }

    /// Facts of services by name, each with instances `id=address`.
    fn facts(given: &[(&str, &str)]) -> Facts {
        let mut facts = Facts::default();
        let names: Vec<_> =
            given.iter().map(|(name, _)| json!({"name": name, "tags": []})).collect();
        facts.set(services(), Value::from_serializable(&names));
        for (name, rows) in given {
            let row = |row: &str| {
                let (id, address) = row.split_once('=').unwrap();
                json!({"id": id, "node": "n", "address": address})
            };
            let rows: Vec<_> = rows.split_whitespace().map(row).collect();
            facts.set(service(name), Value::from_serializable(&rows));
        }
        facts
    }

    fn named(suspects: &BTreeSet<Suspect>) -> Vec<String> {
        suspects.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_differs_is_suspect_and_can_be_put_back() {
        let before = facts(&[("a", "1=x"), ("b", "1=x"), ("gone", "1=x")]);
        let now = facts(&[("a", "1=x"), ("b", "1=y 2=z"), ("new", "1=x")]);
        let suspects = between(&before, &now);
        assert_eq!(named(&suspects), ["service `b`", "service `new`"]);
        let back = without(&now, &before, &suspects);
        let expected = facts(&[("a", "1=x"), ("b", "1=x")]);
        assert_eq!(back.get(&services()), expected.get(&services()));
        assert_eq!(back.get(&service("b")), before.get(&service("b")));
        assert_eq!(entries(back.get(&service("new"))).len(), 0);

        let rows = instances(&before, &now, "b");
        assert_eq!(named(&rows), ["instance `b 1`", "instance `b 2`"]);
        let back = without(&now, &before, &[rows.last().unwrap().clone()].into());
        let expected = facts(&[("b", "1=y")]);
        assert_eq!(back.get(&service("b")), expected.get(&service("b")));
    }

    #[test]
    fn a_verdict_stays_as_long_as_what_is_known() {
        let suspect = Suspect::Service("b".into());
        let known = |given| known_of(&facts(given), &suspect);
        let first = known(&[("a", "1=x"), ("b", "1=y")]);
        assert_eq!(first, known(&[("a", "1=other"), ("b", "1=y"), ("c", "")]));
        assert_ne!(first, known(&[("a", "1=x"), ("b", "1=z")]));
        assert_ne!(first, known(&[("a", "1=x")]));
    }

    #[tokio::test]
    async fn the_culprits_are_found() {
        for (count, culprits) in
            [(1_u32, &[0][..]), (10, &[0, 9]), (2000, &[1234]), (2000, &[1, 2, 3, 1999]), (5, &[])]
        {
            let name = |number: u32| Suspect::Service(number.to_string());
            let suspects: BTreeSet<_> = (0..count).map(name).collect();
            let wrong: BTreeSet<_> = culprits.iter().copied().map(name).collect();
            let check = |out: &BTreeSet<Suspect>| {
                if wrong.is_subset(out) { Ok(()) } else { Err("refused".to_owned()) }
            };
            let mut search = Search::new(By(check));
            let found = search.run(&BTreeSet::new(), &suspects).await.unwrap();
            assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), wrong);
            assert!(search.checks <= 2 + culprits.len() * 26, "{} checks", search.checks);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_without_them_is_not_their_fault() {
        let mut search = Search::new(By(|_: &BTreeSet<Suspect>| Err("always".to_owned())));
        let suspects = [Suspect::Key("k".into())].into();
        assert_eq!(search.run(&BTreeSet::new(), &suspects).await, None);
    }

    #[tokio::test]
    async fn a_search_ends() {
        // Every one is wrong: far more checks than anybody has time for.
        let suspects: BTreeSet<_> =
            (0..5000).map(|number: u32| Suspect::Key(number.to_string())).collect();
        let all = suspects.clone();
        let check = |out: &BTreeSet<Suspect>| {
            if *out == all { Ok(()) } else { Err("refused".to_owned()) }
        };
        let mut search = Search::new(By(check));
        let found = search.run(&BTreeSet::new(), &suspects).await.unwrap();
        assert_eq!(found.len(), 5000);
        assert!(search.checks < 2 * CHECKS_MAX + 50, "{}", search.checks);
    }
}
