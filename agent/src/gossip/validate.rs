//! Limits on what members say, the same for what is heard as for what is said here.
//!
//! | what            | limit                                                                         |
//! |-----------------|-------------------------------------------------------------------------------|
//! | name of a node  | 1 to 253 bytes, no `/`, no `\`, not `.` or `..`, no control characters         |
//! | name of a tag   | 1 to 128 bytes, no control characters                                          |
//! | value of a tag  | no control characters                                                          |
//! | address         | one that a single host can have, with a port                                   |
//! | incarnation     | not further ahead of this host's clock than clocks can differ                  |
//! | user event      | 512 bytes with its name and filters; no control characters in its name         |
//! | any statement   | what a datagram has room for: nothing longer could ever be passed on           |
//!
//! Names become rows of the catalog, parts of paths and parts of log lines. A statement that breaks a
//! limit is dropped alone: what came with it is kept.

use std::net::{IpAddr, SocketAddr};

use super::core::PACKET_ROOM;
use super::member::{Details, Incarnation, UserEvent};
use super::message::{Claim, Message};

/// Bytes of a node's name: what DNS can carry, and more than a host name ever has.
const NODE_NAME_BYTES_MAX: usize = 253;
/// Bytes of a tag's name.
const TAG_NAME_BYTES_MAX: usize = 128;
/// Bytes of a user event with its name and filters. HTTP takes a little less, as the reference does.
const EVENT_BYTES_MAX: usize = 512;
/// Incarnations are milliseconds of wall clocks, and clocks may be wrong: by 139 years at most. A statement further ahead
/// is nobody's, and could never be denied once it is at the end of all numbers.
pub(super) const CLOCKS_DIFFER_MAX: Incarnation = 1 << 42;
/// Characters of a refused text that a warning shows.
const SHOWN_CHARS_MAX: usize = 64;

/// A statement that is not accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` {why}")]
pub struct Unfit {
    /// `node name`.
    what: &'static str,
    /// Escaped and cut.
    value: String,
    /// `is longer than 253 bytes`.
    why: String,
}

impl Unfit {
    fn new(what: &'static str, value: &str, why: impl Into<String>) -> Unfit {
        Unfit { what, value: shown(value, SHOWN_CHARS_MAX), why: why.into() }
    }
}

/// A text for people: escaped, and cut if it is long.
pub(super) fn shown(text: &str, chars_max: usize) -> String {
    let mut shown: String = text.chars().take(chars_max).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    crate::telemetry::escaped(&shown).into_owned()
}

/// Refuses names that no node may have.
pub fn node_name(name: &str) -> Result<(), Unfit> {
    let unfit = |why: &str| Err(Unfit::new("node name", name, why));
    if name.is_empty() {
        return unfit("is empty");
    }
    if name.len() > NODE_NAME_BYTES_MAX {
        return unfit(&format!("is longer than {NODE_NAME_BYTES_MAX} bytes"));
    }
    if name.contains(['/', '\\']) || matches!(name, "." | "..") {
        return unfit("could be taken for a path");
    }
    plain("node name", name)
}

/// Refuses texts that could write lines of their own into a log, or move the cursor of a terminal.
fn plain(what: &'static str, text: &str) -> Result<(), Unfit> {
    if text.chars().any(crate::telemetry::is_unsafe) {
        return Err(Unfit::new(what, text, "contains a control character"));
    }
    Ok(())
}

/// Refuses addresses that are no single host's.
fn address(address: SocketAddr) -> Result<(), Unfit> {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast || address.port() == 0 {
        return Err(Unfit::new("address", &address.to_string(), "is not that of a host"));
    }
    Ok(())
}

fn fits(what: &'static str, name: &str, bytes: usize, room: usize) -> Result<(), Unfit> {
    if bytes > room {
        return Err(Unfit::new(what, name, format!("takes {bytes} bytes, the limit is {room}")));
    }
    Ok(())
}

/// Refuses an incarnation that no clock can have shown yet.
pub(super) fn incarnation(name: &str, said: Incarnation, max: Incarnation) -> Result<(), Unfit> {
    if said > max {
        return Err(Unfit::new("statement of", name, format!("has the incarnation {said}")));
    }
    Ok(())
}

