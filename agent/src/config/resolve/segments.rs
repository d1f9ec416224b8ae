//! Network segments: which one a client is in, and which ones a server is in besides the default one.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::sockaddr;
use crate::config::written::Written;
use crate::config::{Error, Ports};
use crate::gossip::{SEGMENT_NAME_MAX, SEGMENTS_MAX};

/// Stands for all segments in questions.
const ALL: &str = "_all";

/// The segments of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    /// The one that a client is in; empty is the default one.
    pub own: String,
    /// Those that a server is in besides the default one.
    pub served: Vec<Segment>,
}

/// A segment as a server takes part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Address that its gossip listens on.
    pub bind: SocketAddr,
    /// Address at which members of the segment reach the server.
    pub advertise: SocketAddr,
    /// Do agents of the segment ask the server at the segment's own address?
    pub rpc_listener: bool,
}

/// `bind` and `advertise` are the agent's own addresses: what a segment does not say is as there.
pub(super) fn resolve(
    written: &Written,
    server: bool,
    (bind, advertise): (IpAddr, IpAddr),
    ports: Ports,
) -> Result<Segments, Error> {
    let own = written.text("segment").unwrap_or_default().to_owned();
    let definitions = written.definitions(&["segments"]);
    if server && !own.is_empty() {
        return Err(Error(format!(
            "segment: `{own}`: a server is in all segments\nhint: name the segments of this server in `segments`, or leave `segment` out"
        )));
    }
    if !server && !definitions.is_empty() {
        return Err(Error(
            "segments: only servers are in several segments\nhint: name the one of this agent in `segment`, or give `server = true`".into(),
        ));
    }
    if !own.is_empty() {
        check_name("segment", &own)?;
    }
    if definitions.len() > SEGMENTS_MAX {
        return Err(Error(format!(
            "segments: {} are too many\nhint: a server is in {SEGMENTS_MAX} at most",
            definitions.len()
        )));
    }
    let mut served: Vec<Segment> = Vec::new();
    for (place, definition) in definitions.iter().enumerate() {
        let segment = segment(place, definition, (bind, advertise))?;
        let (name, port) = (&segment.name, segment.bind.port());
        let taken = [
            ("ports.server", Some(ports.server)),
            ("ports.serf_lan", Some(ports.serf_lan)),
            ("ports.serf_wan", ports.serf_wan),
        ];
        if let Some((key, _)) = taken.iter().find(|(_, taken)| *taken == Some(port)) {
            return Err(Error(format!(
                "segments[{name}].port: {port} is already `{key}`\nhint: each segment needs a port of its own"
            )));
        }
        for other in &served {
            let other_name = &other.name;
            if other_name == name {
                return Err(Error(format!(
                    "segments[{place}].name: `{name}` is there twice\nhint: give each segment a name of its own"
                )));
            }
            if other.bind.port() == port {
                return Err(Error(format!(
                    "segments[{name}].port: {port} is already that of segment `{other_name}`\nhint: each segment needs a port of its own"
                )));
            }
            if segment.rpc_listener && other.rpc_listener && segment.bind.ip() == other.bind.ip() {
                let ip = segment.bind.ip();
                return Err(Error(format!(
                    "segments[{name}].rpc_listener: segment `{other_name}` listens on {ip} already\nhint: give `rpc_listener` to one of them, or another `bind`"
                )));
            }
        }
        served.push(segment);
    }
    Ok(Segments { own, served })
}

fn segment(
    place: usize,
    definition: &Value,
    (bind, advertise): (IpAddr, IpAddr),
) -> Result<Segment, Error> {
    let field = |name: &str| {
        let pairs = definition.as_object().into_iter().flatten();
        // Names are not particular about case, as in the reference.
        pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default().trim();
    let name = text("name").to_owned();
    check_name(&format!("segments[{place}].name"), &name)?;
    let port = field("port").and_then(Value::as_i64).unwrap_or(0);
    let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
        Error(format!(
            "Port for segment \"{name}\" cannot be <= 0 or above 65535: segments[{name}].port is {port}\nhint: give the port of this segment's gossip"
        ))
    })?;
    let address = |key: &str, default: IpAddr| {
        let path = format!("segments[{name}].{key}");
        match text(key) {
            "" => Ok(default),
            text => sockaddr::one(&path, text)?.parse().map_err(|_| {
                Error(format!(
                    "{path}: `{text}` is not an IP address\nhint: give an IP address, or a template such as {{{{ GetPrivateIP }}}}"
                ))
            }),
        }
    };
    let (own_bind, own_advertise) = (address("bind", bind)?, address("advertise", advertise)?);
    if own_advertise.is_unspecified() {
        return Err(Error(format!(
            "segments[{name}].advertise: cannot be {own_advertise}\nhint: give the address at which members of the segment reach this server"
        )));
    }
    let rpc_listener = field("rpc_listener").and_then(Value::as_bool).unwrap_or(false);
    if rpc_listener && (own_bind == bind || bind.is_unspecified() || own_bind.is_unspecified()) {
        return Err(Error(format!(
            "segments[{name}].rpc_listener: `bind_addr` {bind} takes calls on {own_bind} already\nhint: leave `rpc_listener` out, or let `bind_addr` and `segments[{name}].bind` be different addresses"
        )));
    }
    Ok(Segment {
        bind: SocketAddr::new(own_bind, port),
        advertise: SocketAddr::new(own_advertise, port),
        name,
        rpc_listener,
    })
}

