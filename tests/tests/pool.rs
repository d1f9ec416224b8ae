//! Several agents as one pool: keys change under load, events reach who they are for, members come, go, are declared
//! gone, come back elsewhere, and claim what belongs to others.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use muster_tests::{
    agents::Agent,
    http,
    process::free_ports,
    wait::{eventually, pause},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);

/// Keys of the pool.
const OLD: &str = "pUqJrVyVRj5jsiYEkM/tFQ==";
const NEW: &str = "HS5lJ+XuTlYKWaeGYyG+/A==";

fn with(mut keys: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        keys[key] = value.clone();
    }
    keys
}

/// A server and `clients` others `m1`, `m2`..., all with these keys in addition, who all know each other.
fn pool(clients: usize, more: &Value) -> Result<Vec<Agent>> {
    let mut agents = vec![Agent::prepare(
        "server",
        &with(json!({"server": true, "bootstrap_expect": 1}), more),
    )?];
    let join = json!({ "retry_join": [agents[0].gossip()] });
    for number in 1..=clients {
        agents.push(Agent::prepare(&format!("m{number}"), &with(join.clone(), more))?);
    }
    agents.iter_mut().try_for_each(Agent::start)?;
    whole(&agents)?;
    Ok(agents)
}

/// Waits until all of them see exactly each other, and there is a leader.
fn whole(agents: &[Agent]) -> Result<()> {
    for agent in agents {
        eventually(LIMIT, "the pool is whole", || {
            let there = agent.members()?.iter().filter(|(_, row)| row["Status"] == 1).count();
            ensure!(there == agents.len(), "{there}");
            let leader = agent.get("/v1/status/leader")?.json()?;
            ensure!(leader != "", "no leader");
            Ok(())
        })?;
    }
    Ok(())
}

