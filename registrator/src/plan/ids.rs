//! Ids of a container's services: one for each port, no two alike.
//!
//! Equal ids would overwrite each other in the catalog, and which service is left would be a matter
//! of chance. The first port by number and protocol keeps an id that several ask for; the others
//! get what tells them apart: `dns` for 53/tcp, `dns:udp` for 53/udp, `dns:5353` for 5353/tcp.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::container::{Port, Protocol};
use crate::metadata::Metadata;

/// The ids of one container's ports.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// By port.
    pub(super) of: BTreeMap<Port, String>,
    /// Ports without an id of their own: who has the id that they ask for, and which id.
    pub(super) losers: BTreeMap<Port, (Port, String)>,
}

impl Ids {
    /// Ids for `ports`, which are in order. `default` is what ids begin with where the user gives
    /// none.
    pub(super) fn new(ports: &[Port], metadata: &Metadata, default: &str) -> Self {
        let several = ports.len() > 1;
        let mut wanted = Vec::with_capacity(ports.len());
        for port in ports {
            let given = metadata.get(port.number, "id").filter(|id| !id.text.is_empty());
            let (id, for_port) =
                given.map_or((default, false), |id| (id.text, id.for_port || !several));
            wanted.push((*port, id, if for_port { id.to_owned() } else { full(id, *port) }));
        }
        let mut holders: BTreeMap<String, Port> = BTreeMap::new();
        let mut later = Vec::new();
        for (port, stem, id) in wanted {
            match holders.entry(id) {
                Entry::Vacant(place) => {
                    place.insert(port);
                }
                Entry::Occupied(place) => later.push((port, stem, place.key().clone())),
            }
        }
        let mut ids = Self::default();
        for (port, stem, id) in later {
            let same_number = holders.get(&id).is_some_and(|first| first.number == port.number);
            let short = format!("{stem}{}", protocol(port));
            let free = [Some(short).filter(|_| same_number), Some(full(stem, port))]
                .into_iter()
                .flatten()
                .find(|candidate| !holders.contains_key(candidate));
            if let Some(free) = free {
                holders.insert(free, port);
            } else {
                let holder = holders.get(&id).copied().unwrap_or(port);
                ids.losers.insert(port, (holder, id));
            }
        }
        ids.of = holders.into_iter().map(|(id, port)| (port, id)).collect();
        ids
    }
}

/// `<stem>:<port>[:udp]`.
fn full(stem: &str, port: Port) -> String {
    format!("{stem}:{}{}", port.number, protocol(port))
}

fn protocol(port: Port) -> &'static str {
    match port.protocol {
        Protocol::Tcp => "",
        Protocol::Udp => ":udp",
        Protocol::Sctp => ":sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::container;

    /// Ids in the order of ports; a loser shows whose id it wanted.
    fn ids(ports: &[&str], keys: &[&str]) -> Vec<String> {
        let mut web = container("web");
        for key in keys {
            let (key, value) = key.split_once('=').expect("value");
            web.labels.insert(key.to_owned(), value.to_owned());
        }
        let mut ports: Vec<Port> =
            ports.iter().map(|port| Port::parse(port).expect("port")).collect();
        ports.sort();
        let ids = Ids::new(&ports, &Metadata::of(&web), "h:web");
        let shown = |port: &Port| match (ids.of.get(port), ids.losers.get(port)) {
            (Some(id), None) => id.clone(),
            (None, Some((holder, id))) => format!("{id} of {holder}"),
            other => panic!("{port}: {other:?}"),
        };
        ports.iter().map(shown).collect()
    }

    #[test]
    fn no_two_ports_have_the_same_id() {
        let rows: &[(&[&str], &[&str], &[&str])] = &[
            (&["53/tcp", "53/udp"], &["SERVICE_53_ID=dns"], &["dns", "dns:udp"]),
            (&["53/tcp", "53/udp"], &["SERVICE_ID=dns"], &["dns:53", "dns:53:udp"]),
            (&["53/tcp", "53/udp"], &[], &["h:web:53", "h:web:53:udp"]),
            (&["53/udp"], &["SERVICE_53_ID=dns"], &["dns"]),
            (&["9/tcp", "9/udp", "9/sctp"], &["SERVICE_9_ID=x"], &["x", "x:udp", "x:sctp"]),
            // Two ports, one id.
            (&["80/tcp", "443/tcp"], &["SERVICE_80_ID=x", "SERVICE_443_ID=x"], &["x", "x:443"]),
            (&["80/tcp", "81/tcp", "82/udp"], &["SERVICE_80-90_ID=x"], &["x", "x:81", "x:82:udp"]),
            // What was made to tell them apart is not taken away from who asks for it by name.
            (
                &["53/tcp", "53/udp", "80/tcp"],
                &["SERVICE_53_ID=dns", "SERVICE_80_ID=dns:udp"],
                &["dns", "dns:53:udp", "dns:udp"],
            ),
            (&["80/tcp", "81/tcp"], &["SERVICE_81_ID=h:web:80"], &["h:web:80", "h:web:80:81"]),
            // No way out: the loser is named.
            (
                &["53/tcp", "53/udp", "80/tcp", "81/tcp"],
                &["SERVICE_53_ID=a", "SERVICE_80_ID=a:udp", "SERVICE_81_ID=a:53:udp"],
                &["a", "a of 53/tcp", "a:udp", "a:53:udp"],
            ),
        ];
        for (ports, keys, expected) in rows {
            assert_eq!(ids(ports, keys), *expected, "{ports:?} {keys:?}");
        }
    }
}
