//! Web pages and writes. A browser sends whatever page it shows to any address that the page names, this agent's included,
//! from a machine that the agent trusts. It says so, in headers that no page can change: `Origin` and `Sec-Fetch-Site`.
//!
//! A request that carries one of them may write only from a page of this agent, or from an origin that the configuration
//! lists. A page is the agent's own if its origin is the name under which the agent was asked, and if that name cannot be
//! anybody else's: an IP address, `localhost`, the node's name, or one that is listed. (Any other name may have been pointed
//! at this agent by whoever owns it.) Clients that are no browsers send none of this, and are not asked for it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, Uri};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Origin of a page: `http://host:port`, as browsers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

/// No page of a browser comes from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin\nhint: write scheme and host, such as https://ui.example or http://10.0.0.1:8080"
)]
pub struct NotAnOrigin(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    /// In lower case, without a dot at its end.
    Name(String),
}

impl Host {
    /// Splits `host` or `host:port`; `None` for anything else.
    fn with_port(text: &str) -> Option<(Host, Option<u16>)> {
        let (host, rest) = if let Some(inner) = text.strip_prefix('[') {
            let (address, rest) = inner.split_once(']')?;
            (Host::Address(address.parse::<Ipv6Addr>().ok()?.into()), rest)
        } else {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (Host::name(name)?, rest)
        };
        if rest.is_empty() {
            return Some((host, None));
        }
        let digits = rest.strip_prefix(':')?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten().map(|port| (host, Some(port)))
    }

