//! The filters that make maps: groups of a list, trees of keys, maps put together.
//!
//! Maps keep the order in which they are made, and every one of them is made in an order that follows from the data
//! alone: equal data gives equal text.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tera::value::Key;
use tera::{Error, Kwargs, Map, State, Tera, TeraResult, Value};

use super::Pass;
use super::filters::{attribute, text_of};

/// The most levels that `explode` makes of one key. Whatever works on a tree of values (printing, comparing, dropping)
/// takes stack for each level.
const LEVELS_MAX: usize = 64;

/// Makes all filters of this module known to `tera`; what one of them leaves out is noted in `pass`.
pub(super) fn register(tera: &mut Tera, pass: &Arc<Mutex<Pass>>) {
    tera.register_filter(
        "group_by",
        |list: &[Value], args: Kwargs, _: &State| -> TeraResult<Value> {
            group_by(list, args.must_get("attribute")?)
        },
    );
    tera.register_filter("by_tag", |list: &[Value], _: Kwargs, _: &State| -> Value {
        grouped(list, |entry| {
            let tags = attribute(entry, "tags").and_then(Value::as_array).unwrap_or_default();
            tags.iter().map(text_of).collect()
        })
    });
    tera.register_filter(
        "by_meta",
        |list: &[Value], args: Kwargs, _: &State| -> TeraResult<Value> {
            let keys: Vec<String> = args.must_get("keys")?;
            Ok(grouped(list, |entry| {
                let value = |key: &String| {
                    let meta = attribute(entry, "meta").and_then(Value::as_map);
                    meta.and_then(|meta| meta.get(&Key::Str(key))).map(text_of).unwrap_or_default()
                };
                vec![keys.iter().map(value).collect::<Vec<_>>().join("_")]
            }))
        },
    );
    let pass = Arc::clone(pass);
    tera.register_filter("explode", move |pairs: &[Value], _: Kwargs, _: &State| {
        let mut pass = pass.lock().unwrap_or_else(PoisonError::into_inner);
        explode(pairs, |key, why| drop(pass.leave_out(&format!("key {key}"), why)))
    });
    tera.register_filter("merge", |value: Value, args: Kwargs, _: &State| -> TeraResult<Value> {
        let (mut map, with) = (value.into_map().unwrap_or_default(), args.must_get::<Map>("with")?);
        map.extend(with);
        Ok(Value::from(map))
    });
    tera.register_filter("insert", |value: Value, args: Kwargs, _: &State| -> TeraResult<Value> {
        let key: &str = args.must_get("key")?;
        let mut map = value.into_map().ok_or_else(|| Error::message("`insert` needs a map"))?;
        map.insert(Key::from(key.to_owned()), args.must_get::<Value>("value")?);
        Ok(Value::from(map))
    });
}

/// Tera's own filter of this name keeps the groups in a hash map, so that they come in another order each time. Texts
/// are in byte order here, numbers by value. Entries whose attribute is `none` are in no group, as there.
fn group_by(list: &[Value], path: &str) -> TeraResult<Value> {
    let mut groups: BTreeMap<Key<'static>, Vec<Value>> = BTreeMap::new();
    for (number, entry) in list.iter().enumerate() {
        let Some(found) = attribute(entry, path) else {
            let message = format!("entry {number} of the list has no attribute `{path}`");
            return Err(Error::message(message));
        };
        if !found.is_none() {
            groups.entry(key_of(found)?).or_default().push(entry.clone());
        }
    }
    Ok(Value::from(groups.into_iter().map(|(key, group)| (key, group.into())).collect::<Map>()))
}

/// A value as the key of a map.
fn key_of(value: &Value) -> TeraResult<Key<'static>> {
    match (value.as_str(), value.as_bool(), value.as_i128()) {
        (Some(text), ..) => Ok(Key::from(text.to_owned())),
        (_, Some(truth), _) => Ok(Key::Bool(truth)),
        (.., Some(number)) if !value.is_f64() => Ok(Key::from(number)),
        _ => Err(Error::message(format!(
            "`{value}` cannot name a group: only texts, integers and truth values can"
        ))),
    }
}

/// Groups entries under each name that `names` gives them, names in byte order.
fn grouped(list: &[Value], names: impl Fn(&Value) -> Vec<String>) -> Value {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in list {
        for name in names(entry) {
            groups.entry(name).or_default().push(entry.clone());
        }
    }
    Value::from(
        groups.into_iter().map(|(name, group)| (name.into(), Value::from(group))).collect::<Map>(),
    )
}

/// Turns pairs `a/b = 1, a/c = 2` into `{a: {b: 1, c: 2}}`. A key of too many levels is left out, and named.
fn explode(pairs: &[Value], mut leave_out: impl FnMut(&str, &str)) -> TeraResult<Value> {
    let mut root = Map::default();
    for pair in pairs {
        let key = attribute(pair, "key")
            .map(text_of)
            .ok_or_else(|| Error::message("an entry has no `key`"))?;
        let value = attribute(pair, "value").cloned().unwrap_or_else(Value::none);
        let parts: Vec<_> = key.split('/').filter(|part| !part.is_empty()).collect();
        if parts.len() > LEVELS_MAX {
            let levels = parts.len();
            let why = format!("it has {levels} levels; `explode` makes at most {LEVELS_MAX}");
            leave_out(&key, &why);
            continue;
        }
        root = insert_path(root, &parts, value).map_err(|()| {
            let key = super::left_out::shown(&key);
            Error::message(format!("{key} is a folder and a key at the same time"))
        })?;
    }
    Ok(Value::from(root))
}

fn insert_path(mut map: Map, parts: &[&str], value: Value) -> Result<Map, ()> {
    let Some((first, rest)) = parts.split_first() else { return Ok(map) };
    let key = Key::from((*first).to_owned());
    if rest.is_empty() {
        if map.get(&key).is_some_and(Value::is_map) {
            return Err(());
        }
        map.insert(key, value);
        return Ok(map);
    }
    let below = match map.get(&key) {
        None => Map::default(),
        Some(below) => below.clone().into_map().ok_or(())?,
    };
    map.insert(key, Value::from(insert_path(below, rest, value)?));
    Ok(map)
}
