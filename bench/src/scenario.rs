//! The work that is measured. Each scenario starts a fresh server, prepares it, and returns figures.

use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::LocalSet;

use crate::server::Server;
use crate::watchers::{self, Watched};
use crate::wire::{Connection, request};

/// One measured number.
#[derive(Debug)]
pub(crate) struct Figure {
    /// What it counts.
    pub(crate) name: String,
    /// In which unit.
    pub(crate) unit: &'static str,
    /// The number.
    pub(crate) value: f64,
    /// Direction of "better".
    pub(crate) more_is_better: bool,
}

/// With the binary alone.
type Alone = for<'a> fn(&'a Path, f64) -> Pin<Box<dyn Future<Output = Result<Vec<Figure>>> + 'a>>;

/// On a server that was started for it.
type Run = for<'a> fn(&'a Server, f64) -> Pin<Box<dyn Future<Output = Result<Vec<Figure>>> + 'a>>;

/// One kind of work.
pub(crate) struct Scenario {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    work: Work,
}

/// Who starts the server.
enum Work {
    /// A plain one is ready.
    Plain(Run),
    /// The scenario itself: its configuration is part of the work.
    Own(Alone),
}

impl Scenario {
    /// Runs it on a fresh server of this binary.
    pub(crate) async fn run(&self, binary: &Path, scale: f64) -> Result<Vec<Figure>> {
        match self.work {
            Work::Plain(work) => work(&Server::start(binary).await?, scale).await,
            Work::Own(work) => work(binary, scale).await,
        }
    }
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "start",
        about: "process start to the first accepted write",
        work: Work::Plain(|s, _| Box::pin(start(s))),
    },
    Scenario {
        name: "kv-get",
        about: "one key, 32 connections, three consistency modes",
        work: Work::Plain(|s, n| Box::pin(kv_get(s, n))),
    },
    Scenario {
        name: "kv-put",
        about: "durable writes, 64 connections and one",
        work: Work::Plain(|s, n| Box::pin(kv_put(s, n))),
    },
    Scenario {
        name: "health-5",
        about: "healthy instances of a service of 5",
        work: Work::Plain(|s, n| Box::pin(health(s, 5, n))),
    },
    Scenario {
        name: "health-100",
        about: "healthy instances of a service of 100",
        work: Work::Plain(|s, n| Box::pin(health(s, 100, n * 0.2))),
    },
    Scenario {
        name: "health-10000",
        about: "healthy instances of a service of 10,000",
        work: Work::Plain(|s, n| Box::pin(health(s, 10_000, n * 0.002))),
    },
    Scenario {
        name: "register",
        about: "catalog registrations, 16 connections",
        work: Work::Plain(|s, n| Box::pin(register(s, n))),
    },
    Scenario {
        name: "fanout-key-1000",
        about: "one key changes under 1,000 watchers",
        work: Work::Plain(|s, _| Box::pin(watchers::fanout(s, 1_000, Watched::Key))),
    },
    Scenario {
        name: "fanout-key-5000",
        about: "one key changes under 5,000 watchers",
        work: Work::Plain(|s, _| Box::pin(watchers::fanout(s, 5_000, Watched::Key))),
    },
    Scenario {
        name: "fanout-service-1000",
        about: "a service of 100 changes under 1,000 watchers",
        work: Work::Plain(|s, _| Box::pin(watchers::fanout(s, 1_000, Watched::Service))),
    },
    Scenario {
        name: "fanout-service-5000",
        about: "a service of 100 changes under 5,000 watchers",
        work: Work::Plain(|s, _| Box::pin(watchers::fanout(s, 5_000, Watched::Service))),
    },
    Scenario {
        name: "crowd",
        about: "1,000 watchers of one of 10,000 instances, which changes 100 times",
        work: Work::Plain(|s, n| Box::pin(watchers::crowd(s, n))),
    },
    Scenario {
        name: "churn",
        about: "resident memory after 100,000 watches came and went, 5,000 at a time",
        work: Work::Plain(|s, n| Box::pin(watchers::churn(s, n))),
    },
    Scenario {
        name: "dns-rate",
        about: "names by UDP: half A and a quarter SRV of a service of 10, a quarter nodes",
        work: Work::Plain(|s, n| Box::pin(crate::dns::rate(s, n))),
    },
    Scenario {
        name: "dns-age",
        about: "names by UDP under up to 1,000 changes a second",
        work: Work::Plain(|s, n| Box::pin(crate::dns::age(s, n))),
    },
    Scenario {
        name: "memory-kv",
        about: "resident memory a key after 100,000 writes",
        work: Work::Plain(|s, n| Box::pin(memory_kv(s, n))),
    },
    Scenario {
        name: "memory-instance",
        about: "resident memory an instance after 10,000",
        work: Work::Plain(|s, n| Box::pin(memory_instance(s, n))),
    },
    Scenario {
        name: "checks",
        about: "10,000 HTTP checks at 10 s on one agent",
        work: Work::Own(|binary, n| Box::pin(crate::checks::run(binary, n))),
    },
];

pub(crate) fn figure(
    name: impl Into<String>,
    unit: &'static str,
    value: f64,
    more_is_better: bool,
) -> Figure {
    Figure { name: name.into(), unit, value, more_is_better }
}

#[expect(clippy::unused_async, reason = "every scenario has one shape")]
async fn start(server: &Server) -> Result<Vec<Figure>> {
    Ok(vec![figure("to first write", "ms", server.ready_after.as_secs_f64() * 1e3, false)])
}

