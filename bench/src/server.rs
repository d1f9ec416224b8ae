//! The server under measurement: started on free ports and a fresh folder, ended by its handle.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wire::{Connection, request};

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// `127.0.0.1:port` of its HTTP interface.
    pub(crate) address: String,
    /// Where it answers DNS.
    pub(crate) dns: SocketAddr,
    /// How long it took from start to the first accepted write.
    pub(crate) ready_after: Duration,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts `binary agent` as one durable server and waits for its first accepted write.
    pub(crate) async fn start(binary: &Path) -> Result<Server> {
        Server::start_with(binary, serde_json::json!({})).await
    }

    /// The same, with these keys in its configuration, too.
    pub(crate) async fn start_with(binary: &Path, more: serde_json::Value) -> Result<Server> {
        let dir = tempfile::tempdir()?;
        let ports: Vec<u16> = free_ports(5)?;
        let mut config = serde_json::json!({
            "node_name": "bench", "server": true, "bootstrap": true, "bind_addr": "127.0.0.1",
            "data_dir": dir.path().join("data"), "log_level": "warn",
            "ports": {"http": ports[0], "dns": ports[1], "server": ports[2],
                      "serf_lan": ports[3], "serf_wan": ports[4], "grpc": -1},
            "performance": {"raft_multiplier": 1},
            "limits": {"http_max_conns_per_client": 8_000},
        });
        if let (Some(keys), serde_json::Value::Object(more)) = (config.as_object_mut(), more) {
            keys.extend(more);
        }
        let file = dir.path().join("agent.json");
        std::fs::write(&file, config.to_string())?;
        let mut command = Command::new(binary);
        command.args(["agent", "-config-file"]).arg(&file);
        let put = request("PUT", "/v1/kv/bench/ready", b"yes");
        Server::launch(command, ports[0], Some(ports[1]), dir, &put).await
    }

    /// Starts a server with this command and waits until it accepts `write`. `dir` goes when it does.
    pub(crate) async fn launch(
        mut command: Command,
        http: u16,
        dns: Option<u16>,
        dir: tempfile::TempDir,
        write: &[u8],
    ) -> Result<Server> {
        let began = Instant::now();
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::fs::File::create(dir.path().join("log"))?))
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut server = Server {
            child,
            address: format!("127.0.0.1:{http}"),
            dns: SocketAddr::from(([127, 0, 0, 1], dns.unwrap_or(0))),
            ready_after: Duration::ZERO,
            _dir: dir,
        };
        let deadline = began + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended at once: {status}");
            }
            if let Ok(mut connection) = Connection::open(&server.address).await
                && connection.call(write).await.is_ok_and(|a| a.status == 200)
            {
                server.ready_after = began.elapsed();
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("{name} accepted no write within 30 s")
    }

    /// Processor time used so far, user and system.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident_of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The figures are taken; nothing on its disk is wanted any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time that a process has used, user and system.
pub(crate) fn cpu_of(process: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after = text.rsplit_once(") ").context("stat has a name in brackets")?.1;
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_of(process: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib * 1024)
}

/// Ports that were free a moment ago, below the range that outgoing connections use.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    let mut port = 20_000 + u16::try_from(std::process::id() % 5_000)?;
    while held.len() < count && port < 32_000 {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        port += 1;
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}
