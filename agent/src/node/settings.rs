//! From the configuration to the small settings that each part defines.

use super::{Error, REFERENCE_VERSION, VERSION};
use crate::config::{Config, HttpAddress, RequestLimitsMode};
use crate::raft::LogBackend;
use crate::{http, local, raft};

pub(super) fn raft(config: &Config, node_id: &str) -> raft::Settings {
    raft::Settings {
        data_dir: config.data_dir.clone(),
        node_id: node_id.to_owned(),
        node_name: config.node_name.clone(),
        address: std::net::SocketAddr::new(config.advertise, config.ports.server).to_string(),
        log_backend: match config.raft.log_backend.as_str() {
            "sled" => LogBackend::Sled,
            _ => LogBackend::Wal,
        },
        raft_multiplier: config.raft.multiplier,
        snapshot_threshold: config.raft.snapshot_threshold,
        trailing_logs: config.raft.trailing_logs,
        autopilot: config.autopilot.clone(),
    }
}

pub(super) fn local(config: &Config, node_id: &str) -> local::Settings {
    let (lan, wan) = (config.advertise, config.advertise_wan);
    let family = |ip: std::net::IpAddr| if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let tagged_addresses = [
        ("lan".to_owned(), lan.to_string()),
        (format!("lan_{}", family(lan)), lan.to_string()),
        ("wan".to_owned(), wan.to_string()),
        (format!("wan_{}", family(wan)), wan.to_string()),
    ];
    local::Settings {
        datacenter: config.datacenter.clone(),
        node_name: config.node_name.clone(),
        node_id: node_id.to_owned(),
        address: config.advertise.to_string(),
        tagged_addresses: config
            .tagged_addresses
            .clone()
            .into_iter()
            .chain(tagged_addresses)
            .collect(),
        node_meta: config.node_meta.clone(),
        segment: config.segments.own.clone(),
        data_dir: config.data_dir.clone(),
        check_update_interval: config.checks.update_interval,
        check_reap_interval: config.checks.reap_interval,
        check_deregister_after_min: config.checks.deregister_after_min,
        check_flap_limit: config.checks.flap_limit,
        check_output_max_size: config.checks.output_max_size,
        discard_check_output: config.checks.discard_output,
        enable_script_checks: config.checks.enable_script_checks,
        enable_local_script_checks: config.checks.enable_local_script_checks,
        authorities: config.checks.authorities.clone(),
        services: config.service_definitions.clone(),
        checks: config.check_definitions.clone(),
        ..local::Settings::default()
    }
}

pub(super) fn identity(config: &Config, shown: http::Shown) -> http::Identity {
    http::Identity {
        version: REFERENCE_VERSION.to_owned(),
        build: format!("muster-{VERSION}"),
        server: config.server,
        bootstrap: config.bootstrap,
        address: config.advertise.to_string(),
        address_wan: config.advertise_wan.to_string(),
        server_port: config.ports.server,
        serf_lan_port: config.ports.serf_lan,
        serf_wan_port: config.ports.serf_wan,
        config: shown,
    }
}

pub(super) fn http(config: &Config) -> Result<http::Settings, Error> {
    let limits = &config.http_limits;
    let allow_write_from = limits
        .allow_write_from
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, crate::net::NotANetwork>>()
        .map_err(|e| Error::NotSupported(format!("http_config.allow_write_http_from: {e}")))?;
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Ok(http::Settings {
        pretty: config.dev,
        response_headers: limits.response_headers.clone().into_iter().collect(),
        block_endpoints: limits.block_endpoints.clone(),
        allow_write_from,
        allow_origins: limits.allow_origins.clone(),
        limits: http::Limits::new(limits.max_conns_per_client, rates(config)),
        kv_value_bytes_max: bytes(limits.kv_max_value_size),
        txn_body_bytes_max: bytes(limits.txn_max_req_len),
        discovery_max_stale: limits.discovery_max_stale,
        unprintable_paths: limits.allow_unprintable,
        debug: config.enable_debug,
        session_ttl_min: config.session_ttl_min,
        waits: limits.waits,
        ..http::Settings::default()
    })
}

/// Rate limits of clients.
pub(super) fn rates(config: &Config) -> http::Rates {
    let limits = &config.http_limits.requests;
    http::Rates {
        mode: match limits.mode {
            RequestLimitsMode::Disabled => http::Mode::Disabled,
            RequestLimitsMode::Permissive => http::Mode::Permissive,
            RequestLimitsMode::Enforcing => http::Mode::Enforcing,
        },
        reads: limits.reads,
        writes: limits.writes,
    }
}

/// Client settings by which this agent reaches itself: as any client would, by the first of its own addresses.
pub(super) fn itself(config: &Config) -> muster_client::Settings {
    let address = match config.http.first() {
        Some(HttpAddress::Tcp(address)) if address.ip().is_unspecified() => {
            let loopback: std::net::IpAddr = if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            std::net::SocketAddr::new(loopback, address.port()).to_string()
        }
        Some(HttpAddress::Tcp(address)) => address.to_string(),
        Some(HttpAddress::Unix(path)) => format!("unix://{}", path.display()),
        None => String::new(),
    };
    let mut settings = muster_client::Settings { address, ..muster_client::Settings::default() };
    // A quarter of what it takes of one address, as every program; 0 is no limit.
    if let max @ 1.. = config.http_limits.max_conns_per_client {
        settings.connections_max = (max / 4).clamp(2, settings.connections_max);
    }
    settings
}

/// The way by which remote executions are read and answered, if they are allowed.
pub(super) fn own_door(config: &Config) -> Result<Option<muster_client::Client>, Error> {
    if !config.remote_exec {
        return Ok(None);
    }
    if config.http.is_empty() {
        return Err(Error::NotSupported(
            "`disable_remote_exec` cannot be false without HTTP: jobs are read and answered by it\n\
             hint: give `ports.http` or `addresses.http`, or leave `disable_remote_exec` at true"
                .into(),
        ));
    }
    let client = muster_client::Client::new(itself(config));
    client.map(Some).map_err(|error| Error::NotSupported(error.to_string()))
}
