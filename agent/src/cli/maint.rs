//! `maint`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use muster_client::types::AgentCheck;
use muster_client::{Error, ReadOptions};
use serde_json::Value;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec, rows_of, wait};

pub(super) static MAINT: Spec = Spec {
    path: "maint",
    synopsis: "Takes a node or a service out of service, and back",
    operands: "",
    about: "Marks the agent's node, or one of its services, as not to be used, until it is marked \
as usable again. This outlasts a restart of the agent. Without flags it lists what is marked.

    $ muster maint -enable -reason 'new disk'
    $ muster maint
    $ muster maint -disable
    $ muster maint -enable -service=web-1",
    flags: &[
        Flag::switch("disable", "Back into service."),
        Flag::switch("enable", "Out of service."),
        Flag::text("reason", "text", "Why; shown to whoever asks. For -enable."),
        Flag::text("service", "id", "This service instead of the whole node."),
    ],
    common_flags: CommonFlags::Api,
    run: maint,
};

fn maint(call: &Call) -> Outcome {
    let values = &call.values;
    let [enable, disable] = [values.on("enable"), values.on("disable")];
    let text = |name: &str| values.text(name).unwrap_or_default();
    let (reason, service) = (text("reason"), text("service"));
    if enable && disable {
        return Err(Failure::new("Only one of -enable or -disable may be provided"));
    }
    if !enable && !reason.is_empty() {
        return Err(Failure::new("Reason may only be provided with -enable"));
    }
    if !enable && !disable && !service.is_empty() {
        return Err(Failure::new("Service requires either -enable or -disable"));
    }
    if !enable && !disable {
        return list(call);
    }
    let agent = call.client()?.agent();
    let (doing, done) = if enable { ("enabling", "enabled") } else { ("disabling", "disabled") };
    if service.is_empty() {
        wait(agent.node_maintenance(enable, reason))?
            .map_err(|error| call.failed(&format!("Error {doing} node maintenance"), &error))?;
        return Ok(format!("Node maintenance is now {done}\n").into());
    }
    wait(agent.service_maintenance(service, enable, reason))?
        .map_err(|error| call.failed(&format!("Error {doing} service maintenance"), &error))?;
    Ok(format!("Service maintenance is now {done} for {service:?}\n").into())
}

fn list(call: &Call) -> Outcome {
    const CHECKS: &str = "/v1/agent/checks";
    let client = call.client()?;
    let found = wait(async {
        let about = client.agent().self_().await?;
        Ok((about, rows_of(client.rows(CHECKS, vec![], &ReadOptions::default()).await?)))
    })?;
    let (about, checks): (Value, BTreeMap<String, AgentCheck>) =
        found.map_err(|error: Error| call.failed("Error querying {} agent", &error))?;
    let mut services = String::new();
    let mut node = String::new();
    for check in checks.values() {
        if check.check_id == "_node_maintenance" {
            let name = about["Config"]["NodeName"].as_str().unwrap_or(&check.node);
            let _ = write!(node, "Node:\n  Name:   {name}\n  Reason: {}\n\n", check.notes);
        } else if check.check_id.starts_with("_service_maintenance:") {
            let id = &check.service_id;
            let _ = write!(services, "Service:\n  ID:     {id}\n  Reason: {}\n\n", check.notes);
        }
    }
    Ok((services + &node).into())
}
