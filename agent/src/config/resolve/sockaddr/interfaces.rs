//! The addresses of this host: what templates may ask of them, select and sort them by.

use std::net::IpAddr;

use crate::config::Error;
use crate::net::Network;

/// Addresses that never leave a host or its link.
pub(super) const NOT_FORWARDED: [&str; 5] =
    ["127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "::1/128", "fe80::/10"];

/// Addresses that only their own site knows.
pub(super) const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7"];

/// One address of this host.
#[expect(clippy::struct_excessive_bools, reason = "each is one flag of an interface")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) address: IpAddr,
    /// Bits of its network.
    pub(super) prefix: u32,
    pub(super) up: bool,
    pub(super) loopback: bool,
    pub(super) broadcast: bool,
    pub(super) multicast: bool,
    /// The way out of this network.
    pub(super) default: bool,
}

/// Is an address in one of these blocks?
pub(super) fn within(address: IpAddr, networks: &[&str]) -> bool {
    networks
        .iter()
        .any(|network| network.parse::<Network>().is_ok_and(|network| network.contains(address)))
}

/// The value of an attribute that templates may ask for.
pub(super) fn attribute(it: &Interface, name: &str) -> Result<String, String> {
    Ok(match name {
        "address" => it.address.to_string(),
        "name" => it.name.clone(),
        "size" | "mask_bits" => it.prefix.to_string(),
        "network" => format!("{}/{}", it.address, it.prefix),
        "type" => if it.address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        "flags" => {
            FLAGS.iter().filter(|flag| has_flag(it, flag)).copied().collect::<Vec<_>>().join("|")
        }
        _ => return Err(format!("addresses have no attribute `{name}`")),
    })
}

const FLAGS: [&str; 5] = ["up", "broadcast", "loopback", "multicast", "forwardable"];

fn has_flag(it: &Interface, flag: &str) -> bool {
    match flag {
        "up" => it.up,
        "loopback" => it.loopback,
        "broadcast" => it.broadcast,
        "multicast" => it.multicast,
        "forwardable" => !within(it.address, &NOT_FORWARDED),
        _ => false,
    }
}

pub(super) type Test = Box<dyn Fn(&Interface) -> bool>;

/// Does an address fit? Several values are separated by bars, and one of them is enough.
pub(super) fn test(what: &str, value: &str) -> Result<Test, String> {
    let words: Vec<String> = value.split('|').map(str::trim).map(str::to_owned).collect();
    let pattern =
        || regex::Regex::new(value).map_err(|error| format!("`{value}` is not a pattern: {error}"));
    Ok(match what {
        "name" => {
            let pattern = pattern()?;
            Box::new(move |it| pattern.is_match(&it.name))
        }
        "address" => {
            let pattern = pattern()?;
            Box::new(move |it| pattern.is_match(&it.address.to_string()))
        }
        "network" => {
            let networks = words
                .iter()
                .map(|word| word.parse::<Network>().map_err(|error| error.to_string()))
                .collect::<Result<Vec<_>, _>>()?;
            Box::new(move |it| networks.iter().any(|network| network.contains(it.address)))
        }
        "type" => Box::new(move |it| {
            words.iter().any(|word| match word.to_lowercase().as_str() {
                "ip" => true,
                "ipv4" => it.address.is_ipv4(),
                "ipv6" => it.address.is_ipv6(),
                _ => false,
            })
        }),
        "flag" | "flags" => Box::new(move |it| words.iter().all(|word| has_flag(it, word))),
        "size" => Box::new(move |it| {
            words.iter().any(|word| word.trim_start_matches('/') == it.prefix.to_string())
        }),
        "rfc" => {
            for word in &words {
                if !["1918", "6890", "4193", "3927", "6598"].contains(&word.as_str()) {
                    return Err(format!("addresses of RFC {word} are not known here"));
                }
            }
            Box::new(move |it| {
                words.iter().any(|word| match word.as_str() {
                    "1918" => within(it.address, &PRIVATE[..3]),
                    "4193" => within(it.address, &["fc00::/7"]),
                    "3927" => within(it.address, &["169.254.0.0/16"]),
                    "6598" => within(it.address, &["100.64.0.0/10"]),
                    _ => within(it.address, &PRIVATE) || within(it.address, &NOT_FORWARDED),
                })
            })
        }
        _ => return Err(format!("addresses cannot be selected by `{what}`")),
    })
}

/// Sorts by a key, in falling order if `down`.
pub(super) fn sort(list: &mut [Interface], key: &str, down: bool) -> Result<(), String> {
    match key {
        "address" => list.sort_by_key(|it| it.address),
        "name" => list.sort_by(|a, b| a.name.cmp(&b.name)),
        // The larger network has fewer bits.
        "size" => list.sort_by_key(|it| it.prefix),
        "type" => list.sort_by_key(|it| it.address.is_ipv6()),
        "default" => list.sort_by_key(|it| !it.default),
        "private" => list.sort_by_key(|it| !within(it.address, &PRIVATE)),
        _ => return Err(format!("addresses cannot be sorted by `{key}`")),
    }
    if down {
        list.reverse();
    }
    Ok(())
}

/// All addresses of this host.
pub(super) fn of_this_host() -> Result<Vec<Interface>, Error> {
    use nix::net::if_::InterfaceFlags;
    let ways_out = default_routes();
    let found = nix::ifaddrs::getifaddrs()
        .map_err(|error| Error(format!("cannot list this host's addresses: {error}")))?;
    Ok(found
        .filter_map(|it| {
            let ip = |address: &nix::sys::socket::SockaddrStorage| {
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            };
            let address = ip(it.address.as_ref()?)?;
            let prefix = match it.netmask.as_ref().and_then(ip) {
                Some(IpAddr::V4(mask)) => u32::from(mask).count_ones(),
                Some(IpAddr::V6(mask)) => u128::from(mask).count_ones(),
                None => 0,
            };
            Some(Interface {
                default: ways_out.contains(&it.interface_name),
                address,
                prefix,
                up: it.flags.contains(InterfaceFlags::IFF_UP),
                loopback: it.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                broadcast: it.flags.contains(InterfaceFlags::IFF_BROADCAST),
                multicast: it.flags.contains(InterfaceFlags::IFF_MULTICAST),
                name: it.interface_name,
            })
        })
        .collect())
}

/// Interfaces with a default route. A host without routes has none.
fn default_routes() -> Vec<String> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut names: Vec<String> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            (words.next()? == "00000000").then(|| name.to_owned())
        })
        .collect();
    names.dedup();
    names
}