impl Message {
    /// Refuses what must be neither believed nor passed on.
    pub(super) fn validate(&self) -> Result<(), Unfit> {
        match self {
            Message::Ping { target, .. } | Message::PingReq { target, .. } => node_name(target),
            Message::Ack { .. } | Message::Nack { .. } => Ok(()),
            Message::Alive(details) => details.validate(),
            Message::Suspect(claim) | Message::Failed(claim) | Message::Left { claim, .. } => {
                claim.validate()
            }
            Message::Event(event) => event.validate(),
        }
    }
}

impl Details {
    /// Refuses what no member may say of itself.
    pub fn validate(&self) -> Result<(), Unfit> {
        node_name(&self.name)?;
        address(self.address)?;
        for (name, value) in &self.tags {
            if name.is_empty() || name.len() > TAG_NAME_BYTES_MAX {
                let why = format!("is not of 1 to {TAG_NAME_BYTES_MAX} bytes");
                return Err(Unfit::new("name of a tag", name, why));
            }
            plain("name of a tag", name)?;
            plain("value of a tag", value)?;
        }
        // The frame of the message is part of it.
        let bytes = self.size() + Message::FRAME;
        fits("statement of", &self.name, bytes, PACKET_ROOM)
    }
}

impl Claim {
    /// Refuses what no member may say of another.
    pub(super) fn validate(&self) -> Result<(), Unfit> {
        node_name(&self.name)?;
        node_name(&self.from)
    }
}

impl UserEvent {
    /// Refuses what could not be passed on to all members.
    pub fn validate(&self) -> Result<(), Unfit> {
        plain("name of the event", &self.name)?;
        let bytes = Message::FRAME + self.size();
        fits("event", &self.name, bytes, EVENT_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes() {
        let long = "x".repeat(NODE_NAME_BYTES_MAX);
        for name in ["a", "web-01.example.org", "Knoten_ü", "two words", "a..b", "...", &long] {
            assert_eq!(node_name(name), Ok(()), "{name}");
        }
        let rows = [
            ("", "node name `` is empty"),
            ("a\nb", "node name `a\\nb` contains a control character"),
            ("a\0", "node name `a\\u{0}` contains a control character"),
            ("\u{1b}[2J", "node name `\\u{1b}[2J` contains a control character"),
            ("a\u{202e}b", "node name `a\\u{202e}b` contains a control character"),
            ("a\u{2028}b", "node name `a\\u{2028}b` contains a control character"),
            ("../etc", "node name `../etc` could be taken for a path"),
            ("..", "node name `..` could be taken for a path"),
            ("a\\b", "node name `a\\b` could be taken for a path"),
        ];
        for (name, expected) in rows {
            assert_eq!(node_name(name).unwrap_err().to_string(), expected);
        }
        let error = node_name(&"x".repeat(1000)).unwrap_err().to_string();
        assert!(error.ends_with("x…` is longer than 253 bytes") && error.len() < 150, "{error}");
    }

    fn details(tags: &[(&str, &str)], address: &str) -> Details {
        Details {
            name: "a".into(),
            id: uuid::Uuid::nil(),
            address: address.parse().unwrap(),
            incarnation: 1,
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn what_members_say_of_themselves() {
        let good = "10.0.0.1:8301";
        let long = "x".repeat(PACKET_ROOM);
        for (name, value, fits) in [
            ("dc", "dc1", true),
            ("dc", "dc1\n", false),
            ("d\0c", "x", false),
            ("", "x", false),
            (&long[..129], "x", false),
            ("k", &long, false),
        ] {
            let details = details(&[(name, value)], good);
            assert_eq!(details.validate().is_ok(), fits, "{details:?}");
        }
        for wrong in
            ["0.0.0.0:8301", "224.0.0.1:8301", "[::ffff:255.255.255.255]:8301", "10.0.0.1:0"]
        {
            assert!(details(&[], wrong).validate().is_err(), "{wrong}");
        }
    }

    #[test]
    fn events_are_bounded_with_their_names_and_filters() {
        let event = |name: &str, payload: usize, filter: usize| UserEvent {
            id: uuid::Uuid::nil(),
            ltime: u64::MAX,
            name: name.into(),
            payload: vec![0; payload].into(),
            filters: ["x".repeat(filter), String::new(), String::new()],
        };
        // The largest that HTTP takes.
        for fits in [event("e", 414, 0), event("e", 10, 390), event("", 36, 0)] {
            assert_eq!(fits.validate(), Ok(()));
        }
        let name = "n".repeat(2000);
        for unfit in
            [event("e", 2000, 0), event(&name, 0, 0), event("e", 0, 2000), event("a\nb", 0, 0)]
        {
            assert!(unfit.validate().is_err());
        }
    }
}