/// Names are in tags, in names of files and in questions.
fn check_name(field: &str, name: &str) -> Result<(), Error> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let letters = name.chars().count();
    let (what, fix) = if name.is_empty() {
        ("is empty: that is the default segment's name".to_owned(), "give a name")
    } else if letters > SEGMENT_NAME_MAX {
        (format!("has {letters} letters"), "give up to 64 letters")
    } else if name == ALL {
        (format!("`{name}` stands for all segments"), "give another name")
    } else if !name.chars().all(plain) {
        (format!("`{name}`"), "take letters, digits, `-`, `_` and `.`")
    } else {
        return Ok(());
    };
    Err(Error(format!("{field}: {what}\nhint: {fix}")))
}

#[cfg(test)]
mod tests {
    use super::super::resolve;
    use super::*;

    fn read(keys: &str) -> Result<Segments, String> {
        let text = format!(r#"{{"data_dir":"/nonexistent","bind_addr":"127.0.0.1",{keys}}}"#);
        let written = Written::from_text(&text, "json").map_err(|error| error.to_string())?;
        resolve(&written, false).map(|config| config.segments).map_err(|error| error.to_string())
    }

    fn served(segments: &str) -> Result<Vec<Segment>, String> {
        read(&format!(r#""server":true,"segments":{segments}"#)).map(|found| found.served)
    }

    #[test]
    fn segments_are_read_and_take_what_they_do_not_say_from_the_agent() {
        assert_eq!(read(r#""server":false"#).unwrap(), Segments::default());
        assert_eq!(read(r#""segment":"","segments":null"#).unwrap(), Segments::default());
        assert_eq!(read(r#""segment":"alpha""#).unwrap().own, "alpha");
        let found = served(
            r#"[{"name":"alpha","port":8303},
                {"Name":"b.1-x_Y","bind":"127.0.0.2","advertise":"10.0.0.9","port":8304.0,
                 "rpc_listener":true}]"#,
        )
        .unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|it| (it.name.as_str(), it.bind.to_string(), it.advertise.to_string()))
            .collect();
        assert_eq!(
            shown,
            [
                ("alpha", "127.0.0.1:8303".to_owned(), "127.0.0.1:8303".to_owned()),
                ("b.1-x_Y", "127.0.0.2:8304".to_owned(), "10.0.0.9:8304".to_owned()),
            ]
        );
        assert!(!found[0].rpc_listener && found[1].rpc_listener);
        let many: Vec<_> = (0..SEGMENTS_MAX)
            .map(|n| {
                format!(r#"{{"name":"{}","port":{}}}"#, format!("{n:02}").repeat(32), 9000 + n)
            })
            .collect();
        assert_eq!(served(&format!("[{}]", many.join(","))).unwrap().len(), SEGMENTS_MAX);
    }

    #[test]
    fn mistakes_name_field_value_and_fix() {
        let long = "x".repeat(65);
        for (keys, expected) in [
            (r#""server":true,"segment":"alpha""#, "segment: `alpha`: a server is in all segments"),
            (r#""segments":[{"name":"a","port":1}]"#, "segments: only servers"),
            (r#""segment":"a b""#, "segment: `a b`\nhint: take letters"),
            (r#""segment":"_all""#, "segment: `_all` stands for all segments"),
            (&*format!(r#""segment":"{long}""#), "segment: has 65 letters\nhint: give up to 64"),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{keys}: {error}");
        }
        for (segments, expected) in [
            (r#"[{"port":8303}]"#, "segments[0].name: is empty"),
            (r#"[{"name":"a"}]"#, "Port for segment \"a\" cannot be <= 0"),
            (r#"[{"name":"a","port":-1}]"#, "segments[a].port is -1"),
            (r#"[{"name":"a","port":65536}]"#, "segments[a].port is 65536"),
            (r#"[{"name":"a","port":8301}]"#, "segments[a].port: 8301 is already `ports.serf_lan`"),
            (r#"[{"name":"a","port":8300}]"#, "segments[a].port: 8300 is already `ports.server`"),
            (
                r#"[{"name":"a","port":8303},{"name":"a","port":8304}]"#,
                "segments[1].name: `a` is there twice",
            ),
            (
                r#"[{"name":"a","port":8303},{"name":"b","port":8303}]"#,
                "segments[b].port: 8303 is already that of segment `a`",
            ),
            (r#"[{"name":"a","port":1,"bind":"x"}]"#, "segments[a].bind: `x` is not an IP address"),
            (r#"[{"name":"a","port":1,"advertise":"::"}]"#, "segments[a].advertise: cannot be ::"),
            (
                r#"[{"name":"a","port":1,"rpc_listener":true}]"#,
                "segments[a].rpc_listener: `bind_addr` 127.0.0.1 takes calls on 127.0.0.1 already",
            ),
            (
                r#"[{"name":"a","port":1,"bind":"127.0.0.2","rpc_listener":true},
                    {"name":"b","port":2,"bind":"127.0.0.2","rpc_listener":true}]"#,
                "segments[b].rpc_listener: segment `a` listens on 127.0.0.2 already",
            ),
        ] {
            let error = served(segments).unwrap_err();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{segments}: {error}");
        }
        let error = served(r#"[{"name":"a","prt":1}]"#).unwrap_err();
        assert!(error.contains("did you mean `segments[0].port`?"), "{error}");
        let error = served(r#"[{"name":"a","port":"8303"}]"#).unwrap_err();
        assert!(error.contains("'segments[0].port' expected type 'int'"), "{error}");
        let many: Vec<_> =
            (0..65).map(|n| format!(r#"{{"name":"s{n}","port":{}}}"#, 9000 + n)).collect();
        let error = served(&format!("[{}]", many.join(","))).unwrap_err();
        assert!(error.contains("segments: 65 are too many"), "{error}");
    }
}
