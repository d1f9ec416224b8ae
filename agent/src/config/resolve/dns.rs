//! The DNS interface's part of the configuration: `dns_config`, domains, recursors, addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_client::types::parse_nanos;

use super::invalid_duration;
use crate::config::written::Written;
use crate::config::{Error, list_errors};
use crate::dns::{Name, Settings, SoaTimes, Strategy, TtlMap};

/// First labels that an alternative domain must not have: names would have two meanings.
const RESERVED: [&str; 5] = ["service", "connect", "node", "query", "addr"];
/// Standard port of DNS servers.
const DNS_PORT: u16 = 53;

/// Settings of the DNS interface.
pub(super) fn resolve(written: &Written, datacenter: &str) -> Result<Settings, Error> {
    let defaults = Settings::default();
    let time = |key: &str, default: Duration| written.duration(key, default);
    let switch = |key: &str, default: bool| written.bool(key).unwrap_or(default);
    let count = |key: &str, default: usize| match written.int(key) {
        None => Ok(default),
        Some(number) => usize::try_from(number).map_err(|_| {
            Error(format!("{key} cannot be {number}. Must be greater than or equal to zero"))
        }),
    };
    let seconds = |key: &str, default: u32| match written.int(key) {
        None => Ok(default),
        Some(number) => u32::try_from(number).map_err(|_| {
            Error(format!("{key} cannot be {number}. Must be between 0 and {}", u32::MAX))
        }),
    };
    let soa = defaults.soa;
    Ok(Settings {
        domain: domain("domain", written.text("domain"))?.unwrap_or(defaults.domain),
        alt_domain: alternative(written, datacenter)?,
        datacenter: datacenter.to_owned(),
        node_ttl: time("dns_config.node_ttl", defaults.node_ttl),
        service_ttl: service_ttl(written)?,
        only_passing: switch("dns_config.only_passing", defaults.only_passing),
        enable_truncate: switch("dns_config.enable_truncate", defaults.enable_truncate),
        udp_answer_limit: count("dns_config.udp_answer_limit", defaults.udp_answer_limit)?,
        a_record_limit: count("dns_config.a_record_limit", defaults.a_record_limit)?,
        disable_compression: switch("dns_config.disable_compression", false),
        node_meta_txt: switch("dns_config.enable_additional_node_meta_txt", true),
        soa: SoaTimes {
            refresh: seconds("dns_config.soa.refresh", soa.refresh)?,
            retry: seconds("dns_config.soa.retry", soa.retry)?,
            expire: seconds("dns_config.soa.expire", soa.expire)?,
            min_ttl: seconds("dns_config.soa.min_ttl", soa.min_ttl)?,
        },
        allow_stale: switch("dns_config.allow_stale", defaults.allow_stale),
        max_stale: time("dns_config.max_stale", defaults.max_stale),
        use_cache: switch("dns_config.use_cache", defaults.use_cache),
        cache_max_age: time("dns_config.cache_max_age", defaults.cache_max_age),
        recursors: written
            .list("recursors")
            .iter()
            .map(|it| recursor(it))
            .collect::<Result<_, _>>()?,
        recursor_timeout: time("dns_config.recursor_timeout", defaults.recursor_timeout),
        recursor_strategy: strategy(written)?,
        responses_per_second: seconds("dns_config.responses_per_second", 0)?,
    })
}

/// Lifetimes of answers by service. One below zero is none.
fn service_ttl(written: &Written) -> Result<TtlMap, Error> {
    let (mut ttls, mut wrong) = (Vec::new(), Vec::new());
    for (service, text) in written.map("dns_config.service_ttl") {
        if let Some(nanos) = parse_nanos(&text) {
            ttls.push((service, Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))));
        } else {
            let path = format!("dns_config.service_ttl[{service:?}]");
            wrong.push(invalid_duration(&path, &text));
        }
    }
    if wrong.is_empty() { Ok(TtlMap::new(ttls)) } else { Err(Error(list_errors(&wrong))) }
}

fn strategy(written: &Written) -> Result<Strategy, Error> {
    match written.text("dns_config.recursor_strategy") {
        None | Some("" | "sequential") => Ok(Strategy::Sequential),
        Some("random") => Ok(Strategy::Random),
        Some(other) => Err(Error(format!(
            "dns_config.recursor_strategy cannot be \"{other}\". Must be \"sequential\" or \"random\""
        ))),
    }
}

/// Addresses of the DNS interface.
pub(super) fn addresses(
    written: &Written,
    client: &str,
    port: Option<u16>,
) -> Result<Vec<SocketAddr>, Error> {
    let own = written.text("addresses.dns").filter(|text| !text.trim().is_empty());
    let (key, text) = own.map_or(("client_addr", client), |text| ("addresses.dns", text));
    let Some(port) = port else { return Ok(Vec::new()) };
    let mut addresses = Vec::new();
    for word in text.split_whitespace() {
        if word.starts_with("unix://") {
            if own.is_some() {
                return Err(Error("DNS address cannot be a unix socket".into()));
            }
            continue; // of HTTP
        }
        let bare = word.trim_start_matches('[').trim_end_matches(']');
        let bare = if bare == "localhost" { "127.0.0.1" } else { bare };
        let ip: IpAddr = bare.parse().map_err(|_| {
            Error(format!("{key}: `{word}` is not an IP address\nhint: give an IP address"))
        })?;
        addresses.push(SocketAddr::new(ip, port));
    }
    Ok(addresses)
}

fn domain(key: &str, text: Option<&str>) -> Result<Option<Name>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let name = Name::from_text(&text.to_lowercase()).ok_or_else(|| {
        Error(format!(
            "{key} `{text}` is not a domain name\nhint: labels of 1 to 63 characters, separated by dots"
        ))
    })?;
    Ok(Some(name))
}

fn alternative(written: &Written, datacenter: &str) -> Result<Option<Name>, Error> {
    let text = written.text("alt_domain");
    let first = text.unwrap_or_default().to_lowercase();
    let first = first.split('.').next().unwrap_or_default();
    if RESERVED.contains(&first) || (first == datacenter && !first.is_empty()) {
        let reserved = RESERVED.join(",");
        return Err(Error(format!("alt_domain cannot start with {{{reserved},{datacenter}}}")));
    }
    domain("alt_domain", text)
}

fn recursor(text: &str) -> Result<SocketAddr, Error> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = text.parse().or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, DNS_PORT)));
    match address {
        Ok(address) if address.ip().is_unspecified() => Err(Error(format!(
            "DNS recursor address cannot be 0.0.0.0, :: or [::], but is `{text}`"
        ))),
        Ok(address) => Ok(address),
        Err(_) => Err(Error(format!(
            "recursors: `{text}` is not an address\nhint: give an IP address, with a port if it is not {DNS_PORT}"
        ))),
    }
}
