//! `operator raft`: who takes part in the agreement.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use muster_client::Client;
use serde::Deserialize;

use crate::cli::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, wait};

pub(in crate::cli) const ABOUT: &str = "Looks at the servers that agree on the state.

    $ muster operator raft list-peers
    $ muster operator raft remove-peer -address=10.0.0.9:8300";

pub(in crate::cli) static LIST_PEERS: Spec = Spec {
    path: "operator raft list-peers",
    synopsis: "Lists the servers that agree on the state",
    operands: "",
    about: "Prints the servers that take part in the agreement. With -stale it works without a \
leader too.",
    flags: &[FORMAT_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: list_peers,
};

pub(in crate::cli) static REMOVE_PEER: Spec = Spec {
    path: "operator raft remove-peer",
    synopsis: "Takes a server out of the agreement",
    operands: "",
    about: "Takes a server out of the agreement, named by its ID or by its address. This is for a \
server that is gone for good and that nobody removed. If it still shows among the members, \
`force-leave` is the better way: it removes the server here, too.

    $ muster operator raft remove-peer -address=10.0.0.9:8300",
    flags: &[
        Flag::text("address", "ip:port", "Which server, by its address."),
        Flag::text("id", "uuid", "Which server, by its ID."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: remove_peer,
};

pub(in crate::cli) static TRANSFER_LEADER: Spec = Spec {
    path: "operator raft transfer-leader",
    synopsis: "Has another server lead",
    operands: "",
    about: "Has the leader hand over to another server, before it is taken down for instance. \
Without -id the leader chooses the one that has most of the log.",
    flags: &[Flag::text("id", "uuid", "Which server is to lead.")],
    common_flags: CommonFlags::Api,
    run: transfer_leader,
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
                .or_hint(leaderless_because(&client))
        })?;
    let servers = found.value.servers;
    let hint =
        if servers.iter().any(|server| server.leader) { None } else { leaderless_because(&client) };
    let head = ["Node", "ID", "Address", "State", "Voter", "RaftProtocol"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for server in servers {
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
    let mut output = call.table(&rows, 2)?;
    output.stderr = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    Ok(output)
}

/// Reason why the agent's server knows no leader, if it knows none and can tell.
fn leaderless_because(client: &Client) -> Option<String> {
    let about = wait(client.agent().self_()).ok()?.ok()?;
    about["Stats"]["raft"]["no_leader_because"].as_str().map(str::to_owned)
}

fn remove_peer(call: &Call) -> Outcome {
    let what = "Error removing peer";
    let given = |name| call.values.text(name).filter(|text| !text.is_empty());
    let query = match (given("address"), given("id")) {
        (None, None) => {
            let text = "an address or id is required for the peer to remove";
            return Err(Failure::new(format!("{what}: {text}")));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::new(format!("{what}: cannot give both an address and id")));
        }
        (Some(address), None) => ("address", address.to_owned()),
        (None, Some(id)) => ("id", id.to_owned()),
    };
    let client = call.client()?;
    let asked_for = [query.clone()];
    let asked = client.call(
        Method::DELETE,
        "/v1/operator/raft/peer",
        &asked_for,
        Bytes::new(),
        Duration::ZERO,
    );
    let raw = wait(asked)?.map_err(|error| call.failed(what, &error))?;
    if !raw.status.is_success() {
        let error = muster_client::Error::Status { code: raw.status, text: raw.text() };
        return Err(call.failed(what, &error));
    }
    let (name, value) = query;
    Ok(format!("Removed peer with {name} \"{value}\"\n").into())
}

fn transfer_leader(call: &Call) -> Outcome {
    call.no_operands()?;
    let client = call.client()?;
    let id = call.values.text("id").filter(|text| !text.is_empty());
    let query: Vec<_> = id.map(|id| ("id", id.to_owned())).into_iter().collect();
    let path = "/v1/operator/raft/transfer-leader";
    wait(client.put(path, &query, Bytes::new()))?
        .map_err(|error| call.failed("Error transferring leadership", &error))?;
    Ok("Success\n".to_owned().into())
}
