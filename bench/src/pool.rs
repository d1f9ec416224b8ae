//! A server and many agents that are none, on this machine: how soon all know all, how soon a death is in the catalog,
//! what an idle agent costs, and what a request pays for the way through one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::body_of;
use crate::scenario::{Figure, figure, scaled};
use crate::server::{cpu_of, free_ports, resident_of};
use crate::wire::{Connection, request};

const AGENTS: usize = 50;
/// Of these, killed one after the other.
const DEATHS: usize = 7;
const PATIENCE: Duration = Duration::from_mins(2);
/// How long idle agents are watched.
const IDLE: Duration = Duration::from_secs(30);

struct Agent {
    child: Child,
    http: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The figures are taken; nothing on its disk is wanted any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it on fresh agents of this binary.
pub(crate) async fn run(binary: &Path, scale: f64) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let ports = free_ports(AGENTS * 4)?;
    ensure!(ports.len() == AGENTS * 4, "not enough free ports");
    let server = format!("127.0.0.1:{}", ports[3]);
    let start = |(number, ports): (usize, &[u16])| {
        let mut config = json!({
            "node_name": format!("bench-{number}"), "bind_addr": "127.0.0.1", "log_level": "warn",
            "data_dir": dir.path().join(format!("data-{number}")),
            "ports": {"http": ports[0], "dns": ports[1], "server": ports[2], "serf_lan": ports[3],
                      "serf_wan": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1},
        });
        let more = if number == 0 {
            json!({"server": true, "bootstrap": true})
        } else {
            json!({"retry_join": [server], "retry_interval": "1s"})
        };
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let file = dir.path().join(format!("{number}.json"));
        std::fs::write(&file, config.to_string())?;
        let child = Command::new(binary)
            .args(["agent", "-config-file"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok::<_, anyhow::Error>(Agent { child, http: format!("127.0.0.1:{}", ports[0]) })
    };
    let mut each = ports.chunks(4).enumerate();
    let mut agents = vec![start(each.next().context("there is a first")?)?];
    until("the server takes a write", || {
        Ok(!body_of(&agents[0].http, "/v1/status/leader")?.ends_with("\"\""))
    })
    .await?;
    let began = Instant::now();
    for agent in each {
        agents.push(start(agent)?);
    }
    for agent in &agents {
        until("all know all", || Ok(alive(&agent.http)? == AGENTS)).await?;
    }
    let mut figures = vec![figure("50 agents: all know all", "ms", ms(began), false)];
    let passing = |count: usize| {
        let passing = body_of(&agents[0].http, "/v1/health/state/passing")?;
        Ok(passing.matches("\"serfHealth\"").count() == count)
    };
    until("all are in the catalog", || passing(AGENTS)).await?;
    figures.push(figure("all in the catalog", "ms", ms(began), false));

    // What was needed for the start is given back by now, or never.
    tokio::time::sleep(IDLE / 2).await;
    let before = agents[1..].iter().map(|it| cpu_of(it.child.id())).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(IDLE).await;
    let after = agents[1..].iter().map(|it| cpu_of(it.child.id())).collect::<Result<Vec<_>>>()?;
    let used: Vec<f64> = before
        .iter()
        .zip(after)
        .map(|(before, after)| {
            100.0 * after.saturating_sub(*before).as_secs_f64() / IDLE.as_secs_f64()
        })
        .collect();
    figures.push(figure("idle agent, median", "% of a core", median(used), false));
    let resident = agents[1..].iter().map(|it| resident_of(it.child.id()));
    #[expect(clippy::cast_precision_loss, reason = "memory of a process is far below 2^52")]
    let resident: Vec<f64> =
        resident.map(|bytes| Ok(bytes? as f64 / 1_048_576.0)).collect::<Result<_>>()?;
    figures.push(figure("idle agent, median", "MiB", median(resident), false));

    let calls = scaled(3000, scale);
    for (what, address) in [("key read at the server", 0), ("the same through an agent", 1)] {
        let time = read(&agents[address].http, calls).await?;
        figures.push(figure(what, "µs", time, false));
    }

    // Who asks the dead one first is chance: several die, and the one in the middle counts.
    let mut times = Vec::with_capacity(DEATHS);
    for dead in (1..=DEATHS).map(|number| number * AGENTS / (DEATHS + 1)) {
        let began = Instant::now();
        agents[dead].child.kill()?;
        let path = format!("/v1/health/node/bench-{dead}");
        until("its death is in the catalog", || {
            let answer = body_of(&agents[0].http, &path)?;
            let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
            let start = body.find('[').context("a list")?;
            let end = body.rfind(']').context("a list")?;
            let checks: Value = serde_json::from_str(&body[start..=end])?;
            Ok(checks[0]["Status"] == "critical")
        })
        .await?;
        times.push(ms(began));
    }
    figures.push(figure("kill -9 to serfHealth critical, median", "ms", median(times), false));
    Ok(figures)
}

async fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // An agent that has not opened its interface yet is asked again.
    while !holds().unwrap_or(false) {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn alive(address: &str) -> Result<usize> {
    Ok(body_of(address, "/v1/agent/members")?.matches("\"Status\":1").count())
}

/// Microseconds of a read, one after the other on one connection: the median.
async fn read(address: &str, calls: usize) -> Result<f64> {
    let mut connection = Connection::open(address).await?;
    let put = connection.call(&request("PUT", "/v1/kv/bench/key", b"value")).await?;
    ensure!(put.status == 200, "no write: {}", put.status);
    let get = request("GET", "/v1/kv/bench/key", b"");
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        let answer = connection.call(&get).await?;
        ensure!(answer.status == 200, "no answer: {}", answer.status);
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
