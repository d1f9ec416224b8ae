//! The flags of `muster agent`, each of which is another spelling of a configuration key.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Error;
use super::written::Written;

/// Type of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Text,
    Int,
    /// Stands alone; `-flag=false` is possible.
    Switch,
    /// May come several times.
    Texts,
    /// `key:value`, may come several times.
    Pairs,
}

/// `(flag, key, type, help)`, in alphabetical order.
const FLAGS: &[(&str, &str, Takes, &str)] = &[
    ("advertise", "advertise_addr", Takes::Text, "Address under which others reach this agent."),
    ("advertise-wan", "advertise_addr_wan", Takes::Text, "The same, for other datacenters."),
    (
        "allow-write-http-from",
        "http_config.allow_write_http_from",
        Takes::Texts,
        "Network (CIDR) whose HTTP requests may change things. May be repeated.",
    ),
    ("alt-domain", "alt_domain", Takes::Text, "A second DNS domain."),
    (
        "auto-reload-config",
        "auto_reload_config",
        Takes::Switch,
        "Reload when configuration files change.",
    ),
    ("bind", "bind_addr", Takes::Text, "Address for traffic between agents."),
    ("bootstrap", "bootstrap", Takes::Switch, "This server may elect itself."),
    ("bootstrap-expect", "bootstrap_expect", Takes::Int, "Wait for this many servers, then elect."),
    (
        "check_output_max_size",
        "check_output_max_size",
        Takes::Int,
        "Bytes of a check's output that are kept.",
    ),
    (
        "client",
        "client_addr",
        Takes::Text,
        "Address for HTTP and DNS. Several: separate by spaces.",
    ),
    ("data-dir", "data_dir", Takes::Text, "Folder for everything that must survive a restart."),
    ("datacenter", "datacenter", Takes::Text, "Name of this agent's datacenter."),
    (
        "default-query-time",
        "default_query_time",
        Takes::Text,
        "How long a blocking query waits if it does not say.",
    ),
    ("disable-host-node-id", "disable_host_node_id", Takes::Switch, "Kept for scripts; always so."),
    ("disable-keyring-file", "disable_keyring_file", Takes::Switch, "Kept for scripts."),
    ("dns-port", "ports.dns", Takes::Int, "DNS port; -1 turns it off."),
    ("domain", "domain", Takes::Text, "DNS domain, `consul.` by default."),
    (
        "enable-local-script-checks",
        "enable_local_script_checks",
        Takes::Switch,
        "Allow script checks from configuration files.",
    ),
    (
        "enable-script-checks",
        "enable_script_checks",
        Takes::Switch,
        "Allow script checks from anywhere, the HTTP API included.",
    ),
    ("encrypt", "encrypt", Takes::Text, "Gossip encryption key."),
    ("grpc-port", "ports.grpc", Takes::Int, "Kept for scripts; belongs to the mesh."),
    ("http-port", "ports.http", Takes::Int, "HTTP port; -1 turns it off."),
    ("https-port", "ports.https", Takes::Int, "HTTPS port; -1 turns it off."),
    ("join", "start_join", Takes::Texts, "Agent to join at start. May be repeated."),
    ("join-wan", "start_join_wan", Takes::Texts, "The same, in another datacenter."),
    ("log-file", "log_file", Takes::Text, "File for the log."),
    ("log-json", "log_json", Takes::Switch, "Log as JSON."),
    ("log-level", "log_level", Takes::Text, "trace, debug, info, warn or err."),
    ("log-rotate-bytes", "log_rotate_bytes", Takes::Int, "Rotate the log file at this size."),
    ("log-rotate-duration", "log_rotate_duration", Takes::Text, "Rotate the log file at this age."),
    ("log-rotate-max-files", "log_rotate_max_files", Takes::Int, "Old log files to keep."),
    (
        "max-query-time",
        "max_query_time",
        Takes::Text,
        "The longest that a blocking query may wait.",
    ),
    ("node", "node_name", Takes::Text, "This node's name; the host's name by default."),
    ("node-id", "node_id", Takes::Text, "This node's UUID; made once and kept by default."),
    ("node-meta", "node_meta", Takes::Pairs, "key:value of this node. May be repeated."),
    ("pid-file", "pid_file", Takes::Text, "File for the process id."),
    ("raft-protocol", "raft_protocol", Takes::Int, "Kept for scripts."),
    ("recursor", "recursors", Takes::Texts, "Upstream DNS server. May be repeated."),
    ("rejoin", "rejoin_after_leave", Takes::Switch, "Join again although it left."),
    ("retry-interval", "retry_interval", Takes::Text, "Pause between attempts to join."),
    ("retry-interval-wan", "retry_interval_wan", Takes::Text, "The same, for other datacenters."),
    ("retry-join", "retry_join", Takes::Texts, "Agent to join, for as long as it takes."),
    ("retry-join-wan", "retry_join_wan", Takes::Texts, "The same, in another datacenter."),
    ("retry-max", "retry_max", Takes::Int, "Attempts to join; 0 is no limit."),
    ("retry-max-wan", "retry_max_wan", Takes::Int, "The same, for other datacenters."),
    ("segment", "segment", Takes::Text, "Network segment of a client."),
    ("serf-lan-bind", "serf_lan", Takes::Text, "Address for gossip in the datacenter."),
    ("serf-lan-port", "ports.serf_lan", Takes::Int, "Gossip port in the datacenter."),
    ("serf-wan-bind", "serf_wan", Takes::Text, "Address for gossip between datacenters."),
    ("serf-wan-port", "ports.serf_wan", Takes::Int, "Gossip port between datacenters."),
    ("server", "server", Takes::Switch, "Server mode: keep the cluster's state."),
    ("server-port", "ports.server", Takes::Int, "Port for traffic between servers."),
    ("syslog", "enable_syslog", Takes::Switch, "Log to syslog."),
    ("ui", "ui", Takes::Switch, "Serve the web UI."),
    ("ui-content-path", "ui_content_path", Takes::Text, "Path of the web UI."),
    ("ui-dir", "ui_dir", Takes::Text, "Folder of a web UI of your own."),
];