/// What a closed loop over several connections measured.
pub(crate) struct Load {
    per_second: f64,
    cpu_micros: f64,
    p99: Duration,
}

/// Sends `total` requests over `connections`; each sends its next when the last was answered.
/// `make` turns the running number into a request.
pub(crate) async fn load(
    server: &Server,
    connections: usize,
    total: usize,
    make: impl Fn(usize) -> Vec<u8> + Clone + 'static,
) -> Result<Load> {
    let next = Rc::new(Cell::new(0));
    let bad = Rc::new(Cell::new(0));
    let times = Rc::new(std::cell::RefCell::new(Vec::with_capacity(total)));
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(&server.address).await?);
    }
    let cpu = server.cpu()?;
    let began = Instant::now();
    let tasks = LocalSet::new();
    for mut connection in open {
        let (next, bad, times, make) = (next.clone(), bad.clone(), times.clone(), make.clone());
        tasks.spawn_local(async move {
            loop {
                let n = next.get();
                if n >= total {
                    break;
                }
                next.set(n + 1);
                let request = make(n);
                let sent = Instant::now();
                match connection.call(&request).await {
                    Ok(answer) if answer.status == 200 => times.borrow_mut().push(sent.elapsed()),
                    _ => bad.set(bad.get() + 1),
                }
            }
        });
    }
    tasks.await;
    let elapsed = began.elapsed().as_secs_f64();
    let cpu = (server.cpu()?.saturating_sub(cpu)).as_secs_f64();
    ensure!(bad.get() == 0, "{} of {total} requests failed", bad.get());
    let mut times = times.take();
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let count = total as f64;
    Ok(Load {
        per_second: count / elapsed,
        cpu_micros: cpu * 1e6 / count,
        p99: times[times.len() * 99 / 100],
    })
}

pub(crate) fn figures(what: &str, load: &Load) -> Vec<Figure> {
    vec![
        figure(format!("{what} rate"), "1/s", load.per_second, true),
        figure(format!("{what} server cpu"), "us", load.cpu_micros, false),
        figure(format!("{what} p99"), "us", load.p99.as_secs_f64() * 1e6, false),
    ]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive scale")]
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn scaled(count: usize, scale: f64) -> usize {
    ((count as f64 * scale) as usize).max(20)
}

async fn kv_get(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let put = request("PUT", "/v1/kv/bench/key", &[b'v'; 100]);
    Connection::open(&server.address).await?.call(&put).await?;
    let mut out = Vec::new();
    for (what, path) in [
        ("default", "/v1/kv/bench/key"),
        ("stale", "/v1/kv/bench/key?stale"),
        ("consistent", "/v1/kv/bench/key?consistent"),
    ] {
        let get = request("GET", path, b"");
        let load = load(server, 32, scaled(100_000, scale), move |_| get.clone()).await?;
        out.extend(figures(what, &load));
    }
    Ok(out)
}

async fn kv_put(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let make = |n: usize| request("PUT", &format!("/v1/kv/bench/{n}"), &[b'v'; 100]);
    let many = load(server, 64, scaled(60_000, scale), make).await?;
    let one = load(server, 1, scaled(5_000, scale), make).await?;
    let mut out = figures("64 conns", &many);
    out.extend(figures("1 conn", &one));
    Ok(out)
}

/// A registration with one passing check, as agents send them.
pub(crate) fn registration(service: &str, n: usize, output: &str) -> Vec<u8> {
    tagged(service, n, output, &["v1", "http"])
}

/// The same, with these tags.
pub(crate) fn tagged(service: &str, n: usize, output: &str, tags: &[&str]) -> Vec<u8> {
    let body = serde_json::json!({
        "Node": format!("node-{n}"), "Address": format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255),
        "Service": {"ID": format!("{service}-{n}"), "Service": service, "Port": 8000 + n % 1000,
                    "Tags": tags, "Meta": {"version": "1.2.3"}},
        "Check": {"Node": format!("node-{n}"), "CheckID": format!("service:{service}-{n}"), "Name": "alive",
                  "Status": "passing", "ServiceID": format!("{service}-{n}"), "Output": output},
    });
    request("PUT", "/v1/catalog/register", body.to_string().as_bytes())
}

async fn health(server: &Server, instances: usize, scale: f64) -> Result<Vec<Figure>> {
    load(server, 16, instances, |n| registration("web", n, "ok")).await?;
    let get = request("GET", "/v1/health/service/web?passing", b"");
    let load = load(server, 32, scaled(100_000, scale), move |_| get.clone()).await?;
    Ok(figures("get", &load))
}

async fn register(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let load = load(server, 16, scaled(20_000, scale), |n| registration("web", n, "ok")).await?;
    Ok(figures("put", &load))
}

async fn memory_kv(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let before = server.resident()?;
    let total = scaled(100_000, scale);
    load(server, 64, total, |n| request("PUT", &format!("/v1/kv/bench/{n}"), &[b'v'; 100])).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_key = server.resident()?.saturating_sub(before) as f64 / total as f64;
    Ok(vec![figure("a key", "B", per_key, false)])
}

async fn memory_instance(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let before = server.resident()?;
    let total = scaled(10_000, scale);
    load(server, 16, total, |n| registration("web", n, "ok")).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_instance = server.resident()?.saturating_sub(before) as f64 / total as f64;
    Ok(vec![figure("an instance", "B", per_instance, false)])
}