fn all_see(agents: &[Agent], name: &str, status: u64) -> Result<()> {
    for agent in agents {
        eventually(LIMIT, &format!("{name} is seen as {status}"), || {
            let seen = agent.status(name)?;
            ensure!(seen == status, "{seen}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn keys_change_under_load_and_nobody_is_lost() -> Result<()> {
    let agents = pool(3, &json!({ "encrypt": OLD }))?;
    let over = AtomicBool::new(false);
    let (fired, looks) = thread::scope(|scope| -> Result<_> {
        let load = scope.spawn(|| -> Result<usize> {
            let mut fired = 0;
            while !over.load(Ordering::Relaxed) {
                let agent = &agents[fired % agents.len()];
                agent.put(&format!("/v1/event/fire/e{}", fired % 50), "payload")?;
                let service = json!({ "Name": format!("s{}", fired % 20), "Port": fired % 1000 });
                agent.put("/v1/agent/service/register", &service.to_string())?;
                fired += 1;
                pause(Duration::from_millis(10));
            }
            Ok(fired)
        });
        let watch = scope.spawn(|| -> Result<usize> {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                for agent in &agents {
                    let members = agent.members()?;
                    let there = members.iter().filter(|(_, row)| row["Status"] == 1).count();
                    ensure!(there == agents.len(), "somebody was lost: {members:?}");
                    looks += 1;
                }
                pause(Duration::from_millis(50));
            }
            Ok(looks)
        });
        let rotate = || -> Result<()> {
            for round in 0..3 {
                let (old, new) = if round % 2 == 0 { (OLD, NEW) } else { (NEW, OLD) };
                let [first, second, third] = [0, 1, 2].map(|it| &agents[(round + it) % 4]);
                first.cli(&["keyring", &format!("-install={new}")])?;
                let listed = first.cli(&["keyring", "-list"])?;
                for key in [old, new] {
                    ensure!(listed.contains(&format!("{key} [4/4]")), "{listed}");
                }
                second.cli(&["keyring", &format!("-use={new}")])?;
                // What is used cannot be removed.
                ensure!(third.cli(&["keyring", &format!("-remove={new}")]).is_err());
                third.cli(&["keyring", &format!("-remove={old}")])?;
                let listed = third.cli(&["keyring", "-list"])?;
                ensure!(listed.contains(&format!("{new} [4/4]")), "{listed}");
                ensure!(!listed.contains(old), "{listed}");
                // Members that could not read each other would be noticed by now.
                pause(Duration::from_secs(3));
            }
            Ok(())
        };
        let rotated = rotate();
        over.store(true, Ordering::Relaxed);
        let (fired, looks) = (load.join().expect("no panic"), watch.join().expect("no panic"));
        rotated?;
        Ok((fired?, looks?))
    })?;
    ensure!(fired > 0 && looks > 0);

    // Who has the old key only, or none, gets no answer and is not seen.
    let server = &agents[0];
    for (name, keys) in [("late", json!({ "encrypt": OLD })), ("plain", json!({}))] {
        let before = server.figure("consul.memberlist.dropped")?;
        let mut stranger =
            Agent::prepare(name, &with(keys, &json!({ "retry_join": [server.gossip()] })))?;
        stranger.start()?;
        eventually(LIMIT, "it was refused twice", || {
            let tries = stranger.log().matches("join failed").count();
            ensure!(tries >= 2, "{tries} in {}", stranger.log());
            Ok(())
        })?;
        ensure!(stranger.members()?.len() == 1, "{:?}", stranger.members()?);
        ensure!(server.status(name)? == 0, "{name} is a member");
        ensure!(server.figure("consul.memberlist.dropped")? >= before + 2, "it is counted");
    }
    // A datagram that is none, and one that is one but for the key: a ping for the server.
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let port = socket.local_addr()?.port().to_be_bytes();
    let mut ping = vec![1, 1, 15, 7, 6];
    ping.extend_from_slice(b"server");
    ping.extend_from_slice(&[4, 127, 0, 0, 1, port[0], port[1]]);
    let mut answer = [0; 100];
    for (datagram, agent) in [(&b"garbage"[..], server), (&ping[..], server)] {
        let before = agent.figure("consul.memberlist.dropped")?;
        socket.send_to(datagram, agent.gossip())?;
        eventually(LIMIT, "it is counted", || {
            ensure!(agent.figure("consul.memberlist.dropped")? > before);
            Ok(())
        })?;
        ensure!(socket.recv(&mut answer).is_err(), "it was answered");
    }
    // The same ping is answered where no key is asked for: it is well-formed.
    let mut open = Agent::prepare("server", &json!({}))?;
    open.start()?;
    eventually(LIMIT, "a ping is answered", || {
        socket.send_to(&ping, open.gossip())?;
        Ok(socket.recv(&mut answer)?)
    })?;
    Ok(())
}

#[test]
fn events_reach_whom_they_are_for_and_members_are_where_they_are() -> Result<()> {
    let agents = pool(2, &json!({}))?;
    let [server, m1, m2] = &agents[..] else { unreachable!("three were started") };
    let heard = |agent: &Agent, name: &str| -> Result<usize> {
        let list = agent.get(&format!("/v1/event/list?name={name}"))?.json()?;
        Ok(list.as_array().map_or(0, Vec::len))
    };
    m1.put("/v1/agent/service/register", r#"{"Name":"web","Tags":["v1"]}"#)?;
    m2.put("/v1/agent/service/register", r#"{"Name":"web","Tags":["v2"]}"#)?;
    m1.cli(&["event", "-name=only-m2", "-node=m2", "payload"])?;
    server.cli(&["event", "-name=only-v1", "-service=web", "-tag=v1"])?;
    m2.cli(&["event", "-name=everybody"])?;
    for agent in &agents {
        eventually(LIMIT, "everybody hears it", || {
            ensure!(heard(agent, "everybody")? == 1);
            Ok(())
        })?;
    }
    for (agent, name) in [(m2, "only-m2"), (m1, "only-v1")] {
        eventually(LIMIT, name, || {
            ensure!(heard(agent, name)? == 1);
            Ok(())
        })?;
    }
    // Events travel with each other: who heard the last has heard of those before.
    ensure!(heard(m1, "only-m2")? == 0 && heard(server, "only-m2")? == 0);
    ensure!(heard(m2, "only-v1")? == 0 && heard(server, "only-v1")? == 0);
    let list = m2.get("/v1/event/list")?.json()?;
    let times: Vec<u64> =
        list.as_array().into_iter().flatten().filter_map(|it| it["LTime"].as_u64()).collect();
    ensure!(!times.contains(&0), "{list}");
    // That servers tell each other who leads is no user's event.
    ensure!(server.log().contains("New leader elected"), "{}", server.log());
    ensure!(server.get("/v1/event/list")?.json()?.as_array().map(Vec::len) == Some(1));

    let (estimate, _) = eventually(LIMIT, "places are known", || m1.cli(&["rtt", "m1", "m2"]))?;
    ensure!(estimate.starts_with("Estimated m1 <-> m2 rtt: "), "{estimate}");
    ensure!(estimate.contains(" ms (using LAN coordinates)"), "{estimate}");
    Ok(())
}

#[test]
fn members_are_declared_gone_and_come_back_elsewhere() -> Result<()> {
    let mut agents =
        pool(3, &json!({ "gossip_lan": { "probe_interval": "500ms", "probe_timeout": "250ms" } }))?;
    let mut m3 = agents.pop().expect("it was started");
    m3.kill()?;
    all_see(&agents, "m3", 4)?;
    let node_of =
        |agent: &Agent, name: &str| agent.get(&format!("/v1/catalog/node/{name}"))?.json();
    ensure!(node_of(&agents[0], "m3")?["Node"]["Node"] == "m3", "the failed stay in the catalog");
    agents[1].cli(&["force-leave", "m3"])?;
    all_see(&agents, "m3", 3)?;
    eventually(LIMIT, "its node is gone", || {
        let found = node_of(&agents[0], "m3")?;
        ensure!(found.is_null(), "{found}");
        Ok(())
    })?;
    ensure!(agents[1].cli(&["members", "-status=left"])?.contains("m3"));
    agents[2].cli(&["force-leave", "-prune", "m3"])?;
    all_see(&agents, "m3", 0)?;
    ensure!(agents[1].cli(&["force-leave", "nobody"]).is_err());

    // It comes back elsewhere, with nothing but what it remembers of the pool.
    let [port] = free_ports();
    m3.config["ports"]["serf_lan"] = port.into();
    m3.config["retry_join"] = json!([]);
    m3.start()?;
    agents.push(m3);
    whole(&agents)?;
    for agent in &agents {
        let members = agent.members()?;
        let row = members.iter().find(|(name, _)| name == "m3").map(|(_, row)| row["Port"].clone());
        ensure!(row == Some(json!(port)), "{members:?}");
    }
    // So does one that was away for a moment only, while the others still think it is there.
    let [port] = free_ports();
    let m1 = &mut agents[1];
    m1.kill()?;
    m1.config["ports"]["serf_lan"] = port.into();
    m1.start()?;
    for agent in &agents {
        eventually(LIMIT, "its new address is known", || {
            let members = agent.members()?;
            let row = members.iter().find(|(name, _)| name == "m1").map(|(_, row)| row.clone());
            let row = row.unwrap_or_default();
            ensure!(row["Port"] == port && row["Status"] == 1, "{row}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn names_and_ids_stay_with_the_living() -> Result<()> {
    let mut agents =
        pool(1, &json!({ "gossip_lan": { "probe_interval": "500ms", "probe_timeout": "250ms" } }))?;
    let join = json!({ "retry_join": [agents[0].gossip()] });
    let id = agents[1].get("/v1/agent/self")?.json()?["Config"]["NodeID"].clone();

    // Somebody else with the id of m1 is told so, and stays outside.
    let mut twin = Agent::prepare("twin", &with(json!({ "node_id": id }), &join))?;
    twin.start()?;
    eventually(LIMIT, "it is refused", || {
        ensure!(twin.log().contains("has conflicting node ID"), "{}", twin.log());
        Ok(())
    })?;
    ensure!(agents[0].status("twin")? == 0);
    drop(twin);

    // Somebody else with the name of m1: the living keeps it, and members tell of the dispute.
    let mut other = Agent::prepare("m1", &join)?;
    other.start()?;
    let row = |agent: &Agent| -> Result<Value> {
        let row = agent.members()?.into_iter().find(|(name, _)| name == "m1");
        Ok(row.map(|(_, row)| row).unwrap_or_default())
    };
    let (disputed, _) = eventually(LIMIT, "the dispute is told", || {
        let row = row(&agents[0])?;
        ensure!(row["Conflict"].is_string(), "{row}");
        Ok(row)
    })?;
    ensure!(disputed["Tags"]["id"] == id && disputed["Status"] == 1, "{disputed}");
    // Its holder dies: the living newcomer has it.
    let mut m1 = agents.pop().expect("it was started");
    m1.kill()?;
    let others = other.get("/v1/agent/self")?.json()?["Config"]["NodeID"].clone();
    eventually(LIMIT, "the name passes on", || {
        let row = row(&agents[0])?;
        ensure!(row["Tags"]["id"] == others && row["Status"] == 1, "{row}");
        let node = agents[0].get("/v1/catalog/node/m1")?.json()?;
        ensure!(node["Node"]["ID"] == others, "{node}");
        Ok(())
    })?;
    ensure!(row(&agents[0])?.get("Conflict").is_none());
    Ok(())
}

#[test]
fn a_thousand_services_are_there_again_after_one_comparison() -> Result<()> {
    const COUNT: usize = 1000;
    let mut server = Agent::prepare("server", &json!({"server": true, "bootstrap_expect": 1}))?;
    let services: Vec<Value> = (0..COUNT)
        .map(|number| json!({ "name": format!("s{number:04}"), "port": 1000 + number }))
        .collect();
    let keys = json!({ "retry_join": [server.gossip()], "services": services });
    let mut client = Agent::prepare("client", &keys)?;
    server.start()?;
    client.start()?;
    let counted = |server: &Agent| -> Result<usize> {
        let node = server.get("/v1/catalog/node/client")?.json()?;
        Ok(node["Services"].as_object().map_or(0, serde_json::Map::len))
    };
    let filled = |server: &Agent| {
        // Agents compare everything once a minute, and spread that over a second one.
        eventually(3 * LIMIT, "all services are in the catalog", || {
            let count = counted(server)?;
            ensure!(count == COUNT, "{count}");
            Ok(())
        })
    };
    filled(&server)?;

    // The server dies and comes back as it was. A watcher of the node never sees less than all of it.
    let over = AtomicBool::new(false);
    let path = "/v1/health/node/client";
    let health = server.get(path)?.json()?;
    let address = client.address();
    thread::scope(|scope| -> Result<()> {
        let watch = scope.spawn(|| -> Result<usize> {
            let mut answers = 0;
            let mut index = 0;
            while !over.load(Ordering::Relaxed) {
                // While there is no server to ask, the watcher asks again, as clients do.
                let path = format!("/v1/catalog/node/client?index={index}&wait=1s");
                let Ok(reply) = http::get(&address, &path) else { continue };
                if reply.status != 200 {
                    pause(Duration::from_millis(50));
                    continue;
                }
                let node = reply.json()?;
                let count = node["Services"].as_object().map_or(0, serde_json::Map::len);
                ensure!(count == COUNT, "the watcher saw {count} services");
                let now = reply.index()?;
                ensure!(now >= index, "the index went back from {index} to {now}");
                index = now;
                answers += 1;
            }
            Ok(answers)
        });
        let mut restart = || -> Result<()> {
            for _ in 0..2 {
                server.kill()?;
                server.start()?;
                eventually(LIMIT, "the agent is in step again", || {
                    client.get("/v1/agent/ready")?.json()?;
                    server.get("/v1/status/leader")?.json()?;
                    let now = server.get(path)?.json()?;
                    ensure!(now == health, "{now}");
                    Ok(())
                })?;
                let before = server.figure("consul.raft.index")?;
                pause(Duration::from_secs(5));
                let after = server.figure("consul.raft.index")?;
                ensure!(after < before + 20, "what was there was written again: {before} {after}");
            }
            Ok(())
        };
        let restarted = restart();
        over.store(true, Ordering::Relaxed);
        let answers = watch.join().expect("no panic");
        restarted?;
        ensure!(answers? > 0);
        Ok(())
    })?;

    // Another server with nothing in it takes its place: one comparison brings everything back, each service once.
    server.kill()?;
    server.wipe()?;
    server.start()?;
    filled(&server)?;
    let writes = server.figure("consul.raft.index")?;
    ensure!(writes < (COUNT + 100) as u64, "{writes} writes for {COUNT} services");
    client.process()?.ensure_running()
}
