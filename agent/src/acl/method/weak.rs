//! Settings of a method as users write them: names in any case, texts for lists, numbers for texts.
//!
//! All that is wrong is told at once, in the reference's words and order.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

/// The settings, taken one by one.
pub(super) struct Weak {
    fields: Map<String, Value>,
    wrong: Vec<String>,
}

impl Weak {
    pub(super) fn new(fields: &Map<String, Value>) -> Weak {
        Weak { fields: fields.clone(), wrong: Vec::new() }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let key = if self.fields.contains_key(name) {
            name.to_owned()
        } else {
            self.fields.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone()
        };
        self.fields.remove(&key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> String {
        let Some(value) = self.take(name) else { return String::new() };
        self.one(name, &value)
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => match text.as_str() {
                "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                _ => {
                    self.wrong.push(format!(
                        "cannot parse '{name}' as bool: strconv.ParseBool: parsing {text:?}: invalid syntax"
                    ));
                    false
                }
            },
            Some(other) => {
                self.wrong.push(format!(
                    "'{name}' expected type 'bool', got unconvertible type '{}'",
                    kind(&other)
                ));
                false
            }
        }
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(place, item)| self.one(&format!("{name}[{place}]"), item))
                .collect(),
            Some(Value::Object(fields)) if fields.is_empty() => Vec::new(),
            Some(other) => vec![self.one(&format!("{name}[0]"), &other)],
        }
    }

    pub(super) fn pairs(&mut self, name: &str) -> BTreeMap<String, String> {
        let no_map = |place: &str, value: &Value| {
            format!("'{name}{place}' expected a map, got '{}'", kind(value))
        };
        let maps = match self.take(name) {
            None => return BTreeMap::new(),
            Some(Value::Object(fields)) => vec![fields],
            Some(Value::Array(items)) => {
                let mut maps = Vec::new();
                for (place, item) in items.into_iter().enumerate() {
                    match item {
                        Value::Object(fields) => maps.push(fields),
                        other => self.wrong.push(no_map(&format!("[{place}]"), &other)),
                    }
                }
                maps
            }
            Some(other) => {
                self.wrong.push(no_map("", &other));
                return BTreeMap::new();
            }
        };
        let mut pairs = BTreeMap::new();
        for (key, value) in maps.into_iter().flatten() {
            let text = self.one(&format!("{name}[{key}]"), &value);
            pairs.insert(key, text);
        }
        pairs
    }

    /// A leeway: a number of nanoseconds, or a text such as `10s`. Zero is the default; negative is none.
    pub(super) fn leeway(&mut self, name: &str) -> Leeway {
        let nanoseconds = match self.take(name) {
            None => Some(0),
            Some(Value::Bool(flag)) => Some(i64::from(flag)),
            Some(Value::Number(number)) => whole(&number),
            Some(Value::String(text)) => {
                let found = text.parse().ok().or_else(|| muster_client::types::parse_nanos(&text));
                if found.is_none() {
                    self.wrong.push(format!(
                        "cannot parse '{name}' as int: strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ));
                }
                found
            }
            Some(other) => {
                self.wrong.push(format!(
                    "'{name}' expected type 'time.Duration', got unconvertible type '{}'",
                    kind(&other)
                ));
                None
            }
        };
        match nanoseconds.unwrap_or(0) {
            0 => Leeway::Default,
            number => u64::try_from(number)
                .map_or(Leeway::None, |number| Leeway::Of(Duration::from_nanos(number))),
        }
    }

    fn one(&mut self, name: &str, value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Bool(flag) => u8::from(*flag).to_string(),
            Value::Number(number) => number.to_string(),
            Value::Null => String::new(),
            other @ (Value::Array(_) | Value::Object(_)) => {
                self.wrong.push(format!(
                    "'{name}' expected type 'string', got unconvertible type '{}'",
                    kind(other)
                ));
                String::new()
            }
        }
    }

    /// Ends the reading. The error lists all that is wrong.
    pub(super) fn finish(mut self) -> Result<(), String> {
        let mut unknown: Vec<&str> = self.fields.keys().map(String::as_str).collect();
        if !unknown.is_empty() {
            unknown.sort_unstable();
            self.wrong.push(format!("'' has invalid keys: {}", unknown.join(", ")));
        }
        if self.wrong.is_empty() {
            return Ok(());
        }
        self.wrong.sort();
        let lines: Vec<String> = self.wrong.iter().map(|line| format!("* {line}")).collect();
        Err(format!(
            "error decoding config: {} error(s) decoding:\n\n{}",
            lines.len(),
            lines.join("\n")
        ))
    }
}

/// How much clocks may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leeway {
    /// As usual.
    Default,
    /// Not at all.
    None,
    /// So much.
    Of(Duration),
}

impl Leeway {
    /// Whole seconds are what a token counts in.
    pub(super) fn seconds_or(self, default: i64) -> i64 {
        match self {
            Leeway::Default => default,
            Leeway::None => 0,
            Leeway::Of(duration) => i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        }
    }
}

/// A number without its fraction, if it fits.
pub(super) fn whole(number: &serde_json::Number) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is judged before")]
    number.as_i64().or_else(|| {
        number.as_f64().filter(|float| float.abs() < 9.2e18).map(|float| float.trunc() as i64)
    })
}

/// The names that the reference's platform gives to types of JSON.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
