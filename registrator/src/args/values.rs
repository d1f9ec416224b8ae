//! How single arguments are read.

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use muster_client::Secret;

use super::Error;
use crate::metadata::parse_seconds;

/// Go's flags take one dash or two; clap takes one for a letter only.
pub(super) fn normalise(
    args: impl IntoIterator<Item = OsString>,
) -> impl Iterator<Item = OsString> {
    args.into_iter().map(|arg| match arg.to_str() {
        Some(text)
            if text.len() > 2
                && text.starts_with('-')
                && text[1..].starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            OsString::from(format!("-{text}"))
        }
        _ => arg,
    })
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    parse_seconds(text).ok_or_else(|| "write a time such as 30s, 5m or 30 (seconds)".to_owned())
}

pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(ms) => Ok(Duration::from_millis(ms.into())),
        Err(_) => seconds(text),
    }
}

/// Turns the positional argument into an address for the client; `None` leaves it to the
/// environment.
pub(super) fn catalog_address(uri: &str) -> Result<Option<String>, Error> {
    let fail = |why| Err(Error::Catalog(uri.to_owned(), why));
    if let Some(path) = uri.strip_prefix("consul-unix://").or_else(|| uri.strip_prefix("unix://")) {
        return Ok(Some(format!("unix://{path}")));
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(Some(uri.to_owned()).filter(|uri| !uri.is_empty()));
    };
    match scheme {
        "muster" | "consul" | "http" => {}
        "consul-tls" | "https" => return fail("TLS is not supported yet"),
        "consulkv" | "consulkv-unix" | "etcd" | "skydns2" | "zookeeper" => {
            return fail("only services of an agent are supported: muster://host:port");
        }
        _ => return fail("use muster://host:port, consul://host:port or unix:///path"),
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() || rest.contains('?') {
        return fail("a path or a question mark has no meaning here");
    }
    if host.is_empty() {
        return Ok(None);
    }
    // An address in brackets may contain colons that do not begin a port.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    Ok(Some(if has_port { host.to_owned() } else { format!("{host}:8500") }))
}

/// A token on the command line. It is never printed.
#[derive(Clone)]
pub struct Token(pub(super) Secret);

impl std::str::FromStr for Token {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Secret::new(text)))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An address, or the first one of an interface: IPv4 before IPv6, global before link-local.
pub(super) fn resolve_ip(text: &str) -> Result<IpAddr, Error> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return if ip.is_unspecified() { Err(Error::Ip(text.to_owned())) } else { Ok(ip) };
    }
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    addresses
        .filter(|interface| interface.interface_name == text)
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .min_by_key(|ip| match ip {
            IpAddr::V4(_) => 0,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => 2,
            IpAddr::V6(_) => 1,
        })
        .ok_or_else(|| Error::Ip(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogs_are_read_as_people_write_them() {
        for (uri, expected) in [
            ("muster://agent1:8500", Some("agent1:8500")),
            ("consul://localhost:8500", Some("localhost:8500")),
            ("consul://localhost", Some("localhost:8500")),
            ("http://10.0.0.1:80/", Some("10.0.0.1:80")),
            ("consul://[::1]", Some("[::1]:8500")),
            ("consul://[::1]:80", Some("[::1]:80")),
            ("unix:///run/muster.sock", Some("unix:///run/muster.sock")),
            ("consul-unix:///run/consul.sock", Some("unix:///run/consul.sock")),
            ("localhost:8500", Some("localhost:8500")),
            ("consul://", None),
            ("consul:///", None),
            ("", None),
        ] {
            let address = catalog_address(uri).expect("a good address");
            assert_eq!(address.as_deref(), expected, "{uri}");
        }
        for uri in ["etcd://x", "consulkv://x/p", "https://x", "ftp://x", "consul://x?prefix=a"] {
            assert!(catalog_address(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn an_interface_stands_for_its_address() {
        assert_eq!(resolve_ip("lo").expect("loopback has one"), IpAddr::from([127, 0, 0, 1]));
        assert!(resolve_ip("0.0.0.0").is_err());
        assert!(resolve_ip("nonsense0").is_err());
    }
}
