//! Configuration as written: text in, a flat map of known keys out. Nothing is resolved here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Error;
use super::definitions;
use super::faults::Faults;
use super::hcl;
use super::keys::{self, Fate, Kind};

/// Keys as somebody wrote them, by path (`ports.http`). Later sources override earlier ones,
/// lists and definitions append.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    values: BTreeMap<&'static str, Value>,
    /// Things worth saying once at start.
    warnings: Vec<String>,
    /// Keys without effect by the reason.
    idle: BTreeMap<&'static str, Vec<&'static str>>,
}

impl Written {
    /// Reads one file. The format follows the name's end unless `format` says otherwise.
    pub(super) fn from_file(path: &Path, format: Option<&str>) -> Result<Written, Error> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|source| {
            Error(format!("config: Open failed on {shown}. open {shown}: {}", reason(&source)))
        })?;
        let format = match format {
            Some(format) => format,
            None if path.extension().is_some_and(|end| end == "hcl") => "hcl",
            None => "json",
        };
        Written::from_text(&text, format)
            .map_err(|e| Error(format!("failed to parse {shown}: {e}")))
    }

    /// The `.json` and `.hcl` files of a folder in lexical order, and the links among them that lead nowhere.
    pub(super) fn files_of(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
        let entries = std::fs::read_dir(dir).map_err(|source| {
            Error(format!("config: ReadDir failed on {}: {}", dir.display(), reason(&source)))
        })?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "json" || end == "hcl"))
            .collect();
        files.sort();
        let lead_nowhere = |path: &PathBuf| path.is_symlink() && !path.exists();
        let lost = files.iter().filter(|path| lead_nowhere(path)).cloned().collect();
        files.retain(|path| path.is_file());
        Ok((files, lost))
    }

    /// Reads one text. An empty one holds nothing and is valid.
    pub(super) fn from_text(text: &str, format: &str) -> Result<Written, Error> {
        if text.trim().is_empty() {
            return Ok(Written::default());
        }
        let value = match format {
            // What begins as an object is JSON, as for the reference's HCL.
            "hcl" if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') => {
                serde_json::from_str(&hcl::plain_json(text)).map_err(|e| Error(json_text(&e)))?
            }
            "hcl" => hcl::parse(text).map_err(|e| Error(e.to_string()))?,
            "json" => serde_json::from_str(text).map_err(|e| Error(json_text(&e)))?,
            other => {
                return Err(Error(format!(
                    "Invalid config format \"{other}\"\nhint: use `json` or `hcl`"
                )));
            }
        };
        let Value::Object(_) = value else {
            return Err(Error(format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                kind_of(&value)
            )));
        };
        Written::judged(value, Some(text))
    }

    /// Takes an object apart into known keys.
    pub(super) fn from_value(value: Value) -> Result<Written, Error> {
        Written::judged(value, None)
    }

    /// The same; all mistakes are reported together, with their lines in `text`.
    fn judged(value: Value, text: Option<&str>) -> Result<Written, Error> {
        let mut written = Written::default();
        let mut faults = Faults::default();
        written.take("", value, &mut faults);
        match faults.message(text) {
            None => Ok(written),
            Some(message) => Err(Error(message)),
        }
    }

    fn take(&mut self, prefix: &str, value: Value, faults: &mut Faults) {
        let Value::Object(pairs) = value else { return };
        for (name, value) in pairs {
            let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            // null asks for nothing, as in the reference; only the key must be known.
            if value.is_null() {
                if keys::find(&path).is_none() && !keys::is_block(&path) {
                    faults.unknown.push((path, None));
                }
                continue;
            }
            if let Some((path, kind, fate)) = keys::find(&path) {
                if let Some(why) = misfit(path, kind, &value) {
                    faults.misfits.push(why);
                    continue;
                }
                definitions::check(path, &value, faults);
                self.judge(path, kind, fate, value, faults);
            } else if keys::is_block(&path) {
                // HCL1 habits: a block may come as a list of blocks.
                match value {
                    Value::Array(blocks) => {
                        for block in blocks {
                            self.take(&path, block, faults);
                        }
                    }
                    block @ Value::Object(_) => self.take(&path, block, faults),
                    other => {
                        faults
                            .misfits
                            .push(format!("'{path}' expected a map, got '{}'", kind_of(&other)));
                    }
                }
            } else {
                faults.unknown.push((path, None));
            }
        }
    }

    /// Does with the value of a known key what its fate is.
    fn judge(
        &mut self,
        path: &'static str,
        kind: Kind,
        fate: Fate,
        value: Value,
        faults: &mut Faults,
    ) {
        // Nobody looks at it later, and it must be right all the same.
        if let (Fate::Harmless | Fate::Idle(_) | Fate::Mesh, Kind::Duration, Some(text)) =
            (fate, kind, value.as_str())
            && muster_client::types::parse_nanos(text).is_none()
        {
            faults.invalid.push(format!(
                "{path}: invalid duration: \"{text}\": time: invalid duration \"{text}\""
            ));
            return;
        }
        match fate {
            Fate::Used | Fate::Live => self.set(path, kind, value),
            Fate::Harmless => {}
            Fate::Mesh | Fate::Idle(_) | Fate::Refused(_) if asks_for_nothing(path, &value) => {}
            Fate::Mesh => {
                self.warn(format!("`{path}` belongs to the service mesh and has no effect"));
            }
            Fate::Idle(why) => {
                let paths = self.idle.entry(why).or_default();
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            Fate::Refused(why) => {
                if !faults.refused.contains(&(path, why)) {
                    faults.refused.push((path, why));
                }
            }
        }
    }

    /// Takes one value under a key that is used.
    fn set(&mut self, path: &'static str, kind: Kind, value: Value) {
        if kind == Kind::List || kind == Kind::Definitions {
            let more = match value {
                Value::Array(items) => items,
                single => vec![single],
            };
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
            self.set(path, kind, value);
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
    /// Definitions under `path`.
    pub(super) fn definitions(&self, path: &str) -> Vec<Value> {
        match self.values.get(path) {
            Some(Value::Array(items)) => items.iter().cloned().map(whole).collect(),
            _ => Vec::new(),
        }
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

/// Does this value ask for nothing?
fn asks_for_nothing(path: &str, value: &Value) -> bool {
    match value {
        // These are on unless somebody turns them off.
        Value::Bool(flag)
            if ["disable_host_node_id", "telemetry.filter_default"].contains(&path) =>
        {
            *flag
        }
        Value::Null | Value::Bool(false) => true,
        // A port that is turned off.
        Value::Number(number) => number.as_i64() == Some(-1),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(|item| asks_for_nothing(path, item)),
        Value::Object(pairs) => pairs.values().all(|value| asks_for_nothing(path, value)),
        Value::Bool(true) => false,
    }
}

/// Numbers that the reference keeps without a sign.
const UNSIGNED: [&str; 3] =
    ["autopilot.min_quorum", "limits.kv_max_value_size", "limits.txn_max_req_len"];

/// Text for a `value` that does not fit its key's type, in the words of the reference's decoder.
fn misfit(path: &str, kind: Kind, value: &Value) -> Option<String> {
    if kind == Kind::List && !value.is_array() {
        let kind = kind_of(value);
        return Some(format!("'{path}': source data must be an array or slice, got {kind}"));
    }
    if UNSIGNED.contains(&path)
        && let Some(number) = value.as_f64().filter(|number| *number < 0.0)
    {
        return Some(format!("cannot parse '{path}', {number:.6} overflows uint"));
    }
    let (wanted, fits) = match kind {
        Kind::Str | Kind::Duration => ("string", value.is_string()),
        Kind::Int => ("int", value.is_number()),
        Kind::Float => ("float64", value.is_number()),
        Kind::Bool => ("bool", value.is_boolean()),
        Kind::List => {
            ("string", value.as_array().is_some_and(|items| items.iter().all(Value::is_string)))
        }
        Kind::Map => (
            "map[string]string",
            match value {
                // A block as HCL has it; several are no map.
                Value::Array(maps) => maps.len() <= 1 && maps.iter().all(is_text_map),
                map => is_text_map(map),
            },
        ),
        Kind::Definitions => (
            "slice",
            value.is_object()
                || value.as_array().is_some_and(|items| items.iter().all(Value::is_object)),
        ),
        Kind::Any => ("", true),
    };
    (!fits).then(|| {
        format!("'{path}' expected type '{wanted}', got unconvertible type '{}'", kind_of(value))
    })
}

fn is_text_map(value: &Value) -> bool {
    value.as_object().is_some_and(|pairs| pairs.values().all(Value::is_string))
}

/// A JSON value's type as the reference names it.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A JSON error with its place; the common one in the reference's words.
fn json_text(error: &serde_json::Error) -> String {
    if error.is_eof() { "unexpected end of JSON input".into() } else { error.to_string() }
}

/// The operating system's reason in the words that scripts know.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
