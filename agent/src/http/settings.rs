//! Settings of the HTTP interface, resolved from configuration.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::limits::{Limits, Rates};
use super::origin::Origin;
use crate::read::Waits;

/// The reference's limit on a key's value and on the body of a transaction.
const BODY_DEFAULT_MAX: u64 = 512 * 1024;

/// Settings of the HTTP door.
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

/// A block of addresses, written `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

/// Not a block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct NotANetwork(String);

impl Network {
    /// Is `address` in this block? IPv4 addresses that came over an IPv6 socket count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let prefix_bits: u8 = bits.parse().map_err(|_| wrong())?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        if prefix_bits > bits_max {
            return Err(wrong());
        }
        Ok(Network { base, prefix_bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_contain_their_addresses() {
        let rows = [
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.4", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("fd00::/8", "fd12::1", true),
            ("::1/128", "::2", false),
        ];
        for (block, address, expected) in rows {
            let network: Network = block.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{block} {address}");
        }
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129", "10.0.0.0/-1", ""] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
