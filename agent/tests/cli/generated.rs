//! Configurations put together from keys and from values that fit or do not: what the reference's `validate` accepts is
//! accepted, what it refuses is refused.
//!
//! Each line of `rows/generated.txt` is the reference's verdict, a language, and the text with its line ends escaped;
//! `# ours: why` at the end says that ours differs by intention. `MUSTER_REFERENCE=/path/to/consul` holds the reference
//! against its verdicts; with `MUSTER_RECORD=1` the configurations are put together and judged anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::configurations::{apart, differs, verdict};

/// What a configuration needs beside the key that it is about.
const BASE: [(&str, &str); 2] = [("data_dir", "\"/tmp/nodata\""), ("bind_addr", "\"127.0.0.1\"")];

const DURATIONS: [&str; 5] = ["\"10s\"", "\"1h30m\"", "\"-1s\"", "\"10\"", "7"];
const NUMBERS: [&str; 5] = ["0", "3", "-1", "\"3\"", "[]"];
const SWITCHES: [&str; 4] = ["true", "\"true\"", "1", "{}"];
const TEXTS: [&str; 4] = ["\"x\"", "\"\"", "5", "[\"x\", \"y\"]"];
const LISTS: [&str; 4] = ["[\"127.0.0.1\"]", "\"127.0.0.1\"", "[1]", "{\"a\": 1}"];
const PAIRS: [&str; 4] = ["{\"a\": \"b\"}", "[{\"a\": \"b\"}, {\"c\": \"d\"}]", "{\"a\": {}}", "7"];

/// Keys by the values that are tried on each.
const KEYS: [(&[&str], &[&str]); 6] = [
    (
        &[
            "autopilot.last_contact_threshold",
            "autopilot.server_stabilization_time",
            "check_update_interval",
            "discovery_max_stale",
            "dns_config.max_stale",
            "dns_config.node_ttl",
            "dns_config.recursor_timeout",
            "dns_config.cache_max_age",
            "gossip_lan.gossip_interval",
            "gossip_lan.probe_timeout",
            "limits.rpc_handshake_timeout",
            "log_rotate_duration",
            "max_query_time",
            "performance.leave_drain_time",
            "performance.rpc_hold_timeout",
            "reconnect_timeout",
            "retry_interval",
            "session_ttl_min",
        ],
        &DURATIONS,
    ),
    (
        &[
            "autopilot.max_trailing_logs",
            "autopilot.min_quorum",
            "bootstrap_expect",
            "check_output_max_size",
            "dns_config.a_record_limit",
            "dns_config.udp_answer_limit",
            "dns_config.soa.refresh",
            "gossip_lan.gossip_nodes",
            "gossip_lan.suspicion_mult",
            "limits.http_max_conns_per_client",
            "limits.kv_max_value_size",
            "limits.rpc_max_burst",
            "limits.rpc_rate",
            "log_rotate_max_files",
            "performance.raft_multiplier",
            "ports.http",
            "ports.serf_wan",
            "raft_snapshot_threshold",
            "raft_trailing_logs",
            "retry_max",
        ],
        &NUMBERS,
    ),
    (
        &[
            "autopilot.cleanup_dead_servers",
            "bootstrap",
            "disable_remote_exec",
            "discard_check_output",
            "dns_config.allow_stale",
            "dns_config.only_passing",
            "enable_local_script_checks",
            "enable_syslog",
            "encrypt_verify_incoming",
            "leave_on_terminate",
            "log_json",
            "rejoin_after_leave",
            "server",
        ],
        &SWITCHES,
    ),
    (
        &[
            "advertise_addr",
            "alt_domain",
            "client_addr",
            "datacenter",
            "domain",
            "encrypt",
            "log_file",
            "node_id",
            "node_name",
            "pid_file",
            "serf_lan",
            "addresses.http",
            "unix_sockets.mode",
            "unix_sockets.user",
        ],
        &TEXTS,
    ),
    (
        &[
            "http_config.allow_origins",
            "http_config.allow_write_http_from",
            "http_config.block_endpoints",
            "recursors",
            "retry_join",
            "serf_lan_allowed_cidrs",
            "start_join",
        ],
        &LISTS,
    ),
    (
        &[
            "dns_config.service_ttl",
            "http_config.response_headers",
            "node_meta",
            "tagged_addresses",
        ],
        &PAIRS,
    ),
];

