//! A leader that stands still for a while, and one that is cut off: others lead meanwhile, and it
//! answers nothing old afterwards.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::agents::{Agents, Endpoint, ask, leader, run, without_root};

/// What reads that may be old are never told: each of them began after another value was
/// acknowledged.
const OLD: &str = "old";

#[test]
fn a_leader_that_was_stopped_answers_nothing_old() {
    let mut agents = Agents::new(3, &json!({}));
    agents.start();
    let stopped = agents.leader();
    let others = [(stopped + 1) % 3, (stopped + 2) % 3];
    agents.put(stopped, "k", OLD);
    agents.servers[stopped].signal(Signal::SIGSTOP);
    let began = Instant::now();
    agents.put(others[0], "k", "new");
    eprintln!("the leader stands still: the next write after {:?}", began.elapsed());
    let mut written = Vec::new();
    for number in 0..20 {
        let key = format!("meanwhile-{number}");
        agents.put(others[number % 2], &key, "x");
        written.push(key);
    }
    // These wait in its socket, and are the first that it sees.
    let endpoint = agents.servers[stopped].endpoint.clone();
    let readers: Vec<_> = (0..8)
        .map(|number| {
            let path = if number % 2 == 0 { "/v1/kv/k?raw" } else { "/v1/kv/k?raw&consistent" };
            let endpoint = endpoint.clone();
            thread::spawn(move || {
                let deadline = Instant::now() + Duration::from_mins(1);
                let mut answers = 0;
                while answers < 20 {
                    assert!(Instant::now() < deadline, "no answers");
                    if let Some((200, found)) = ask(&endpoint, "GET", path, "") {
                        assert_eq!(found, "new", "{path}");
                        answers += 1;
                    }
                }
            })
        })
        .collect();
    // A write through it while it does not know: refused, or done like any other.
    let late = thread::spawn({
        let endpoint = endpoint.clone();
        move || ask(&endpoint, "PUT", "/v1/kv/late", "x")
    });
    thread::park_timeout(Duration::from_millis(100));
    agents.servers[stopped].signal(Signal::SIGCONT);
    for reader in readers {
        reader.join().unwrap();
    }
    let late = late.join().unwrap().is_some_and(|(status, _)| status == 200);
    if late {
        written.push("late".to_owned());
    }
    for key in &written {
        agents.until("nothing is lost", |servers| {
            servers.iter().all(|server| server.get(key).as_deref() == Some("x"))
        });
    }
    agents.leader();
}

/// Enough for two halves of which one has a majority and the other a leader with a follower.
const SERVERS: usize = 5;

/// Servers in network namespaces, joined by switches in one more: nothing of it can be seen
/// outside. Removed when dropped.
struct Lan {
    name: String,
    count: usize,
}

