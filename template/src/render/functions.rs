//! The data functions of templates: each asks one or more questions of the facts and notes what it asked.
//!
//! The answers have these shapes (see `docs/template-functions.md` for the fields): `service()` gives a list of
//! instances, `services()` of names with tags, `node()` a map, `key()` a text, `kv_list()` a list of pairs.

#![expect(clippy::unnecessary_wraps, reason = "all data functions have one shape")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tera::value::Key;
use tera::{Error, Kwargs, State, Tera, TeraResult, Value};

use super::call::{self, CallKey, KeyType};
use super::filters::{attribute, has_tag, text_of};
use super::{Hold, Pass, VERSION_MARK};
use crate::facts::{Query, Scope};
use crate::guard::{Answer, Limits, Verdict};

/// Makes all data functions known to `tera`; they read and note through `pass`.
pub(super) fn register(tera: &mut Tera, pass: &Arc<Mutex<Pass>>) {
    add(tera, pass, "service", service);
    add(tera, pass, "services", services);
    add(tera, pass, "nodes", nodes);
    add(tera, pass, "node", node);
    add(tera, pass, "datacenters", datacenters);
    add(tera, pass, "key", key);
    add(tera, pass, "key_exists", key_exists);
    add(tera, pass, "kv_list", kv_list);
    add(tera, pass, "file", file);
    add(tera, pass, "env", env);
    add(tera, pass, "config_version", config_version);
    add(tera, pass, "leave_out", leave_out);
}

