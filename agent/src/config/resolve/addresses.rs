//! Addresses and ports: which ones this agent binds, which it tells others, and that no two interfaces
//! share one.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::Error;
use crate::config::written::Written;

const SERVER_PORT: u16 = 8300;

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

/// The ports of an agent.
pub(super) fn ports(written: &Written, server: bool) -> Result<Ports, Error> {
    let off = |key: &str| Error(format!("{key} cannot be turned off"));
    let port = |key: &str, default| written.port(key, Some(default));
    Ok(Ports {
        http: port("ports.http", 8500),
        dns: port("ports.dns", 8600),
        server: match port("ports.server", SERVER_PORT) {
            Some(port) => port,
            // Nobody asks an agent that is no server there.
            None if !server => SERVER_PORT,
            None => return Err(off("ports.server")),
        },
        serf_lan: port("ports.serf_lan", 8301).ok_or_else(|| off("ports.serf_lan"))?,
        serf_wan: port("ports.serf_wan", 8302),
    })
}

/// Bind and advertise addresses. Development mode stays on loopback unless told otherwise.
pub(super) fn bind_and_advertise(
    written: &Written,
    dev: bool,
) -> Result<(IpAddr, IpAddr, IpAddr), Error> {
    let read = |key: &str| -> Result<Option<IpAddr>, Error> {
        match written.text(key).map(str::trim).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) if text.split_whitespace().count() > 1 => Err(Error(format!(
                "{key} cannot contain multiple addresses. Use 'addresses.{{dns,http,https}}' instead."
            ))),
            Some(text) => text.parse().map(Some).map_err(|_| {
                Error(format!(
                    "{key} `{text}` is not an IP address\nhint: give an IP address, or a template such as {{{{ GetPrivateIP }}}}"
                ))
            }),
        }
    };
    let bind = match read("bind_addr")? {
        Some(bind) => bind,
        None if dev => IpAddr::from([127, 0, 0, 1]),
        None => IpAddr::from([0, 0, 0, 0]),
    };
    let mut advertise = read("advertise_addr")?;
    for family in ["advertise_addr_ipv4", "advertise_addr_ipv6"] {
        advertise = advertise.or(read(family)?);
    }
    let advertise = match advertise {
        Some(advertise) if advertise.is_unspecified() => {
            return Err(Error("Advertise address cannot be 0.0.0.0, :: or [::]".into()));
        }
        Some(advertise) => advertise,
        None if bind.is_unspecified() => own_address(bind.is_ipv6())?,
        None => bind,
    };
    Ok((bind, advertise, read("advertise_addr_wan")?.unwrap_or(advertise)))
}

/// The one private address of this host, as the reference picks it.
fn own_address(v6: bool) -> Result<IpAddr, Error> {
    let mut found: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .map_err(|e| Error(format!("cannot list this host's addresses: {e}")))?
        .filter(|interface| interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(a) => !v6 && a.is_private(),
            IpAddr::V6(a) => v6 && !a.is_loopback() && !a.is_unicast_link_local(),
        })
        .collect();
    found.sort();
    found.dedup();
    let family = if v6 { "public IPv6" } else { "private IPv4" };
    match found.as_slice() {
        [one] => Ok(*one),
        // No private one: any other address of the host serves.
        [] => any_address(v6).ok_or_else(|| {
            Error(format!("No {family} address found\nhint: give -bind or -advertise"))
        }),
        _ => Err(Error(format!(
            "Multiple {family} addresses found. Please configure one with 'bind' and/or 'advertise'."
        ))),
    }
}

fn any_address(v6: bool) -> Option<IpAddr> {
    let mut all: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|interface| interface.address)
        .filter_map(|a| a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())))
        .filter(|a| !v6 && !a.is_loopback())
        .collect();
    all.sort();
    all.first().copied()
}

/// Addresses of the HTTP interface: IP addresses and `unix://` paths, separated by spaces.
pub(super) fn http(
    written: &Written,
    client: &str,
    port: Option<u16>,
) -> Result<Vec<HttpAddress>, Error> {
    let text = written.filled("addresses.http").unwrap_or(client);
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        if let Some(path) = word.strip_prefix("unix://") {
            out.push(HttpAddress::Unix(path.into()));
        } else if let Some(port) = port {
            let ip: IpAddr = match word {
                "localhost" => IpAddr::from([127, 0, 0, 1]),
                word => word.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| {
                    Error(format!("client_addr: `{word}` is not an IP address\nhint: give an IP address or unix:///path"))
                })?,
            };
            out.push(HttpAddress::Tcp(SocketAddr::new(ip, port)));
        }
    }
    Ok(out)
}

/// Two interfaces on one port would fail later and less clearly.
pub(super) fn distinct(
    http: &[HttpAddress],
    dns: &[SocketAddr],
    ports: Ports,
    (advertise, advertise_wan): (IpAddr, IpAddr),
) -> Result<(), Error> {
    for address in http {
        if let HttpAddress::Tcp(address) = address
            && dns.contains(address)
        {
            return Err(Error(format!("HTTP address {address} already configured for DNS")));
        }
    }
    let interfaces = http.iter().filter_map(|address| match address {
        HttpAddress::Tcp(address) => Some(("HTTP", *address)),
        HttpAddress::Unix(_) => None,
    });
    let mut taken: Vec<_> = dns.iter().map(|address| ("DNS", *address)).chain(interfaces).collect();
    for (name, ip, port) in [
        ("RPC Advertise", advertise, Some(ports.server)),
        ("Serf Advertise LAN", advertise, Some(ports.serf_lan)),
        ("Serf Advertise WAN", advertise_wan, ports.serf_wan),
    ] {
        let Some(address) = port.map(|port| SocketAddr::new(ip, port)) else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, taken)| *taken == address) {
            return Err(Error(format!("{name} address {address} already configured for {other}")));
        }
        taken.push((name, address));
    }
    // The same ports of other addresses are bound on one address all the same.
    let own = [
        ("RPC", Some(ports.server)),
        ("Serf LAN", Some(ports.serf_lan)),
        ("Serf WAN", ports.serf_wan),
    ];
    for (i, (name, port)) in own.iter().enumerate() {
        for (other, taken) in &own[..i] {
            if port.is_some() && port == taken {
                return Err(Error(format!(
                    "{name} port {} already configured for {other}",
                    port.unwrap_or_default()
                )));
            }
        }
    }
    Ok(())
}
