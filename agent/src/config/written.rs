//! Keys as they were written, laid over one another, and their values by type.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_client::types::parse_nanos;
use serde_json::Value;

use super::keys::{self, Fate, Kind};

/// Keys as somebody wrote them, by path (`ports.http`). Later sources override earlier ones,
/// lists and definitions append.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    values: BTreeMap<&'static str, Value>,
    /// The file of each definition in the lists of `values`, in their order; `None` is the command line.
    files: BTreeMap<&'static str, Vec<Option<Arc<Path>>>>,
    /// The file that is being read.
    file: Option<Arc<Path>>,
    /// Things worth saying once at start.
    warnings: Vec<String>,
    /// Keys without effect by the reason.
    idle: BTreeMap<&'static str, Vec<&'static str>>,
}

impl Written {
    /// Nothing yet, of one file.
    pub(super) fn of_file(file: &Path) -> Written {
        Written { file: Some(file.into()), ..Written::default() }
    }

    /// Takes one value under a known key.
    pub(super) fn set(&mut self, path: &'static str, kind: Kind, value: Value) {
        if kind == Kind::List || kind == Kind::Definitions {
            let more = match value {
                Value::Array(items) => items,
                single => vec![single],
            };
            if kind == Kind::Definitions {
                let files = std::iter::repeat_n(self.file.clone(), more.len());
                self.files.entry(path).or_default().extend(files);
            }
            let list = self.values.entry(path).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.extend(more);
            }
        } else if let (Value::Object(more), Some(Value::Object(map))) =
            (&value, self.values.get_mut(path))
        {
            map.extend(more.clone());
        } else {
            self.values.insert(path, value);
        }
    }

    /// Lays `later` over `self`.
    pub(super) fn merge(&mut self, later: Written) {
        for (path, value) in later.values {
            let kind = keys::find(path).map_or(Kind::Any, |(_, kind, _)| kind);
            // Of definitions, `set` would note the file that `self` is of.
            let files = self.files.remove(path);
            self.set(path, kind, value);
            self.files.remove(path);
            self.files.extend(files.map(|files| (path, files)));
        }
        for (path, files) in later.files {
            self.files.entry(path).or_default().extend(files);
        }
        for warning in later.warnings {
            self.warn(warning);
        }
        for (why, later) in later.idle {
            let paths = self.idle.entry(why).or_default();
            paths
                .extend(later.into_iter().filter(|path| !paths.contains(path)).collect::<Vec<_>>());
        }
    }

    /// Everything worth saying once at start: keys without effect, those of one reason together.
    pub(super) fn warnings(&self) -> Vec<String> {
        let said = |(why, paths): (&&str, &Vec<&str>)| {
            let names = paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
            let have = if paths.len() == 1 { "has" } else { "have" };
            if *why == keys::YET {
                return format!("{names} {have} no effect yet");
            }
            format!("{names} {have} no effect: {why}")
        };
        self.warnings.iter().cloned().chain(self.idle.iter().map(said)).collect()
    }

    /// Notes that a key has no effect, for this reason.
    pub(super) fn note_idle(&mut self, why: &'static str, path: &'static str) {
        let paths = self.idle.entry(why).or_default();
        if !paths.contains(&path) {
            paths.push(path);
        }
    }

    /// Notes what is worth saying, once.
    pub(super) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Another text under `path`.
    pub(super) fn replace(&mut self, path: &'static str, text: String) {
        self.values.insert(path, Value::String(text));
    }

    /// Text under `path`.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.values.get(path).and_then(Value::as_str)
    }

    /// Text under `path`, unless it is empty.
    pub(super) fn filled(&self, path: &str) -> Option<&str> {
        self.text(path).filter(|text| !text.is_empty())
    }

    /// Path of a file or folder under `path`, unless it is empty.
    pub(super) fn file(&self, path: &str) -> Option<PathBuf> {
        self.filled(path).map(PathBuf::from)
    }

    /// Time under `path` in nanoseconds, with its sign. That it is one was found out when it was read.
    pub(super) fn nanos(&self, path: &str) -> Option<i64> {
        self.text(path).and_then(parse_nanos)
    }

    /// Time under `path`. One below zero is none, as in the reference: no wait, no minimum.
    pub(super) fn duration(&self, path: &str, default: Duration) -> Duration {
        let time = |nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        self.nanos(path).map_or(default, time)
    }

    /// The same, where zero stands for the default.
    pub(super) fn duration_not_zero(&self, path: &str, default: Duration) -> Duration {
        if self.nanos(path) == Some(0) { default } else { self.duration(path, default) }
    }

    /// Port under `path`: 0 is the default one, below zero is off.
    pub(super) fn port(&self, path: &str, default: Option<u16>) -> Option<u16> {
        match self.int(path) {
            None | Some(0) => default,
            Some(number) => u16::try_from(number).ok(),
        }
    }

    /// Whole number under `path`; one below zero is as if it were not there.
    pub(super) fn count<T: TryFrom<i64>>(&self, path: &str, default: T) -> T {
        self.int(path).and_then(|number| T::try_from(number).ok()).unwrap_or(default)
    }

    /// Is the switch under `path` on?
    pub(super) fn on(&self, path: &str) -> bool {
        self.bool(path).unwrap_or(false)
    }

    /// Whole number under `path`.
    pub(super) fn int(&self, path: &str) -> Option<i64> {
        #[expect(clippy::cast_possible_truncation, reason = "JSON writes whole numbers as 1.0 too")]
        self.values.get(path).and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)))
    }

    /// Number with a fraction under `path`.
    pub(super) fn float(&self, path: &str) -> Option<f64> {
        self.values.get(path).and_then(Value::as_f64)
    }

    /// Keys whose values differ and that take effect only at a start.
    pub(super) fn differences(&self, other: &Written) -> Vec<&'static str> {
        let mut keys: Vec<&'static str> =
            self.values.keys().chain(other.values.keys()).copied().collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| {
            let waits = keys::find(key).is_some_and(|(_, _, fate)| fate == Fate::Used);
            waits && self.values.get(key) != other.values.get(key)
        });
        keys
    }

    /// Switch under `path`.
    pub(super) fn bool(&self, path: &str) -> Option<bool> {
        self.values.get(path).and_then(Value::as_bool)
    }

    /// Texts under `path`.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        match self.values.get(path) {
            Some(Value::Array(items)) => {
                items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Pairs under `path`.
    pub(super) fn map(&self, path: &str) -> BTreeMap<String, String> {
        match self.values.get(path) {
            Some(Value::Object(pairs)) => pairs
                .iter()
                .filter_map(|(k, v)| v.as_str().map(|v| (k.clone(), v.to_owned())))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    /// Definitions under these paths.
    pub(super) fn definitions(&self, paths: &[&str]) -> Vec<Value> {
        let lists = paths.iter().filter_map(|path| self.values.get(*path)?.as_array());
        lists.flatten().cloned().map(whole).collect()
    }

    /// The files of these definitions, in the same order; `None` is the command line.
    pub(super) fn files(&self, paths: &[&str]) -> Vec<Option<&Path>> {
        let lists = paths.iter().filter_map(|path| self.files.get(*path));
        lists.flatten().map(Option::as_deref).collect()
    }
}

/// With whole numbers only: programs that write JSON know one kind of number, and no definition holds a
/// fraction.
fn whole(value: Value) -> Value {
    match value {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "as the reference cuts what is written so"
        )]
        Value::Number(number) => match number.as_f64() {
            Some(written) if !number.is_i64() && !number.is_u64() => Value::from(written as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, whole(value))).collect())
        }
        other => other,
    }
}