impl Lan {
    fn new(count: usize) -> Lan {
        let lan = Lan { name: format!("muster-{}", std::process::id()), count };
        let switch = lan.switch();
        run("ip", &["netns", "add", &switch]);
        for bridge in ["one", "two"] {
            run("ip", &["-n", &switch, "link", "add", bridge, "type", "bridge"]);
            run("ip", &["-n", &switch, "link", "set", bridge, "up"]);
        }
        for number in 0..count {
            let (inside, port) = (lan.inside(number), format!("port{number}"));
            run("ip", &["netns", "add", &inside]);
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &inside];
            run("ip", &[&["-n", &switch, "link", "add", &port][..], &peer].concat());
            run("ip", &["-n", &switch, "link", "set", &port, "master", "one", "up"]);
            let address = format!("{}/24", Lan::address(number));
            run("ip", &["-n", &inside, "addr", "add", &address, "dev", "eth0"]);
            run("ip", &["-n", &inside, "link", "set", "eth0", "up"]);
            run("ip", &["-n", &inside, "link", "set", "lo", "up"]);
        }
        lan
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn inside(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn address(number: usize) -> String {
        format!("10.83.1.{}", number + 1)
    }

    /// From now on these servers hear each other only.
    fn cut_off(&self, servers: &[usize]) {
        self.plug(servers, "two");
    }

    fn heal(&self, servers: &[usize]) {
        self.plug(servers, "one");
    }

    fn plug(&self, servers: &[usize], bridge: &str) {
        for number in servers {
            let port = format!("port{number}");
            run("ip", &["-n", &self.switch(), "link", "set", &port, "master", bridge]);
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let names = (0..self.count).map(|number| self.inside(number));
        for name in names.chain([self.switch()]) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

#[test]
fn a_network_that_is_cut_in_half_loses_nothing_and_answers_nothing_old() {
    if without_root("a network of namespaces") {
        return;
    }
    let lan = Lan::new(SERVERS);
    let mut agents = Agents::new(SERVERS, &json!({}));
    let join: Vec<String> = (0..SERVERS).map(Lan::address).collect();
    for number in 0..SERVERS {
        let socket = agents.folder.path().join(format!("{number}.sock"));
        let server = &mut agents.servers[number];
        server.inside = Some(lan.inside(number));
        server.rpc = format!("{}:8300", Lan::address(number));
        server.endpoint = Endpoint::Unix(socket.clone());
        let own = json!({
            "bind_addr": Lan::address(number), "retry_join": join,
            "addresses": {"http": format!("unix://{}", socket.display())},
            "ports": {"dns": -1, "serf_wan": -1},
            "performance": {"raft_multiplier": 1, "rpc_hold_timeout": "1s"},
            // All five vote in both rounds.
            "autopilot": {"cleanup_dead_servers": false},
        });
        server.configure(SERVERS, &[&own]);
    }
    agents.start();
    agents.until("all five vote", |servers| {
        servers.iter().all(|server| server.voters().is_some_and(|voters| voters.len() == SERVERS))
    });
    let mut written = Vec::new();
    for round in 0..2 {
        let leading = agents.leader();
        let (key, new) = (format!("k{round}"), "new");
        agents.put(leading, &key, OLD);
        agents.until("all know the old value", |servers| {
            servers.iter().all(|server| server.get(&key).as_deref() == Some(OLD))
        });
        // The leader and one more on one side, three on the other.
        let few = [leading, (leading + 1) % SERVERS];
        let many: Vec<usize> = (0..SERVERS).filter(|it| !few.contains(it)).collect();
        lan.cut_off(&few);
        let began = Instant::now();
        agents.put(many[0], &key, new);
        eprintln!("cut in half: the next write after {:?}", began.elapsed());
        for number in 0..10 {
            let key = format!("{round}-{number}");
            agents.put(many[number % many.len()], &key, "x");
            written.push(key);
        }
        for number in few {
            let server = &agents.servers[number];
            for path in [format!("/v1/kv/{key}?raw"), format!("/v1/kv/{key}?raw&consistent")] {
                let (status, text) = server.ask("GET", &path, "").expect("an answer");
                assert_eq!((status, text.trim()), (500, "No cluster leader"), "{path}");
            }
            let (status, found) =
                server.ask("GET", &format!("/v1/kv/{key}?raw&stale"), "").unwrap();
            assert_eq!(
                (status, found.as_str()),
                (200, OLD),
                "what it knows, to those who ask for it"
            );
            assert!(!server.put("lost", "x"), "the smaller side accepts nothing");
        }
        lan.heal(&few);
        agents.until("the smaller side catches up, and answers nothing old", |servers| {
            let answers = few.map(|number| servers[number].get(&key));
            assert!(answers.iter().flatten().all(|found| found == new), "{answers:?}");
            answers.iter().all(Option::is_some)
        });
        agents.until("one leads all", |servers| leader(servers).is_some());
    }
    for key in &written {
        agents.until("nothing is lost", |servers| {
            servers.iter().all(|server| server.get(key).as_deref() == Some("x"))
        });
    }
}
