//! Every key that is accepted does something: it changes the resolved configuration in a field that is read outside
//! this folder, or the start says that it has no effect.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::{Fate, KEYS, Kind};
use super::written::Written;
use super::*;

/// Values for keys that take not just any, and what else must be written for them to count.
fn special(path: &str) -> Option<(Value, Value)> {
    let server = || json!({"server": true});
    let client = || json!({"server": false});
    let found = match path {
        "addresses.dns"
        | "addresses.http"
        | "advertise_addr"
        | "advertise_addr_ipv4"
        | "advertise_addr_wan"
        | "bind_addr"
        | "client_addr"
        | "serf_lan" => (json!("127.0.0.9"), json!({})),
        "advertise_addr_ipv6" => (json!("fd00::9"), json!({"bind_addr": "::1"})),
        "advertise_reconnect_timeout" => (json!("77s"), client()),
        "acl.default_policy" | "acl_default_policy" | "acl.down_policy" | "acl_down_policy" => {
            (json!("deny"), json!({}))
        }
        "alt_domain" | "domain" => (json!("other."), json!({})),
        "bootstrap" => (json!(true), server()),
        "bootstrap_expect" => (json!(3), server()),
        "check" | "checks" => (json!({"name": "proof", "ttl": "1s"}), json!({})),
        "check_flap_window" => (json!("77s"), json!({"check_flap_limit": 3})),
        "data_dir" => (json!("/tmp/other"), json!({})),
        "datacenter" => (json!("other"), json!({})),
        "dns_config.recursor_strategy" => (json!("random"), json!({})),
        "dns_config.service_ttl" => (json!({"*": "7s"}), json!({})),
        "encrypt" => (json!("AAAAAAAAAAAAAAAAAAAAAA=="), json!({})),
        "http_config.allow_origins" => (json!(["https://ui.example"]), json!({})),
        "http_config.allow_write_http_from" | "serf_lan_allowed_cidrs" => {
            (json!(["10.0.0.0/8"]), json!({}))
        }
        "limits.request_limits.mode" => (json!("enforcing"), json!({})),
        "limits.rpc_max_burst" => (json!(7), json!({"limits": {"rpc_rate": 5.5}})),
        "log_level" => (json!("warn"), json!({})),
        "log_rotate_bytes" | "log_rotate_max_files" => (json!(7), json!({"log_file": "/tmp/x"})),
        "log_rotate_duration" => (json!("77s"), json!({"log_file": "/tmp/x"})),
        "node_id" => (json!("5d4c1a2e-5b7b-4c55-9d06-9a1a0e1d1f10"), json!({})),
        "raft_logstore.backend" => (json!("sled"), json!({})),
        "segment" => (json!("blue"), client()),
        "segments" => (json!({"name": "blue", "port": 7001}), server()),
        "server" => (json!(true), json!({})),
        "service" | "services" => (json!({"name": "proof"}), json!({})),
        "syslog_facility" => (json!("LOCAL7"), json!({"enable_syslog": true})),
        "unix_sockets.group" | "unix_sockets.user" => (json!("7"), json!({})),
        "unix_sockets.mode" => (json!("0770"), json!({})),
        "watches" => (json!({"type": "nodes", "args": ["true"]}), json!({})),
        _ => return None,
    };
    Some(found)
}

/// Values to try on any other key of a kind.
fn usual(kind: Kind) -> Vec<Value> {
    match kind {
        Kind::Str | Kind::Any => vec![json!("proof")],
        Kind::Int | Kind::Port => vec![json!(7), json!(7007)],
        Kind::Bool => vec![json!(true), json!(false)],
        Kind::Duration => vec![json!("77s")],
        Kind::List => vec![json!(["10.9.9.9"])],
        Kind::Map => vec![json!({"k": "v"})],
        Kind::Definitions => vec![json!({"name": "proof"})],
        Kind::Float => vec![json!(7.5)],
    }
}

fn put(into: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        Some((block, rest)) => {
            let inner = into.entry(block).or_insert_with(|| json!({}));
            put(inner.as_object_mut().expect("a block"), rest, value);
        }
        None => {
            into.insert(path.to_owned(), value);
        }
    }
}

/// The resolved configuration, line by line, and what is said at the start; or why there is none.
fn shown(object: Map<String, Value>) -> Result<(Vec<String>, Vec<String>), String> {
    let written = Written::from_value(Value::Object(object)).map_err(|e| e.0)?;
    let mut config = resolve(&written, false).map_err(|e| e.0)?;
    config.written = Written::default();
    let said = std::mem::take(&mut config.warnings);
    Ok((format!("{config:#?}").lines().map(str::to_owned).collect(), said))
}

/// The fields in which the first difference lies, the innermost first.
fn changed(before: &[String], after: &[String]) -> Vec<String> {
    let Some(first) = (0..after.len()).find(|at| before.get(*at) != after.get(*at)) else {
        return Vec::new();
    };
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut fields = Vec::new();
    let mut inside = usize::MAX;
    for line in after[..=first].iter().rev() {
        if depth(line) < inside {
            inside = depth(line);
            let name = line.trim_start().split(':').next().unwrap_or_default();
            let is_field = line.trim_start().contains(": ")
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_field {
                fields.push(name.to_owned());
            }
        }
    }
    fields
}

