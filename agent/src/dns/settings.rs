//! Settings of the DNS interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::wire::Name;

/// Settings of the DNS interface. All of them can change while it is open.
#[expect(clippy::struct_excessive_bools, reason = "each is one switch of the reference's")]
#[derive(Debug, Clone)]
pub struct Settings {
    /// The domain that is answered for.
    pub domain: Name,
    /// Another one with the same names.
    pub alt_domain: Option<Name>,
    /// The own datacenter, whose names may omit it.
    pub datacenter: String,
    /// Time to live of answers about nodes.
    pub node_ttl: Duration,
    /// Time to live of answers about services.
    pub service_ttl: TtlMap,
    /// Leave instances out that warn.
    pub only_passing: bool,
    /// Tell clients when answers were left out.
    pub enable_truncate: bool,
    /// Answers in a message of 512 bytes, at most 8.
    pub udp_answer_limit: usize,
    /// Addresses in any answer; 0 is all.
    pub a_record_limit: usize,
    /// Write names out in full.
    pub disable_compression: bool,
    /// Add the pairs of nodes to answers that do not ask for them.
    pub node_meta_txt: bool,
    /// The zone's own times.
    pub soa: SoaTimes,
    /// Answer from what this server has, leader or not.
    pub allow_stale: bool,
    /// Unless the leader was not heard for longer.
    pub max_stale: Duration,
    /// A client agent may keep what servers told it.
    pub use_cache: bool,
    /// For how long at most.
    pub cache_max_age: Duration,
    /// Servers that answer for all other domains.
    pub recursors: Vec<SocketAddr>,
    /// Time-out of each of them.
    pub recursor_timeout: Duration,
    /// In which order they are asked.
    pub recursor_strategy: Strategy,
    /// Answers by UDP that one network gets in a second; 0 is no limit.
    pub responses_per_second: u32,
}

/// In which order recursors are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As written.
    Sequential,
    /// Another order each time.
    Random,
}

/// Times of the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoaTimes {
    /// Seconds between looks of a secondary.
    pub refresh: u32,
    /// Seconds after one that failed.
    pub retry: u32,
    /// Seconds until a secondary gives up.
    pub expire: u32,
    /// Seconds for which an absence may be kept.
    pub min_ttl: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            domain: Name::from_text("consul").unwrap_or_else(Name::root),
            alt_domain: None,
            datacenter: "dc1".into(),
            node_ttl: Duration::ZERO,
            service_ttl: TtlMap::default(),
            only_passing: false,
            enable_truncate: true,
            udp_answer_limit: 3,
            a_record_limit: 0,
            disable_compression: false,
            node_meta_txt: true,
            soa: SoaTimes { refresh: 3600, retry: 600, expire: 86400, min_ttl: 0 },
            allow_stale: true,
            max_stale: Duration::from_hours(87600),
            use_cache: false,
            cache_max_age: Duration::ZERO,
            recursors: Vec::new(),
            recursor_timeout: Duration::from_secs(2),
            recursor_strategy: Strategy::Sequential,
            responses_per_second: 0,
        }
    }
}

/// TTLs by service name: the exact name, else the longest `prefix*`, else zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TtlMap {
    exact: BTreeMap<String, Duration>,
    prefixes: BTreeMap<String, Duration>,
}

impl TtlMap {
    /// Out of names as an operator writes them.
    pub fn new(written: impl IntoIterator<Item = (String, Duration)>) -> TtlMap {
        let mut map = TtlMap::default();
        for (name, ttl) in written {
            let name = name.to_lowercase();
            match name.strip_suffix('*') {
                Some(prefix) => map.prefixes.insert(prefix.to_owned(), ttl),
                None => map.exact.insert(name, ttl),
            };
        }
        map
    }

    /// As it was written.
    pub fn written(&self) -> impl Iterator<Item = (String, Duration)> {
        let prefixes = self.prefixes.iter().map(|(prefix, ttl)| (format!("{prefix}*"), *ttl));
        self.exact.iter().map(|(name, ttl)| (name.clone(), *ttl)).chain(prefixes)
    }

    /// Of a service, by its name in look-up form.
    pub fn of(&self, service: &str) -> Duration {
        let longest = || {
            let covering = self.prefixes.iter().filter(|(prefix, _)| service.starts_with(*prefix));
            covering.max_by_key(|(prefix, _)| prefix.len()).map(|(_, ttl)| *ttl)
        };
        self.exact.get(service).copied().or_else(longest).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_ttl_holds() {
        let secs = Duration::from_secs;
        let rows = [("*", 1), ("web*", 2), ("web-*", 3), ("Web-api", 4)];
        let map = TtlMap::new(rows.map(|(name, ttl)| (name.to_owned(), secs(ttl))));
        for (service, expected) in [("web-api", 4), ("web-api2", 3), ("web", 2), ("db", 1)] {
            assert_eq!(map.of(service), secs(expected), "{service}");
        }
        assert_eq!(TtlMap::default().of("web"), Duration::ZERO);
    }
}