/// Values that are about the key alone.
const SPECIAL: [(&str, &str); 44] = [
    ("node_meta", r#"{"consul-x": "1"}"#),
    ("node_meta", r#"{"a b": "1"}"#),
    ("node_meta", r#"{"": "1"}"#),
    ("datacenter", r#""a.b""#),
    ("datacenter", r#""Ab_c-1""#),
    ("encrypt", r#""AAAAAAAAAAAAAAAAAAAAAA==""#),
    ("encrypt", r#""AAAA""#),
    ("ports.dns", "65535"),
    ("ports.dns", "65536"),
    ("ports.server", "-1"),
    ("ports.serf_lan", "8500"),
    ("client_addr", r#""127.0.0.1 ::1""#),
    ("client_addr", r#""0.0.0.0""#),
    ("advertise_addr", r#""::""#),
    ("advertise_addr", r#""{{ GetPrivateIP""#),
    ("addresses.http", r#""unix:///tmp/s.sock""#),
    ("addresses.dns", r#""unix:///tmp/s.sock""#),
    ("recursors", r#"["8.8.8.8:5353", "[::1]:53"]"#),
    ("recursors", r#"["no.such.name"]"#),
    ("dns_config.service_ttl", r#"{"*": "5s", "web*": "1s", "db": "0s"}"#),
    ("dns_config.service_ttl", r#"{"*": "soon"}"#),
    ("dns_config.soa", r#"{"refresh": 1, "retry": 2, "expire": 3, "min_ttl": 4}"#),
    ("dns_config.soa", r#"{"refresh": 1, "serial": 4}"#),
    ("performance.raft_multiplier", "11"),
    ("log_level", r#""TRACE""#),
    ("syslog_facility", r#""LOCAL7""#),
    ("watches", r#"[{"type": "nodes", "args": ["true"]}]"#),
    ("watches", r#"[{"type": "nodes"}]"#),
    ("watches", r#"[{"type": "sun", "args": ["true"]}]"#),
    ("watches", r#"[{"type": "service", "args": ["true"]}]"#),
    ("watches", r#"[{"type": "checks", "service": "a", "state": "b", "args": ["true"]}]"#),
    (
        "watches",
        r#"[{"type": "key", "key": "k", "handler_type": "http", "http_handler_config": {"path": "http://a/b"}}]"#,
    ),
    ("watches", r#"[{"type": "key", "key": "k", "handler_type": "http"}]"#),
    ("watches", r#"[{"type": "keyprefix", "args": "true"}]"#),
    ("service", r#"{"name": "a", "checks": [{"ttl": "1s"}, {"tcp": "a:1", "interval": "1s"}]}"#),
    ("service", r#"{"name": "a", "check": {"http": "http://a"}}"#),
    ("service", r#"{"name": "a", "weights": {"passing": 1, "warning": 70000}}"#),
    ("service", r#"{"name": "a", "weights": {"passing": -1, "warning": 1}}"#),
    ("service", r#"{"id": "a"}"#),
    ("service", r#"{"name": "a", "meta": {"a b": "c"}}"#),
    (
        "service",
        r#"{"name": "a", "tagged_addresses": {"wan": {"address": "1.2.3.4", "port": 80}}}"#,
    ),
    ("services", r#"[{"name": "a"}, {"name": "a"}]"#),
    ("service", r#"{"name": "a", "port": "80"}"#),
    (
        "service",
        r#"{"name": "a", "address": "unix:///x", "enable_tag_override": true, "tags": "t"}"#,
    ),
];

/// Values of a check, beside its name.
const CHECKS: [&str; 24] = [
    r#""ttl": "10s""#,
    r#""ttl": "10""#,
    r#""ttl": 10"#,
    r#""ttl": "10s", "interval": "10s""#,
    r#""args": ["true"], "interval": "10s", "timeout": "1s""#,
    r#""args": "true", "interval": "10s""#,
    r#""args": [1], "interval": "10s""#,
    r#""script": "true", "interval": "10s""#,
    r#""args": ["true"]"#,
    r#""http": "http://a", "interval": "10s", "header": {"a": ["b"]}, "method": "PUT""#,
    r#""http": "http://a", "interval": "10s", "header": {"a": "b"}"#,
    r#""http": "a b", "interval": "10s""#,
    r#""http": "http://a", "interval": "0s""#,
    r#""http": "http://a", "interval": "-1s""#,
    r#""tcp": "a:1", "interval": "1ms", "timeout": "x""#,
    r#""tcp": "a", "interval": "1s""#,
    r#""grpc": "a:1/b", "grpc_use_tls": true, "interval": "1s""#,
    r#""docker_container_id": "c", "args": ["a"], "interval": "1s", "shell": "/bin/sh""#,
    r#""docker_container_id": "c", "interval": "1s""#,
    r#""alias_service": "a""#,
    r#""alias_node": "n", "interval": "1s""#,
    r#""ttl": "1s", "status": "fine""#,
    r#""ttl": "1s", "success_before_passing": -1, "failures_before_critical": "2""#,
    r#""ttl": "1s", "deregister_critical_service_after": "x", "service_id": "none""#,
];

/// A key and its value, as part of an object.
fn put(object: &mut Value, path: &str, value: Value) {
    match path.split_once('.') {
        None => object[path] = value,
        Some((first, rest)) => {
            if object[first].is_null() {
                object[first] = json!({});
            }
            put(&mut object[first], rest, value);
        }
    }
}

/// The object in the other language: its first level as blocks where that is possible.
fn hcl(object: &Value) -> String {
    let mut text = String::new();
    for (number, (key, value)) in object.as_object().unwrap().iter().enumerate() {
        let value = match value {
            Value::Object(fields) if !fields.is_empty() => {
                let inner = hcl(value).replace('\n', "\n  ");
                format!("{key} {{\n  {}\n}}", inner.trim_end())
            }
            value if number % 2 == 1 => format!("\"{key}\" = {value} // as written"),
            value => format!("{key} = {value}"),
        };
        writeln!(text, "{value}").unwrap();
    }
    text
}

/// All configurations, one in three in the other language.
fn all() -> Vec<(&'static str, String)> {
    let mut objects = Vec::new();
    let mut add = |pairs: &[(&str, &str)]| {
        let mut object = json!({});
        for (path, value) in pairs {
            put(&mut object, path, serde_json::from_str(value).expect(value));
        }
        objects.push(object);
    };
    let with = |pair: (&'static str, &'static str)| [BASE[0], BASE[1], pair];
    for (keys, values) in KEYS {
        for (at, key) in keys.iter().enumerate() {
            // Each key with three of the values, so that each value meets many keys.
            for step in 0..3 {
                let value = values[(at + step * 2) % values.len()];
                if !BASE.iter().any(|(known, _)| known == key) {
                    add(&with((key, value)));
                }
            }
        }
    }
    for pair in SPECIAL {
        add(&with(pair));
    }
    for check in CHECKS {
        let node = format!("{{\"name\": \"c\", {check}}}");
        let service = format!("{{\"name\": \"s\", \"check\": {{{check}}}}}");
        for enabled in ["enable_script_checks", "log_json"] {
            add(&[BASE[0], BASE[1], (enabled, "true"), ("check", &node)]);
        }
        add(&[BASE[0], BASE[1], ("enable_local_script_checks", "true"), ("service", &service)]);
    }
    let written = objects.iter().enumerate().map(|(at, object)| match at % 3 {
        2 => ("hcl", hcl(object)),
        _ => ("json", object.to_string()),
    });
    written.collect()
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/rows/generated.txt")
}

/// Verdict, language, text, and why ours differs.
fn rows() -> Vec<(String, String, String, String)> {
    let text = fs::read_to_string(table()).unwrap_or_default();
    let row = |line: &str| {
        let (line, ours) = line.split_once(" # ours: ").unwrap_or((line, ""));
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut next = || words.next().unwrap();
        let (recorded, language, text) = (next(), next(), next());
        (recorded, language, text.replace("\\n", "\n"), ours.to_owned())
    };
    text.lines().map(row).collect()
}

fn judged_by(reference: &str, file: &Path) -> &'static str {
    let output = Command::new(reference).arg("validate").arg(file).output().unwrap();
    if output.status.success() { "valid" } else { "invalid" }
}

#[test]
fn generated_configurations_are_judged_as_by_the_reference() {
    let temporary = tempfile::tempdir().unwrap();
    let mut rows = rows();
    if let Ok(reference) = std::env::var("MUSTER_REFERENCE") {
        let records = std::env::var_os("MUSTER_RECORD").is_some();
        if records {
            let known = std::mem::take(&mut rows);
            rows = all()
                .into_iter()
                .map(|(language, text)| {
                    let ours = known.iter().find(|row| row.2 == text);
                    let ours = ours.map(|row| row.3.clone()).unwrap_or_default();
                    (String::new(), language.to_owned(), text, ours)
                })
                .collect();
        }
        let mut wrong = String::new();
        for (recorded, language, text, _) in &mut rows {
            let file = temporary.path().join(format!("c.{language}"));
            fs::write(&file, apart(text, temporary.path())).unwrap();
            let judged = judged_by(&reference, &file);
            if records {
                judged.clone_into(recorded);
            } else if recorded != judged {
                writeln!(wrong, "recorded {recorded}: {text}").unwrap();
            }
        }
        assert!(wrong.is_empty(), "the reference:\n{wrong}");
        if records {
            let mut text = String::new();
            for (recorded, language, body, ours) in &rows {
                write!(text, "{recorded} {language} {}", body.replace('\n', "\\n")).unwrap();
                let ours = if ours.is_empty() { String::new() } else { format!(" # ours: {ours}") };
                writeln!(text, "{ours}").unwrap();
            }
            fs::write(table(), text).unwrap();
        }
    }
    assert!(rows.len() >= 300, "{}", rows.len());
    let mut wrong = String::new();
    for (recorded, language, text, ours) in &rows {
        let file = temporary.path().join(format!("c.{language}"));
        fs::write(&file, apart(text, temporary.path())).unwrap();
        let intended = if ours.is_empty() { String::new() } else { format!(" # ours: {ours}") };
        let found = verdict(&file);
        if differs(&format!("{recorded}{intended}"), &found) {
            writeln!(wrong, "{recorded}: {text}\n    ours {found:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
