//! Real servers as processes that find each other by gossip.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// For a condition to hold, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// For one answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Where a server answers.
#[derive(Clone)]
pub(crate) enum Endpoint {
    Tcp(u16),
    /// Reached from any network namespace.
    Unix(PathBuf),
}

/// One server; killed when dropped.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) name: String,
    config: PathBuf,
    log: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) endpoint: Endpoint,
    /// `ip:port` that the others know.
    pub(crate) rpc: String,
    /// The network namespace that it runs in.
    pub(crate) inside: Option<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(crate) fn start(&mut self) {
        let log = fs::File::options().append(true).create(true).open(&self.log).unwrap();
        let program = env!("CARGO_BIN_EXE_muster");
        let mut command = match &self.inside {
            None => Command::new(program),
            Some(namespace) => {
                // It becomes the program: the process is the same.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        };
        let child = command
            .args(["agent", "-config-file"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// As by kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// How it ended, once it has by itself.
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// What the command line says: code, output, errors.
    pub(crate) fn command(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let at = match &self.endpoint {
            Endpoint::Tcp(port) => format!("127.0.0.1:{port}"),
            Endpoint::Unix(path) => format!("unix://{}", path.display()),
        };
        let output = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(words)
            .env("MUSTER_HTTP_ADDR", at)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Status and body; `None` if it cannot be asked.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        ask(&self.endpoint, method, path, body)
    }

    pub(crate) fn put(&self, key: &str, value: &str) -> bool {
        let answer = self.ask("PUT", &format!("/v1/kv/{key}"), value);
        answer.is_some_and(|(status, body)| status == 200 && body.contains("true"))
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let answer = self.ask("GET", &format!("/v1/kv/{key}?raw"), "");
        answer.filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// As JSON, if it was answered.
    pub(crate) fn value(&self, path: &str) -> Option<Value> {
        let (status, body) = self.ask("GET", path, "")?;
        (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    }

    /// Names of those that vote, sorted, as this server knows them.
    pub(crate) fn voters(&self) -> Option<Vec<String>> {
        let found = self.value("/v1/operator/raft/configuration?stale")?;
        let servers = found["Servers"].as_array()?.iter();
        let mut names: Vec<String> = servers
            .filter(|server| server["Voter"] == true)
            .map(|server| server["Node"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        Some(names)
    }
}

/// Status and body of one request; `None` if there is no answer.
pub(crate) fn ask(
    endpoint: &Endpoint,
    method: &str,
    path: &str,
    body: &str,
) -> Option<(u16, String)> {
    match endpoint {
        Endpoint::Tcp(port) => {
            let stream = TcpStream::connect(("127.0.0.1", *port)).ok()?;
            stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
            exchange(stream, method, path, body)
        }
        Endpoint::Unix(file) => {
            let stream = UnixStream::connect(file).ok()?;
            stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
            exchange(stream, method, path, body)
        }
    }
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> Option<(u16, String)> {
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

/// Servers that are to form one cluster.
pub(crate) struct Agents {
    pub(crate) folder: TempDir,
    pub(crate) servers: Vec<Server>,
}

impl Agents {
    /// With addresses of this machine; `more` is put into the configuration of each.
    pub(crate) fn new(count: usize, more: &Value) -> Agents {
        let folder = tempfile::tempdir().unwrap();
        let servers = (0..count).map(|number| Server {
            child: None,
            name: format!("s{number}"),
            config: folder.path().join(format!("{number}.json")),
            log: folder.path().join(format!("{number}.log")),
            data: folder.path().join(format!("data-{number}")),
            endpoint: Endpoint::Tcp(0),
            rpc: String::new(),
            inside: None,
        });
        let servers = servers.collect();
        let mut agents = Agents { folder, servers };
        agents.live_at("127.0.0.1", more);
        agents
    }

    /// Gives all of them new addresses and ports; none of them may run.
    pub(crate) fn live_at(&mut self, ip: &str, more: &Value) {
        let mut taken = Vec::new();
        let ports: Vec<[u16; 3]> = (0..self.servers.len())
            .map(|_| std::array::from_fn(|_| free_port(ip, &mut taken)))
            .collect();
        drop(taken);
        let lan: Vec<String> = ports.iter().map(|ports| format!("{ip}:{}", ports[2])).collect();
        for (server, [http, rpc, serf]) in self.servers.iter_mut().zip(ports) {
            server.endpoint = Endpoint::Tcp(http);
            server.rpc = format!("{ip}:{rpc}");
            let ports =
                json!({"http": http, "server": rpc, "serf_lan": serf, "dns": -1, "serf_wan": -1});
            let own = json!({"bind_addr": ip, "ports": ports, "retry_join": lan});
            server.configure(lan.len(), &[&own, more]);
        }
    }

    pub(crate) fn start(&mut self) {
        for server in &mut self.servers {
            server.start();
        }
        self.until("all know a leader", |servers| leader(servers).is_some());
    }

    /// Waits until it holds; tells all logs if it never does.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut(&[Server]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.servers) {
            if Instant::now() >= deadline {
                self.give_up(what);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn give_up(&self, what: &str) -> ! {
        let logs = self.servers.iter().map(|server| {
            let log = fs::read_to_string(&server.log).unwrap_or_default();
            format!("---- {}\n{log}", server.name)
        });
        panic!("not in time: {what}\n{}", logs.collect::<String>());
    }

    /// The leader that all who run agree on.
    pub(crate) fn leader(&self) -> usize {
        let mut leading = None;
        self.until("all agree on the leader", |servers| {
            leading = leader(servers);
            leading.is_some()
        });
        leading.unwrap()
    }

    /// Writes through a server until that is acknowledged.
    pub(crate) fn put(&self, number: usize, key: &str, value: &str) {
        self.until("a write is accepted", |servers| servers[number].put(key, value));
    }

    /// Waits until a server has ended by itself; its exit code.
    pub(crate) fn ended(&mut self, number: usize) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.servers[number].ended() {
                return status.code();
            }
            if Instant::now() >= deadline {
                self.give_up("it ends");
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Server {
    /// Writes its configuration: what all have, changed by each of `more`.
    pub(crate) fn configure(&self, expect: usize, more: &[&Value]) {
        let mut config = json!({
            "node_name": self.name, "server": true, "bootstrap_expect": expect,
            "data_dir": self.data, "retry_interval": "200ms",
            "performance": {"raft_multiplier": 1}, "disable_update_check": true,
        });
        let keys = config.as_object_mut().unwrap();
        for more in more {
            keys.extend(more.as_object().unwrap().clone());
        }
        fs::write(&self.config, config.to_string()).unwrap();
    }
}

/// The leader that all who run agree on.
pub(crate) fn leader(servers: &[Server]) -> Option<usize> {
    let running = servers.iter().filter(|server| server.runs());
    let answers = running.filter_map(|server| server.ask("GET", "/v1/status/leader", ""));
    let told: Vec<String> = answers.map(|(_, body)| body).collect();
    let first = told.first()?;
    if told.iter().any(|other| other != first) {
        return None;
    }
    servers.iter().position(|server| first.contains(&format!("\"{}\"", server.rpc)))
}

/// Free a moment ago. Both kinds, since gossip needs both.
fn free_port(ip: &str, taken: &mut Vec<(TcpListener, UdpSocket)>) -> u16 {
    loop {
        let tcp = TcpListener::bind((ip, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if let Ok(udp) = UdpSocket::bind((ip, port)) {
            taken.push((tcp, udp));
            return port;
        }
    }
}

/// For what only root can do. A test that cannot be run must not look as if it had passed: it
/// fails and says what is missing, unless whoever runs it has said to do without.
pub(crate) fn without_root(what: &str) -> bool {
    let granted = nix::unistd::geteuid().is_root();
    let waived = std::env::var_os("MUSTER_TESTS_WITHOUT_ROOT").is_some();
    assert!(
        granted || waived,
        "{what} needs root; run it as root, or set MUSTER_TESTS_WITHOUT_ROOT=1 to go without it"
    );
    if !granted {
        eprintln!("LEFT OUT: {what} needs root");
    }
    !granted
}

/// Runs a tool of the system.
pub(crate) fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", words.join(" "));
}

/// A folder on a small disk of its own; unmounted when dropped.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    pub(crate) fn mount(folder: &Path, size: &str) -> SmallDisk {
        let at = folder.join("small");
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &size, "none", at.to_str().unwrap()]);
        SmallDisk(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
