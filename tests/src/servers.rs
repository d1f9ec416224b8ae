//! Servers that agree, what is written to them, and what they hold of it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{agents::Agent, wait::eventually};

/// For anything to come about, on a machine that does much else.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Servers that agree, with these keys in addition.
///
/// # Errors
/// When they do not come to agree.
pub fn cluster(count: usize, more: &Value) -> Result<Vec<Agent>> {
    let mut servers = Vec::new();
    for number in 0..count {
        let mut keys = json!({"server": true, "bootstrap_expect": count});
        if let (Some(keys), Some(more)) = (keys.as_object_mut(), more.as_object()) {
            keys.extend(more.clone());
        }
        servers.push(Agent::prepare(&format!("s{number}"), &keys)?);
    }
    let all: Vec<_> = servers.iter().map(Agent::gossip).collect();
    for server in &mut servers {
        server.config["retry_join"] = json!(all);
        server.start()?;
    }
    leader(&servers)?;
    voters(&servers, count)?;
    Ok(servers)
}

/// The one that all of them take for the leader.
///
/// # Errors
/// When there is none.
pub fn leader(servers: &[Agent]) -> Result<usize> {
    let (leader, _) = eventually(LIMIT, "all agree on a leader", || {
        let told = servers.iter().map(|it| it.get("/v1/status/leader")?.json());
        let told = told.collect::<Result<Vec<_>>>()?;
        ensure!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
        let place = |it: &Agent| told[0] == format!("127.0.0.1:{}", it.config["ports"]["server"]);
        servers.iter().position(place).with_context(|| format!("{told:?}"))
    })?;
    Ok(leader)
}

/// Waits until each of them knows so many servers, and all of those vote.
///
/// # Errors
/// When that does not come about.
pub fn voters(servers: &[Agent], count: usize) -> Result<()> {
    for server in servers {
        eventually(LIMIT, "all vote", || {
            let found = server.get("/v1/operator/raft/configuration")?.json()?;
            let listed = found["Servers"].as_array().cloned().unwrap_or_default();
            let voting = listed.iter().filter(|it| it["Voter"] == true).count();
            ensure!(voting == count && listed.len() == count, "{found}");
            Ok(())
        })?;
    }
    Ok(())
}

/// An agent of the same pool that is no server, with `more` in its keys. It does not run yet.
///
/// # Errors
/// When it cannot be prepared.
pub fn client(name: &str, servers: &[Agent], more: &Value) -> Result<Agent> {
    let all: Vec<_> = servers.iter().map(Agent::gossip).collect();
    let mut keys = json!({"retry_join": all});
    for (key, value) in more.as_object().into_iter().flatten() {
        keys[key] = value.clone();
    }
    Agent::prepare(name, &keys)
}

/// Ids of those that vote, sorted, as a server itself knows them.
///
/// # Errors
/// When it does not answer.
pub fn voting(server: &Agent) -> Result<Vec<String>> {
    let found = server.get("/v1/operator/raft/configuration?stale")?.json()?;
    let listed = found["Servers"].as_array().cloned().unwrap_or_default();
    let ids = listed.iter().filter(|it| it["Voter"] == true);
    let mut ids: Vec<_> = ids.filter_map(|it| it["ID"].as_str().map(str::to_owned)).collect();
    ids.sort();
    Ok(ids)
}

/// Writes until that is acknowledged.
///
/// # Errors
/// When it never is.
pub fn put(server: &Agent, key: &str, value: &str) -> Result<()> {
    eventually(LIMIT, "a write is accepted", || {
        let reply = server.put(&format!("/v1/kv/{key}"), value)?;
        ensure!(reply.text().trim() == "true", "{}", reply.text());
        Ok(())
    })?;
    Ok(())
}

/// The keys that a server itself holds, whoever leads.
///
/// # Errors
/// When it does not answer.
pub fn held(server: &Agent) -> Result<BTreeMap<String, String>> {
    let reply = server.get("/v1/kv/?keys&stale")?;
    if reply.status == 404 {
        return Ok(BTreeMap::new());
    }
    let keys = reply.json()?;
    let mut held = BTreeMap::new();
    for key in keys.as_array().context("a list")?.iter().filter_map(Value::as_str) {
        let value = server.get(&format!("/v1/kv/{key}?raw&stale"))?.text();
        held.insert(key.to_owned(), value);
    }
    Ok(held)
}

/// Waits until a server holds all that was written.
///
/// # Errors
/// What is missing.
pub fn holds(server: &Agent, written: &BTreeMap<String, String>) -> Result<()> {
    eventually(LIMIT, "everything acknowledged is there", || {
        let held = held(server)?;
        let missing: Vec<_> =
            written.iter().filter(|(key, it)| held.get(*key) != Some(it)).collect();
        ensure!(missing.is_empty(), "{} of {}: {missing:?}", missing.len(), written.len());
        Ok(())
    })?;
    Ok(())
}
