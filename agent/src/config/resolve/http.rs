//! The HTTP interface: its limits on clients, what it refuses, what it adds to answers.

use std::time::Duration;

use crate::config::written::Written;
use crate::config::{Error, list_errors};
use crate::http::{Mode, Origin, Rates, Settings};
use crate::net::Network;
use crate::read::Waits;

/// Connections of one source address unless told otherwise.
const CONNECTIONS_PER_CLIENT: usize = 200;

/// Settings of the HTTP interface, but for the limits on clients, which a reload changes.
pub(super) fn resolve(written: &Written, dev: bool) -> Result<Settings, Error> {
    let defaults = Settings::default();
    Ok(Settings {
        pretty: dev,
        response_headers: written.map("http_config.response_headers").into_iter().collect(),
        block_endpoints: written.list("http_config.block_endpoints"),
        allow_write_from: networks(written, "http_config.allow_write_http_from")?,
        allow_origins: origins(written)?,
        kv_value_bytes_max: written.count("limits.kv_max_value_size", defaults.kv_value_bytes_max),
        txn_body_bytes_max: written.count("limits.txn_max_req_len", defaults.txn_body_bytes_max),
        discovery_max_stale: written.duration("discovery_max_stale", defaults.discovery_max_stale),
        unprintable_paths: written.on("disable_http_unprintable_char_filter"),
        debug: written.on("enable_debug"),
        session_ttl_min: written.duration_not_zero("session_ttl_min", defaults.session_ttl_min),
        waits: waits(written),
        ..defaults
    })
}

/// Times of blocking queries, for every part that waits.
pub(super) fn waits(written: &Written) -> Waits {
    let default = written.text("default_query_time");
    let default = default.map(|_| written.duration("default_query_time", Duration::ZERO));
    Waits::new(default, written.duration("max_query_time", Duration::ZERO))
}

/// Open connections of one source address; 0 is no limit.
pub(super) fn connections_per_client(written: &Written) -> usize {
    written.count("limits.http_max_conns_per_client", CONNECTIONS_PER_CLIENT)
}

/// Rate limits on clients.
pub(super) fn rates(written: &Written) -> Result<Rates, Error> {
    let mode = match written.text("limits.request_limits.mode").unwrap_or("disabled") {
        "" | "disabled" => Mode::Disabled,
        "permissive" => Mode::Permissive,
        "enforcing" => Mode::Enforcing,
        other => {
            return Err(Error(format!(
                "limits.request_limits.mode cannot be \"{other}\". Must be \"disabled\", \"permissive\" or \"enforcing\""
            )));
        }
    };
    let rate = |key: &str| written.float(key).filter(|rate| *rate >= 0.0);
    Ok(Rates {
        mode,
        reads: rate("limits.request_limits.read_rate"),
        writes: rate("limits.request_limits.write_rate"),
    })
}

/// Notes for the start: ports and paths that do nothing.
pub(super) fn warnings(written: &Written) -> Vec<String> {
    let mut warnings = Vec::new();
    // Paths of requests begin with a slash.
    let blocked = written.list("http_config.block_endpoints");
    let lost = blocked.iter().filter(|prefix| !prefix.starts_with('/'));
    let lost: Vec<String> = lost.map(|prefix| format!("`{prefix}`")).collect();
    if !lost.is_empty() {
        warnings.push(format!(
            "{} in `http_config.block_endpoints` blocks nothing: write it with a slash in front",
            lost.join(", ")
        ));
    }
    if written.port("ports.https", None).is_some() {
        warnings
            .push("`ports.https` has no effect without a certificate: HTTPS is not served".into());
    }
    warnings
}

/// Blocks of addresses under `key`.
fn networks(written: &Written, key: &str) -> Result<Vec<Network>, Error> {
    let name = key.rsplit('.').next().unwrap_or(key);
    let network = |text: &String| {
        let wrong = |_| Error(list_errors(&[format!("{name}: invalid cidr: {text}")]));
        text.parse().map_err(wrong)
    };
    written.list(key).iter().map(network).collect()
}

/// Origins of web pages that may write.
fn origins(written: &Written) -> Result<Vec<Origin>, Error> {
    let key = "http_config.allow_origins";
    let origin = |text: &String| text.parse().map_err(|error| Error(format!("{key}: {error}")));
    written.list(key).iter().map(origin).collect()
}
