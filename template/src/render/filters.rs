//! The filters and tests added to Tera's own: lists of maps, other formats, and words for nginx.
//!
//! All of them are pure and give the same text for the same input, on every machine and at every time.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use regex::Regex;
use sha2::{Digest, Sha256};
use tera::{Error, Kwargs, State, Tera, TeraResult, Value};

use super::{encode, names};

/// Makes all filters and tests known to `tera`.
pub(super) fn register(tera: &mut Tera) {
    tera.register_filter(
        "trim_prefix",
        |text: &str, args: Kwargs, _: &State| -> TeraResult<String> {
            let prefix: &str = args.must_get("p")?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).to_owned())
        },
    );
    tera.register_filter(
        "trim_suffix",
        |text: &str, args: Kwargs, _: &State| -> TeraResult<String> {
            let suffix: &str = args.must_get("p")?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).to_owned())
        },
    );
    tera.register_filter(
        "regex_replace",
        |text: &str, args: Kwargs, _: &State| -> TeraResult<String> {
            let with: &str = args.must_get("with")?;
            Ok(regex(args.must_get("re")?)?.replace_all(text, with).into_owned())
        },
    );
    tera.register_filter("quote", |text: &str, _: Kwargs, _: &State| -> TeraResult<String> {
        serde_json::to_string(text).map_err(Error::message)
    });
    tera.register_filter("nginx_quote", |text: &str, _: Kwargs, _: &State| -> TeraResult<String> {
        encode::nginx_quote(text).map_err(Error::message)
    });
    tera.register_filter("nginx_name", |text: &str, _: Kwargs, _: &State| encode::nginx_name(text));
    tera.register_filter(
        "host_names",
        |list: &[Value], args: Kwargs, _: &State| -> TeraResult<Value> {
            Ok(names::host_names(list, args.get("first")?.unwrap_or_default()))
        },
    );
    tera.register_filter("addr", |instance: Value, _: Kwargs, _: &State| addr(&instance));
    tera.register_filter(
        "base64_encode",
        |text: &str, args: Kwargs, _: &State| -> TeraResult<String> {
            let url = args.get::<bool>("url")?.unwrap_or_default();
            Ok(if url { URL_SAFE.encode(text) } else { STANDARD.encode(text) })
        },
    );
    tera.register_filter(
        "base64_decode",
        |text: &str, args: Kwargs, _: &State| -> TeraResult<String> {
            let url = args.get::<bool>("url")?.unwrap_or_default();
            let bytes = if url { URL_SAFE.decode(text) } else { STANDARD.decode(text) }
                .map_err(Error::message)?;
            String::from_utf8(bytes)
                .map_err(|_| Error::message("the decoded bytes are not UTF-8 text"))
        },
    );
    tera.register_filter("sha256", |text: &str, _: Kwargs, _: &State| {
        encode::hex(&Sha256::digest(text))
    });
    tera.register_filter("from_json", |text: &str, _: Kwargs, _: &State| {
        parse_json(text).map_err(Error::message)
    });
    tera.register_filter("from_toml", |text: &str, _: Kwargs, _: &State| {
        parse_toml(text).map_err(Error::message)
    });
    tera.register_filter("parse_bool", |text: &str, _: Kwargs, _: &State| {
        parse_bool_text(text.trim()).map_err(Error::message)
    });
    tera.register_filter(
        "to_json",
        |value: Value, args: Kwargs, _: &State| -> TeraResult<String> {
            let pretty = args.get::<bool>("pretty")?.unwrap_or_default();
            let text = if pretty {
                serde_json::to_string_pretty(&value)
            } else {
                serde_json::to_string(&value)
            };
            text.map_err(Error::message)
        },
    );
    register_lists(tera);
    tera.register_test("ip_address", |value: Value, _: Kwargs, _: &State| is_ip(&value));
    tera.register_test("matching", |text: &str, args: Kwargs, _: &State| -> TeraResult<bool> {
        Ok(regex(args.must_get("re")?)?.is_match(text))
    });
}

fn register_lists(tera: &mut Tera) {
    tera.register_filter("where", |list: &[Value], args: Kwargs, _: &State| {
        keep_where(list, &args)
    });
    tera.register_filter("map", |list: &[Value], args: Kwargs, _: &State| -> TeraResult<Value> {
        let path: &str = args.must_get("attr")?;
        Ok(Value::from(
            list.iter().filter_map(|entry| attribute(entry, path).cloned()).collect::<Vec<_>>(),
        ))
    });
    tera.register_filter(
        "sort_by",
        |list: &[Value], args: Kwargs, _: &State| -> TeraResult<Value> {
            let path: &str = args.must_get("attr")?;
            let mut sorted = list.to_vec();
            // Stable, so that equal entries keep the order they came in.
            sorted.sort_by(|a, b| attribute(a, path).cmp(&attribute(b, path)));
            Ok(Value::from(sorted))
        },
    );
    tera.register_filter(
        "concat",
        |list: &[Value], args: Kwargs, _: &State| -> TeraResult<Value> {
            let with: &[Value] = args.must_get("with")?;
            Ok(Value::from([list, with].concat()))
        },
    );
    for (name, wanted) in
        [("contains_all", Share::All), ("contains_any", Share::Any), ("contains_none", Share::None)]
    {
        tera.register_filter(
            name,
            move |list: &[Value], args: Kwargs, _: &State| -> TeraResult<bool> {
                let values: &[Value] = args.must_get("v")?;
                let found = values.iter().filter(|value| list.contains(value)).count();
                Ok(match wanted {
                    Share::All => found == values.len(),
                    Share::Any => found > 0,
                    Share::None => found == 0,
                })
            },
        );
    }
    for (name, pick) in [("max", std::cmp::Ordering::Greater), ("min", std::cmp::Ordering::Less)] {
        tera.register_filter(
            name,
            move |list: &[Value], _: Kwargs, _: &State| -> TeraResult<Value> {
                let better = |a: Value, b: &Value| if b.cmp(&a) == pick { b.clone() } else { a };
                let (first, rest) =
                    list.split_first().ok_or_else(|| Error::message("the list is empty"))?;
                Ok(rest.iter().fold(first.clone(), better))
            },
        );
    }
    tera.register_filter("sum", |list: &[Value], _: Kwargs, _: &State| -> TeraResult<Value> {
        let no_number = || Error::message("the list has an entry that is not an integer");
        let sum = list.iter().try_fold(0_i64, |sum, entry| sum.checked_add(entry.as_i64()?));
        sum.map(Value::from).ok_or_else(no_number)
    });
}