    fn name(text: &str) -> Option<Host> {
        if let Ok(address) = text.parse() {
            return Some(Host::Address(address));
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_name = !name.is_empty() && name.bytes().all(known);
        is_name.then(|| Host::Name(name.to_ascii_lowercase()))
    }

    /// Can nobody but this agent's own people be behind it?
    fn is_own(&self, node_name: &str, listed: &[Origin]) -> bool {
        match self {
            Host::Address(_) => true,
            Host::Name(name) => {
                name == "localhost"
                    || name.eq_ignore_ascii_case(node_name)
                    || listed.iter().any(|origin| origin.host == *self)
            }
        }
    }
}

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Origin, NotAnOrigin> {
        let parse = || {
            let (scheme, rest) = text.split_once("://")?;
            let scheme = match scheme.to_ascii_lowercase().as_str() {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                _ => return None,
            };
            let (host, port) = Host::with_port(rest)?;
            Some(Origin { scheme, host, port: port.unwrap_or_else(|| scheme.port()) })
        };
        parse().ok_or_else(|| NotAnOrigin(text.to_owned()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.scheme == Scheme::Http { "http://" } else { "https://" })?;
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Host::Address(address) => write!(f, "{address}")?,
            Host::Name(name) => f.write_str(name)?,
        }
        if self.port == self.scheme.port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// May a request with these headers change anything?
pub(super) fn may_write(
    uri: &Uri,
    headers: &HeaderMap,
    node_name: &str,
    listed: &[Origin],
) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let (origin, more) = (origins.next(), origins.next());
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    if origin.is_none() && sites.peek().is_none() {
        return true;
    }
    let origin = match origin.map(|value| value.to_str().ok().and_then(|text| text.parse().ok())) {
        None => None,
        Some(Some(origin)) if more.is_none() => Some(origin),
        // `null`, an extension, two of them: no page that anybody vouches for.
        Some(_) => return false,
    };
    if origin.as_ref().is_some_and(|origin| listed.contains(origin)) {
        return true;
    }
    // A person's own doing (`none`) has no page behind it.
    if !sites.all(|site| site == "same-origin" || site == "none") {
        return false;
    }
    let Some((host, port)) = asked(uri, headers) else { return false };
    let own = Origin { scheme: Scheme::Http, host, port: port.unwrap_or(Scheme::Http.port()) };
    own.host.is_own(node_name, listed) && origin.is_none_or(|origin| origin == own)
}

/// The name under which the agent was asked.
fn asked(uri: &Uri, headers: &HeaderMap) -> Option<(Host, Option<u16>)> {
    if let Some(authority) = uri.authority() {
        return Host::with_port(authority.as_str());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then(|| Host::with_port(host)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_others_may_not_write() {
        let listed: Vec<Origin> =
            vec!["https://ui.example".parse().unwrap(), "http://10.1.1.1:8080".parse().unwrap()];
        // Host, Origin, Sec-Fetch-Site.
        let rows = [
            ("consul.example:8500", "", "", true),
            ("", "", "", true),
            ("localhost:8500", "http://localhost:8500", "", true),
            ("LOCALHOST:8500", "http://LocalHost:8500", "same-origin", true),
            ("localhost", "http://localhost:80", "", true),
            ("127.0.0.1:8500", "http://127.0.0.1:8500", "same-origin", true),
            ("[::1]:8500", "http://[::1]:8500", "", true),
            ("n1:8500", "http://n1:8500", "", true),
            ("N1.:8500", "http://n1:8500", "", true),
            ("127.0.0.1:8500", "", "same-origin", true),
            ("127.0.0.1:8500", "", "none", true),
            // Listed, whatever else is said.
            ("127.0.0.1:8500", "https://ui.example", "cross-site", true),
            ("127.0.0.1:8500", "https://UI.example:443", "", true),
            ("127.0.0.1:8500", "http://10.1.1.1:8080", "cross-site", true),
            ("ui.example:8500", "http://ui.example:8500", "same-origin", true),
            // Foreign.
            ("127.0.0.1:8500", "http://evil.example", "", false),
            ("127.0.0.1:8500", "http://evil.example", "same-origin", false),
            ("127.0.0.1:8500", "https://127.0.0.1:8500", "", false),
            ("127.0.0.1:8500", "http://127.0.0.1:8501", "same-site", false),
            ("127.0.0.1:8500", "http://127.0.0.1", "", false),
            ("127.0.0.1:8500", "http://localhost:8500", "", false),
            ("127.0.0.1:8500", "http://127.0.0.1:8500.evil.example", "", false),
            ("127.0.0.1:8500", "http://127.0.0.1:8500@evil.example", "", false),
            ("127.0.0.1:8500", "http://127.0.0.1:8500/", "", false),
            ("127.0.0.1:8500", "http://127.0.0.1:+8500", "", false),
            ("127.0.0.1:8500", "null", "", false),
            ("127.0.0.1:8500", "null", "same-origin", false),
            ("127.0.0.1:8500", " ", "", false),
            ("127.0.0.1:8500", "file://", "", false),
            ("127.0.0.1:8500", "", "cross-site", false),
            ("127.0.0.1:8500", "", "same-site", false),
            ("127.0.0.1:8500", "", "whatever", false),
            ("127.0.0.1:8500", "http://127.0.0.1:8500", "cross-site", false),
            ("127.0.0.1:8500", "http://ui.example", "cross-site", false),
            ("127.0.0.1:8500", "https://ui.example.evil", "", false),
            // A name that its owner has pointed here.
            ("evil.example:8500", "http://evil.example:8500", "same-origin", false),
            ("evil.example:8500", "", "same-origin", false),
            ("n1.evil.example", "http://n1.evil.example", "", false),
            ("", "http://localhost", "", false),
        ];
        for (host, origin, site, expected) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in [(HOST, host), (ORIGIN, origin), (SEC_FETCH_SITE, site)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            let uri = Uri::from_static("/v1/kv/a");
            let may = may_write(&uri, &headers, "n1", &listed);
            assert_eq!(may, expected, "host `{host}` origin `{origin}` site `{site}`");
        }
    }

    #[test]
    fn twice_is_never_right_and_the_request_line_wins() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, "127.0.0.1".parse().unwrap());
        headers.append(ORIGIN, "http://127.0.0.1".parse().unwrap());
        let path = Uri::from_static("/v1/kv/a");
        assert!(may_write(&path, &headers, "n1", &[]));
        let absolute = Uri::from_static("http://evil.example/v1/kv/a");
        assert!(!may_write(&absolute, &headers, "n1", &[]));
        headers.append(ORIGIN, "http://127.0.0.1".parse().unwrap());
        assert!(!may_write(&path, &headers, "n1", &[]));
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for (text, shown) in [
            ("http://A.example:80", "http://a.example"),
            ("https://a.example:8443", "https://a.example:8443"),
            ("http://[::0001]:8500", "http://[::1]:8500"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "a.example",
            "ftp://a",
            "http://",
            "http://a/b",
            "http://a b",
            "*",
            "http://a:99999",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }
}