/// Parsed command line of `muster agent`.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// `-dev`.
    pub(super) dev: bool,
    /// Files and folders in the order given.
    pub(super) sources: Vec<PathBuf>,
    /// `-config-format`.
    pub(super) format: Option<String>,
    /// Everything else, as keys.
    pub(super) keys: Written,
    /// `-h`, `-help`.
    pub(super) help: bool,
}

/// Parses the flags of `muster agent`; one dash or two, `-flag value` or `-flag=value`.
pub(super) fn parse(args: &[String]) -> Result<Line, Error> {
    let mut line = Line::default();
    let mut pairs = serde_json::Map::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            let extra: Vec<&str> =
                std::iter::once(arg).chain(rest.by_ref()).map(String::as_str).collect();
            return Err(Error(format!("Unexpected extra arguments: [{}]", extra.join(" "))));
        };
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let mut value = |inline: Option<String>| -> Result<String, Error> {
            inline.or_else(|| rest.next().cloned()).ok_or_else(|| {
                Error(format!("error parsing flags: flag needs an argument: -{name}"))
            })
        };
        match name {
            "h" | "help" => line.help = true,
            "dev" => line.dev = switch(name, inline.as_deref())?,
            "config-file" | "config-dir" => line.sources.push(value(inline)?.into()),
            "config-format" => line.format = Some(value(inline)?),
            "hcl" => {
                let text = value(inline)?;
                // As for the reference, what begins as an object is JSON.
                let format = if text.trim_start().starts_with('{') { "json" } else { "hcl" };
                let fragment = Written::from_text(&text, format)
                    .map_err(|e| Error(format!("failed to parse -hcl: {e}")))?;
                line.keys.merge(fragment);
            }
            "protocol" | "non-voting-server" | "disable-coordinates" => {
                return Err(Error(format!("-{name} is not supported")));
            }
            _ => {
                let Some((_, key, takes, _)) = FLAGS.iter().find(|(flag, ..)| *flag == name) else {
                    return Err(Error(format!(
                        "error parsing flags: flag provided but not defined: -{name}{}",
                        hint(name)
                    )));
                };
                let parsed = match takes {
                    Takes::Switch => Value::Bool(switch(name, inline.as_deref())?),
                    Takes::Text => Value::String(value(inline)?),
                    Takes::Int => {
                        let text = value(inline)?;
                        let number: i64 = text.parse().map_err(|_| {
                            Error(format!(
                                "error parsing flags: invalid value \"{text}\" for flag -{name}: \
                                 strconv.ParseInt: parsing \"{text}\": invalid syntax"
                            ))
                        })?;
                        json!(number)
                    }
                    Takes::Texts => json!([value(inline)?]),
                    Takes::Pairs => {
                        let text = value(inline)?;
                        let (k, v) = text.split_once(':').unwrap_or((&text, ""));
                        json!({ k: v })
                    }
                };
                put(&mut pairs, key, parsed);
                let one = Written::from_value(Value::Object(std::mem::take(&mut pairs)))?;
                line.keys.merge(one);
            }
        }
    }
    Ok(line)
}

/// `ports.http` → `{"ports": {"http": value}}`.
fn put(pairs: &mut serde_json::Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            pairs.insert(path.into(), value);
        }
        Some((block, rest)) => {
            let mut inner = serde_json::Map::new();
            put(&mut inner, rest, value);
            pairs.insert(block.into(), Value::Object(inner));
        }
    }
}

fn switch(name: &str, inline: Option<&str>) -> Result<bool, Error> {
    match inline {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error(format!(
            "error parsing flags: invalid boolean value \"{other}\" for -{name}: \
             strconv.ParseBool: parsing \"{other}\": invalid syntax"
        ))),
    }
}

/// The names of all flags.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let files = ["dev", "config-file", "config-dir", "config-format", "hcl"];
    FLAGS.iter().map(|(flag, ..)| *flag).chain(files)
}

fn hint(name: &str) -> String {
    let meant = names().find(|flag| flag.starts_with(name) || name.starts_with(flag));
    meant.map(|flag| format!("\nhint: did you mean -{flag}?")).unwrap_or_default()
}

/// The text of `muster agent -help`.
pub(super) fn help() -> String {
    let mut out = String::from(
        "Usage: muster agent [options]\n\n  Starts an agent and runs until it is interrupted.\n\n  \
         First steps:\n\n      muster agent -dev                      everything in memory, to try things out\n      \
         muster agent -server -bootstrap-expect=1 -data-dir=/var/lib/muster\n                                             \
         one server that keeps its state\n\nOptions\n\n  -config-dir=<value>\n     Folder of configuration files (.json, .hcl), read in \
         alphabetical order.\n\n  -config-file=<value>\n     A configuration file, JSON or HCL. May be repeated; later ones win.\n\n  \
         -dev\n     Development mode: one server, nothing is kept.\n",
    );
    for (flag, _, takes, text) in FLAGS {
        let value = if *takes == Takes::Switch { "" } else { "=<value>" };
        out.extend(["\n  -", flag, value, "\n     ", text, "\n"]);
    }
    out
}
