//! `rtt`.

use muster_client::types::Member;
use serde::Deserialize;
use serde_json::Value;

use super::command::{Call, Door, Failure, Flag, Outcome, Spec, wait};
use crate::gossip::vivaldi::Coordinate;

pub(super) static RTT: Spec = Spec {
    path: "rtt",
    synopsis: "Estimates the round trip between two nodes",
    operands: "node [node]",
    about: "Estimates how long the way from one node to the other and back takes, from where the \
agents placed them in the network. Without the second node it is the agent's own.

    $ muster rtt n1 n2",
    flags: &[Flag::switch("wan", "Between servers of different datacenters.")],
    door: Door::Api,
    run: rtt,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    node: String,
    coord: Place,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    vec: [f64; 8],
    error: f64,
    adjustment: f64,
    height: f64,
}

fn rtt(call: &Call) -> Outcome {
    let [first, rest @ ..] = call.operands.as_slice() else {
        return Err(call.misused("One or two node names must be specified"));
    };
    if rest.len() > 1 {
        return Err(call.misused("One or two node names must be specified"));
    }
    if call.values.on("wan") {
        return Err(Failure::new("there is one datacenter only: -wan is not supported yet"));
    }
    let client = call.client()?;
    let second = if let Some(second) = rest.first() {
        second.clone()
    } else {
        let own = wait(client.agent().self_())?
            .map_err(|error| call.failed("Unable to look up agent info", &error))?;
        let own: Option<Member> = own
            .get("Member")
            .cloned()
            .and_then(|member: Value| serde_json::from_value(member).ok());
        own.ok_or_else(|| Failure::new("the agent does not tell its name"))?.name
    };
    let path = "/v1/coordinate/nodes";
    let found = wait(client.get::<Vec<Row>>(path, vec![], &call.options()))?
        .map_err(|error| call.failed("Error getting coordinates", &error))?;
    let place = |name: &str| {
        let row = found.value.iter().find(|row| row.node == name).ok_or_else(|| {
            Failure::new(format!("Could not find a coordinate for node \"{name}\""))
        })?;
        let Place { vec, error, adjustment, height } = row.coord;
        Ok::<_, Failure>(Coordinate { vec, error, adjustment, height })
    };
    let took = place(first)?.distance(&place(&second)?);
    let ms = took * 1000.0;
    Ok(format!("Estimated {first} <-> {second} rtt: {ms:.3} ms (using LAN coordinates)\n").into())
}
