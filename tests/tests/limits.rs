//! What an agent that is no server may ask of servers, as its operator sets it while it runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use muster_tests::{agents::Agent, http::Reply, wait::eventually};
use serde_json::{Value, json};

/// Far above what an agent's start takes.
const LIMIT: Duration = Duration::from_mins(1);

fn shown(agent: &Agent) -> Result<Value> {
    Ok(agent.get("/v1/agent/self")?.json()?["DebugConfig"].clone())
}

fn answered(agent: &Agent, status: u16) -> Result<Reply> {
    let answered = eventually(LIMIT, "the agent answers so", || {
        let answer = agent.get("/v1/catalog/nodes")?;
        ensure!(answer.status == status, "{} {}", answer.status, answer.text());
        Ok(answer)
    });
    Ok(answered?.0)
}

#[test]
fn a_reload_changes_how_much_is_asked_of_servers() -> Result<()> {
    let mut server = Agent::prepare("srv", &json!({ "server": true, "bootstrap_expect": 1 }))?;
    server.start()?;
    let more = json!({ "retry_join": [server.gossip()], "dns_config": { "node_ttl": "1s" } });
    let mut client = Agent::prepare("client", &more)?;
    client.start()?;
    answered(&client, 200)?;
    let first = shown(&client)?;
    ensure!(first["RPCRateLimit"] == -1 && first["DNSNodeTTL"] == "1s", "{first}");

    client.config["limits"] = json!({ "rpc_rate": 1e-6, "rpc_max_burst": 3 });
    client.reload()?;
    let refused = answered(&client, 429)?;
    ensure!(refused.body.is_empty(), "{}", refused.text());
    let now = shown(&client)?;
    ensure!(now["RPCRateLimit"] == 1e-6 && now["RPCMaxBurst"] == 3, "{now}");

    client.config["limits"] = json!({ "rpc_rate": -1 });
    client.config["dns_config"] = json!({ "node_ttl": "9s" });
    client.config["node_name"] = "other".into();
    client.reload()?;
    for _ in 0..10 {
        let answer = client.get("/v1/catalog/nodes")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    let now = shown(&client)?;
    ensure!(now["RPCRateLimit"] == -1 && now["DNSNodeTTL"] == "9s", "{now}");
    ensure!(now["NodeName"] == "client", "what waits for a restart is shown as it is: {now}");
    Ok(())
}
