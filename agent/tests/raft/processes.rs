//! Three real servers that find each other by gossip, and what kill -9 does to them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(40);

/// One server; killed when dropped.
struct Server {
    child: Option<Child>,
    config: PathBuf,
    log: PathBuf,
    http: u16,
    rpc: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn start(&mut self) {
        let log = std::fs::File::options().append(true).create(true).open(&self.log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(["agent", "-config-file"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// As by kill -9.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Status and body; `None` if it cannot be asked.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    fn put(&self, key: &str, value: &str) -> bool {
        let answer = self.ask("PUT", &format!("/v1/kv/{key}"), value);
        answer.is_some_and(|(status, body)| status == 200 && body.contains("true"))
    }

    fn get(&self, key: &str) -> Option<String> {
        let answer = self.ask("GET", &format!("/v1/kv/{key}?raw"), "");
        answer.filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }
}

/// Free a moment ago. Both kinds, since gossip needs both.
fn free_port(taken: &mut Vec<(TcpListener, std::net::UdpSocket)>) -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if let Ok(udp) = std::net::UdpSocket::bind(("127.0.0.1", port)) {
            taken.push((tcp, udp));
            return port;
        }
    }
}

fn write_configs(folder: &Path) -> Vec<Server> {
    let mut taken = Vec::new();
    let ports: Vec<[u16; 3]> =
        (0..SERVERS).map(|_| std::array::from_fn(|_| free_port(&mut taken))).collect();
    drop(taken);
    let lan: Vec<String> = ports.iter().map(|ports| format!("127.0.0.1:{}", ports[2])).collect();
    let server = |(number, [http, rpc, serf]): (usize, &[u16; 3])| {
        let config = serde_json::json!({
            "node_name": format!("s{number}"), "server": true, "bootstrap_expect": SERVERS,
            "bind_addr": "127.0.0.1", "data_dir": folder.join(format!("data-{number}")),
            "retry_join": lan, "retry_interval": "200ms",
            "ports": {"http": http, "server": rpc, "serf_lan": serf, "dns": -1, "serf_wan": -1},
            "performance": {"raft_multiplier": 1}, "disable_update_check": true,
        });
        let file = folder.join(format!("{number}.json"));
        std::fs::write(&file, config.to_string()).unwrap();
        let log = folder.join(format!("{number}.log"));
        Server { child: None, config: file, log, http: *http, rpc: *rpc }
    };
    ports.iter().enumerate().map(server).collect()
}

fn until(what: &str, folder: &TempDir, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() >= deadline {
            let logs = (0..SERVERS).map(|number| {
                std::fs::read_to_string(folder.path().join(format!("{number}.log")))
                    .unwrap_or_default()
            });
            panic!("{what}\n{}", logs.collect::<Vec<_>>().join("\n----\n"));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn leader(servers: &[Server]) -> Option<usize> {
    let running = servers.iter().filter(|server| server.child.is_some());
    let answers = running.filter_map(|server| server.ask("GET", "/v1/status/leader", ""));
    let told: Vec<String> = answers.map(|(_, body)| body).collect();
    let first = told.first()?;
    if told.iter().any(|other| other != first) {
        return None;
    }
    servers.iter().position(|server| first.contains(&format!(":{}\"", server.rpc)))
}

#[test]
fn three_processes_serve_from_each_and_survive_kills() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = write_configs(folder.path());
    for server in &mut servers {
        server.start();
    }
    until("all know a leader", &folder, || leader(&servers).is_some());
    for (number, server) in servers.iter().enumerate() {
        let key = format!("from-{number}");
        until("a write is accepted", &folder, || server.put(&key, "x"));
        for other in &servers {
            assert_eq!(other.get(&key).as_deref(), Some("x"));
        }
    }

    // What only the leader knows is answered by each.
    let peers = |server: &Server| {
        let answer = server.ask("GET", "/v1/operator/raft/configuration", "");
        answer.filter(|(status, _)| *status == 200).map(|(_, body)| body)
    };
    for server in &servers {
        until("each lists the servers", &folder, || peers(server).is_some());
    }
    let (_, session) =
        servers[0].ask("PUT", "/v1/session/create", r#"{"TTL":"10s","Checks":[]}"#).unwrap();
    let session: serde_json::Value = serde_json::from_str(&session).expect("a session");
    let id = session["ID"].as_str().unwrap();
    for server in &servers {
        let renewed = server.ask("PUT", &format!("/v1/session/renew/{id}"), "").unwrap();
        assert_eq!(renewed.0, 200, "{}", renewed.1);
    }

    let mut written = Vec::new();
    for (round, what) in ["a follower", "the leader", "all"].into_iter().enumerate() {
        let mut leading = None;
        until("all agree on the leader", &folder, || {
            leading = leader(&servers);
            leading.is_some()
        });
        let leading = leading.unwrap();
        let key = format!("before-{round}");
        until("a write is accepted", &folder, || servers[leading].put(&key, what));
        written.push((key, what));
        let victims: Vec<usize> = match what {
            "a follower" => vec![(leading + 1) % SERVERS],
            "the leader" => vec![leading],
            _ => (0..SERVERS).collect(),
        };
        for victim in &victims {
            servers[*victim].kill();
        }
        if victims.len() == 1 {
            let other = (victims[0] + 1) % SERVERS;
            let key = format!("without-{round}");
            let began = Instant::now();
            until("writes go on", &folder, || servers[other].put(&key, what));
            eprintln!("{what} killed: the next write after {:?}", began.elapsed());
            written.push((key, what));
        }
        for victim in victims {
            servers[victim].start();
        }
        for server in &servers {
            for (key, value) in &written {
                until("nothing is lost", &folder, || server.get(key).as_deref() == Some(*value));
            }
        }
    }
}
