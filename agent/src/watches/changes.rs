//! Differences between two answers of a watch, for handlers that want to know what changed.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::spelling::printable;

/// Names of fields that tell one row from another, for each kind of row.
const IDENTITIES: [&[&str]; 6] = [
    &["Key"],
    &["Service.ID", "Node.Node"],
    &["CheckID", "Node"],
    &["ServiceID", "Node"],
    &["ID"],
    &["Node"],
];

/// Fields that change with every write and say nothing by themselves.
const NOISE: [&str; 4] = ["ModifyIndex", "CreateIndex", "LockIndex", "LTime"];

/// The differences, by what rows are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that are different, with what is: `field: before -> after`.
    pub changed: Vec<(String, Vec<String>)>,
}

impl Changes {
    /// From one answer to the next, both as JSON. What is no JSON has no rows.
    pub fn between(before: Option<&str>, after: &str) -> Changes {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let before = rows(&before.map(parse).unwrap_or_default());
        let after = rows(&parse(after));
        let mut changes = Changes::default();
        for (name, row) in &after {
            match before.get(name) {
                None => changes.added.push(name.clone()),
                Some(old) if old != row => {
                    let mut differences = Vec::new();
                    differ("", old, row, &mut differences);
                    // A write that changed nothing is still one.
                    changes.changed.push((name.clone(), differences));
                }
                Some(_) => {}
            }
        }
        changes.removed.extend(before.into_keys().filter(|name| !after.contains_key(name)));
        changes
    }

    /// As JSON, for programs.
    pub fn json(&self) -> String {
        let changed: Map<String, Value> =
            self.changed.iter().map(|(name, fields)| (name.clone(), json!(fields))).collect();
        json!({"added": self.added, "removed": self.removed, "changed": changed}).to_string()
    }
}

/// For people: `+ new`, `- gone`, `~ different: field: before -> after`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.added {
            writeln!(f, "+ {}", printable(name))?;
        }
        for name in &self.removed {
            writeln!(f, "- {}", printable(name))?;
        }
        for (name, fields) in &self.changed {
            if fields.is_empty() {
                writeln!(f, "~ {}", printable(name))?;
            } else {
                writeln!(f, "~ {}", printable(&format!("{name}: {}", fields.join(", "))))?;
            }
        }
        Ok(())
    }
}

/// The rows of an answer by what they are called.
fn rows(answer: &Value) -> BTreeMap<String, Value> {
    match answer {
        Value::Array(items) => items.iter().map(|item| (name(item), item.clone())).collect(),
        // One row, or rows by name: only a pair has a key.
        Value::Object(fields) if fields.contains_key("Key") => {
            [(name(answer), answer.clone())].into()
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        }
        _ => BTreeMap::new(),
    }
}

fn name(row: &Value) -> String {
    let field = |path: &str| -> Option<String> {
        let found = path.split('.').try_fold(row, |value, name| value.get(name))?;
        found.as_str().map(str::to_owned)
    };
    IDENTITIES
        .iter()
        .find_map(|fields| fields.iter().map(|path| field(path)).collect::<Option<Vec<_>>>())
        .map_or_else(|| row.to_string(), |names| names.join(" on "))
}

/// Collects the leaves that differ.
fn differ(path: &str, before: &Value, after: &Value, out: &mut Vec<String>) {
    if before == after {
        return;
    }
    let below = |name: &str| {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names.into_iter().filter(|name| !NOISE.contains(&name.as_str())) {
                let get = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                differ(&below(name), &get(old), &get(new), out);
            }
        }
        (Value::Array(old), Value::Array(new))
            if old.len() == new.len() && old.iter().chain(new).all(Value::is_object) =>
        {
            for (old, new) in old.iter().zip(new) {
                differ(&below(&name(new)), old, new, out);
            }
        }
        _ => out.push(format!("{path}: {} -> {}", shown(before), shown(after))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_go_and_change() {
        let before = r#"[{"Service":{"ID":"a","Port":80},"Node":{"Node":"n"},
            "Checks":[{"CheckID":"c","Node":"n","Status":"passing","ModifyIndex":3}]},
            {"Service":{"ID":"b"},"Node":{"Node":"n"}}]"#;
        let after = r#"[{"Service":{"ID":"a","Port":80},"Node":{"Node":"n"},
            "Checks":[{"CheckID":"c","Node":"n","Status":"critical","ModifyIndex":9}]},
            {"Service":{"ID":"d"},"Node":{"Node":"n"}}]"#;
        assert_eq!(
            Changes::between(Some(before), after).to_string(),
            "+ d on n\n- b on n\n~ a on n: Checks.c on n.Status: passing -> critical\n"
        );
        assert_eq!(Changes::between(None, r#"{"web":[],"db":["x"]}"#).added, ["db", "web"]);
        let changes = Changes::between(Some("null"), r#"{"Key":"a","Value":"aGk="}"#);
        assert_eq!(changes.json(), r#"{"added":["a"],"changed":{},"removed":[]}"#);
    }

    proptest::proptest! {
        #[test]
        fn nothing_differs_from_itself(text in "[\\[\\]{}\":,a-z0-9]{0,30}") {
            let changes = Changes::between(Some(&text), &text);
            proptest::prop_assert_eq!(changes, Changes::default());
        }
    }
}
