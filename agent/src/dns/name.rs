//! From a question to what is to be looked up. Pure.
//!
//! ```text
//! [tag.]web.service[.dc1[.dc]].consul   instances of a service
//! _web._tag[.service][.dc1].consul      the same, as RFC 2782 spells it (`_tcp`: no tag)
//! n1.node[.dc1].consul                  a node; its name may have dots
//! 0a000001.addr[.dc1].consul            an address, spelt in the name
//! consul                                the zone itself
//! 1.0.0.10.in-addr.arpa                 the name of an address
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::lookup::Lookup;
use super::settings::Settings;
use super::wire::{Name, kind};

/// Subject of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Something that the catalog knows or not.
    Catalog(Lookup),
    /// An address that is spelt in the name.
    Address(IpAddr),
    /// A name of the form for addresses whose digits are none of an address: there, but empty.
    NoAddress,
    /// The start of the zone, or its servers.
    Zone,
    /// A name in our domain that cannot be there.
    Nothing,
    /// The owner of an address; recursors are asked if the catalog does not know.
    Reverse(IpAddr),
    /// A whole zone, or its changes.
    Transfer,
    /// Not ours.
    Elsewhere,
}

/// A question, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The subject.
    pub asked: Asked,
    /// The domain it was asked in; answers name things in the same.
    pub domain: Domain,
}

/// Which of our domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Domain {
    /// `domain`.
    Main,
    /// `alt_domain`.
    Alternative,
}

/// Understands a question. `name` must be [`Name::folded`].
pub(super) fn understand(name: &Name, kind: u16, settings: &Settings) -> Question {
    let main = name.before(&settings.domain).map(|front| (Domain::Main, front));
    let alternative = settings.alt_domain.as_ref().and_then(|domain| {
        let front = name.before(domain)?;
        Some((Domain::Alternative, front))
    });
    // One domain may lie in the other: the longer one knows better.
    let inside = match (main, alternative) {
        (Some(main), Some(alternative)) if alternative.1.len() < main.1.len() => Some(alternative),
        (None, alternative) => alternative,
        (main, _) => main,
    };
    let Some((domain, front)) = inside else {
        let asked = reverse(name).map_or(Asked::Elsewhere, Asked::Reverse);
        return Question { asked, domain: Domain::Main };
    };
    let asked = match kind {
        kind::AXFR | kind::IXFR => Asked::Transfer,
        kind::SOA | kind::NS => Asked::Zone,
        _ => inside_domain(&labels(front), kind, &settings.datacenter),
    };
    Question { asked, domain }
}

/// The labels of the first part of a name.
fn labels(mut front: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::with_capacity(6);
    while let Some((length, more)) = front.split_first()
        && let Some((label, more)) = more.split_at_checked(usize::from(*length))
    {
        labels.push(label);
        front = more;
    }
    labels
}

/// The last label that says what kind of name this is decides.
fn inside_domain(labels: &[&[u8]], kind: u16, datacenter: &str) -> Asked {
    for at in (0..labels.len()).rev() {
        let (before, after) = (&labels[..at], &labels[at + 1..]);
        let asked = match labels[at] {
            b"service" => service(before, after),
            b"node" => node(before, after),
            b"addr" => address(before),
            // Of the mesh and of queries that do not exist here.
            b"connect" | b"ingress" | b"query" => None,
            label if kind == kind::SRV && label.starts_with(b"_") => service(&labels[..=at], after),
            _ => continue,
        };
        return match asked {
            // Other datacenters are not known here.
            Some((_, Some(other))) if other != datacenter.as_bytes() => Asked::Nothing,
            Some((asked, _)) => asked,
            None => Asked::Nothing,
        };
    }
    Asked::Nothing
}

type ParsedName<'a> = Option<(Asked, Option<&'a [u8]>)>;

