//! `operator autopilot state`: how the servers are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec, wait};
use crate::cli::layout;

pub(in crate::cli) static STATE: Spec = Spec {
    path: "operator autopilot state",
    synopsis: "Prints how the servers are",
    operands: "",
    about: "Prints how the servers are, as the leader sees them: who votes, who is healthy and \
since when, and how many may fail before nothing can be agreed on.",
    flags: &[Flag::text("format", "pretty|json", "How to print it; pretty by default.")],
    common_flags: CommonFlags::StaleApi,
    run: state,
};

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    healthy: bool,
    failure_tolerance: i64,
    optimistic_failure_tolerance: i64,
    servers: BTreeMap<String, Server>,
    leader: String,
    voters: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Server {
    name: String,
    address: String,
    version: String,
    status: String,
    node_type: String,
    node_status: String,
    healthy: bool,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    meta: BTreeMap<String, String>,
}

fn state(call: &Call) -> Outcome {
    call.no_operands()?;
    let client = call.client()?;
    let found = wait(client.get::<Value>("/v1/operator/autopilot/state", vec![], &call.options()))?
        .map_err(|error| call.failed("Error querying Autopilot state", &error))?;
    match call.values.text("format").unwrap_or("pretty") {
        "json" => Ok((layout::indent(&found.value.to_string(), "    ") + "\n").into()),
        "pretty" => {
            let state: State = serde_json::from_value(found.value).map_err(|error| {
                Failure::new(format!("Error querying Autopilot state: {error}"))
            })?;
            Ok(pretty(&state).into())
        }
        other => Err(Failure::new(format!(
            "Invalid format, valid formats are {{json|pretty}}: got {other:?}"
        ))),
    }
}

fn pretty(state: &State) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("Healthy", state.healthy.to_string()),
        ("Failure Tolerance", state.failure_tolerance.to_string()),
        ("Optimistic Failure Tolerance", state.optimistic_failure_tolerance.to_string()),
        ("Leader", state.leader.clone()),
    ] {
        let _ = writeln!(text, "{:30}{value}", format!("{name}:"));
    }
    text.push_str("Voters:\n");
    for voter in &state.voters {
        let _ = writeln!(text, "   {voter}");
    }
    text.push_str("Servers:\n");
    for (id, server) in &state.servers {
        let _ = writeln!(text, "   {id}");
        for (name, value) in [
            ("Name", &server.name),
            ("Address", &server.address),
            ("Version", &server.version),
            ("Status", &server.status),
            ("Node Type", &server.node_type),
            ("Node Status", &server.node_status),
            ("Healthy", &server.healthy.to_string()),
            ("Last Contact", &server.last_contact),
            ("Last Term", &server.last_term.to_string()),
            ("Last Index", &server.last_index.to_string()),
        ] {
            let _ = writeln!(text, "      {:19}{value}", format!("{name}:"));
        }
        if !server.meta.is_empty() {
            text.push_str("      Meta\n");
            for (key, value) in &server.meta {
                let _ = writeln!(text, "         {key:?}: {value:?}");
            }
        }
    }
    text
}
