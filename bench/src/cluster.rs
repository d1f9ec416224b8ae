//! Three servers on this machine: how soon they serve, how fast they write durably, and how long
//! nothing is written after the leader was killed.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::LocalSet;

use crate::scenario::{Figure, figure, scaled};
use crate::server::free_ports;
use crate::wire::{Connection, request};

const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_mins(1);
const KILLS: usize = 3;

/// Servers of one cluster; killed when dropped.
struct Cluster {
    children: Vec<Child>,
    configs: Vec<std::path::PathBuf>,
    http: Vec<String>,
    rpc: Vec<String>,
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs it on fresh servers of this binary.
pub(crate) async fn run(binary: &Path, scale: f64) -> Result<Vec<Figure>> {
    let began = Instant::now();
    // As quick as each can be.
    let mut cluster = Cluster::start(binary, Some(1))?;
    cluster.ready(&[0, 1, 2]).await?;
    let mut figures =
        vec![figure("start of all", "ms", began.elapsed().as_secs_f64() * 1e3, false)];
    let leader = cluster.leader()?;
    let follower = (leader + 1) % SERVERS;
    for (what, address) in [("at the leader", leader), ("at a follower", follower)] {
        let rate = puts(&cluster.http[address], scaled(30_000, scale)).await?;
        figures.push(figure(format!("64 puts {what}"), "1/s", rate, true));
    }
    figures.push(cluster.failover(binary, "kill of leader, quick").await?);
    drop(cluster);
    let mut cluster = Cluster::start(binary, None)?;
    cluster.ready(&[0, 1, 2]).await?;
    figures.push(cluster.failover(binary, "kill of leader, default").await?);
    Ok(figures)
}

impl Cluster {
    fn start(binary: &Path, multiplier: Option<u32>) -> Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let ports = free_ports(SERVERS * 5)?;
        let ports: Vec<&[u16]> = ports.chunks(5).collect();
        ensure!(ports.len() == SERVERS, "not enough free ports");
        let lan: Vec<String> = ports.iter().map(|it| format!("127.0.0.1:{}", it[3])).collect();
        let performance = multiplier.map_or_else(
            || serde_json::json!({}),
            |multiplier| serde_json::json!({ "raft_multiplier": multiplier }),
        );
        let mut configs = Vec::new();
        for (number, ports) in ports.iter().enumerate() {
            let config = serde_json::json!({
                "node_name": format!("bench-{number}"), "server": true,
                "bootstrap_expect": SERVERS, "retry_join": lan, "retry_interval": "200ms",
                "bind_addr": "127.0.0.1", "log_level": "warn",
                "data_dir": dir.path().join(format!("data-{number}")),
                "ports": {"http": ports[0], "dns": ports[1], "server": ports[2],
                          "serf_lan": ports[3], "serf_wan": ports[4], "grpc": -1},
                "performance": performance,
            });
            let file = dir.path().join(format!("{number}.json"));
            std::fs::write(&file, config.to_string())?;
            configs.push(file);
        }
        let address = |at: usize| ports.iter().map(move |it| format!("127.0.0.1:{}", it[at]));
        let (http, rpc) = (address(0).collect(), address(2).collect());
        let mut cluster = Cluster { children: Vec::new(), configs, http, rpc, dir };
        for number in 0..SERVERS {
            let child = cluster.spawn(binary, number)?;
            cluster.children.push(child);
        }
        Ok(cluster)
    }

    fn spawn(&self, binary: &Path, number: usize) -> Result<Child> {
        let log = std::fs::File::create(self.dir.path().join(format!("{number}.log")))?;
        Command::new(binary)
            .args(["agent", "-config-file"])
            .arg(&self.configs[number])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))
    }

    /// Waits until each of these servers takes a write.
    async fn ready(&self, servers: &[usize]) -> Result<()> {
        for number in servers {
            self.written(*number).await?;
        }
        Ok(())
    }

    /// Writes at a server until it is accepted.
    async fn written(&self, number: usize) -> Result<()> {
        let put = request("PUT", "/v1/kv/bench/ready", b"yes");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut connection) = Connection::open(&self.http[number]).await
                && connection.call(&put).await.is_ok_and(|answer| answer.status == 200)
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "server {number} takes no write");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for http in &self.http {
                let Ok(answer) = body_of(http, "/v1/status/leader") else { continue };
                let leads = |rpc: &String| answer.contains(&format!("\"{rpc}\""));
                if let Some(leader) = self.rpc.iter().position(leads) {
                    return Ok(leader);
                }
            }
        }
        anyhow::bail!("nobody leads")
    }

    /// The longest of a few times from the leader's death to the next accepted write elsewhere.
    async fn failover(&mut self, binary: &Path, what: &str) -> Result<Figure> {
        let mut longest = Duration::ZERO;
        for _ in 0..KILLS {
            let leader = self.leader()?;
            self.children[leader].kill()?;
            let began = Instant::now();
            self.children[leader].wait()?;
            self.written((leader + 1) % SERVERS).await?;
            longest = longest.max(began.elapsed());
            self.children[leader] = self.spawn(binary, leader)?;
            self.ready(&[leader]).await?;
        }
        Ok(figure(what, "ms", longest.as_secs_f64() * 1e3, false))
    }
}

/// Durable writes a second over 64 connections.
async fn puts(address: &str, total: usize) -> Result<f64> {
    let next = Rc::new(Cell::new(0));
    let bad = Rc::new(Cell::new(0));
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Connection::open(address).await?);
    }
    let began = Instant::now();
    let tasks = LocalSet::new();
    for mut connection in open {
        let (next, bad) = (next.clone(), bad.clone());
        tasks.spawn_local(async move {
            loop {
                let n = next.get();
                if n >= total {
                    break;
                }
                next.set(n + 1);
                let put = request("PUT", &format!("/v1/kv/bench/{n}"), &[b'v'; 100]);
                if !connection.call(&put).await.is_ok_and(|answer| answer.status == 200) {
                    bad.set(bad.get() + 1);
                }
            }
        });
    }
    tasks.await;
    ensure!(bad.get() == 0, "{} of {total} writes failed", bad.get());
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let count = total as f64;
    Ok(count / began.elapsed().as_secs_f64())
}

/// An answer, head and body.
pub(crate) fn body_of(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
