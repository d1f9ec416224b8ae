//! The rules by which the leader looks after the servers, and how the servers are.

use std::sync::Arc;

use muster_client::types::{format_nanos, parse_nanos};
use serde::Serialize;
use serde_json::Value;

use crate::acl::{Access, Resource};
use crate::http::decode::{Malformed, Object, wrong_type};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later};
use crate::http::params::go_unsigned;
use crate::http::payload;
use crate::http::reply::Reply;
use crate::read::Options;
use crate::store::{Autopilot, AutopilotChange, Change, Found, Reply as Applied};

/// A few hundred bytes are usual.
const BODY_BYTES_MAX: u64 = 64 << 10;

/// The row in the reference's words; the three fields of its paid edition are always at rest.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    cleanup_dead_servers: bool,
    last_contact_threshold: String,
    max_trailing_logs: u64,
    min_quorum: u64,
    server_stabilization_time: String,
    redundancy_zone_tag: &'static str,
    disable_upgrade_migration: bool,
    upgrade_version_tag: &'static str,
    create_index: u64,
    modify_index: u64,
}

impl From<&Autopilot> for Configuration {
    fn from(row: &Autopilot) -> Configuration {
        let time = |ns: u64| format_nanos(i64::try_from(ns).unwrap_or(i64::MAX));
        Configuration {
            cleanup_dead_servers: row.cleanup_dead_servers,
            last_contact_threshold: time(row.last_contact_threshold_ns),
            max_trailing_logs: row.max_trailing_logs,
            min_quorum: row.min_quorum,
            server_stabilization_time: time(row.server_stabilization_time_ns),
            redundancy_zone_tag: "",
            disable_upgrade_migration: false,
            upgrade_version_tag: "",
            create_index: row.create_index,
            modify_index: row.modify_index,
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
        // This end point does not wait for changes.
        let options = Options { consistency: read.options.consistency, ..Options::default() };
        let outcome = app
            .reader()?
            .read(options, |store| Found {
                rows: store.autopilot().map(Arc::clone).unwrap_or_default(),
                index: store.index(),
                scopes: Vec::new(),
            })
            .await?;
        Ok(Reply::json(&Configuration::from(&*outcome.found.rows), layout))
    })
}

pub(super) fn set_configuration(request: Request) -> Result<Answer, Error> {
    let (app, layout) = (Arc::clone(&request.app), request.layout);
    let cas = request.params.get("cas").map(go_unsigned).transpose();
    let elsewhere = request.datacenter_is_here();
    request.authorize(Resource::Operator, Access::Write)?;
    let body = request.into_body();
    later(async move {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            Error::BadRequest(format!("Error parsing {what}: {error}"))
        };
        let body = payload::collect(body, BODY_BYTES_MAX).await?;
        let row = parse(&body).map_err(|error| bad("autopilot config", &error))?;
        let cas = cas.map_err(|error| bad("cas value", &error))?;
        elsewhere?;
        let (applied, _) = app.propose(Change::Autopilot(AutopilotChange { row, cas })).await?;
        Ok(Reply::json(&!matches!(applied, Applied::Decided(false)), layout))
    })
}

/// Parses the rules; a missing one is zero, as in the reference: a client that changes one rule sends them all.
fn parse(body: &[u8]) -> Result<Autopilot, Malformed> {
    const NAME: &str = "AutopilotConfiguration";
    let mut from = match crate::json::value(body)? {
        value @ (Value::Object(_) | Value::Null) => Object::from(value, NAME)?,
        Value::Array(_) => return Err(no_object("array")),
        Value::String(_) => return Err(no_object("string")),
        Value::Number(_) => return Err(no_object("number")),
        Value::Bool(_) => return Err(no_object("bool")),
    };
    let field = |name: &str| format!("{NAME}.{name}");
    let flag = |from: &mut Object, name: &str| match from.take(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => Err(wrong_type(&field(name), &other, "bool")),
    };
    let number = |from: &mut Object, name: &str, kind: &str| match from.take(name) {
        None => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| match &value {
            Value::Number(number) => Malformed(format!(
                "json: cannot unmarshal number {number} into Go struct field {} of type {kind}",
                field(name)
            )),
            other => wrong_type(&field(name), other, kind),
        }),
    };
    let row = Autopilot {
        cleanup_dead_servers: flag(&mut from, "CleanupDeadServers")?,
        last_contact_threshold_ns: time(&mut from, "LastContactThreshold")?,
        max_trailing_logs: number(&mut from, "MaxTrailingLogs", "uint64")?,
        min_quorum: number(&mut from, "MinQuorum", "uint")?,
        server_stabilization_time_ns: time(&mut from, "ServerStabilizationTime")?,
        create_index: 0,
        modify_index: 0,
    };
    // Clients send back what they read.
    for name in ["CreateIndex", "ModifyIndex"] {
        number(&mut from, name, "uint64")?;
    }
    for name in ["RedundancyZoneTag", "UpgradeVersionTag"] {
        if !from.string(name)?.is_empty() {
            return Err(unsupported(name));
        }
    }
    if flag(&mut from, "DisableUpgradeMigration")? {
        return Err(unsupported("DisableUpgradeMigration"));
    }
    from.finish()?;
    Ok(row)
}

fn no_object(found: &str) -> Malformed {
    Malformed(format!(
        "json: cannot unmarshal {found} into Go value of type api.AutopilotConfiguration"
    ))
}

fn unsupported(name: &str) -> Malformed {
    Malformed(format!("{name} is a Consul Enterprise feature, which is not supported"))
}

/// A duration as text, or as a number of nanoseconds.
fn time(from: &mut Object, name: &str) -> Result<u64, Malformed> {
    let ns = match from.take(name) {
        None => 0,
        Some(Value::String(text)) => parse_nanos(&text)
            .ok_or_else(|| Malformed(format!("time: invalid duration {text:?}")))?,
        Some(Value::Number(number)) => {
            #[expect(clippy::cast_possible_truncation, reason = "saturates, as is meant")]
            let whole = number.as_f64().unwrap_or(0.0) as i64;
            number.as_i64().unwrap_or(whole)
        }
        Some(other) => return Err(wrong_type(name, &other, "duration")),
    };
    u64::try_from(ns).map_err(|_| Malformed(format!("{name} is negative; use 0s or more")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_as_by_the_reference() {
        let row = parse(
            br#"{"cleanupdeadservers":true,"LastContactThreshold":"1.5s","MinQuorum":3,
            "MaxTrailingLogs":9,"ServerStabilizationTime":5000000000,"ModifyIndex":7,
            "RedundancyZoneTag":"","DisableUpgradeMigration":false}"#,
        )
        .unwrap();
        let expected = Autopilot {
            cleanup_dead_servers: true,
            last_contact_threshold_ns: 1_500_000_000,
            max_trailing_logs: 9,
            min_quorum: 3,
            server_stabilization_time_ns: 5_000_000_000,
            create_index: 0,
            modify_index: 0,
        };
        assert_eq!(row, expected);
        for (body, text) in [
            (
                r#"{"RedundancyZoneTag":"z"}"#,
                "RedundancyZoneTag is a Consul Enterprise feature, which is not supported",
            ),
            (
                r#"{"ServerStabilizationTime":"-5s"}"#,
                "ServerStabilizationTime is negative; use 0s or more",
            ),
            (
                r#"{"MinQuorum":-1}"#,
                "json: cannot unmarshal number -1 into Go struct field AutopilotConfiguration.MinQuorum of type uint",
            ),
            ("[]", "json: cannot unmarshal array into Go value of type api.AutopilotConfiguration"),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().to_string(), text, "{body}");
        }
    }
}
