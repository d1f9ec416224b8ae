//! `operator raft list-peers`.

use serde::Deserialize;

use super::command::{Call, Door, Outcome, Spec, wait};
use super::layout::columns;

pub(super) const ABOUT: &str = "Tools for whoever runs the cluster. Some can do harm: read each \
one's help first.";

pub(super) const ABOUT_RAFT: &str = "Looks at the servers that agree on the state.

    $ muster operator raft list-peers";

pub(super) static LIST_PEERS: Spec = Spec {
    path: "operator raft list-peers",
    synopsis: "Lists the servers that agree on the state",
    operands: "",
    about: "Prints the servers that take part in the agreement. With -stale it works without a \
leader too.",
    flags: &[],
    door: Door::StaleApi,
    run: list_peers,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: Vec<Server>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Server {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    leader: bool,
    protocol_version: String,
    voter: bool,
}

fn list_peers(call: &Call) -> Outcome {
    let client = call.client()?;
    let path = "/v1/operator/raft/configuration";
    let found =
        wait(client.get::<Configuration>(path, vec![], &call.options()))?.map_err(|error| {
            call.failed("Error getting peers: Failed to retrieve raft configuration", &error)
        })?;
    let head = ["Node", "ID", "Address", "State", "Voter", "RaftProtocol"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for server in found.value.servers {
        let state = if server.leader { "leader" } else { "follower" };
        let protocol = if server.protocol_version.is_empty() {
            "<=1".to_owned()
        } else {
            server.protocol_version
        };
        rows.push(vec![
            server.node,
            server.id,
            server.address,
            state.to_owned(),
            server.voter.to_string(),
            protocol,
        ]);
    }
    Ok(columns(&rows, 2).into())
}
