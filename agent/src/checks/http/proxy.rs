//! The proxy of the environment, as the reference's platform reads it: `HTTP_PROXY` and `HTTPS_PROXY`
//! (or in lower case), and `NO_PROXY` for those who are asked directly. This machine always is.

use std::net::IpAddr;

use super::url::Url;
use crate::net::Network;

/// Proxies for requests. Read once: the environment does not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Exception>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everybody,
    Address(IpAddr, Option<String>),
    Network(Network),
    /// A domain with all below it; only those below it when it is written with a dot.
    Domain {
        name: String,
        below_only: bool,
        port: Option<String>,
    },
}

impl Proxies {
    /// Reads variables by `get`.
    pub(super) fn new(get: impl Fn(&str) -> Option<String>) -> Proxies {
        let variable = |name: &str| {
            get(name).or_else(|| get(&name.to_lowercase())).filter(|value| !value.is_empty())
        };
        let proxy = |name: &str| {
            let text = variable(name)?;
            let text = if text.contains("://") { text } else { format!("http://{text}") };
            Url::parse(&text).ok().filter(|url| url.supported().is_ok() && !url.is_tls())
        };
        let direct = variable("NO_PROXY").unwrap_or_default();
        Proxies {
            http: proxy("HTTP_PROXY"),
            https: proxy("HTTPS_PROXY"),
            direct: direct.split(',').filter_map(Exception::parse).collect(),
        }
    }

    /// The proxy for this target.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.is_tls() { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = url.host().trim_start_matches('[').trim_end_matches(']').to_lowercase();
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|ip| ip.is_loopback()) {
            return None;
        }
        let whole = url.address();
        let port = whole.rsplit(':').next().unwrap_or_default();
        let is_direct = self.direct.iter().any(|one| one.matches(&host, address, port));
        (!is_direct).then_some(proxy)
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Exception> {
        let text = text.trim().to_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Exception::Everybody);
        }
        if text.contains('/') {
            return Some(Exception::Network(text.parse().ok()?));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Exception::Address(ip, None));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name.to_owned(), Some(port.to_owned())),
            None => (text, None),
        };
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Some(Exception::Address(ip, port));
        }
        let name = name.strip_prefix('*').unwrap_or(&name);
        let below_only = name.starts_with('.');
        Some(Exception::Domain { name: name.trim_start_matches('.').to_owned(), below_only, port })
    }

    fn matches(&self, host: &str, address: Option<IpAddr>, port: &str) -> bool {
        let port_fits = |wanted: &Option<String>| wanted.as_deref().is_none_or(|one| one == port);
        match self {
            Exception::Everybody => true,
            Exception::Address(ip, wanted) => address == Some(*ip) && port_fits(wanted),
            Exception::Network(network) => address.is_some_and(|ip| network.contains(ip)),
            Exception::Domain { name, below_only, port: wanted } => {
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1);
                port_fits(wanted) && (below || (!below_only && host == name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_through_whom() {
        let set = |name: &str| match name {
            "http_proxy" => Some("proxy:3128".to_owned()),
            "HTTPS_PROXY" => Some("http://secure:8443".to_owned()),
            "NO_PROXY" => Some(
                "one.example, .two.example,10.0.0.0/8,192.168.1.1,four.example:81,[fd00::1]"
                    .to_owned(),
            ),
            _ => None,
        };
        let proxies = Proxies::new(set);
        let rows = [
            ("http://web.example/", Some("proxy:3128")),
            ("https://web.example/", Some("secure:8443")),
            ("http://localhost:8080/", None),
            ("http://127.0.0.9/", None),
            ("http://[::1]/", None),
            ("http://one.example/", None),
            ("http://a.one.example/", None),
            ("http://alone.example/", Some("proxy:3128")),
            ("http://two.example/", Some("proxy:3128")),
            ("http://a.two.example/", None),
            ("http://10.1.2.3/", None),
            ("http://11.1.2.3/", Some("proxy:3128")),
            ("http://192.168.1.1:99/", None),
            ("http://four.example/", Some("proxy:3128")),
            ("http://four.example:81/", None),
            ("http://[fd00::1]/", None),
            ("http://[fd00::2]/", Some("proxy:3128")),
        ];
        for (url, expected) in rows {
            let url = Url::parse(url).unwrap();
            let found = proxies.of(&url).map(Url::address);
            assert_eq!(found.as_deref(), expected, "{url}");
        }
        let everybody = Proxies::new(|name| match name {
            "HTTP_PROXY" => Some("proxy:1".into()),
            "no_proxy" => Some("*".into()),
            _ => None,
        });
        assert_eq!(everybody.of(&Url::parse("http://a/").unwrap()), None);
        assert_eq!(Proxies::new(|_| None), Proxies::default());
    }
}
