//! Raft configuration and its changes.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::acl::{Access, Resource};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later};
use crate::http::reply::Reply;
use crate::raft::types::ServerId;
use crate::raft::{self, Participant};
use crate::read::Consistency;

/// Between looks while a leader is waited for.
const LEADER_RETRY: Duration = Duration::from_millis(50);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: Vec<Server>,
    index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    leader: bool,
    protocol_version: &'static str,
    voter: bool,
}

impl From<Participant> for Server {
    fn from(server: Participant) -> Server {
        Server {
            id: server.id.to_string(),
            node: server.name,
            address: server.address,
            leader: server.leader,
            protocol_version: "3",
            voter: server.voter,
        }
    }
}

pub(super) fn configuration(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    request.authorize(Resource::Operator, Access::Read)?;
    request.datacenter_is_here()?;
    let (app, layout) = (Arc::clone(&request.app), request.layout);
    drop(request);
    later(async move {
        let reader = app.reader()?;
        let consensus = reader.consensus();
        if !matches!(read.options.consistency, Consistency::Stale { .. }) {
            // Without a leader nobody can say what is agreed.
            let deadline = Instant::now() + reader.leader_wait();
            while !consensus.knows_leader() {
                if Instant::now() >= deadline {
                    return Err(raft::Error::NoLeader.into());
                }
                tokio::time::sleep(LEADER_RETRY).await;
            }
        }
        let servers = consensus.configuration().servers.into_iter().map(Server::from).collect();
        // The reference has not told the position for long; its clients expect the number.
        Ok(Reply::json(&Configuration { servers, index: 0 }, layout))
    })
}

pub(super) fn remove_peer(request: Request) -> Result<Answer, Error> {
    let params = &request.params;
    let wanted = match (params.get("id"), params.get("address")) {
        (None, None) => {
            return Err(Error::BadRequest(
                "Must specify either ?id with the server's ID or ?address with IP:port of peer to \
                 remove"
                    .to_owned(),
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Error::BadRequest("Must specify only one of ?id or ?address".to_owned()));
        }
        (Some(id), None) => ("id", id.to_owned()),
        (None, Some(address)) => ("address", address.to_owned()),
    };
    request.datacenter_is_here()?;
    request.authorize(Resource::Operator, Access::Write)?;
    let app = Arc::clone(&request.app);
    drop(request);
    later(async move {
        let consensus = app.reader()?.consensus();
        let (what, name) = wanted;
        let servers = consensus.configuration().servers;
        let found = servers.iter().find(|server| match what {
            "id" => server.id.to_string().eq_ignore_ascii_case(&name),
            _ => server.address == name,
        });
        let Some(server) = found else {
            return Err(Error::Refused(format!(
                "{what} {name:?} was not found in the Raft configuration"
            )));
        };
        consensus.remove_server(server.id).await?;
        tracing::warn!(server = %server.id, address = server.address, "an operator removed a server");
        Ok(Reply::empty())
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Transferred {
    success: bool,
}

/// An addition of later versions of the reference.
pub(super) fn transfer_leader(request: Request) -> Result<Answer, Error> {
    request.datacenter_is_here()?;
    request.authorize(Resource::Operator, Access::Write)?;
    let to = request.params.get("id").filter(|id| !id.is_empty()).map(|id| {
        id.parse::<ServerId>()
            .map_err(|_| Error::BadRequest(format!("id {id:?} is not the ID of a server")))
    });
    let to = to.transpose()?;
    let (app, layout) = (Arc::clone(&request.app), request.layout);
    drop(request);
    later(async move {
        app.reader()?.consensus().transfer_leader(to).await?;
        Ok(Reply::json(&Transferred { success: true }, layout))
    })
}