/// `dc1` or `dc1.dc` or nothing behind the label that says the kind. `None`: anything else.
#[expect(clippy::option_option, reason = "a wrong place, no place, a place")]
fn datacenter<'a>(after: &[&'a [u8]]) -> Option<Option<&'a [u8]>> {
    match after {
        [] => Some(None),
        [datacenter] | [datacenter, b"dc"] => Some(Some(datacenter)),
        _ => None,
    }
}

fn service<'a>(before: &[&[u8]], after: &[&'a [u8]]) -> ParsedName<'a> {
    let datacenter = datacenter(after)?;
    let (name, tag) = match before {
        [] => return None,
        [name, tag] if name.starts_with(b"_") && tag.starts_with(b"_") => {
            let tag = text(&[&tag[1..]])?;
            (text(&[&name[1..]])?, if tag == "tcp" { String::new() } else { tag })
        }
        [tag @ .., name] => (text(&[name])?, text(tag)?),
    };
    let tag = (!tag.is_empty()).then_some(tag);
    Some((Asked::Catalog(Lookup::Service { name, tag }), datacenter))
}

fn node<'a>(before: &[&[u8]], after: &[&'a [u8]]) -> ParsedName<'a> {
    let datacenter = datacenter(after)?;
    if before.is_empty() {
        return None;
    }
    Some((Asked::Catalog(Lookup::Node { name: text(before)? }), datacenter))
}

/// Whatever stands behind `addr` does not change an address.
fn address<'a>(before: &[&[u8]]) -> ParsedName<'a> {
    let [digits] = before else { return None };
    let value = |radix_digits: &[u8]| {
        let text = std::str::from_utf8(radix_digits).ok()?;
        let plain = text.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
    };
    let asked = match digits.len() {
        8 => {
            let value = u32::try_from(value(digits)?).ok()?;
            Asked::Address(Ipv4Addr::from(value).into())
        }
        32 => Asked::Address(Ipv6Addr::from(value(digits)?).into()),
        _ => Asked::NoAddress,
    };
    Some((asked, None))
}

