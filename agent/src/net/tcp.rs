//! Outgoing TCP connections to `host:port` as people write it.
//!
//! A name with addresses of both families is tried on both, the second a moment after the first (RFC 8305), and the
//! first connection wins. Error texts are those that operators of the reference grep for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

/// Head start of the first address family.
const FALLBACK_DELAY: Duration = Duration::from_millis(300);

/// Connects to `host:port`. The error is ready for people.
pub(crate) async fn connect(address: &str) -> Result<TcpStream, String> {
    let addresses = resolve(address, "tcp").await?;
    let nameless = address.starts_with(':');
    let is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == is_v4);
    race(one, other).await.map_err(|(tried, error)| {
        let tried = tried.to_string();
        format!("dial tcp {}: {}", if nameless { address } else { &tried }, reason(&error))
    })
}

/// The addresses behind `host:port`, at least one. The error is ready for people.
pub(crate) async fn resolve(address: &str, network: &str) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = split(address).map_err(|what| format!("dial {network}: address {what}"))?;
    let addresses: Vec<IpAddr> = if host.is_empty() {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else if let Ok(ip) = host.parse::<IpAddr>() {
        vec![ip]
    } else {
        match tokio::net::lookup_host((host, port)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => Vec::new(),
        }
    };
    if addresses.is_empty() {
        return Err(format!("dial {network}: lookup {host}: no such host"));
    }
    Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

type Failure = (SocketAddr, io::Error);

/// The first connection of two families; the error is the first family's.
async fn race(one: Vec<SocketAddr>, other: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let first = in_turn(one);
    if other.is_empty() {
        return first.await;
    }
    tokio::pin!(first);
    let early = tokio::time::timeout(FALLBACK_DELAY, &mut first).await;
    let second = in_turn(other);
    match early {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => second.await.map_err(|_| error),
        Err(_) => {
            tokio::pin!(second);
            tokio::select! {
                result = &mut first => match result {
                    Ok(stream) => Ok(stream),
                    Err(error) => second.await.map_err(|_| error),
                },
                result = &mut second => match result {
                    Ok(stream) => Ok(stream),
                    Err(_) => first.await,
                },
            }
        }
    }
}

/// One address after the other; the error is the first one's.
async fn in_turn(addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let mut failure = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = failure.or(Some((address, error))),
        }
    }
    Err(failure.expect("a family has at least one address"))
}

/// The system's reason in the words of the reference's platform.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused",
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer",
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        io::ErrorKind::HostUnreachable => "connect: no route to host",
        io::ErrorKind::AddrNotAvailable => "connect: cannot assign requested address",
        io::ErrorKind::InvalidInput => "connect: invalid argument",
        io::ErrorKind::PermissionDenied => "connect: permission denied",
        io::ErrorKind::TimedOut => "i/o timeout",
        _ => return format!("connect: {error}").to_lowercase(),
    };
    text.to_owned()
}

/// Host and port of `host:port` or `[v6]:port`. The error names the address and what is wrong.
pub(crate) fn split(address: &str) -> Result<(&str, u16), String> {
    let wrong = |what: &str| Err(format!("{address}: {what}"));
    let Some(colon) = address.rfind(':') else { return wrong("missing port in address") };
    let (host, port) = (&address[..colon], &address[colon + 1..]);
    let host = if let Some(bracketed) = host.strip_prefix('[') {
        match bracketed.strip_suffix(']') {
            Some(inner) => inner,
            None if address.ends_with(']') => return wrong("missing port in address"),
            None => return wrong("missing ']' in address"),
        }
    } else if host.contains(':') {
        return wrong("too many colons in address");
    } else {
        host
    };
    if let Ok(number) = port.parse::<u16>() {
        return Ok((host, number));
    }
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{port}: invalid port"));
    }
    match port {
        "" => Ok((host, 0)),
        "http" => Ok((host, 80)),
        "https" => Ok((host, 443)),
        "domain" => Ok((host, 53)),
        "ssh" => Ok((host, 22)),
        _ => Err(format!("tcp/{port}: unknown port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split() {
        let rows = [
            ("127.0.0.1:80", Ok(("127.0.0.1", 80))),
            ("[::1]:80", Ok(("::1", 80))),
            (":1", Ok(("", 1))),
            ("name:http", Ok(("name", 80))),
            ("127.0.0.1", Err("127.0.0.1: missing port in address")),
            ("[::1]", Err("[::1]: missing port in address")),
            ("::1:1", Err("::1:1: too many colons in address")),
            ("127.0.0.1:x", Err("tcp/x: unknown port")),
            ("127.0.0.1:99999", Err("99999: invalid port")),
        ];
        for (address, expected) in rows {
            assert_eq!(split(address), expected.map_err(str::to_owned), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_is_tried_on_both_families() {
        for ip in ["127.0.0.1", "::1"] {
            let Ok(listener) = std::net::TcpListener::bind((ip, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            let one = vec![SocketAddr::new("127.0.0.1".parse().unwrap(), port)];
            let other = vec![SocketAddr::new("::1".parse().unwrap(), port)];
            assert!(race(one.clone(), other.clone()).await.is_ok(), "{ip}");
            assert!(race(other, one).await.is_ok(), "{ip}");
        }
    }
}
