//! A network of segments: two servers that are in all of them, and agents that are in one each.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use muster_tests::{agents::Agent, dns, process::free_ports, wait::eventually};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);

/// Keys of all pools.
const OLD: &str = "pUqJrVyVRj5jsiYEkM/tFQ==";
const NEW: &str = "HS5lJ+XuTlYKWaeGYyG+/A==";

fn agent(name: &str, more: &Value) -> Result<Agent> {
    let mut keys = json!({
        "encrypt": OLD,
        "gossip_lan": { "probe_interval": "500ms", "probe_timeout": "250ms" },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        keys[key] = value.clone();
    }
    Agent::prepare(name, &keys)
}

/// A server of the segments alpha and beta, which waits for another one, and where these listen.
fn server(name: &str, joins: &[String]) -> Result<(Agent, [String; 2])> {
    let [alpha, beta] = free_ports();
    let keys = json!({
        "server": true,
        "bootstrap_expect": 2,
        "retry_join": joins,
        "segments": [{ "name": "alpha", "port": alpha }, { "name": "beta", "port": beta }],
    });
    Ok((agent(name, &keys)?, [alpha, beta].map(|port| format!("127.0.0.1:{port}"))))
}

fn client(name: &str, segment: &str, joins: &str) -> Result<Agent> {
    agent(name, &json!({ "segment": segment, "retry_join": [joins] }))
}

/// Names of those that an agent shows, with how it sees them.
fn seen(agent: &Agent, segment: &str) -> Result<BTreeSet<(String, u64)>> {
    let rows = agent.get(&format!("/v1/agent/members?segment={segment}"))?.json()?;
    let row = |row: &Value| {
        (row["Name"].as_str().unwrap_or_default().to_owned(), row["Status"].as_u64().unwrap_or(0))
    };
    Ok(rows.as_array().into_iter().flatten().map(row).collect())
}

fn sees(agent: &Agent, segment: &str, names: &[&str]) -> Result<()> {
    let expected: BTreeSet<_> = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    let what = format!("just {names:?} are there in {segment:?}");
    eventually(LIMIT, &what, || {
        let mut found = seen(agent, segment)?;
        // Who is gone is told for a while.
        found.retain(|(_, status)| *status == 1);
        ensure!(found == expected, "{found:?}");
        Ok(())
    })?;
    Ok(())
}

/// What the catalog says of a node's health.
fn serf_health(agent: &Agent, node: &str) -> Result<String> {
    let checks = agent.get(&format!("/v1/health/node/{node}"))?.json()?;
    let mut checks = checks.as_array().into_iter().flatten();
    let check = checks.find(|check| check["CheckID"] == "serfHealth");
    Ok(check.and_then(|check| check["Status"].as_str()).unwrap_or_default().to_owned())
}

#[test]
fn each_hears_of_its_segment_and_servers_of_all() -> Result<()> {
    let (mut s1, [alpha, beta]) = server("s1", &[])?;
    // The other server is told of the first in the default segment only: that tells it of the rest.
    let (mut s2, _) = server("s2", &[s1.gossip()])?;
    let mut alpha1 = client("alpha1", "alpha", &alpha)?;
    let mut alpha2 = client("alpha2", "alpha", &alpha)?;
    let mut beta1 = client("beta1", "beta", &beta)?;
    let mut home = client("home", "", &s1.gossip())?;
    for agent in [&mut s1, &mut s2, &mut alpha1, &mut alpha2, &mut beta1, &mut home] {
        agent.start()?;
    }

    // Who sees whom.
    for server in [&s1, &s2] {
        sees(server, "", &["s1", "s2", "home"])?;
        sees(server, "alpha", &["s1", "s2", "alpha1", "alpha2"])?;
        sees(server, "beta", &["s1", "s2", "beta1"])?;
        sees(server, "_all", &["s1", "s2", "home", "alpha1", "alpha2", "beta1"])?;
    }
    for (client, own, names) in [
        (&alpha1, "alpha", &["s1", "s2", "alpha1", "alpha2"][..]),
        (&alpha2, "alpha", &["s1", "s2", "alpha1", "alpha2"]),
        (&beta1, "beta", &["s1", "s2", "beta1"]),
        (&home, "", &["s1", "s2", "home"]),
    ] {
        for segment in ["", own, "_all"] {
            sees(client, segment, names)?;
        }
    }
    let wrong = beta1.get("/v1/agent/members?segment=alpha")?;
    ensure!(wrong.status == 500, "{}", wrong.status);
    let text = "segment \"alpha\" not found: agent \"beta1\" is in segment \"beta\"";
    ensure!(wrong.text() == text, "{}", wrong.text());
    let all = s1.cli(&["members"])?;
    for (name, segment) in
        [("s1", "<all>"), ("home", "<default>"), ("alpha2", "alpha"), ("beta1", "beta")]
    {
        let line = all.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        ensure!(line.ends_with(segment), "{all}");
    }
    let some = s1.cli(&["members", "-segment=alpha"])?;
    ensure!(some.lines().count() == 5 && some.matches("  alpha").count() == 4, "{some}");
    for agent in [&s2, &alpha1] {
        let names = agent.get("/v1/operator/segment")?.json()?;
        ensure!(names == json!(["", "alpha", "beta"]), "{names}");
    }

    // The catalog has all of them, and whoever is in a segment can do all that others can.
    for name in ["s1", "s2", "home", "alpha1", "alpha2", "beta1"] {
        eventually(LIMIT, &format!("{name} is in the catalog"), || {
            let health = serf_health(&alpha1, name)?;
            ensure!(health == "passing", "{health:?}");
            Ok(())
        })?;
    }
    for (name, segment) in [("alpha1", "alpha"), ("home", ""), ("s1", "")] {
        eventually(LIMIT, "its segment is told", || {
            let node = beta1.get(&format!("/v1/catalog/node/{name}"))?.json()?;
            let meta = &node["Node"]["Meta"]["consul-network-segment"];
            ensure!(*meta == json!(segment), "{node}");
            Ok(())
        })?;
    }
    beta1.put("/v1/agent/service/register", r#"{"Name":"web","Port":8080}"#)?;
    eventually(LIMIT, "a service of beta has a name in alpha", || {
        let (_, found) = dns::ask(alpha1.dns(), "web.service.consul", dns::A)?;
        ensure!(found == [[127, 0, 0, 1]], "{found:?}");
        Ok(())
    })?;
    alpha1.put("/v1/kv/key", "value")?;
    ensure!(beta1.get("/v1/kv/key?raw")?.text() == "value");
    let own = alpha1.get("/v1/agent/self")?.json()?;
    ensure!(own["Member"]["Tags"]["segment"] == "alpha", "{own}");
    ensure!(own["DebugConfig"]["SegmentName"] == "alpha", "{own}");

    // Events reach everybody, wherever they are fired.
    for (number, agent) in [&s2, &alpha1, &beta1, &home].into_iter().enumerate() {
        agent.cli(&["event", &format!("-name=event{number}")])?;
    }
    for agent in [&s1, &s2, &alpha1, &alpha2, &beta1, &home] {
        for number in 0..4 {
            eventually(LIMIT, "everybody hears it", || {
                let list = agent.get(&format!("/v1/event/list?name=event{number}"))?.json()?;
                ensure!(list.as_array().map(Vec::len) == Some(1), "{list}");
                Ok(())
            })?;
        }
        eventually(LIMIT, "who leads is told to all", || {
            ensure!(agent.log().contains("New leader elected"));
            Ok(())
        })?;
    }

    // Places are of a segment.
    eventually(LIMIT, "places are known", || {
        let rows = beta1.get("/v1/coordinate/nodes")?.json()?;
        let row = |row: &Value| (row["Node"].to_string(), row["Segment"].to_string());
        let rows: BTreeSet<_> = rows.as_array().into_iter().flatten().map(row).collect();
        for (node, segment) in
            [("s1", ""), ("s1", "alpha"), ("s1", "beta"), ("alpha1", "alpha"), ("home", "")]
        {
            ensure!(rows.contains(&(format!("{node:?}"), format!("{segment:?}"))), "{rows:?}");
        }
        ensure!(!rows.contains(&("\"home\"".to_owned(), "\"alpha\"".to_owned())), "{rows:?}");
        Ok(())
    })?;
    let some = s1.get("/v1/coordinate/nodes?segment=beta")?.json()?;
    let segments = |rows: &Value| -> BTreeSet<String> {
        rows.as_array().into_iter().flatten().map(|row| row["Segment"].to_string()).collect()
    };
    ensure!(segments(&some) == BTreeSet::from(["\"beta\"".to_owned()]), "{some}");
    eventually(LIMIT, "within a segment there is a distance", || {
        alpha1.cli(&["rtt", "alpha1", "alpha2"])
    })?;
    ensure!(alpha1.cli(&["rtt", "alpha1", "beta1"]).is_err());

    // The keys of all segments change together.
    let counted = |key: &str, listed: &str| {
        let pools = |size: usize| listed.matches(&format!("{key} [{size}/{size}]")).count();
        pools(3) == 2 && pools(4) == 1
    };
    beta1.cli(&["keyring", &format!("-install={NEW}")])?;
    let listed = alpha1.cli(&["keyring", "-list"])?;
    ensure!(counted(OLD, &listed) && counted(NEW, &listed), "{listed}");
    ensure!(listed.contains("dc1 (LAN) [alpha]:"), "{listed}");
    s1.cli(&["keyring", &format!("-use={NEW}")])?;
    s2.cli(&["keyring", &format!("-remove={OLD}")])?;
    let listed = home.cli(&["keyring", "-list"])?;
    ensure!(counted(NEW, &listed) && !listed.contains(OLD), "{listed}");

    // Who dies is missed where it was, and in the catalog; the other segments never hear of it.
    alpha2.kill()?;
    for server in [&s1, &s2] {
        eventually(LIMIT, "its health is critical", || {
            let health = serf_health(server, "alpha2")?;
            ensure!(health == "critical", "{health:?}");
            ensure!(seen(server, "alpha")?.contains(&("alpha2".to_owned(), 4)));
            ensure!(seen(server, "_all")?.contains(&("alpha2".to_owned(), 4)));
            Ok(())
        })?;
    }
    for agent in [&beta1, &home] {
        let log = agent.log();
        ensure!(!log.contains("member=alpha1") && !log.contains("member=alpha2"), "{log}");
    }
    ensure!(home.cli(&["force-leave", "alpha2"]).is_err(), "home does not know it");
    s2.cli(&["force-leave", "alpha2"])?;
    eventually(LIMIT, "its node is gone", || {
        ensure!(s1.get("/v1/catalog/node/alpha2")?.json()?.is_null());
        Ok(())
    })?;
    // Who leaves is gone at once.
    beta1.cli(&["leave"])?;
    eventually(LIMIT, "its node is gone", || {
        ensure!(s1.get("/v1/catalog/node/beta1")?.json()?.is_null());
        Ok(())
    })?;
    // A server that comes back finds its segments again by itself.
    s2.kill()?;
    s2.start()?;
    for server in [&s1, &s2] {
        sees(server, "alpha", &["s1", "s2", "alpha1"])?;
        sees(server, "beta", &["s1", "s2"])?;
        sees(server, "_all", &["s1", "s2", "home", "alpha1"])?;
    }
    Ok(())
}

#[test]
fn who_comes_to_the_wrong_segment_stays_outside() -> Result<()> {
    let [port] = free_ports();
    let mut server = agent(
        "server",
        &json!({
            "server": true, "bootstrap_expect": 1,
            "segments": [{ "name": "alpha", "port": port }],
        }),
    )?;
    server.start()?;
    let alpha = format!("127.0.0.1:{port}");
    let mut lost = client("lost", "beta", &alpha)?;
    let mut plain = client("plain", "", &alpha)?;
    let mut astray = client("astray", "alpha", &server.gossip())?;
    for (client, text) in [
        (&mut lost, "Member 'server' part of wrong segment 'alpha' (expected 'beta')"),
        (&mut plain, "Member 'server' part of wrong segment 'alpha' (expected '')"),
        (&mut astray, "Member 'server' part of wrong segment '' (expected 'alpha')"),
    ] {
        client.start()?;
        eventually(LIMIT, "it is refused", || {
            ensure!(client.log().contains(text), "{}", client.log());
            Ok(())
        })?;
        ensure!(client.members()?.len() == 1, "{:?}", client.members()?);
    }
    ensure!(seen(&server, "_all")?.len() == 1, "{:?}", seen(&server, "_all")?);
    // It moves to where it belongs: the same node, in another segment.
    let mut mover = astray;
    mover.kill()?;
    mover.config["retry_join"] = json!([alpha]);
    mover.start()?;
    sees(&server, "alpha", &["astray", "server"])?;
    mover.kill()?;
    mover.config["segment"] = json!("");
    mover.config["retry_join"] = json!([server.gossip()]);
    mover.start()?;
    sees(&server, "", &["astray", "server"])?;
    // Its former life in the other segment ends, and takes nothing with it.
    eventually(LIMIT, "it has failed where it was", || {
        ensure!(seen(&server, "alpha")?.contains(&("astray".to_owned(), 4)));
        Ok(())
    })?;
    sees(&server, "_all", &["astray", "server"])?;
    eventually(LIMIT, "it is well", || {
        let health = serf_health(&server, "astray")?;
        ensure!(health == "passing", "{health:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_segment_may_have_calls_at_its_own_address() -> Result<()> {
    let [port] = free_ports();
    let mut server = agent(
        "server",
        &json!({
            "server": true, "bootstrap_expect": 1,
            "segments": [{
                "name": "alpha", "port": port, "bind": "127.0.0.2", "advertise": "127.0.0.2",
                "rpc_listener": true,
            }],
        }),
    )?;
    server.start()?;
    let mut inside = client("inside", "alpha", &format!("127.0.0.2:{port}"))?;
    inside.start()?;
    sees(&inside, "", &["inside", "server"])?;
    eventually(LIMIT, "the agent asks the server", || inside.put("/v1/kv/key", "value"))?;
    ensure!(inside.get("/v1/kv/key?raw")?.text() == "value");
    let member = inside.members()?.into_iter().find(|(name, _)| name == "server");
    ensure!(member.is_some_and(|(_, row)| row["Addr"] == "127.0.0.2"));
    Ok(())
}
