//! Members of the gossip pool. A server that stands alone is its own only member.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::acl::{Access, Resource};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::reply::Reply;
use crate::http::routes::{Answer, now};

/// A member that is there.
const ALIVE: i64 = 1;

/// A member, in the reference's fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member {
    name: String,
    addr: String,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: i64,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Lan,
    Wan,
}

/// This agent as a member of a pool; nothing if the pool is off.
pub(super) fn myself(request: &Request, pool: Pool) -> Option<Member> {
    let (parts, identity) = (&request.door.parts, &request.door.parts.identity);
    let mut tags = BTreeMap::from([
        ("acls", "0".to_owned()),
        ("build", format!("{}:", identity.version)),
        ("dc", parts.datacenter.clone()),
        ("ft_fs", "1".to_owned()),
        ("id", parts.local.settings().node_id.clone()),
        ("port", identity.server_port.to_string()),
        ("raft_vsn", "3".to_owned()),
        ("role", if identity.server { "consul" } else { "node" }.to_owned()),
        ("segment", String::new()),
        ("vsn", "2".to_owned()),
        ("vsn_max", "3".to_owned()),
        ("vsn_min", "2".to_owned()),
    ]);
    if identity.bootstrap {
        tags.insert("bootstrap", "1".to_owned());
    }
    let (name, addr, port) = match pool {
        Pool::Lan => {
            if let Some(port) = identity.serf_wan_port {
                tags.insert("wan_join_port", port.to_string());
            }
            (parts.node_name.clone(), identity.address.clone(), identity.serf_lan_port)
        }
        Pool::Wan => (
            format!("{}.{}", parts.node_name, parts.datacenter),
            identity.address_wan.clone(),
            identity.serf_wan_port?,
        ),
    };
    Some(Member {
        name,
        addr,
        port,
        tags,
        status: ALIVE,
        protocol_min: 1,
        protocol_max: 5,
        protocol_cur: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate_cur: 4,
    })
}

fn pool(request: &Request) -> Pool {
    if request.params.get("wan").is_some_and(|wan| !wan.is_empty()) { Pool::Wan } else { Pool::Lan }
}

/// Who is in the pool.
pub(super) fn members(request: Request) -> Result<Answer, Error> {
    let pool = pool(&request);
    match request.params.get("segment").unwrap_or_default() {
        "" => {}
        _ if pool == Pool::Wan => {
            return Err(Error::invalid("Cannot provide a segment with wan=true"));
        }
        "_all" => {}
        _ => {
            return Err(Error::refused(
                "Network segments are not supported in this version of Consul",
            ));
        }
    }
    let node = Resource::Node(&request.door.parts.node_name);
    let may = request.authorize(node, Access::Read).is_ok();
    let members: Vec<_> = myself(&request, pool).into_iter().filter(|_| may).collect();
    now(request.json(&members))
}

/// Meets another agent. Only oneself can be met so far, which is what scripts do that join every
/// agent to the first.
pub(super) fn join(request: Request) -> Result<Answer, Error> {
    let (parts, identity) = (&request.door.parts, &request.door.parts.identity);
    request.authorize(Resource::Agent(&parts.node_name), Access::Write)?;
    let address = request.rest();
    let (own, port) = match pool(&request) {
        Pool::Lan => (&identity.address, Some(identity.serf_lan_port)),
        Pool::Wan => (&identity.address_wan, identity.serf_wan_port),
    };
    if address.is_empty() {
        return Err(failed("Failed to resolve : lookup : no such host"));
    }
    if port.is_some_and(|port| is_own(address, own, port)) {
        return now(Reply::empty());
    }
    Err(failed(&format!("Failed to join {address}: joining other agents is not supported yet")))
}

/// The reference's frame around a list of one error.
fn failed(what: &str) -> Error {
    Error::refused(format!("1 error occurred:\n\t* {what}\n\n"))
}

/// Is this, with its port or without, the agent's own address?
fn is_own(address: &str, own: &str, own_port: u16) -> bool {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if address.parse::<IpAddr>().is_err() => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => return false,
        },
        _ => (address, own_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    port == own_port && host == own
}

/// Declares a member gone.
pub(super) fn force_leave(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Write)?;
    let name = request.rest();
    if name == request.door.parts.node_name {
        // Whoever is alive refutes it.
        return now(Reply::empty());
    }
    Err(Error::refused(format!("agent: No node found with name '{name}'")))
}

/// Leaves and stops.
pub(super) fn leave(request: Request) -> Result<Answer, Error> {
    let parts = &request.door.parts;
    request.authorize(Resource::Agent(&parts.node_name), Access::Write)?;
    parts.leave.cancel();
    now(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses() {
        let rows = [
            ("127.0.0.1:8301", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8302", false),
            ("127.0.0.2:8301", false),
            ("127.0.0.1:x", false),
            ("other", false),
        ];
        for (address, own) in rows {
            assert_eq!(is_own(address, "127.0.0.1", 8301), own, "{address}");
        }
        assert!(is_own("[::1]:8301", "::1", 8301) && is_own("::1", "::1", 8301));
    }
}
