//! What servers agree by, and how agents ask them: bootstrap, Raft, reads, calls.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::http::waits;
use super::local::Node;
use crate::config::Error;
use crate::config::written::Written;
use crate::raft::{self, LogBackend};
use crate::store::Autopilot;
use crate::upstream::Rate;
use crate::{read, rpc, upstream};

/// `bootstrap` and `bootstrap_expect`, which exclude each other and are for servers.
pub(super) fn bootstrap(written: &Written, server: bool, dev: bool) -> Result<(bool, u32), Error> {
    let bootstrap = written.on("bootstrap");
    let expect = written.int("bootstrap_expect").unwrap_or(0);
    if expect < 0 {
        return Err(Error(format!(
            "bootstrap_expect cannot be {expect}. Must be greater than or equal to zero"
        )));
    }
    let wrong = if expect > 0 && !server {
        "'bootstrap_expect > 0' requires 'server = true'"
    } else if bootstrap && !server {
        "'bootstrap = true' requires 'server = true'"
    } else if expect > 0 && dev {
        "'bootstrap_expect > 0' not allowed in dev mode"
    } else if expect > 0 && bootstrap {
        "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive"
    } else {
        return Ok((bootstrap, u32::try_from(expect).unwrap_or(u32::MAX)));
    };
    Err(Error(wrong.into()))
}

/// Settings of Raft, but for the server's id, which may be made at the start.
pub(super) fn raft(written: &Written, node: &Node<'_>, port: u16) -> Result<raft::Settings, Error> {
    let multiplier = written.int("performance.raft_multiplier").unwrap_or(5);
    let raft_multiplier = u32::try_from(multiplier).ok().filter(|it| (1..=10).contains(it));
    let raft_multiplier = raft_multiplier.ok_or_else(|| {
        Error(format!(
            "performance.raft_multiplier cannot be {multiplier}. Must be between 1 and 10"
        ))
    })?;
    let positive = |key: &str, default: u64| match written.count(key, default) {
        0 => default,
        number => number,
    };
    Ok(raft::Settings {
        data_dir: node.data_dir.map(Path::to_owned),
        node_id: String::new(),
        node_name: node.name.to_owned(),
        address: SocketAddr::new(node.lan, port).to_string(),
        log_backend: log_backend(written)?,
        raft_multiplier,
        snapshot_threshold: positive("raft_snapshot_threshold", 16384),
        trailing_logs: positive("raft_trailing_logs", 10240),
        autopilot: autopilot(written)?,
    })
}

fn log_backend(written: &Written) -> Result<LogBackend, Error> {
    match written.text("raft_logstore.backend") {
        None | Some("wal") => Ok(LogBackend::Wal),
        Some("sled") => Ok(LogBackend::Sled),
        Some(other) => Err(Error(format!(
            "raft_logstore.backend cannot be \"{other}\". Must be \"wal\" or \"sled\""
        ))),
    }
}

/// Autopilot settings of a new cluster.
fn autopilot(written: &Written) -> Result<Autopilot, Error> {
    if let Some(entries) = written.int("autopilot.max_trailing_logs").filter(|entries| *entries < 0)
    {
        return Err(Error(format!(
            "autopilot.max_trailing_logs cannot be {entries}. Must be greater than or equal to zero"
        )));
    }
    let defaults = Autopilot::default();
    let nanos = |key: &str, default| {
        let time = written.duration(key, Duration::from_nanos(default));
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    };
    Ok(Autopilot {
        cleanup_dead_servers: written
            .bool("autopilot.cleanup_dead_servers")
            .unwrap_or(defaults.cleanup_dead_servers),
        last_contact_threshold_ns: nanos(
            "autopilot.last_contact_threshold",
            defaults.last_contact_threshold_ns,
        ),
        max_trailing_logs: written.count("autopilot.max_trailing_logs", 250),
        min_quorum: written.count("autopilot.min_quorum", 0),
        server_stabilization_time_ns: nanos(
            "autopilot.server_stabilization_time",
            defaults.server_stabilization_time_ns,
        ),
        ..defaults
    })
}

/// Time that requests wait for a leader.
fn hold(written: &Written) -> Duration {
    written.duration("performance.rpc_hold_timeout", read::Settings::default().leader_wait)
}

/// Settings of reads on a server.
pub(super) fn read(written: &Written) -> read::Settings {
    read::Settings {
        leader_wait: hold(written),
        waits: waits(written),
        ..read::Settings::default()
    }
}

/// Settings of what an agent asks servers.
pub(super) fn upstream(written: &Written) -> upstream::Settings {
    upstream::Settings { hold: hold(written), rate: rpc_rate(written), waits: waits(written) }
}

/// Rate limit of requests to servers. A value that is not above zero is no limit, and the usual burst, as in the
/// reference.
fn rpc_rate(written: &Written) -> Option<Rate> {
    let per_second = written.float("limits.rpc_rate").filter(|rate| *rate > 0.0)?;
    let burst = written.int("limits.rpc_max_burst").filter(|burst| *burst > 0);
    let burst = burst.map_or(Rate::BURST, |burst| u32::try_from(burst).unwrap_or(u32::MAX));
    Some(Rate { per_second, burst })
}

/// Limits on what other agents may ask of this one.
pub(super) fn rpc_limits(written: &Written) -> rpc::Limits {
    let defaults = rpc::Limits::default();
    let connections = "limits.rpc_max_conns_per_client";
    rpc::Limits {
        connections_per_client: match written.count(connections, defaults.connections_per_client) {
            0 => usize::MAX,
            limit => limit,
        },
        handshake: written.duration_not_zero("limits.rpc_handshake_timeout", defaults.handshake),
        ..defaults
    }
}
