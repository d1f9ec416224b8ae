//! A running agent: ours, or the reference.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take; far above what it takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Looks again after a moment: there is nobody to wake a test that waits for another process.
#[expect(clippy::disallowed_methods, reason = "between two looks, with a deadline; not async")]
pub(crate) fn moment() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Ended when dropped.
pub(crate) struct Agent {
    process: Child,
    pub(crate) http: u16,
    pub(crate) dns: u16,
    pub(crate) server: u16,
    folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    /// Ours, with these keys.
    pub(crate) fn ours(config: &Value) -> Agent {
        Agent::start(env!("CARGO_BIN_EXE_muster"), config)
    }

    /// Starts `program` and waits until its node is in the catalog.
    pub(crate) fn start(program: &str, config: &Value) -> Agent {
        // Another program may take a port between our look and the agent's: then try others.
        (0..5).find_map(|_| Agent::try_start(program, config)).expect("an agent starts")
    }

    fn try_start(program: &str, more: &Value) -> Option<Agent> {
        let folder = tempfile::tempdir().unwrap();
        let sockets = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http, dns, server, lan, wan] =
            sockets.each_ref().map(|s| s.local_addr().unwrap().port());
        drop(sockets);
        let mut config = json!({
            "node_name": "n1", "log_level": "warn", "disable_update_check": true,
            "ports": {"http": http, "dns": dns, "server": server, "serf_lan": lan, "serf_wan": wan,
                      "grpc": -1},
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let file = folder.path().join("agent.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let process = Command::new(program)
            .args(["agent", "-dev", "-bind=127.0.0.1", "-config-file"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut agent = Agent { process, http, dns, server, folder };
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if agent.process.try_wait().unwrap().is_some() {
                return None;
            }
            let ready = agent.ask("GET", "/v1/health/node/n1", "");
            let consul = agent.ask("GET", "/v1/catalog/service/consul", "");
            if ready.is_some_and(|it| it.contains("serfHealth"))
                && consul.is_some_and(|it| it.contains("n1"))
            {
                return Some(agent);
            }
            moment();
        }
        panic!("the agent does not get ready");
    }

    /// Writes other keys and has them read, which must succeed.
    pub(crate) fn reload(&self, more: &Value) {
        let answer = self.try_reload(more);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// The same; what the agent says to it.
    pub(crate) fn try_reload(&self, more: &Value) -> String {
        let file = self.folder.path().join("agent.json");
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(&file, config.to_string()).unwrap();
        self.ask("PUT", "/v1/agent/reload", "").expect("an answer")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A write that must succeed.
    pub(crate) fn put(&self, path: &str, body: &Value) {
        let answer = self.ask("PUT", path, &body.to_string()).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path} {body}: {answer}");
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }
}
