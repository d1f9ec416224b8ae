//! A durable agent as a process: ours, or another that takes the same configuration.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Our own program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_muster");

/// How long anything may take; far above what it takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Looks again after a moment: there is nobody to wake a test that waits for another process.
#[expect(clippy::disallowed_methods, reason = "between two looks, with a deadline; not async")]
pub(crate) fn moment() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Waits until something is there.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        moment();
    }
}

/// An agent with a folder and ports that stay the same when it starts again. Ended when dropped.
pub(crate) struct Agent {
    program: String,
    folder: tempfile::TempDir,
    http: u16,
    process: Option<Child>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Agent {
    /// Starts one with further keys and waits until it leads.
    pub(crate) fn start(program: &str, keys: &Value) -> Agent {
        // Another program may take a port between our look and the agent's: then try others.
        for _ in 0..5 {
            let mut agent = Agent::prepare(program, keys);
            if agent.begin() {
                return agent;
            }
        }
        panic!("no agent could be started");
    }

    fn prepare(program: &str, keys: &Value) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let sockets = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http, dns, server, lan, wan] =
            sockets.each_ref().map(|s| s.local_addr().unwrap().port());
        let mut config = json!({
            "node_name": "one", "server": true, "bootstrap_expect": 1, "bind_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"), "disable_update_check": true,
            "enable_script_checks": true, "performance": {"raft_multiplier": 1},
            "ports": {"http": http, "dns": dns, "server": server, "serf_lan": lan, "serf_wan": wan, "grpc": -1},
        });
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(folder.path().join("agent.json"), config.to_string()).unwrap();
        std::fs::write(folder.path().join("more.json"), "{}").unwrap();
        Agent { program: program.to_owned(), folder, http, process: None }
    }

    /// `false` if it ended at once.
    fn begin(&mut self) -> bool {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder().join("log"))
            .unwrap();
        let process = Command::new(&self.program)
            .arg("agent")
            .args(
                ["agent.json", "more.json"]
                    .map(|file| format!("-config-file={}", self.folder().join(file).display())),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let start = Instant::now();
        loop {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            // Its own node is in the catalog once it leads.
            if let Some((200, nodes)) = self.try_ask("GET", "/v1/catalog/nodes", "")
                && nodes.contains("\"one\"")
            {
                return true;
            }
            assert!(start.elapsed() < DEADLINE, "the agent does not get ready\n{}", self.log());
            moment();
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), Signal::SIGTERM).unwrap();
        until("the agent ends", || process.try_wait().unwrap());
    }

    /// Starts it once more.
    pub(crate) fn again(&mut self) {
        assert!(self.begin(), "it ended at once\n{}", self.log());
    }

    /// Replaces the definitions that come from a file.
    pub(crate) fn configure(&self, keys: &Value) {
        std::fs::write(self.folder().join("more.json"), keys.to_string()).unwrap();
    }

    /// Reads its configuration again.
    pub(crate) fn reload(&self) {
        assert_eq!(self.ask("PUT", "/v1/agent/reload", "").0, 200, "{}", self.log());
    }

    /// One request: status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        until(path, || self.try_ask(method, path, body))
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The older version: its answers come in one piece.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}
