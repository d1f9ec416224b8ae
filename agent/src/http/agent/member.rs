//! Members of the gossip pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::acl::{Access, Resource, authorize};
use crate::gossip::{self, Status};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later, now};
use crate::http::reply::Reply;

/// A member, in the reference's fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member {
    name: String,
    addr: String,
    port: u16,
    tags: BTreeMap<String, String>,
    status: i64,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
    /// Ours: who else claims the member's name, and from where.
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<Arc<str>>,
}

impl From<&gossip::Member> for Member {
    fn from(member: &gossip::Member) -> Member {
        let details = &member.details;
        Member {
            name: details.name.to_string(),
            addr: details.address.ip().to_string(),
            port: details.address.port(),
            tags: details.tags.clone(),
            status: match member.status {
                Status::Alive => 1,
                Status::Leaving => 2,
                Status::Left => 3,
                Status::Failed => 4,
            },
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
            conflict: member.conflict.clone(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Lan,
    Wan,
}

/// This agent as a member of a pool; nothing if the pool is off.
pub(super) fn myself(request: &Request, pool: Pool) -> Option<Member> {
    let (parts, identity) = (&request.app.parts, &request.app.parts.identity);
    let own = parts.pools.own();
    let mut member = Member::from(&**own.member_list().get(own.name())?);
    if pool == Pool::Wan {
        // There is one datacenter: its own pool of servers is all that the wide area has.
        member.name = format!("{}.{}", parts.node_name, parts.datacenter);
        member.addr.clone_from(&identity.address_wan);
        member.port = identity.serf_wan_port?;
        member.tags.remove("wan_join_port");
    }
    Some(member)
}

fn pool(request: &Request) -> Pool {
    if request.params.get("wan").is_some_and(|wan| !wan.is_empty()) { Pool::Wan } else { Pool::Lan }
}

/// Lists the members of the pool.
pub(super) fn members(request: Request) -> Result<Answer, Error> {
    let pool = pool(&request);
    let pools = &request.app.parts.pools;
    let member_list = match request.params.get("segment").unwrap_or_default() {
        "" => pools.own().member_list(),
        "_all" => pools.member_list(),
        _ if pool == Pool::Wan => {
            return Err(Error::invalid("Cannot provide a segment with wan=true"));
        }
        segment => pools.segment(segment).ok_or_else(|| unknown(segment, pools))?.member_list(),
    };
    let may = |name: &str| authorize(&request.token, Resource::Node(name), Access::Read).is_ok();
    let members: Vec<Member> = match pool {
        Pool::Lan => member_list
            .values()
            .filter(|member| may(&member.details.name))
            .map(|member| Member::from(&**member))
            .collect(),
        Pool::Wan => {
            let name = &request.app.parts.node_name;
            myself(&request, pool).into_iter().filter(|_| may(name)).collect()
        }
    };
    now(request.json(&members))
}

/// Says which segments there are to ask for.
fn unknown(segment: &str, pools: &gossip::Pools) -> Error {
    let named = |pool: &gossip::Members| match pool.segment() {
        "" => "the default segment".to_owned(),
        name => format!("segment \"{name}\""),
    };
    let known: Vec<String> = pools.each().iter().map(named).collect();
    Error::refused(format!(
        "segment \"{segment}\" not found: agent \"{}\" is in {}",
        pools.name(),
        known.join(", ")
    ))
}

/// Meets another agent.
pub(super) fn join(request: Request) -> Result<Answer, Error> {
    let (parts, identity) = (&request.app.parts, &request.app.parts.identity);
    request.authorize(Resource::Agent(&parts.node_name), Access::Write)?;
    let address = request.rest().to_owned();
    if pool(&request) == Pool::Wan {
        let own = identity.serf_wan_port.map(|port| format!("{}:{port}", identity.address_wan));
        if own.as_deref() == Some(&*address) || identity.address_wan == address {
            return now(Reply::empty());
        }
        return Err(failed(&format!(
            "Failed to join {address}: joining other datacenters is not supported yet"
        )));
    }
    if address.is_empty() {
        return Err(failed("Failed to resolve : lookup : no such host"));
    }
    let (members, port) = (parts.pools.own().clone(), identity.serf_lan_port);
    later(async move {
        match members.join_all(&[address], port).await {
            Ok(_) => Ok(Reply::empty()),
            Err(failed) => Err(Error::refused(failed.to_string())),
        }
    })
}

/// The reference's frame around a list of one error.
fn failed(what: &str) -> Error {
    Error::refused(format!("1 error occurred:\n\t* {what}\n\n"))
}

/// Declares a member gone.
pub(super) fn force_leave(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Write)?;
    let name = request.rest().to_owned();
    let prune = request.params.get("prune").is_some();
    let pools = request.app.parts.pools.clone();
    if name == pools.name() {
        // Whoever is alive refutes it.
        return now(Reply::empty());
    }
    later(async move {
        match pools.force_leave(&name, prune).await {
            Ok(true) => Ok(Reply::empty()),
            Ok(false) => Err(Error::refused(format!("agent: No node found with name '{name}'"))),
            Err(stopped) => Err(Error::refused(stopped.to_string())),
        }
    })
}

/// Leaves and stops. Answers when the others know, as the reference does.
pub(super) fn leave(request: Request) -> Result<Answer, Error> {
    let parts = &request.app.parts;
    request.authorize(Resource::Agent(&parts.node_name), Access::Write)?;
    let departure = parts.leave.clone();
    departure.want();
    later(async move {
        departure.concluded().await;
        Ok(Reply::empty())
    })
}