/// Registers one function whose arguments are read into `A`.
fn add<A, F>(tera: &mut Tera, pass: &Arc<Mutex<Pass>>, name: &'static str, function: F)
where
    A: for<'de> Deserialize<'de>,
    F: Fn(&mut Pass, &A) -> Result<Value, String> + Send + Sync + 'static,
{
    let pass = Arc::clone(pass);
    tera.register_function(name, move |kwargs: Kwargs, _: &State| -> TeraResult<Value> {
        let arguments =
            kwargs.deserialize().map_err(|error| Error::message(format!("{name}(): {error}")))?;
        let mut pass = pass.lock().unwrap_or_else(PoisonError::into_inner);
        function(&mut pass, &arguments)
            .map_err(|message| Error::message(format!("{name}(): {message}")))
    });
}

impl Pass {
    /// The answer to `query`, noted as used, and as missing when there is none.
    ///
    /// # Errors
    /// The question was refused and never answered: the template that asks it is wrong there.
    fn ask(&mut self, query: &Query) -> Result<Option<Value>, String> {
        self.used.insert(query.clone());
        let answer = self.facts.get(query).cloned();
        if answer.is_none() {
            if let Some(why) = self.facts.refusal(query) {
                return Err(format!("`{query}` is refused: {why}"));
            }
            self.missing.insert(query.clone());
        }
        Ok(answer)
    }

    /// `list`, or the list served before if `limits` forbid the new one.
    fn guard(
        &mut self,
        call: &CallKey<'_>,
        list: Value,
        failing: &[Value],
        limits: &Limits,
    ) -> Result<Value, String> {
        let query = call.query.clone();
        let key = serde_json::to_string(call).map_err(|error| error.to_string())?;
        let now = self.now.unwrap_or_else(Instant::now);
        let answer = Answer { chosen: &list, failing };
        let verdict = self.memory.decide(&key, answer, limits, now);
        self.calls.insert(key);
        match verdict {
            Verdict::Use => Ok(list),
            Verdict::Keep { value, reason, until } => {
                self.holds.insert(Hold { query, reason });
                self.again_at = Some(self.again_at.map_or(until, |at| at.min(until)));
                Ok(value)
            }
            Verdict::Wait(reason) => {
                self.waits.insert(format!("{query}: {reason}"));
                Ok(empty_list())
            }
            Verdict::Fail(reason) => {
                self.holds.insert(Hold { query: query.clone(), reason });
                Err(format!("`{query}` is {reason}, and `on_empty` is `error`"))
            }
        }
    }
}

impl Pass {
    /// The services with those that were there before, each marked by `gone`.
    fn with_those_gone(
        &mut self,
        call: &CallKey<'_>,
        services: &Value,
        keep: Duration,
    ) -> Result<Value, String> {
        let key = serde_json::to_string(call).map_err(|error| error.to_string())?;
        let services = services.as_array().unwrap_or_default();
        let name = |service: &Value| attribute(service, "name").map(text_of).unwrap_or_default();
        let now = self.now.unwrap_or_else(Instant::now);
        let names = services.iter().map(name).collect();
        let (gone, until) = self.memory.gone(&key, &names, keep, now);
        self.again_at = self.again_at.into_iter().chain(until).min();
        let entry = |name: &str, tags: Value, gone: bool| {
            let pairs: [(&'static str, Value); 3] =
                [("name", name.into()), ("tags", tags), ("gone", gone.into())];
            let map = pairs.map(|(key, value)| (Key::from(key), value)).into_iter();
            (name.to_owned(), Value::from(map.collect::<tera::Map>()))
        };
        let there = services.iter().map(|service| {
            let tags = attribute(service, "tags").cloned().unwrap_or_else(empty_list);
            entry(&name(service), tags, false)
        });
        let all: BTreeMap<_, _> =
            there.chain(gone.iter().map(|name| entry(name, empty_list(), true))).collect();
        Ok(Value::from(all.into_values().collect::<Vec<_>>()))
    }
}

fn empty_list() -> Value {
    Value::from(Vec::<Value>::new())
}

fn service(pass: &mut Pass, call: &call::Service) -> Result<Value, String> {
    let statuses = call.statuses()?;
    let tags = call.all_tags();
    let limits = call.limits(&pass.surroundings.limits)?;
    not_empty(&call.name)?;
    let query = Query::Service { scope: call.scope(), name: call.name.clone() };
    let Some(instances) = pass.ask(&query)? else { return Ok(empty_list()) };
    let chosen = select(&instances, |instance| {
        let status = attribute(instance, "status").and_then(Value::as_str).unwrap_or_default();
        (statuses.is_empty() || statuses.iter().any(|wanted| wanted == status))
            && tags.iter().all(|tag| has_tag(instance, tag))
    });
    let failing = select(&instances, |instance| {
        attribute(instance, "status").and_then(Value::as_str) == Some("critical")
            && tags.iter().all(|tag| has_tag(instance, tag))
    });
    let failing = failing.as_array().unwrap_or_default();
    let call = CallKey { query: &query, tags: &tags, statuses: &statuses };
    pass.guard(&call, chosen, failing, &limits)
}

fn not_empty(name: &str) -> Result<(), String> {
    if name.is_empty() { Err("`name` is empty".to_owned()) } else { Ok(()) }
}

fn services(pass: &mut Pass, call: &call::Services) -> Result<Value, String> {
    let limits = call.limits(&pass.surroundings.limits)?;
    let query = Query::Services { scope: call.scope() };
    let Some(all) = pass.ask(&query)? else { return Ok(empty_list()) };
    let tags: Vec<String> = call.tag.clone().into_iter().collect();
    let chosen = select(&all, |service| tags.iter().all(|tag| has_tag(service, tag)));
    let key = CallKey { query: &query, tags: &tags, statuses: &[] };
    let named = pass.guard(&key, chosen, &[], &limits)?;
    match call.remember {
        Some(keep) => pass.with_those_gone(&key, &named, keep),
        None => Ok(named),
    }
}

fn nodes(pass: &mut Pass, call: &call::Nodes) -> Result<Value, String> {
    Ok(pass.ask(&Query::Nodes { scope: call.scope() })?.unwrap_or_else(empty_list))
}

fn node(pass: &mut Pass, call: &call::Node) -> Result<Value, String> {
    not_empty(&call.name)?;
    let query =
        Query::Node { scope: call::scope(call.dc.as_ref(), None, None), name: call.name.clone() };
    Ok(pass.ask(&query)?.unwrap_or_else(Value::none))
}

fn datacenters(pass: &mut Pass, _: &call::Nothing) -> Result<Value, String> {
    Ok(pass.ask(&Query::Datacenters)?.unwrap_or_else(empty_list))
}

fn key(pass: &mut Pass, call: &call::Key) -> Result<Value, String> {
    let query = key_query(&call.path, call.dc.as_ref())?;
    let placeholder = || Value::normal_string("");
    let Some(answer) = pass.ask(&query)? else { return Ok(placeholder()) };
    let default = call.default.as_ref().map(Value::from_serializable);
    let text = match (answer.as_str(), default) {
        // consul-template's keyOrDefault treats an empty value as absent; so do we, unless told otherwise.
        (None, Some(default)) => return Ok(default),
        (Some(""), Some(default)) if !call.empty_ok => return Ok(default),
        (None, None) => {
            // Not an error: the key may be about to be written, and until then the old file stays.
            pass.waits.insert(format!("{query} does not exist"));
            return Ok(placeholder());
        }
        (Some(text), _) => text,
    };
    read_as(text, call.kind).map_err(|message| format!("`{query}`: {message}"))
}

/// Reads the text of a key as `kind`.
fn read_as(text: &str, kind: KeyType) -> Result<Value, String> {
    let trimmed = text.trim();
    match kind {
        KeyType::Text => Ok(Value::normal_string(text)),
        KeyType::Json => super::filters::parse_json(text),
        KeyType::Toml => super::filters::parse_toml(text),
        KeyType::Int => trimmed
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| format!("`{trimmed}` is not an integer")),
        KeyType::Float => trimmed
            .parse::<f64>()
            .map(Value::from)
            .map_err(|_| format!("`{trimmed}` is not a number")),
        KeyType::Bool => super::filters::parse_bool_text(trimmed).map(Value::from),
    }
}

fn key_exists(pass: &mut Pass, call: &call::KeyExists) -> Result<Value, String> {
    let query = key_query(&call.path, call.dc.as_ref())?;
    Ok(Value::from(pass.ask(&query)?.is_some_and(|answer| !answer.is_none())))
}

fn key_query(path: &str, dc: Option<&String>) -> Result<Query, String> {
    let path = key_path(path)?;
    if path.is_empty() {
        return Err("`path` is empty".to_owned());
    }
    Ok(Query::Key { path: path.to_owned(), scope: call::scope(dc, None, None) })
}

/// A path as the catalog knows it: keys do not begin with a slash, people who think of files write one.
///
/// # Errors
/// No request can ask for it: servers take `//`, `/./` and `/../` out of every URL.
fn key_path(path: &str) -> Result<&str, String> {
    let path = path.trim_start_matches('/');
    let mut parts = path.split('/').rev();
    // The part after the last slash may be empty: it is a folder then.
    let last = parts.next().unwrap_or_default();
    let odd = |part: &str| matches!(part, "" | "." | "..");
    if matches!(last, "." | "..") || parts.any(odd) {
        let shown = super::left_out::shown(path);
        return Err(format!("no key can be asked by {shown}: it has an empty part, `.` or `..`"));
    }
    Ok(path)
}

fn kv_list(pass: &mut Pass, call: &call::KvList) -> Result<Value, String> {
    let limits = call.limits(&pass.surroundings.limits)?;
    let scope = Scope { dc: call.dc.clone().filter(|dc| !dc.is_empty()), ..Scope::default() };
    let prefix = key_path(&call.prefix)?;
    let query = Query::KeyPrefix { prefix: prefix.to_owned(), scope };
    let Some(pairs) = pass.ask(&query)? else { return Ok(empty_list()) };
    let mut chosen = Vec::new();
    for pair in pairs.as_array().unwrap_or_default() {
        let path = attribute(pair, "path").map(text_of).unwrap_or_default();
        let key = path.strip_prefix(prefix).unwrap_or(&path).trim_start_matches('/').to_owned();
        // `recurse=false` lists the keys of this folder alone; the folder's own entry is no key in it.
        if key.is_empty() || (!call.recurse && key.contains('/')) {
            continue;
        }
        let mut pair = pair.clone().into_map().unwrap_or_default();
        pair.insert("key".into(), Value::from(key));
        chosen.push(Value::from(pair));
    }
    let recurse = [if call.recurse { "recurse" } else { "flat" }.to_owned()];
    pass.guard(
        &CallKey { query: &query, tags: &recurse, statuses: &[] },
        Value::from(chosen),
        &[],
        &limits,
    )
}

fn file(pass: &mut Pass, call: &call::File) -> Result<Value, String> {
    let query = Query::File { path: call.path.clone() };
    let Some(answer) = pass.ask(&query)? else { return Ok(Value::normal_string("")) };
    if answer.is_none() {
        pass.waits.insert(format!("{query} does not exist"));
        return Ok(Value::normal_string(""));
    }
    Ok(answer)
}

fn env(pass: &mut Pass, call: &call::Env) -> Result<Value, String> {
    let value = pass.surroundings.environment.get(&call.name).or(call.default.as_ref());
    value
        .cloned()
        .map(Value::from)
        .ok_or_else(|| format!("the environment has no `{}`, and no `default` is given", call.name))
}

fn config_version(_: &mut Pass, _: &call::Nothing) -> Result<Value, String> {
    Ok(Value::normal_string(VERSION_MARK))
}

fn leave_out(pass: &mut Pass, call: &call::LeaveOut) -> Result<Value, String> {
    Ok(Value::from(pass.leave_out(&call.what, &call.why)))
}

/// The entries of a list that pass `wanted`, in their order.
fn select(list: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let entries = list.as_array().unwrap_or_default();
    Value::from(entries.iter().filter(|entry| wanted(entry)).cloned().collect::<Vec<_>>())
}
