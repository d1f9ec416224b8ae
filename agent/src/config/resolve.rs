//! From keys as written to settings: defaults, bounds, and what does not go together.

use std::path::PathBuf;
use std::time::Duration;

use super::file::Written;
use super::{
    Authorities, Autopilot, CheckLimits, Config, DEREGISTER_AFTER_MIN, Error, FlapLimit,
    HttpLimits, Ports, RaftTuning, addresses, dns, gossip, identity, list_errors, parts, process,
    segments, sockaddr,
};
use crate::read::Waits;
use crate::{rpc, watches};

const SERVER_PORT: u16 = 8300;

pub(super) fn resolve(written: &Written, dev: bool) -> Result<Config, Error> {
    let written = &sockaddr::expanded(written)?;
    let mut invalid = Vec::new();
    let mut duration = |key: &'static str, default: Duration| match written
        .text(key)
        .map(muster_client::types::parse_duration)
    {
        None => default,
        Some(Ok(value)) => value,
        Some(Err(_)) => {
            let text = written.text(key).unwrap_or_default();
            invalid.push(format!(
                "{key}: invalid duration: \"{text}\": time: invalid duration \"{text}\""
            ));
            default
        }
    };
    let secs = Duration::from_secs;
    let default_query_time = duration("default_query_time", secs(300));
    let max_query_time = duration("max_query_time", secs(600));
    let discovery_max_stale = duration("discovery_max_stale", Duration::ZERO);
    let update_interval = duration("check_update_interval", secs(300));
    let reap_interval = duration("check_reap_interval", secs(30)).max(secs(1));
    let deregister_after_min = duration("check_deregister_interval_min", DEREGISTER_AFTER_MIN);
    let flap_window = duration("check_flap_window", secs(300));
    let session_ttl_min = duration("session_ttl_min", Duration::ZERO);
    let rpc_hold_timeout = duration("performance.rpc_hold_timeout", secs(7));
    let rpc_handshake = duration("limits.rpc_handshake_timeout", secs(5));
    let rules = Autopilot::default();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut rule = |key, default| nanos(duration(key, Duration::from_nanos(default)));
    let last_contact_threshold_ns =
        rule("autopilot.last_contact_threshold", rules.last_contact_threshold_ns);
    let server_stabilization_time_ns =
        rule("autopilot.server_stabilization_time", rules.server_stabilization_time_ns);
    let mut port = |key: &'static str, default: i64| -> Option<u16> {
        let number = written.int(key).unwrap_or(default);
        match u16::try_from(number) {
            Ok(0) => u16::try_from(default).ok(),
            Ok(number) => Some(number),
            Err(_) if number < 0 => None,
            Err(_) => {
                invalid.push(format!("{key}: invalid port: {number}"));
                None
            }
        }
    };
    let http_port = port("ports.http", 8500);
    let dns_port = port("ports.dns", 8600);
    let server_port = port("ports.server", SERVER_PORT.into());
    let lan_port = port("ports.serf_lan", 8301);
    let wan_port = port("ports.serf_wan", 8302);
    let https_port = port("ports.https", -1);
    if !invalid.is_empty() {
        return Err(Error(list_errors(&invalid)));
    }

    let mut warnings = written.warnings();
    warnings.extend(blocks_nothing(&written.list("http_config.block_endpoints")));
    if https_port.is_some() {
        warnings
            .push("`ports.https` has no effect without a certificate: HTTPS is not served".into());
    }
    let server = written.bool("server").unwrap_or(false) || dev;
    let bootstrap = written.bool("bootstrap").unwrap_or(false);
    let expect = written.int("bootstrap_expect").unwrap_or(0);
    if !dev && !server {
        if expect > 0 {
            return Err(Error("'bootstrap_expect > 0' requires 'server = true'".into()));
        }
        if bootstrap {
            return Err(Error("'bootstrap = true' requires 'server = true'".into()));
        }
    }
    if dev && expect > 0 {
        return Err(Error("'bootstrap_expect > 0' not allowed in dev mode".into()));
    }
    if expect < 0 {
        return Err(Error(format!(
            "bootstrap_expect cannot be {expect}. Must be greater than or equal to zero"
        )));
    }
    if expect > 0 && bootstrap {
        return Err(Error(
            "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive".into(),
        ));
    }
    let data_dir = match written.text("data_dir") {
        _ if dev => None,
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir)),
        _ => {
            return Err(Error(
                "data_dir cannot be empty\nhint: give -data-dir=/var/lib/muster, or -dev to try things out".into(),
            ));
        }
    };
    if let Some(dir) = &data_dir
        && dir.exists()
        && !dir.is_dir()
    {
        return Err(Error(format!("data_dir \"{}\" is not a directory", dir.display())));
    }
    let datacenter = written.text("datacenter").unwrap_or("dc1").to_lowercase();
    if datacenter.is_empty() {
        return Err(Error("datacenter cannot be empty".into()));
    }
    identity::check_datacenter("datacenter", &datacenter)?;
    if let Some(primary) = written.text("primary_datacenter")
        && !primary.is_empty()
        && primary.to_lowercase() != datacenter
    {
        identity::check_datacenter("primary_datacenter", &primary.to_lowercase())?;
        warnings.push(format!(
            "`primary_datacenter` has no effect yet: `{datacenter}` does not ask `{primary}` for anything"
        ));
    }
    let multiplier = written.int("performance.raft_multiplier").unwrap_or(5);
    if !(1..=10).contains(&multiplier) {
        return Err(Error(format!(
            "performance.raft_multiplier cannot be {multiplier}. Must be between 1 and 10"
        )));
    }
    let node_meta = written.map("node_meta");
    identity::check_meta(&node_meta)?;
    let node_name = match written.text("node_name") {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => identity::host_name()?,
    };
    identity::check_node_name(&node_name)?;
    let node_id = match written.text("node_id") {
        Some(id) if !id.is_empty() => Some(
            uuid::Uuid::parse_str(id)
                .map_err(|e| Error(format!("node_id `{id}` is not a UUID: {e}")))?
                .to_string(),
        ),
        _ => None,
    };
    let log_backend = written.text("raft_logstore.backend").unwrap_or("wal").to_owned();
    if !["wal", "sled"].contains(&log_backend.as_str()) {
        return Err(Error(format!(
            "raft_logstore.backend cannot be \"{log_backend}\". Must be \"wal\" or \"sled\""
        )));
    }
    let (bind, advertise, advertise_wan) = addresses::bind_and_advertise(written, dev)?;
    let client =
        written.text("client_addr").filter(|text| !text.trim().is_empty()).unwrap_or("127.0.0.1");
    let http = addresses::http_addresses(
        written.text("addresses.http").filter(|t| !t.is_empty()).unwrap_or(client),
        http_port,
    )?;
    let ports = Ports {
        http: http_port,
        dns: dns_port,
        server: match server_port {
            Some(port) => port,
            // Nobody asks an agent that is no server there.
            None if !server => SERVER_PORT,
            None => return Err(Error("ports.server cannot be turned off".into())),
        },
        serf_lan: lan_port.ok_or_else(|| Error("ports.serf_lan cannot be turned off".into()))?,
        serf_wan: wan_port,
    };
    let dns_addresses = dns::addresses(written, client, dns_port)?;
    addresses::distinct(&http, &dns_addresses, ports, (advertise, advertise_wan))?;
    let dns = dns::resolve(written, &datacenter)?;

    let gossip = gossip::resolve(written, dev)?;
    let segments = segments::resolve(written, server, (bind, advertise), ports)?;

    let size = |key: &str, default: usize| {
        written.int(key).and_then(|n| usize::try_from(n).ok()).unwrap_or(default)
    };
    let positive = |key: &str, default: u64| {
        written.int(key).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    if let Some(entries) = written.int("autopilot.max_trailing_logs").filter(|entries| *entries < 0)
    {
        return Err(Error(format!(
            "autopilot.max_trailing_logs cannot be {entries}. Must be greater than or equal to zero"
        )));
    }
    if written.int("check_output_max_size").is_some_and(|bytes| bytes < 1) {
        return Err(Error("check_output_max_size must be positive, to discard check output use the discard_check_output flag".into()));
    }
    let mut service_definitions = written.definitions("service");
    service_definitions.extend(written.definitions("services"));
    let mut check_definitions = written.definitions("check");
    check_definitions.extend(written.definitions("checks"));

    Ok(Config {
        dev,
        server,
        bootstrap,
        bootstrap_expect: u32::try_from(expect).unwrap_or(u32::MAX),
        datacenter,
        node_name,
        node_id,
        node_meta,
        tagged_addresses: written.map("tagged_addresses"),
        data_dir,
        bind,
        advertise,
        advertise_wan,
        http,
        ports,
        dns_addresses,
        dns,
        log: process::log(written, dev)?,
        unix_sockets: process::unix_sockets(written)?,
        pid_file: written.text("pid_file").filter(|t| !t.is_empty()).map(PathBuf::from),
        leave_on_terminate: written.bool("leave_on_terminate").unwrap_or(!server),
        skip_leave_on_interrupt: written.bool("skip_leave_on_interrupt").unwrap_or(server),
        http_limits: HttpLimits {
            max_conns_per_client: size("limits.http_max_conns_per_client", 200),
            requests: process::request_limits(written)?,
            kv_max_value_size: size("limits.kv_max_value_size", 512 * 1024),
            txn_max_req_len: size("limits.txn_max_req_len", 512 * 1024),
            waits: Waits::new(
                written.text("default_query_time").map(|_| default_query_time),
                max_query_time,
            ),
            discovery_max_stale,
            block_endpoints: written.list("http_config.block_endpoints"),
            allow_write_from: addresses::networks(written, "http_config.allow_write_http_from")?,
            allow_origins: addresses::origins(written)?,
            response_headers: written.map("http_config.response_headers"),
            allow_unprintable: written
                .bool("disable_http_unprintable_char_filter")
                .unwrap_or(false),
        },
        checks: CheckLimits {
            update_interval,
            reap_interval,
            deregister_after_min,
            flap_limit: written
                .int("check_flap_limit")
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|limit| *limit > 0)
                .map(|changes_max| FlapLimit {
                    changes_max: changes_max.min(parts::FLAP_LIMIT_MAX),
                    window: flap_window,
                }),
            output_max_size: size("check_output_max_size", 4096),
            discard_output: written.bool("discard_check_output").unwrap_or(false),
            enable_script_checks: written.bool("enable_script_checks").unwrap_or(false),
            enable_local_script_checks: written.bool("enable_local_script_checks").unwrap_or(false),
            authorities: Authorities {
                file: written.text("ca_file").filter(|path| !path.is_empty()).map(PathBuf::from),
                folder: written.text("ca_path").filter(|path| !path.is_empty()).map(PathBuf::from),
                only: written.bool("enable_agent_tls_for_checks").unwrap_or(false),
            },
        },
        raft: RaftTuning {
            multiplier: u32::try_from(multiplier).unwrap_or(5),
            snapshot_threshold: positive("raft_snapshot_threshold", 16384),
            trailing_logs: positive("raft_trailing_logs", 10240),
            log_backend,
        },
        gossip,
        segments,
        autopilot: Autopilot {
            cleanup_dead_servers: written
                .bool("autopilot.cleanup_dead_servers")
                .unwrap_or(rules.cleanup_dead_servers),
            last_contact_threshold_ns,
            max_trailing_logs: size("autopilot.max_trailing_logs", 250) as u64,
            min_quorum: size("autopilot.min_quorum", 0) as u64,
            server_stabilization_time_ns,
            ..rules
        },
        session_ttl_min: if session_ttl_min.is_zero() { secs(10) } else { session_ttl_min },
        rpc_hold_timeout,
        rpc_rate: process::rpc_rate(written),
        rpc_limits: rpc::Limits {
            connections_per_client: match size("limits.rpc_max_conns_per_client", 100) {
                0 => usize::MAX,
                limit => limit,
            },
            handshake: if rpc_handshake.is_zero() { secs(5) } else { rpc_handshake },
            ..rpc::Limits::default()
        },
        service_definitions,
        check_definitions,
        enable_debug: written.bool("enable_debug").unwrap_or(false),
        remote_exec: !written.bool("disable_remote_exec").unwrap_or(true),
        watches: watches::parse(&written.definitions("watches")).map_err(Error)?,
        warnings,
        written: written.clone(),
    })
}

/// A warning for what blocks nothing: paths of requests begin with a slash.
fn blocks_nothing(prefixes: &[String]) -> Option<String> {
    let lost: Vec<String> = prefixes
        .iter()
        .filter(|prefix| !prefix.starts_with('/'))
        .map(|prefix| format!("`{prefix}`"))
        .collect();
    (!lost.is_empty()).then(|| {
        format!(
            "{} in `http_config.block_endpoints` blocks nothing: write it with a slash in front",
            lost.join(", ")
        )
    })
}
