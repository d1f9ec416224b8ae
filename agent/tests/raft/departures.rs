//! Servers that leave, that are told to hand over, and that are dead: who takes part afterwards.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::agents::Agents;

fn names(numbers: &[usize]) -> Vec<String> {
    let mut names: Vec<String> = numbers.iter().map(|number| format!("s{number}")).collect();
    names.sort();
    names
}

#[test]
fn servers_leave_one_by_one_and_the_rest_goes_on() {
    let mut agents = Agents::new(3, &json!({"skip_leave_on_interrupt": false}));
    agents.start();
    let all = names(&[0, 1, 2]);
    agents.until("all vote", |servers| {
        servers.iter().all(|server| server.voters().as_ref() == Some(&all))
    });
    agents.put(0, "with-3", "x");
    let first = agents.leader();

    // The leader goes, by a signal.
    agents.servers[first].signal(Signal::SIGINT);
    assert_eq!(agents.ended(first), Some(0));
    let rest: Vec<usize> = (0..3).filter(|it| *it != first).collect();
    let two = names(&rest);
    // By the time that it has ended it is out.
    for number in &rest {
        agents.until("the others are two", |servers| {
            servers[*number].voters().as_ref() == Some(&two)
        });
        agents.put(*number, &format!("with-2-{number}"), "x");
    }

    // Of two the leader again, by a command.
    let second = agents.leader();
    let last = rest.into_iter().find(|it| *it != second).unwrap();
    let (code, out, err) = agents.servers[second].command(&["leave"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(agents.ended(second), Some(0));
    agents.put(last, "with-1", "x");
    assert_eq!(agents.servers[last].voters(), Some(names(&[last])));
    for key in ["with-3", "with-1"] {
        assert_eq!(agents.servers[last].get(key).as_deref(), Some("x"));
    }

    // The last one keeps what it has, and whoever left may come back.
    agents.servers[last].signal(Signal::SIGINT);
    assert_eq!(agents.ended(last), Some(0));
    for server in &mut agents.servers {
        server.start();
    }
    agents.until("all are back, as voters or on their way", |servers| {
        let found = servers[last].value("/v1/operator/raft/configuration");
        found.is_some_and(|found| found["Servers"].as_array().unwrap().len() == 3)
    });
    for number in 0..3 {
        agents.until("nothing is lost", |servers| servers[number].get("with-1").is_some());
    }
}

#[test]
fn a_question_for_the_leader_is_answered_by_whoever_comes_to_lead() {
    let mut agents = Agents::new(3, &json!({}));
    agents.start();
    let all = names(&[0, 1, 2]);
    agents.until("all vote", |servers| {
        servers.iter().all(|server| server.voters().as_ref() == Some(&all))
    });
    let leading = agents.leader();
    agents.servers[leading].kill();
    // Both wait for the election: one of them becomes the leader itself.
    let left: Vec<_> = agents.servers.iter().filter(|server| server.runs()).collect();
    std::thread::scope(|scope| {
        let paths = ["/v1/operator/raft/configuration", "/v1/operator/autopilot/configuration"];
        let asked: Vec<_> = left
            .iter()
            .flat_map(|server| paths.map(|path| (server, path)))
            .map(|(server, path)| (path, scope.spawn(move || server.ask("GET", path, ""))))
            .collect();
        for (path, answer) in asked {
            let (status, body) = answer.join().unwrap().expect("an answer");
            assert_eq!(status, 200, "{path}: {body}");
        }
    });
}

#[test]
fn leadership_is_handed_over_and_the_dead_are_removed_but_no_majority() {
    let mut agents = Agents::new(3, &json!({}));
    agents.start();
    agents.until("the servers are assessed", |servers| {
        let health = servers[0].value("/v1/operator/autopilot/health");
        health.is_some_and(|health| health["FailureTolerance"] == 1)
    });
    let id = |agents: &Agents, number: usize| {
        let file = agents.servers[number].data.join("node-id");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    };

    // Asked of a follower, for itself.
    let leading = agents.leader();
    let heir = (leading + 1) % 3;
    let path = format!("/v1/operator/raft/transfer-leader?id={}", id(&agents, heir));
    let answer = agents.servers[heir].ask("PUT", &path, "").unwrap();
    assert_eq!(
        (answer.0, answer.1.replace(char::is_whitespace, "")),
        (200, r#"{"Success":true}"#.into())
    );
    assert_eq!(agents.leader(), heir);
    // By the command line, to anybody else.
    let (code, out, err) =
        agents.servers[leading].command(&["operator", "raft", "transfer-leader"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "Success\n", ""));
    let now = agents.leader();
    assert_ne!(now, heir);
    let stranger = "/v1/operator/raft/transfer-leader?id=11111111-2222-3333-4444-555555555555";
    let (status, text) = agents.servers[now].ask("PUT", stranger, "").unwrap();
    assert!(status == 500 && text.contains("is not one of those that vote"), "{status} {text}");
    agents.put(heir, "after", "x");

    // One of three is dead: it is removed. One of two is, too: it is not.
    let dead = (now + 1) % 3;
    let other = (now + 2) % 3;
    agents.servers[dead].kill();
    let two = names(&[now, other]);
    agents.until("the dead one is removed", |servers| servers[now].voters().as_ref() == Some(&two));
    agents.servers[other].kill();
    let last = &agents.servers[now];
    agents.until("it says what it waits for", |_| {
        let (_, _, err) = last.command(&["operator", "raft", "list-peers", "-stale"]);
        err.contains("hint: waiting for 1 of 2 servers: have ") && err.contains(" (failed)")
    });
    let (code, out, err) = last.command(&["operator", "raft", "list-peers"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("No cluster leader") && err.contains("hint: waiting for 1 of 2"), "{err}");
    let (code, out, err) = last.command(&["info"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("\tno_leader_because = waiting for 1 of 2 servers: have "), "{out}");
    assert!(err.starts_with("hint: waiting for 1 of 2 servers: have "), "{err}");
    assert_eq!(last.voters(), Some(two), "a majority is never removed");
    agents.servers[other].start();
    agents.put(now, "again", "x");
    let (_, out, err) = agents.servers[now].command(&["info"]);
    assert!(err.is_empty() && !out.contains("no_leader_because"), "{out}{err}");
}
