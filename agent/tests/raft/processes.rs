//! Three and five real servers that find each other by gossip, and what kill -9 does to them.

use std::time::Instant;

use serde_json::json;

use crate::agents::{Agents, Server, leader};

#[test]
fn three_processes_serve_from_each_and_survive_kills() {
    let mut agents = Agents::new(3, &json!({}));
    agents.start();
    for (number, server) in agents.servers.iter().enumerate() {
        let key = format!("from-{number}");
        agents.put(number, &key, "x");
        for other in &agents.servers {
            assert_eq!(other.get(&key).as_deref(), Some("x"), "{} asked after {key}", server.name);
        }
    }

    // What only the leader knows is answered by each.
    agents.until("each lists the servers", |servers| {
        servers.iter().all(|server| server.value("/v1/operator/raft/configuration").is_some())
    });
    let wish = r#"{"TTL":"10s","Checks":[]}"#;
    let (_, session) = agents.servers[0].ask("PUT", "/v1/session/create", wish).unwrap();
    let session: serde_json::Value = serde_json::from_str(&session).expect("a session");
    let id = session["ID"].as_str().unwrap();
    for server in &agents.servers {
        let renewed = server.ask("PUT", &format!("/v1/session/renew/{id}"), "").unwrap();
        assert_eq!(renewed.0, 200, "{}", renewed.1);
    }

    let mut written = Vec::new();
    for (round, what) in ["a follower", "the leader", "all"].into_iter().enumerate() {
        let leading = agents.leader();
        let key = format!("before-{round}");
        agents.put(leading, &key, what);
        written.push((key, what));
        let victims: Vec<usize> = match what {
            "a follower" => vec![(leading + 1) % 3],
            "the leader" => vec![leading],
            _ => (0..3).collect(),
        };
        for victim in &victims {
            agents.servers[*victim].kill();
        }
        if victims.len() == 1 {
            let other = (victims[0] + 1) % 3;
            let key = format!("without-{round}");
            let began = Instant::now();
            agents.put(other, &key, what);
            eprintln!("{what} killed: the next write after {:?}", began.elapsed());
            written.push((key, what));
        }
        for victim in victims {
            agents.servers[victim].start();
        }
        for (key, value) in &written {
            agents.until("nothing is lost", |servers| {
                servers.iter().all(|server| server.get(key).as_deref() == Some(*value))
            });
        }
    }
}

#[test]
fn five_processes_do_without_any_two_and_come_back_at_other_addresses() {
    let mut agents = Agents::new(5, &json!({}));
    agents.start();
    agents.until("all five vote", |servers| {
        servers.iter().all(|server| server.voters().is_some_and(|voters| voters.len() == 5))
    });
    let mut written = vec![];
    for round in ["the leader and a follower", "two followers"] {
        let leading = agents.leader();
        let key = format!("before-{}", written.len());
        agents.put(leading, &key, round);
        written.push((key, round));
        let first = if round == "two followers" { (leading + 3) % 5 } else { leading };
        let victims = [first, (leading + 1) % 5];
        for victim in victims {
            agents.servers[victim].kill();
        }
        let other = (leading + 2) % 5;
        let began = Instant::now();
        let key = format!("without-{}", written.len());
        agents.put(other, &key, round);
        eprintln!("{round} killed: the next write after {:?}", began.elapsed());
        written.push((key, round));
        for victim in victims {
            agents.servers[victim].start();
        }
        agents.until("all five are there again", |servers| {
            let whole = |server: &Server| server.voters().is_some_and(|voters| voters.len() == 5);
            servers.iter().all(whole) && leader(servers).is_some()
        });
    }

    for server in &mut agents.servers {
        server.kill();
    }
    agents.live_at("127.0.0.2", &json!({"client_addr": "127.0.0.1"}));
    let began = Instant::now();
    for server in &mut agents.servers {
        server.start();
    }
    agents.put(0, "elsewhere", "x");
    eprintln!("all five killed, at new addresses: the next write after {:?}", began.elapsed());
    written.push(("elsewhere".to_owned(), "x"));
    let leading = agents.leader();
    assert!(agents.servers[leading].rpc.starts_with("127.0.0.2:"));
    for (key, value) in &written {
        agents.until("nothing is lost", |servers| {
            servers.iter().all(|server| server.get(key).as_deref() == Some(*value))
        });
    }
    agents.until("the log knows the new addresses", |servers| {
        let found = servers[0].value("/v1/operator/raft/configuration");
        found.is_some_and(|found| {
            let listed = found["Servers"].as_array().unwrap();
            let moved = |it: &serde_json::Value| {
                it["Address"].as_str().unwrap().starts_with("127.0.0.2:") && it["Voter"] == true
            };
            listed.len() == 5 && listed.iter().all(moved)
        })
    });
}