/// The modules of the agent that may read what is below a field of [`Config`].
fn readers(field: &str) -> &'static [&'static str] {
    match field {
        "acl" => &["acl", "http", "node"],
        "dns" => &["dns"],
        "gossip" => &["gossip", "net", "node"],
        "http" | "http_rates" => &["http", "net", "node", "read"],
        "local" => &["checks", "local", "net"],
        "log" => &["telemetry"],
        "raft" => &["raft", "store"],
        "read" => &["read"],
        "rpc_limits" => &["rpc"],
        "segments" => &["gossip", "node"],
        "upstream" => &["read", "upstream"],
        "watches" | "wrong_watches" => &["watches", "node", "config/judge"],
        _ => &["cli", "node"],
    }
}

/// All sources of the agent by module, and the one file here that reads what was resolved.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name != "config" {
            collect(&path, modules.entry(name).or_default());
        }
    }
    collect(&root.join("config/judge.rs"), modules.entry("config/judge".to_owned()).or_default());
    modules
}

fn collect(path: &Path, text: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), text);
        }
    } else if path.extension().is_some_and(|end| end == "rs") {
        *text += &fs::read_to_string(path).unwrap();
    }
}

/// Is each of these fields, the innermost first, read where it belongs?
fn unread(fields: &[String], modules: &BTreeMap<String, String>) -> Option<String> {
    let root = fields.last()?;
    let (inner, whole) = (readers(root), readers(""));
    let read = |field: &String, by: &[&str]| {
        by.iter().filter_map(|name| modules.get(*name)).any(|text| is_read(field, text))
    };
    fields
        .iter()
        .find(|field| {
            let by = if *field == root { [inner, whole].concat() } else { inner.to_vec() };
            !read(field, &by)
        })
        .cloned()
}

/// Is a field read somewhere: by its name behind a dot, or taken out of its struct by a pattern?
fn is_read(field: &str, sources: &str) -> bool {
    sources.match_indices(field).any(|(at, _)| {
        let (before, after) = (&sources[..at], &sources[at + field.len()..]);
        let whole = |c: char| !c.is_alphanumeric() && c != '_';
        let by_name = before.ends_with('.') && after.starts_with(whole);
        let taken_out = (before.ends_with("{ ") || before.ends_with(", "))
            && (after.starts_with(',') || after.starts_with(" }"));
        by_name || taken_out
    })
}

#[test]
fn every_key_is_read_or_said_to_have_no_effect() {
    let modules = sources();
    let mut wrong = Vec::new();
    for (path, kind, fate) in KEYS {
        if !matches!(fate, Fate::Used | Fate::Live) {
            continue;
        }
        let (values, around) = match special(path) {
            Some((value, around)) => (vec![value], around),
            None => (usual(*kind), json!({})),
        };
        let mut base =
            json!({"data_dir": "/tmp/nodata", "bind_addr": "127.0.0.1", "node_name": "n"});
        let base = base.as_object_mut().expect("an object");
        base.extend(around.as_object().expect("an object").clone());
        let before = shown(base.clone()).unwrap_or_else(|error| panic!("around {path}: {error}"));
        let mut why = String::from("it changes nothing");
        let proven = values.into_iter().any(|value| {
            let mut with = base.clone();
            put(&mut with, path, value);
            match shown(with) {
                Err(error) => {
                    why = error;
                    false
                }
                Ok((_, said)) if said != before.1 => true,
                Ok((after, _)) => {
                    let fields = changed(&before.0, &after);
                    let unread = unread(&fields, &modules);
                    if let Some(field) = &unread {
                        why = format!("nobody reads `{}`: {field}", fields.join("` of `"));
                    }
                    !fields.is_empty() && unread.is_none()
                }
            }
        });
        if !proven {
            wrong.push(format!("{path}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_nobody_reads_is_found() {
    let line = |text: &str| text.to_owned();
    let before =
        [line("Config {"), line("    limits: Limits {"), line("        time: 1s,"), line("    },")];
    let after =
        [line("Config {"), line("    limits: Limits {"), line("        time: 2s,"), line("    },")];
    assert_eq!(changed(&before, &after), ["time", "limits"]);
    assert!(changed(&before, &before).is_empty());
    assert!(is_read("time", "let x = limits.time;") && !is_read("time", "limits.timer, time: 1"));
    assert!(is_read("time", "let Limits { more, time } = limits;"));
    let modules = |module: &str| {
        let text = "limits.time; config.rpc_limits;".to_owned();
        BTreeMap::from([(module.to_owned(), text.clone()), ("node".to_owned(), text)])
    };
    let fields = ["time", "rpc_limits"].map(str::to_owned);
    assert_eq!(unread(&fields, &modules("rpc")), None);
    // A field of the same name elsewhere is another one.
    assert_eq!(unread(&fields, &modules("dns")), Some("time".to_owned()));
}
