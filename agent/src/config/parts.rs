//! Resolved settings of single parts of an agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::checks::FlapLimit;
use crate::http::Origin;
use crate::net::tls::Authorities;
use crate::read::Waits;

/// Owner and mode of the files of unix sockets; `None` leaves a thing as the system makes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnixSockets {
    /// Id of the user.
    pub user: Option<u32>,
    /// Id of the group.
    pub group: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// Rate limits of the HTTP interface.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestLimits {
    /// Treatment of requests above the rates.
    pub mode: RequestLimitsMode,
    /// Reads in a second.
    pub reads: Option<f64>,
    /// Writes in a second.
    pub writes: Option<f64>,
}

/// Treatment of a request above the rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequestLimitsMode {
    /// Nothing is counted.
    #[default]
    Disabled,
    /// It is answered, and the log says so.
    Permissive,
    /// It is refused.
    Enforcing,
}

/// A place where HTTP is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Ports of an agent; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// HTTP.
    pub http: Option<u16>,
    /// DNS.
    pub dns: Option<u16>,
    /// Between servers.
    pub server: u16,
    /// Gossip in the datacenter.
    pub serf_lan: u16,
    /// Gossip between datacenters.
    pub serf_wan: Option<u16>,
}

/// Limits of the HTTP interface.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections of one source address; 0 is no limit.
    pub max_conns_per_client: usize,
    /// Requests in a second.
    pub requests: RequestLimits,
    /// Largest value of a key, bytes.
    pub kv_max_value_size: usize,
    /// Largest transaction, bytes.
    pub txn_max_req_len: usize,
    /// Times of blocking queries (`default_query_time`, `max_query_time`).
    pub waits: Waits,
    /// When above zero, catalog and health reads are stale by default.
    pub discovery_max_stale: Duration,
    /// Path prefixes that answer 403.
    pub block_endpoints: Vec<String>,
    /// Networks that may write; empty is all.
    pub allow_write_from: Vec<String>,
    /// Origins whose pages may write; the agent's own always may.
    pub allow_origins: Vec<Origin>,
    /// Headers put on every answer.
    pub response_headers: BTreeMap<String, String>,
    /// Let unprintable characters in paths pass.
    pub allow_unprintable: bool,
}

/// Changes that are remembered of one check: more in one window is not told apart.
pub(super) const FLAP_LIMIT_MAX: usize = 1000;

/// Settings of checks.
#[derive(Debug, Clone)]
pub struct CheckLimits {
    /// Longest delay of an output-only change before it reaches the catalog; zero: none.
    pub update_interval: Duration,
    /// Interval of looking for services that have been critical for too long.
    pub reap_interval: Duration,
    /// The least time for which a check must be critical before its service goes.
    pub deregister_after_min: Duration,
    /// Limit for checks that flap.
    pub flap_limit: Option<FlapLimit>,
    /// Bytes of output kept.
    pub output_max_size: usize,
    /// Keep no output.
    pub discard_output: bool,
    /// Scripts from anywhere.
    pub enable_script_checks: bool,
    /// Scripts from configuration files.
    pub enable_local_script_checks: bool,
    /// Certificate authorities of encrypted checks.
    pub authorities: Authorities,
}

/// Tuning of Raft.
#[derive(Debug, Clone)]
pub struct RaftTuning {
    /// Scales all its times, 1 to 10.
    pub multiplier: u32,
    /// New entries that make a snapshot due.
    pub snapshot_threshold: u64,
    /// Entries kept behind a snapshot.
    pub trailing_logs: u64,
    /// `wal` or `sled`.
    pub log_backend: String,
}
