//! Who an agent is: machines that are built anew under their old names, copies of one machine, and files
//! that cannot be read any more.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    agents::Agent,
    http,
    servers::{LIMIT, client, cluster, leader, put, voters, voting},
    wait::eventually,
};
use serde_json::{Value, json};

/// A death is known, and what follows from it is done.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// The row of a node, and the health of its services and itself.
fn row(server: &Agent, node: &str) -> Result<(Value, Vec<String>)> {
    let row = server.get(&format!("/v1/catalog/node/{node}"))?.json()?;
    let checks = server.get(&format!("/v1/health/node/{node}"))?.json()?;
    let checks = checks.as_array().cloned().unwrap_or_default();
    let states = checks.iter().map(|it| {
        format!(
            "{}={}",
            it["CheckID"].as_str().unwrap_or("?"),
            it["Status"].as_str().unwrap_or("?")
        )
    });
    Ok((row, states.collect()))
}

#[test]
fn servers_built_anew_take_their_old_places_and_writes_go_on() -> Result<()> {
    let mut servers = cluster(3, &json!({}))?;
    let leading = leader(&servers)?;
    let (anew, dies) = ((leading + 1) % 3, (leading + 2) % 3);
    let old = servers[anew].id()?;
    put(&servers[leading], "before", "1")?;
    servers[anew].kill()?;
    servers[anew].wipe()?;
    servers[anew].start()?;
    let ((), took) = eventually(LIMIT, "it votes in the place of its old self", || {
        let ids = voting(&servers[leading])?;
        let new = servers[anew].id()?;
        ensure!(ids.contains(&new) && !ids.contains(&old) && ids.len() == 3, "{ids:?}");
        Ok(())
    })?;
    ensure!(took < Duration::from_secs(20), "{took:?}");
    eventually(LIMIT, "it has caught up", || {
        ensure!(servers[anew].get("/v1/kv/before?raw&stale")?.text() == "1");
        Ok(())
    })?;
    servers[dies].kill()?;
    put(&servers[anew], "after", "2")?;
    // The other one, too, as the first did, while the leader changes.
    servers[dies].wipe()?;
    servers[dies].start()?;
    voters(&servers, 3)?;
    put(&servers[dies], "last", "3")
}