/// How many of the values must be in the list.
#[derive(Clone, Copy)]
enum Share {
    All,
    Any,
    None,
}

/// The part of `value` that `path` (`meta.zone`, `weights.passing`) leads to. Keys that contain dots themselves are
/// found too, as long as they are the last part: `meta.example.com/zone`.
pub(super) fn attribute<'v>(value: &'v Value, path: &'v str) -> Option<&'v Value> {
    let map = value.as_map()?;
    if let Some(found) = map.get(&tera::value::Key::Str(path)) {
        return Some(found);
    }
    let (first, rest) = path.split_once('.')?;
    attribute(map.get(&tera::value::Key::Str(first))?, rest)
}

/// Whether the entry's `tags` contain `tag`.
pub(super) fn has_tag(entry: &Value, tag: &str) -> bool {
    let tags = attribute(entry, "tags").and_then(Value::as_array).unwrap_or_default();
    tags.iter().any(|one| one.as_str() == Some(tag))
}

/// A value as it would be printed.
pub(super) fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `where(attr=, eq=|ne=|gt=|lt=|in=|re=|contains=|ip=)`: all given conditions must hold. Without one, the attribute must
/// be there and be truthy.
fn keep_where(list: &[Value], args: &Kwargs) -> TeraResult<Value> {
    const KNOWN: [&str; 9] = ["attr", "eq", "ne", "gt", "lt", "in", "re", "contains", "ip"];
    if let Some((unknown, _)) =
        args.iter().find(|(name, _)| name.as_str().is_none_or(|name| !KNOWN.contains(&name)))
    {
        return Err(Error::message(format!(
            "`where` has no argument `{unknown}`; one of {}",
            KNOWN.join(", ")
        )));
    }
    let path: &str = args.must_get("attr")?;
    let expression = args.get::<&str>("re")?.map(regex).transpose()?;
    let argument = |name| args.get::<&Value>(name);
    let (eq, ne, gt, lt) = (argument("eq")?, argument("ne")?, argument("gt")?, argument("lt")?);
    let (within, contains) = (argument("in")?, argument("contains")?);
    let ip = args.get::<bool>("ip")?;
    let bare = ip.is_none()
        && expression.is_none()
        && [eq, ne, gt, lt, within, contains].iter().all(Option::is_none);
    let holds = |entry: &&Value| {
        let found = attribute(entry, path);
        if bare {
            return found.is_some_and(Value::is_truthy);
        }
        // `ne` is the one condition that an absent attribute fulfils.
        let Some(found) = found else {
            return ne.is_some()
                && ip.is_none()
                && expression.is_none()
                && [eq, gt, lt, within, contains].iter().all(Option::is_none);
        };
        eq.is_none_or(|other| found == other)
            && ne.is_none_or(|other| found != other)
            && gt.is_none_or(|other| found > other)
            && lt.is_none_or(|other| found < other)
            && within.is_none_or(|list| list.as_array().is_some_and(|list| list.contains(found)))
            && contains.is_none_or(|part| contains_part(found, part))
            && ip.is_none_or(|wanted| wanted == is_ip(found))
            && expression.as_ref().is_none_or(|expression| expression.is_match(&text_of(found)))
    };
    Ok(Value::from(list.iter().filter(holds).cloned().collect::<Vec<_>>()))
}

fn is_ip(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

fn contains_part(whole: &Value, part: &Value) -> bool {
    match (whole.as_array(), whole.as_str(), part.as_str()) {
        (Some(list), _, _) => list.contains(part),
        (_, Some(text), Some(part)) => text.contains(part),
        _ => false,
    }
}

/// An instance as `host:port`.
fn addr(instance: &Value) -> TeraResult<String> {
    let host = attribute(instance, "address").and_then(Value::as_str);
    let port = attribute(instance, "port").and_then(Value::as_u64);
    match (host, port) {
        (Some(host), Some(port)) => Ok(encode::host_port(host, port)),
        _ => Err(Error::message(
            "`addr` needs a value with `address` and `port`, such as an instance",
        )),
    }
}

fn regex(expression: &str) -> TeraResult<Regex> {
    Regex::new(expression)
        .map_err(|error| Error::message(format!("`{expression}` is not an expression: {error}")))
}

/// JSON text as a value.
pub(super) fn parse_json(text: &str) -> Result<Value, String> {
    let parsed: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    Value::try_from_serializable(&parsed).map_err(|error| error.to_string())
}

/// TOML text as a value.
pub(super) fn parse_toml(text: &str) -> Result<Value, String> {
    let parsed: toml::Table =
        toml::from_str(text).map_err(|error| format!("not TOML: {}", error.message()))?;
    Value::try_from_serializable(&parsed).map_err(|error| error.to_string())
}

/// The spellings of a truth value that Go's `ParseBool` knows, as consul-template's templates rely on them.
pub(super) fn parse_bool_text(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{text}` is not a truth value")),
    }
}
