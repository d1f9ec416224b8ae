//! Settings of the HTTP interface, resolved from configuration.

use std::time::Duration;

use super::limits::{Limits, Rates};
use super::origin::Origin;
use crate::net::Network;
use crate::read::Waits;

/// The reference's limit on a key's value and on the body of a transaction.
const BODY_DEFAULT_MAX: u64 = 512 * 1024;

/// Settings of the HTTP interface.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one switch of the configuration")]
pub struct Settings {
    /// Answer in the readable form always (`-dev`), not only for `?pretty`.
    pub pretty: bool,
    /// Headers added to every answer of the API (`http_config.response_headers`).
    pub response_headers: Vec<(String, String)>,
    /// Paths that start so are refused (`http_config.block_endpoints`).
    pub block_endpoints: Vec<String>,
    /// Only these sources may write; empty: all may (`http_config.allow_write_http_from`).
    pub allow_write_from: Vec<Network>,
    /// Origins whose pages may write besides this agent's own (`http_config.allow_origins`).
    pub allow_origins: Vec<Origin>,
    /// Limits on clients, changed by a reload (`limits.http_max_conns_per_client`,
    /// `limits.request_limits`).
    pub limits: Limits,
    /// Time-out of a connection's first request. After that, it may be idle for as long as it likes:
    /// clients keep connections.
    pub first_head_max: Duration,
    /// Time-out of a client that sends nothing of a body that it has begun.
    pub body_idle_max: Duration,
    /// Time-out of a client that reads nothing of an answer that is ready for it.
    pub stall_max: Duration,
    /// Bytes of a key's value (`limits.kv_max_value_size`).
    pub kv_value_bytes_max: u64,
    /// Bytes of a transaction's body (`limits.txn_max_req_len`).
    pub txn_body_bytes_max: u64,
    /// Path of the web pages, if they are served; `/` redirects there.
    pub ui_path: Option<String>,
    /// Above zero, reads of catalog and health are stale up to this unless they say otherwise.
    pub discovery_max_stale: Duration,
    /// Say so in a header (`translate_wan_addrs`).
    pub translate_addresses: bool,
    /// Accept paths with characters that cannot be printed (`disable_http_unprintable_char_filter`).
    pub unprintable_paths: bool,
    /// Tell of this process below `/debug/pprof/` (`enable_debug`).
    pub debug: bool,
    /// Shortest session TTL (`session_ttl_min`).
    pub session_ttl_min: Duration,
    /// Times of blocking queries on this agent's own state (`default_query_time`, `max_query_time`).
    pub waits: Waits,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            pretty: false,
            response_headers: Vec::new(),
            block_endpoints: Vec::new(),
            allow_write_from: Vec::new(),
            allow_origins: Vec::new(),
            limits: Limits::new(200, Rates::default()),
            first_head_max: Duration::from_secs(10),
            body_idle_max: Duration::from_secs(30),
            stall_max: Duration::from_mins(1),
            kv_value_bytes_max: BODY_DEFAULT_MAX,
            txn_body_bytes_max: BODY_DEFAULT_MAX,
            ui_path: None,
            discovery_max_stale: Duration::ZERO,
            translate_addresses: false,
            unprintable_paths: false,
            debug: false,
            session_ttl_min: Duration::from_secs(10),
            waits: Waits::default(),
        }
    }
}
