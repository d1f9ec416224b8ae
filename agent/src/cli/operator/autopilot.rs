//! `operator autopilot`: the rules by which the leader looks after the servers.

use std::fmt::Write as _;

use muster_client::Client;
use muster_client::types::format_duration;
use serde_json::{Map, Value};

use crate::cli::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, wait};
use crate::cli::layout::document;

const PATH: &str = "/v1/operator/autopilot/configuration";

pub(in crate::cli) const ABOUT: &str = "Looks at and changes the rules by which the leader looks \
after the servers: when a new one votes, and when one that failed is removed.

    $ muster operator autopilot get-config
    $ muster operator autopilot set-config -server-stabilization-time=30s";

pub(in crate::cli) static GET_CONFIG: Spec = Spec {
    path: "operator autopilot get-config",
    synopsis: "Prints the rules",
    operands: "",
    about: "Prints the rules by which the leader looks after the servers.",
    flags: &[FORMAT_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: get_config,
};

pub(in crate::cli) static SET_CONFIG: Spec = Spec {
    path: "operator autopilot set-config",
    synopsis: "Changes rules",
    operands: "",
    about: "Changes the rules that are given; the others stay as they are. If somebody else \
changes them at the same moment, nothing is written and the command fails.",
    flags: &[
        Flag::text(
            "cleanup-dead-servers",
            "true|false",
            "Whether servers that failed are removed once enough others are healthy.",
        ),
        Flag::text(
            "disable-upgrade-migration",
            "true|false",
            "A Consul Enterprise feature; only false is taken.",
        ),
        Flag::duration(
            "last-contact-threshold",
            "A server that heard nothing from the leader for longer is not healthy.",
        ),
        Flag::number(
            "max-trailing-logs",
            "A server whose log is more entries behind the leader's is not healthy.",
        ),
        Flag::number("min-quorum", "Never remove failed servers below this number."),
        Flag::text(
            "redundancy-zone-tag",
            "text",
            "A Consul Enterprise feature; only \"\" is taken.",
        ),
        Flag::duration(
            "server-stabilization-time",
            "A new server must be healthy for so long before it votes.",
        ),
        Flag::text(
            "upgrade-version-tag",
            "text",
            "A Consul Enterprise feature; only \"\" is taken.",
        ),
    ],
    common_flags: CommonFlags::StaleApi,
    run: set_config,
};

async fn fetch(call: &Call, client: &Client) -> Result<Map<String, Value>, Failure> {
    let found = client.get::<Map<String, Value>>(PATH, vec![], &call.options()).await;
    let what = "Error querying Autopilot configuration";
    Ok(found.map_err(|error| call.failed(what, &error))?.value)
}

fn get_config(call: &Call) -> Outcome {
    call.no_operands()?;
    let json = call.json()?;
    let client = call.client()?;
    let row = wait(fetch(call, &client))??;
    if json {
        return Ok(document(&row).into());
    }
    let mut text = String::new();
    for (name, quoted) in [
        ("CleanupDeadServers", false),
        ("LastContactThreshold", false),
        ("MaxTrailingLogs", false),
        ("MinQuorum", false),
        ("ServerStabilizationTime", false),
        ("RedundancyZoneTag", true),
        ("DisableUpgradeMigration", false),
        ("UpgradeVersionTag", true),
    ] {
        let value = match row.get(name) {
            Some(Value::String(text)) if quoted => format!("{text:?}"),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => continue,
        };
        let _ = writeln!(text, "{name} = {value}");
    }
    Ok(text.into())
}

fn set_config(call: &Call) -> Outcome {
    call.no_operands()?;
    let mut changes: Vec<(&str, Value)> = Vec::new();
    let values = &call.values;
    for (flag, field) in [
        ("cleanup-dead-servers", "CleanupDeadServers"),
        ("disable-upgrade-migration", "DisableUpgradeMigration"),
    ] {
        match values.text(flag) {
            None => {}
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => changes.push((field, true.into())),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => {
                changes.push((field, false.into()));
            }
            Some(other) => {
                return Err(Failure::new(format!(
                    "invalid boolean value {other:?} for -{flag}: parse error"
                )));
            }
        }
    }
    for (flag, field) in [("max-trailing-logs", "MaxTrailingLogs"), ("min-quorum", "MinQuorum")] {
        changes.extend(values.number(flag).map(|number| (field, number.into())));
    }
    for (flag, field) in [
        ("last-contact-threshold", "LastContactThreshold"),
        ("server-stabilization-time", "ServerStabilizationTime"),
    ] {
        changes.extend(values.duration(flag).map(|time| (field, format_duration(time).into())));
    }
    for (flag, field) in
        [("redundancy-zone-tag", "RedundancyZoneTag"), ("upgrade-version-tag", "UpgradeVersionTag")]
    {
        changes.extend(values.text(flag).map(|text| (field, text.into())));
    }
    let client = call.client()?;
    wait(async {
        let mut row = fetch(call, &client).await?;
        let index = row.get("ModifyIndex").and_then(Value::as_u64).unwrap_or(0);
        for (field, value) in changes {
            row.insert(field.to_owned(), value);
        }
        let what = "Error setting Autopilot configuration";
        let written = client.put_json(PATH, &[("cas", index.to_string())], &row).await;
        let answer = written.map_err(|error| call.failed(what, &error))?;
        if answer.text() == "true" {
            Ok("Configuration updated!\n".to_owned().into())
        } else {
            Err(Failure::new(format!(
                "{what}: Configuration could not be atomically updated, please try again"
            )))
        }
    })?
}
