//! Health of the servers, as the leader sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use muster_client::types::format_nanos;
use serde::Serialize;

use crate::acl::{Access, Resource};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, now};
use crate::http::time::rfc3339;
use crate::raft::autopilot::{Assessed, Assessment, Presence};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    healthy: bool,
    failure_tolerance: usize,
    servers: Option<Vec<Server>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    address: String,
    serf_status: &'static str,
    version: String,
    leader: bool,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    voter: bool,
    stable_since: String,
}

/// As later versions of the reference tell it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    healthy: bool,
    failure_tolerance: usize,
    optimistic_failure_tolerance: usize,
    servers: BTreeMap<String, StateServer>,
    leader: String,
    voters: Vec<String>,
    /// An addition: what is waited for, while nobody leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_leader_because: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateServer {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    address: String,
    node_status: &'static str,
    version: String,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    stable_since: String,
    read_replica: bool,
    status: &'static str,
    meta: BTreeMap<String, String>,
    node_type: &'static str,
}

fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Alive => "alive",
        Presence::Failed => "failed",
        Presence::Left => "left",
        Presence::Unknown => "none",
    }
}

/// Formats the time since the last contact; a server that never answered has no number.
fn silence(contact: Option<Duration>) -> String {
    contact.map_or_else(
        || "never".to_owned(),
        |contact| format_nanos(i64::try_from(contact.as_nanos()).unwrap_or(i64::MAX)),
    )
}

/// Latest assessment of the leader. Other servers have none.
fn assessment(request: &Request) -> Result<Option<Assessment>, Error> {
    request.read_options()?;
    request.authorize(Resource::Operator, Access::Read)?;
    request.datacenter_is_here()?;
    Ok(request.app.reader()?.consensus().assessment())
}

/// 200 if all are healthy, and 429 if not, for monitors that look at the status alone.
pub(super) fn health(request: Request) -> Result<Answer, Error> {
    let seen = assessment(&request)?;
    let version = &request.app.parts.identity.version;
    let server = |it: &Assessed| Server {
        id: it.id.to_string(),
        name: it.name.clone(),
        address: it.address.clone(),
        serf_status: presence(it.presence),
        version: version.clone(),
        leader: it.leader,
        last_contact: silence(it.last_contact),
        last_term: it.last_term,
        last_index: it.last_index,
        healthy: it.healthy,
        voter: it.voter,
        stable_since: rfc3339(it.since),
    };
    let shown = Health {
        healthy: seen.as_ref().is_some_and(|seen| seen.healthy),
        failure_tolerance: seen.as_ref().map_or(0, |seen| seen.failure_tolerance),
        servers: seen.map(|seen| seen.servers.iter().map(server).collect()),
    };
    let mut reply = request.json(&shown);
    if !shown.healthy {
        reply.status = StatusCode::TOO_MANY_REQUESTS;
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    now(reply)
}

/// An addition of later versions of the reference.
pub(super) fn state(request: Request) -> Result<Answer, Error> {
    let seen = assessment(&request)?.unwrap_or(Assessment {
        healthy: false,
        failure_tolerance: 0,
        servers: Vec::new(),
    });
    let version = &request.app.parts.identity.version;
    let server = |it: &Assessed| StateServer {
        id: it.id.to_string(),
        name: it.name.clone(),
        address: it.address.clone(),
        node_status: presence(it.presence),
        version: version.clone(),
        last_contact: silence(it.last_contact),
        last_term: it.last_term,
        last_index: it.last_index,
        healthy: it.healthy,
        stable_since: rfc3339(it.since),
        read_replica: false,
        status: match (it.leader, it.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "non-voter",
        },
        meta: BTreeMap::new(),
        node_type: "voter",
    };
    let ids = |wanted: fn(&Assessed) -> bool| -> Vec<String> {
        let servers = seen.servers.iter().filter(|it| wanted(it));
        servers.map(|it| it.id.to_string()).collect()
    };
    let shown = State {
        healthy: seen.healthy,
        failure_tolerance: seen.failure_tolerance,
        // Without zones there is no optimism: whoever could step in votes already.
        optimistic_failure_tolerance: seen.failure_tolerance,
        leader: ids(|it| it.leader).pop().unwrap_or_default(),
        voters: ids(|it| it.voter),
        no_leader_because: request.app.reader()?.consensus().leaderless_because(),
        servers: seen.servers.iter().map(|it| (it.id.to_string(), server(it))).collect(),
    };
    now(request.json(&shown))
}
