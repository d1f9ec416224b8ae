//! Identity, liveness and readiness of this agent.

use http::StatusCode;
use serde_json::{Value, json};

use super::member::{self, Pool};
use crate::acl::{Access, Resource};
use crate::gossip::{Members, Status};
use crate::http::Backend;
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, now};

fn may(request: &Request, access: Access) -> Result<(), Error> {
    request.authorize(Resource::Agent(&request.app.parts.node_name), access)
}

/// Configuration, figures, and the agent as a member.
pub(super) fn myself(request: Request) -> Result<Answer, Error> {
    may(&request, Access::Read)?;
    let (parts, identity) = (&request.app.parts, &request.app.parts.identity);
    let local = &parts.local;
    let place = parts.pools.own().vitals().coordinate;
    let shown = json!({
        "Config": {
            "Datacenter": parts.datacenter,
            "NodeName": parts.node_name,
            "NodeID": local.settings().node_id,
            "Revision": identity.build,
            "Server": identity.server,
            "Version": identity.version,
        },
        "DebugConfig": *identity.config.now(),
        "Coord": {
            "Vec": place.vec,
            "Error": place.error,
            "Adjustment": place.adjustment,
            "Height": place.height,
        },
        "Member": member::myself(&request, Pool::Lan),
        "Stats": stats(&request),
        "Meta": local.node().meta,
    });
    now(request.json(&shown))
}

/// Figures by part; all of them texts.
fn stats(request: &Request) -> Value {
    let (parts, identity) = (&request.app.parts, &request.app.parts.identity);
    let (monitors, ttls) = parts.local.check_counts();
    let processors = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut stats = json!({
        "agent": {
            "check_monitors": monitors.to_string(),
            "check_ttls": ttls.to_string(),
            "checks": parts.local.checks().len().to_string(),
            "services": parts.local.services().len().to_string(),
        },
        "build": {
            "prerelease": "",
            "revision": identity.build,
            "version": identity.version,
        },
        "consul": { "acl": "disabled", "server": identity.server.to_string() },
        "runtime": {
            "arch": if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH },
            "cpu_count": processors,
            "goroutines": tokio::runtime::Handle::current().metrics().num_alive_tasks().to_string(),
            "max_procs": processors,
            "os": std::env::consts::OS,
            "version": identity.build,
        },
        "serf_lan": of_pool(parts.pools.own()),
    });
    for pool in &parts.pools.each()[1..] {
        stats[format!("serf_segment_{}", pool.segment())] = of_pool(pool);
    }
    if let Backend::Elsewhere(upstream) = &parts.backend {
        stats["consul"]["known_servers"] = upstream.servers().to_string().into();
    }
    if let Some(reader) = parts.backend.reader() {
        let consensus = reader.consensus();
        let consul = &mut stats["consul"];
        consul["bootstrap"] = identity.bootstrap.to_string().into();
        consul["known_datacenters"] = "1".into();
        consul["leader"] = consensus.is_leader().to_string().into();
        consul["leader_addr"] = consensus.leader().unwrap_or_default().into();
        let raft = consensus.stats().into_iter();
        stats["raft"] = raft.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    }
    if identity.serf_wan_port.is_some() {
        stats["serf_wan"] = stats["serf_lan"].clone();
    }
    stats
}

/// Figures of a pool; all of them texts.
fn of_pool(pool: &Members) -> Value {
    let (member_list, vitals) = (pool.member_list(), pool.vitals());
    let count = |status| member_list.values().filter(|member| member.status == status).count();
    json!({
        "coordinate_resets": "0",
        "encrypted": pool.keyring().is_on().to_string(),
        "event_queue": vitals.updates.to_string(),
        "event_time": vitals.event_clock.to_string(),
        "failed": count(Status::Failed).to_string(),
        "health_score": vitals.health_score.to_string(),
        "intent_queue": "0",
        "left": count(Status::Left).to_string(),
        "member_time": "1",
        "members": member_list.len().to_string(),
        "query_queue": "0",
        "query_time": "1",
    })
}

/// The version as newer clients ask for it.
pub(super) fn version(request: Request) -> Result<Answer, Error> {
    may(&request, Access::Read)?;
    let identity = &request.app.parts.identity;
    now(request.json(&json!({
        "SHA": identity.build,
        "BuildDate": "0001-01-01T00:00:00Z",
        "HumanVersion": identity.version,
        "FIPS": "",
    })))
}

/// The process answers. Nothing else is asked of it: whoever restarts what is not alive must not
/// restart an agent that waits for a leader.
pub(super) fn live(request: Request) -> Result<Answer, Error> {
    now(request.json(&json!({ "Live": true })))
}

/// The agent can do its work: there is a leader, or a server to ask, and the catalog holds what the agent claims. If
/// it does not, what stood in the way of the last attempt is told.
pub(super) fn ready(request: Request) -> Result<Answer, Error> {
    let parts = &request.app.parts;
    let synced = parts.local.is_synced();
    let mut shown = json!({ "Synced": synced });
    let is_led = match &parts.backend {
        Backend::Here { reader, .. } => {
            let leader = reader.consensus().leader();
            shown["Leader"] = leader.clone().unwrap_or_default().into();
            leader.is_some()
        }
        Backend::Elsewhere(upstream) => {
            shown["Servers"] = upstream.servers().into();
            upstream.servers() > 0
        }
    };
    let is_ready = is_led && synced;
    shown["Ready"] = is_ready.into();
    if let Some(trouble) = parts.local.trouble().filter(|_| !synced) {
        shown["SyncError"] = trouble.into();
    }
    let mut reply = request.json(&shown);
    if !is_ready {
        reply.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    now(reply)
}

/// Sets one of the agent's own tokens, which exist with access control only.
pub(super) fn token(request: Request) -> Result<Answer, Error> {
    may(&request, Access::Write)?;
    Err(Error::Disabled("ACL support disabled"))
}
