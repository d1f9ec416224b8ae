//! Files and texts in, a flat map of known keys out. Nothing is resolved here.

use std::path::{Path, PathBuf};

use muster_client::types::parse_nanos;
use serde_json::Value;

use super::Error;
use super::definitions;
use super::faults::Faults;
use super::hcl;
use super::keys::{self, Fate, Kind};
use super::written::Written;

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
        Written::of_file(path)
            .with_text(&text, format)
            .map_err(|e| Error(format!("failed to parse {shown}: {e}")))
    }

    /// The `.json` and `.hcl` files of a folder in lexical order, and the links among them that lead nowhere.
    pub(super) fn files_of(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
        let entries = std::fs::read_dir(dir).map_err(|source| {
            Error(format!("config: ReadDir failed on {}: {}", dir.display(), reason(&source)))
        })?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| is_configuration(path))
            .collect();
        files.sort();
        let lead_nowhere = |path: &PathBuf| path.is_symlink() && !path.exists();
        let lost = files.iter().filter(|path| lead_nowhere(path)).cloned().collect();
        files.retain(|path| path.is_file());
        Ok((files, lost))
    }

    /// Reads one text. An empty one holds nothing and is valid.
    pub(super) fn from_text(text: &str, format: &str) -> Result<Written, Error> {
        Written::default().with_text(text, format)
    }

    fn with_text(self, text: &str, format: &str) -> Result<Written, Error> {
        if text.trim().is_empty() {
            return Ok(self);
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
        self.with(value, Some(text))
    }

    /// Takes known keys, those that are refused included.
    #[cfg(test)]
    pub(super) fn whatever_its_fate(value: Value) -> Written {
        let (mut written, mut faults) = (Written::default(), Faults::default());
        written.take("", value, &mut faults);
        faults.refused.clear();
        assert_eq!(faults.message(None), None);
        written
    }

    /// Takes an object apart into known keys.
    pub(super) fn from_value(value: Value) -> Result<Written, Error> {
        Written::default().with(value, None)
    }

    /// Takes known keys; all mistakes are reported together, with their lines in `text`.
    fn with(mut self, value: Value, text: Option<&str>) -> Result<Written, Error> {
        let mut faults = Faults::default();
        self.take("", value, &mut faults);
        match faults.message(text) {
            None => Ok(self),
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
        if let Some(why) = unreadable(path, kind, &value) {
            faults.invalid.push(why);
            return;
        }
        // Kept whatever its fate: parts read their keys without knowing whether they are in use yet.
        let asks_for_nothing = asks_for_nothing(path, &value);
        self.set(path, kind, value);
        match fate {
            Fate::Used | Fate::Live | Fate::Harmless => {}
            Fate::Mesh | Fate::Idle(_) | Fate::Refused(_) if asks_for_nothing => {}
            Fate::Mesh => {
                self.warn(format!("`{path}` belongs to the service mesh and has no effect"));
            }
            Fate::Idle(why) => self.note_idle(why, path),
            Fate::Refused(why) => {
                if !faults.refused.contains(&(path, why)) {
                    faults.refused.push((path, why));
                }
            }
        }
    }
}

/// Is this file of a folder read as configuration?
pub(super) fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json" || end == "hcl")
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
        Kind::Int | Kind::Port => ("int", value.is_number()),
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

/// Text for a `value` of the right type that means nothing.
fn unreadable(path: &str, kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (Kind::Duration, Value::String(text)) if parse_nanos(text).is_none() => {
            Some(invalid_duration(path, text))
        }
        (Kind::Port, Value::Number(number)) => {
            let number = number.as_f64().filter(|number| *number > f64::from(u16::MAX))?;
            Some(format!("{path}: invalid port: {number}"))
        }
        _ => None,
    }
}

/// Text for a value that is no time.
pub(super) fn invalid_duration(path: &str, text: &str) -> String {
    format!("{path}: invalid duration: \"{text}\": time: invalid duration \"{text}\"")
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
