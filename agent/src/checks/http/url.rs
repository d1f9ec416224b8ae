//! As much of a URL as a check needs: where to connect, what to ask, and where a redirect leads.

use std::fmt::{self, Write as _};

use crate::secrets;

/// An absolute URL, or one that is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    scheme: String,
    user: Option<String>,
    /// `host` or `host:port`, as written.
    authority: String,
    /// Path and query, escaped.
    target: String,
}

impl Url {
    /// Takes a text apart. The error is in the words that the reference's users know.
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        let failed = |what: &str| Err(format!("parse {:?}: {what}", secrets::text(text)));
        if text.starts_with(':') {
            return failed("missing protocol scheme");
        }
        if text.chars().any(char::is_control) {
            return failed("net/url: invalid control character in URL");
        }
        let scheme_end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
        let (scheme, rest) = match scheme_end {
            Some(end) if text[end..].starts_with(':') => {
                if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
                    return failed("first path segment in URL cannot contain colon");
                }
                (text[..end].to_ascii_lowercase(), &text[end + 1..])
            }
            _ => (String::new(), text),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, target) = match rest.strip_prefix("//") {
            None => ("", rest),
            Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
        };
        let (user, authority) = match place.rsplit_once('@') {
            Some((user, authority)) => (Some(unescaped(user)), authority),
            None => (None, place),
        };
        Ok(Url { scheme, user, authority: authority.to_owned(), target: escaped(target) })
    }

    /// Fails unless this can be asked over HTTP.
    pub(super) fn supported(&self) -> Result<(), String> {
        if self.scheme != "http" && self.scheme != "https" {
            return Err(format!("unsupported protocol scheme {:?}", self.scheme));
        }
        if self.authority.is_empty() || self.authority.starts_with(':') {
            return Err("http: no Host in request URL".to_owned());
        }
        Ok(())
    }

    /// Is the connection to be encrypted?
    pub(super) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The host without its port.
    pub(super) fn host(&self) -> &str {
        match self.authority.rfind(':') {
            Some(colon) if !self.authority[colon..].contains(']') => &self.authority[..colon],
            _ => &self.authority,
        }
    }

    /// `host:port` to connect to.
    pub(super) fn address(&self) -> String {
        let has_port = self.authority.rfind(':').is_some_and(|colon| {
            !self.authority[colon..].contains(']') && colon + 1 < self.authority.len()
        });
        if has_port {
            self.authority.clone()
        } else {
            let port = if self.is_tls() { 443 } else { 80 };
            format!("{}:{port}", self.authority.trim_end_matches(':'))
        }
    }

    /// For the `Host` header.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// `user:password`.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Path and query of the request line.
    pub(super) fn target(&self) -> String {
        if self.target.starts_with('/') { self.target.clone() } else { format!("/{}", self.target) }
    }

    /// Is this the same host and port as `other`, or a host below it with the same port?
    pub(super) fn is_same_place_or_below(&self, other: &Url) -> bool {
        let (own, other) = (self.address().to_lowercase(), other.address().to_lowercase());
        own == other || own.strip_suffix(&*other).is_some_and(|above| above.ends_with('.'))
    }

    /// As a request's `Referer` shows it.
    pub(super) fn without_user(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.target)
    }

    /// Does this `Location` name no scheme?
    pub(super) fn is_relative(location: &str) -> bool {
        Url::parse(location).is_ok_and(|url| url.scheme.is_empty())
    }

    /// Resolves a `Location` against this URL.
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        if location.is_empty() {
            return None;
        }
        let url = Url::parse(location).ok()?;
        if !url.scheme.is_empty() {
            return Some(url);
        }
        if location.starts_with("//") {
            return Some(Url { scheme: self.scheme.clone(), ..url });
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let target = if url.target.starts_with('/') {
            url.target
        } else if url.target.starts_with('?') {
            format!("{path}{}", url.target)
        } else {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{}", url.target)
        };
        Some(Url { target, ..self.clone() })
    }
}

/// Without user, password and other secrets: this is what errors show. A token may be in the place of either.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if !self.authority.is_empty() {
            f.write_str("//")?;
            if self.user.is_some() {
                f.write_str("***@")?;
            }
            f.write_str(&self.authority)?;
        }
        f.write_str(&secrets::text(&self.target))
    }
}

/// Escapes what may not stand in a request line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~'
                if !matches!(
                    byte,
                    b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
                ) =>
            {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a text cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn unescaped(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let rows = [
            ("http://a", "a:80", "/", "http://a"),
            ("http://a:81/x?y=z#f", "a:81", "/x?y=z", "http://a:81/x?y=z"),
            ("HTTP://a?q", "a:80", "/?q", "http://a?q"),
            ("http://[::1]/", "[::1]:80", "/", "http://[::1]/"),
            ("http://[::1]:8/", "[::1]:8", "/", "http://[::1]:8/"),
            ("http://u:p%40@a/", "a:80", "/", "http://***@a/"),
            ("http://a/\u{e4} \"", "a:80", "/%C3%A4%20%22", "http://a/%C3%A4%20%22"),
        ];
        for (text, address, target, shown) in rows {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.supported(), Ok(()), "{text}");
            assert_eq!(
                (url.address().as_str(), url.target().as_str()),
                (address, target),
                "{text}"
            );
            assert_eq!(url.to_string(), shown);
        }
        assert_eq!(Url::parse("http://u:p%40@a/").unwrap().user(), Some("u:p@"));
        for text in ["http:///x", "http://:80/", "ftp://x", "x", "/x", ""] {
            assert!(Url::parse(text).unwrap().supported().is_err(), "{text}");
        }
        for text in [":x", "1:x", "http://a/\n"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn places_are_the_same_or_below() {
        let rows = [
            ("http://a/x", "http://a/y", true),
            ("http://A:80/", "http://a/", true),
            ("https://a/", "http://a/", false),
            ("http://a:81/", "http://a/", false),
            ("http://b.a/", "http://a/", true),
            ("http://ba/", "http://a/", false),
            ("http://a/", "http://b.a/", false),
        ];
        for (to, from, expected) in rows {
            let (to, from) = (Url::parse(to).unwrap(), Url::parse(from).unwrap());
            assert_eq!(to.is_same_place_or_below(&from), expected, "{to} {from}");
        }
        for (location, relative) in
            [("/x", true), ("x?y", true), ("//a/x", true), ("http://a", false)]
        {
            assert_eq!(Url::is_relative(location), relative, "{location}");
        }
    }

    #[test]
    fn redirects_lead_somewhere() {
        let from = Url::parse("http://a:81/x/y?z").unwrap();
        let rows = [
            ("http://b/c", "http://b/c"),
            ("//b/c", "http://b/c"),
            ("/c", "http://a:81/c"),
            ("c", "http://a:81/x/c"),
            ("?c", "http://a:81/x/y?c"),
        ];
        for (location, expected) in rows {
            assert_eq!(from.join(location).unwrap().to_string(), expected);
        }
        assert_eq!(from.join(""), None);
    }
}