/// Labels as text with dots. `None` if it is none.
fn text(labels: &[&[u8]]) -> Option<String> {
    let mut text = String::new();
    for label in labels {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(std::str::from_utf8(label).ok()?);
    }
    Some(text)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` spells backward.
fn reverse(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.labels().collect();
    match labels.as_slice() {
        [octets @ .., b"in-addr", b"arpa"] if octets.len() == 4 => {
            let mut bytes = [0; 4];
            for (byte, label) in bytes.iter_mut().rev().zip(octets) {
                let text = std::str::from_utf8(label).ok()?;
                // A number is written in one way only.
                if text.starts_with('+') || text.len() > 1 && text.starts_with('0') {
                    return None;
                }
                *byte = text.parse().ok()?;
            }
            Some(IpAddr::V4(bytes.into()))
        }
        [digits @ .., b"ip6", b"arpa"] if digits.len() == 32 => {
            let mut value = 0_u128;
            for digit in digits.iter().rev() {
                let [digit] = digit else { return None };
                value = value << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(value.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, tag: Option<&str>) -> Asked {
        Asked::Catalog(Lookup::Service { name: name.into(), tag: tag.map(str::to_owned) })
    }

    fn node(name: &str) -> Asked {
        Asked::Catalog(Lookup::Node { name: name.into() })
    }

    #[test]
    fn names_mean_what_they_say() {
        let settings =
            Settings { alt_domain: Name::from_text("alt.example"), ..Settings::default() };
        let v4 = |text: &str| Asked::Address(text.parse().unwrap());
        let back = |text: &str| Asked::Reverse(text.parse().unwrap());
        let long_digits = "20010db8000000000000000000000001";
        let rows = [
            ("web.service.consul", kind::A, service("web", None)),
            ("web.service.dc1.consul", kind::A, service("web", None)),
            ("web.service.dc1.dc.consul", kind::A, service("web", None)),
            ("web.service.dc2.consul", kind::A, Asked::Nothing),
            ("web.service.dc1.x.consul", kind::A, Asked::Nothing),
            ("a.b.web.service.consul", kind::A, service("web", Some("a.b"))),
            ("_web._tcp.service.consul", kind::SRV, service("web", None)),
            ("_web._tcp.service.consul", kind::A, service("web", None)),
            ("_web._tcp.consul", kind::SRV, service("web", None)),
            ("_web._udp.consul", kind::SRV, service("web", Some("udp"))),
            ("_web._udp.dc1.consul", kind::SRV, service("web", Some("udp"))),
            ("_web._tcp.consul", kind::A, Asked::Nothing),
            ("_web.web.service.consul", kind::A, service("web", Some("_web"))),
            ("service.consul", kind::A, Asked::Nothing),
            ("web.service.alt.example", kind::A, service("web", None)),
            ("n1.node.consul", kind::A, node("n1")),
            ("n1.rack.node.dc1.consul", kind::TXT, node("n1.rack")),
            ("node.consul", kind::A, Asked::Nothing),
            ("service.node.consul", kind::A, node("service")),
            ("node.service.consul", kind::A, service("node", None)),
            ("0a000001.addr.consul", kind::A, v4("10.0.0.1")),
            ("0a000001.addr.dc9.consul", kind::A, v4("10.0.0.1")),
            ("0g000001.addr.consul", kind::A, Asked::Nothing),
            ("+a000001.addr.consul", kind::A, Asked::Nothing),
            ("0a0001.addr.consul", kind::A, Asked::NoAddress),
            ("x.0a000001.addr.consul", kind::A, Asked::Nothing),
            ("web.query.consul", kind::A, Asked::Nothing),
            ("web.connect.consul", kind::A, Asked::Nothing),
            ("web.ingress.consul", kind::A, Asked::Nothing),
            ("web.virtual.consul", kind::A, Asked::Nothing),
            ("consul", kind::A, Asked::Nothing),
            ("consul", kind::SOA, Asked::Zone),
            ("web.service.consul", kind::NS, Asked::Zone),
            ("consul", kind::AXFR, Asked::Transfer),
            ("example.com", kind::AXFR, Asked::Elsewhere),
            ("example", kind::A, Asked::Elsewhere),
            ("", kind::NS, Asked::Elsewhere),
            ("1.2.0.10.in-addr.arpa", kind::PTR, back("10.0.2.1")),
            ("1.02.0.10.in-addr.arpa", kind::PTR, Asked::Elsewhere),
            ("2.0.10.in-addr.arpa", kind::PTR, Asked::Elsewhere),
            ("256.2.0.10.in-addr.arpa", kind::PTR, Asked::Elsewhere),
        ];
        for (name, kind, expected) in rows {
            let name = Name::from_text(name).unwrap();
            assert_eq!(understand(&name, kind, &settings).asked, expected, "{name}");
        }
        let name = Name::from_text(&format!("{long_digits}.addr.dc1.consul")).unwrap();
        assert_eq!(understand(&name, kind::AAAA, &settings).asked, v4("2001:db8::1"));
        let digits: Vec<String> = long_digits.chars().rev().map(String::from).collect();
        let name = Name::from_text(&format!("{}.ip6.arpa", digits.join("."))).unwrap();
        assert_eq!(understand(&name, kind::PTR, &settings).asked, back("2001:db8::1"));
    }

    #[test]
    fn the_longer_domain_knows_better() {
        let settings = Settings {
            domain: Name::from_text("consul").unwrap(),
            alt_domain: Name::from_text("eu.consul"),
            ..Settings::default()
        };
        let name = Name::from_text("web.service.eu.consul").unwrap();
        let question = understand(&name, kind::A, &settings);
        assert_eq!(question, Question { asked: service("web", None), domain: Domain::Alternative });
    }
}
