//! `event`.

use regex::Regex;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec, wait};

pub(super) static EVENT: Spec = Spec {
    path: "event",
    synopsis: "Fires an event that every agent of a datacenter hears",
    operands: "[payload]",
    about: "Sends a named event with a small payload to the agents of a datacenter. Agents that \
are away do not hear it later: for state use keys.

    $ muster event -name=deploy v42
    $ muster event -name=deploy -service=web -tag='v4.*' v42",
    flags: &[
        Flag::text("name", "text", "Name of the event."),
        Flag::text("node", "regexp", "Only nodes whose names match hear it."),
        Flag::text("service", "regexp", "Only agents with a matching service hear it."),
        Flag::text("tag", "regexp", "Only agents whose -service has a matching tag hear it."),
    ],
    common_flags: CommonFlags::Api,
    run: event,
};

fn event(call: &Call) -> Outcome {
    let text = |name: &str| call.values.text(name).unwrap_or_default();
    let name = text("name");
    if name.is_empty() {
        return Err(call.misused("Event name must be specified"));
    }
    if call.operands.len() > 1 {
        return Err(call.misused("Too many command line arguments."));
    }
    let filters = filters(call)?;
    let payload = call.operands.first().cloned().unwrap_or_default();
    let id = wait(call.client()?.event().fire(name, payload, &filters))?
        .map_err(|error| call.failed("Error firing event", &error))?;
    Ok(format!("Event ID: {id}\n").into())
}

/// The filters that say whom an event concerns.
pub(super) fn filters(call: &Call) -> Result<Vec<(&'static str, String)>, Failure> {
    let text = |name: &str| call.values.text(name).unwrap_or_default();
    let mut filters = Vec::new();
    for filter in ["node", "service", "tag"] {
        let pattern = text(filter);
        if pattern.is_empty() {
            continue;
        }
        if let Err(error) = Regex::new(pattern) {
            let picture = error.to_string();
            let last = picture.lines().last().unwrap_or_default();
            return Err(Failure::new(format!("Failed to compile {filter} filter regexp: {last}")));
        }
        filters.push((filter, pattern.to_owned()));
    }
    if !text("tag").is_empty() && text("service").is_empty() {
        return Err(Failure::new("Cannot provide tag filter without service filter."));
    }
    Ok(filters)
}
