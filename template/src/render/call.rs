//! The arguments of the data functions, read from Tera's keyword arguments.
//!
//! Unknown names are refused: a mistyped `pasing=true` must not quietly mean something else.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::encode;
use crate::facts::Scope;
use crate::guard::{Limits, OnEmpty};

/// `service(name=, ...)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) tag: Option<String>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    pub(super) passing: Option<bool>,
    pub(super) status: Option<OneOrMany>,
    pub(super) dc: Option<String>,
    pub(super) near: Option<String>,
    pub(super) filter: Option<String>,
    pub(super) min: Option<usize>,
    pub(super) on_empty: Option<OnEmpty>,
    pub(super) max_shrink: Option<f64>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) keep_for: Option<Duration>,
}

/// `services(...)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Services {
    pub(super) tag: Option<String>,
    pub(super) dc: Option<String>,
    pub(super) filter: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) remember: Option<Duration>,
    pub(super) min: Option<usize>,
    pub(super) on_empty: Option<OnEmpty>,
    pub(super) max_shrink: Option<f64>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) keep_for: Option<Duration>,
}

/// `nodes(...)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nodes {
    pub(super) dc: Option<String>,
    pub(super) near: Option<String>,
    pub(super) filter: Option<String>,
}

/// `node(name=, dc=)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) dc: Option<String>,
}

/// `key(path=, dc=, default=, type=)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) path: String,
    pub(super) dc: Option<String>,
    pub(super) default: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) empty_ok: bool,
    #[serde(rename = "type", default)]
    pub(super) kind: KeyType,
}

/// How the text of a key is read.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyType {
    #[default]
    Text,
    Json,
    Toml,
    Int,
    Float,
    Bool,
}

/// `key_exists(path=, dc=)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyExists {
    pub(super) path: String,
    pub(super) dc: Option<String>,
}

/// `kv_list(prefix=, recurse=, ...)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KvList {
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) recurse: bool,
    pub(super) dc: Option<String>,
    pub(super) min: Option<usize>,
    pub(super) on_empty: Option<OnEmpty>,
    pub(super) max_shrink: Option<f64>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) keep_for: Option<Duration>,
}

/// `env(name=, default=)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Env {
    pub(super) name: String,
    pub(super) default: Option<String>,
}

/// `file(path=)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) path: String,
}

/// `leave_out(what=, why=)`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaveOut {
    pub(super) what: String,
    pub(super) why: String,
}

/// A call without arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `status="any"` or `status=["passing", "warning"]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The statuses a call can ask for.
const STATUSES: [&str; 5] = ["any", "passing", "warning", "critical", "maintenance"];

impl Service {
    /// The statuses to let through; empty for any.
    pub(super) fn statuses(&self) -> Result<Vec<String>, String> {
        let wanted = match (&self.status, self.passing) {
            (Some(_), Some(_)) => {
                return Err("`status` and `passing` exclude each other".to_owned());
            }
            (Some(OneOrMany::One(one)), None) => vec![one.clone()],
            (Some(OneOrMany::Many(many)), None) => many.clone(),
            (None, None | Some(true)) => vec!["passing".to_owned()],
            (None, Some(false)) => Vec::new(),
        };
        if let Some(wrong) = wanted.iter().find(|status| !STATUSES.contains(&status.as_str())) {
            return Err(format!("`{wrong}` is not a status; one of {}", STATUSES.join(", ")));
        }
        Ok(if wanted.iter().any(|status| status == "any") { Vec::new() } else { wanted })
    }

    /// All tags an instance must have.
    pub(super) fn all_tags(&self) -> Vec<String> {
        self.tag.iter().chain(&self.tags).cloned().collect()
    }

    pub(super) fn scope(&self) -> Scope {
        scope(self.dc.as_ref(), self.near.as_ref(), self.filter.as_ref())
    }

    pub(super) fn limits(&self, preset: &Limits) -> Result<Limits, String> {
        limits(
            preset,
            self.min.unwrap_or(preset.min),
            self.on_empty,
            self.max_shrink,
            self.keep_for,
        )
    }
}

impl Services {
    pub(super) fn scope(&self) -> Scope {
        scope(self.dc.as_ref(), None, self.filter.as_ref())
    }

    pub(super) fn limits(&self, preset: &Limits) -> Result<Limits, String> {
        limits(preset, self.min.unwrap_or(0), self.on_empty, self.max_shrink, self.keep_for)
    }
}

impl Nodes {
    pub(super) fn scope(&self) -> Scope {
        scope(self.dc.as_ref(), self.near.as_ref(), self.filter.as_ref())
    }
}

impl KvList {
    pub(super) fn limits(&self, preset: &Limits) -> Result<Limits, String> {
        // A prefix without keys is as ordinary as one with keys, so an empty list is used unless the call objects.
        let on_empty = self.on_empty.unwrap_or(OnEmpty::Render);
        limits(preset, self.min.unwrap_or(0), Some(on_empty), self.max_shrink, self.keep_for)
    }
}

/// A scope from the arguments of a call; an empty text counts as not given.
pub(super) fn scope(dc: Option<&String>, near: Option<&String>, filter: Option<&String>) -> Scope {
    let given = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    Scope { dc: given(dc), near: given(near), filter: given(filter) }
}

fn limits(
    preset: &Limits,
    min: usize,
    on_empty: Option<OnEmpty>,
    max_shrink: Option<f64>,
    keep_for: Option<Duration>,
) -> Result<Limits, String> {
    if let Some(share) = max_shrink
        && !(0.0..=1.0).contains(&share)
    {
        return Err(format!("`max_shrink` is a share from 0.0 to 1.0, not {share}"));
    }
    Ok(Limits {
        on_empty: on_empty.unwrap_or(preset.on_empty),
        min,
        max_shrink: max_shrink.unwrap_or(preset.max_shrink),
        confirm_after: preset.confirm_after,
        keep_for: keep_for.unwrap_or(preset.keep_for),
    })
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| encode::duration(&text).map_err(serde::de::Error::custom)).transpose()
}

/// The text that a call is remembered by: what it asks, without its limits.
#[derive(Serialize)]
pub(super) struct CallKey<'a> {
    pub(super) query: &'a crate::facts::Query,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) tags: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) statuses: &'a [String],
}
