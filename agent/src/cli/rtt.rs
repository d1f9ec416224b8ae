//! `rtt`.

use std::collections::BTreeMap;

use muster_client::types::Member;
use serde::Deserialize;
use serde_json::Value;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec, wait};
use crate::gossip::vivaldi::Coordinate;

pub(super) static RTT: Spec = Spec {
    path: "rtt",
    synopsis: "Estimates the round trip between two nodes",
    operands: "node [node]",
    about: "Estimates how long the way from one node to the other and back takes, from where the \
agents placed them in the network. Without the second node it is the agent's own.

    $ muster rtt n1 n2",
    flags: &[Flag::switch("wan", "Between servers of different datacenters.")],
    common_flags: CommonFlags::Api,
    run: rtt,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    node: String,
    #[serde(default)]
    segment: String,
    coord: NodePosition,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodePosition {
    vec: [f64; 8],
    error: f64,
    adjustment: f64,
    height: f64,
}

impl NodePosition {
    fn as_coordinate(&self) -> Coordinate {
        let &NodePosition { vec, error, adjustment, height } = self;
        Coordinate { vec, error, adjustment, height }
    }
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
    let found = wait(client.rows::<Vec<Row>>(path, vec![], &call.options()))?
        .map_err(|error| call.failed("Error getting coordinates", &error))?;
    let places = |name: &str| {
        let rows = found.value.iter().filter(|row| row.node == name);
        let places: BTreeMap<&str, Coordinate> =
            rows.map(|row| (row.segment.as_str(), row.coord.as_coordinate())).collect();
        let unknown = || Failure::new(format!("Could not find a coordinate for node \"{name}\""));
        if places.is_empty() { Err(unknown()) } else { Ok(places) }
    };
    let (from, to) = (places(first)?, places(&second)?);
    // Servers are in all segments, all others in one: a pair is far apart in one that both are in.
    let shared = from.iter().find_map(|(segment, from)| Some((from, to.get(segment)?)));
    let (from, to) = shared.ok_or_else(|| {
        Failure::new(format!("\"{first}\" and \"{second}\" are in different segments"))
    })?;
    let took = from.distance(to);
    let ms = took * 1000.0;
    Ok(format!("Estimated {first} <-> {second} rtt: {ms:.3} ms (using LAN coordinates)\n").into())
}