#[test]
fn an_agent_built_anew_has_its_row_and_what_it_had_is_gone() -> Result<()> {
    let servers = cluster(1, &json!({}))?;
    let server = &servers[0];
    let mut agent = client("delta", &servers, &json!({}))?;
    agent.start()?;
    let has = |agent: &Agent, service: &str| -> Result<()> {
        let (row, states) = row(server, "delta")?;
        ensure!(row["Node"]["ID"] == agent.id()?, "{row}");
        ensure!(!row["Services"][service].is_null(), "{row}");
        ensure!(states.contains(&"serfHealth=passing".to_owned()), "{states:?}");
        Ok(())
    };
    eventually(LIMIT, "it takes a registration", || {
        agent.put("/v1/agent/service/register", r#"{"Name":"svc-a"}"#)
    })?;
    eventually(LIMIT, "its service is there", || has(&agent, "svc-a"))?;
    for round in 0..2 {
        agent.kill()?;
        agent.wipe()?;
        agent.start()?;
        eventually(DEATH_MAX, "the service of its old self is gone", || {
            let (row, states) = row(server, "delta")?;
            let is_down = states.contains(&"serfHealth=critical".to_owned());
            ensure!(is_down || row["Services"]["svc-a"].is_null(), "{row} {states:?}");
            Ok(())
        })?;
        eventually(LIMIT, "it takes a registration", || {
            agent.put("/v1/agent/service/register", r#"{"Name":"svc-b"}"#)
        })?;
        eventually(DEATH_MAX, "its own service is there", || has(&agent, "svc-b"))?;
        if round == 0 {
            // It dies: its row says so.
            agent.kill()?;
            eventually(2 * DEATH_MAX, "its row is critical", || {
                let (_, states) = row(server, "delta")?;
                ensure!(states.contains(&"serfHealth=critical".to_owned()), "{states:?}");
                Ok(())
            })?;
            agent.start()?;
            eventually(LIMIT, "it is back", || has(&agent, "svc-b"))?;
        }
    }
    agent.cli(&["leave"])?;
    eventually(DEATH_MAX, "it has left", || {
        let (row, states) = row(server, "delta")?;
        ensure!(row.is_null() && states.is_empty(), "{row} {states:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn of_two_agents_with_one_id_the_first_has_the_name() -> Result<()> {
    let servers = cluster(1, &json!({}))?;
    let server = &servers[0];
    let mut first = client("twin", &servers, &json!({"bind_addr": "127.0.0.2"}))?;
    first.start()?;
    let own = |address: &str| -> Result<u64> {
        let (row, states) = row(server, "twin")?;
        ensure!(row["Node"]["Address"] == address, "{row}");
        ensure!(states.contains(&"serfHealth=passing".to_owned()), "{states:?}");
        row["Node"]["ModifyIndex"].as_u64().context("an index")
    };
    eventually(LIMIT, "it is there", || own("127.0.0.2"))?;
    eventually(LIMIT, "it takes a registration", || {
        first.put("/v1/agent/service/register", r#"{"Name":"of-the-first"}"#)
    })?;
    let (index, _) = eventually(LIMIT, "its service is there", || {
        ensure!(!row(server, "twin")?.0["Services"]["of-the-first"].is_null());
        own("127.0.0.2")
    })?;
    let mut second = client("twin", &servers, &json!({"bind_addr": "127.0.0.3"}))?;
    fs::create_dir_all(second.data())?;
    fs::copy(first.data().join("node-id"), second.data().join("node-id"))?;
    second.start()?;
    let warned = || {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("is also claimed by node"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually(LIMIT, "the server warns", || {
        let lines = warned();
        let line = lines.first().context("no warning")?;
        ensure!(line.contains("127.0.0.2:") && line.contains("127.0.0.3:"), "{line}");
        // Nothing has changed, though both would have been synced by now.
        ensure!(own("127.0.0.2")? == index, "the row was written");
        Ok(())
    })?;
    ensure!(!row(server, "twin")?.0["Services"]["of-the-first"].is_null());
    ensure!(warned().len() <= 2, "{:?}", warned());
    // The first goes: the name is the second's.
    first.kill()?;
    eventually(LIMIT, "the second has the name", || own("127.0.0.3"))?;
    Ok(())
}

#[test]
fn an_id_that_cannot_be_read_is_an_error_and_stays() -> Result<()> {
    let mut servers = cluster(1, &json!({}))?;
    put(&servers[0], "k", "v")?;
    let file = servers[0].data().join("node-id");
    let own = fs::read(&file)?;
    servers[0].kill()?;
    for bytes in [&b""[..], &own[..17], &[0; 36], b"6f9a3c1e-0000-4000-8000-000000000001"] {
        fs::write(&file, bytes)?;
        let before = servers[0].log().len();
        servers[0].start()?;
        let status = servers[0].ended(LIMIT)?;
        ensure!(!status.success(), "it started");
        let log = servers[0].log().split_off(before);
        ensure!(log.contains(&file.display().to_string()), "{log}");
        ensure!(log.contains(String::from_utf8(own.clone())?.trim()), "{log}");
        ensure!(fs::read(&file)? == bytes, "the file was written");
    }
    fs::write(&file, &own)?;
    servers[0].start()?;
    eventually(LIMIT, "it is as it was", || {
        let reply = http::get(&servers[0].address(), "/v1/kv/k?raw")?;
        ensure!(reply.text() == "v", "{}", reply.text());
        Ok(())
    })?;
    Ok(())
}
