//! The main job, timed: how long after Docker's event an instance is in the catalog, and how long
//! after that nginx serves it. Needs the running stack of `tools/up`; scales `web` up one by one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::Value;

/// Times container → catalog → nginx on a running stack.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// HTTP interface of the agent.
    #[arg(long, default_value = "127.0.0.1:8500")]
    http: String,
    /// The proxy.
    #[arg(long, default_value = "127.0.0.1:8080")]
    proxy: String,
    /// Compose project of the stack.
    #[arg(long, default_value = "muster")]
    project: String,
    /// Instances to add, one at a time.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// Nanoseconds of Unix time, the clock of Docker's events.
type Nanos = u128;

#[expect(clippy::print_stdout, reason = "a report is what this program makes")]
pub(crate) fn run(args: &Args) -> Result<()> {
    let (events, started) = watch_docker(&args.project)?;
    let _events = Ended(events);
    let seen = watch_catalog(args.http.clone());
    let mut known: BTreeMap<String, Nanos> = BTreeMap::new();
    let first =
        seen.recv_timeout(Duration::from_secs(10)).context("the catalog does not answer")?;
    known.extend(first);
    let before = known.len();
    let (mut to_catalog, mut to_nginx) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        scale(&args.project, before + round)?;
        let (id, at) = started
            .recv_timeout(Duration::from_secs(30))
            .context("no start event: did compose start a container?")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let catalogued = loop {
            if let Some(at) = known.get(&id) {
                break *at;
            }
            ensure!(Instant::now() < deadline, "container {id} never reached the catalog");
            if let Ok(more) = seen.recv_timeout(Duration::from_millis(200)) {
                for (id, at) in more {
                    known.entry(id).or_insert(at);
                }
            }
        };
        let served = poll_proxy(&args.proxy, &id)?;
        to_catalog.push(catalogued.saturating_sub(at));
        to_nginx.push(served.saturating_sub(catalogued));
    }
    scale(&args.project, before)?;
    report("container start event -> in the catalog", &mut to_catalog);
    report("in the catalog -> nginx serves it", &mut to_nginx);
    println!(
        "(compose returned before some requests were sent: the second figure is an upper bound)"
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a report is what this program makes")]
fn report(what: &str, times: &mut [Nanos]) {
    times.sort_unstable();
    let ms = |at: usize| times[at.min(times.len() - 1)] / 1_000_000;
    println!(
        "{what:<42} n={} median {} ms, p95 {} ms, max {} ms",
        times.len(),
        ms(times.len() / 2),
        ms(times.len() * 95 / 100),
        ms(times.len() - 1)
    );
}

#[expect(clippy::disallowed_methods, reason = "the engine stamps its events with the wall clock")]
fn now() -> Nanos {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// A child that is ended with its handle.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scale(project: &str, count: usize) -> Result<()> {
    let out = Command::new("docker")
        .args(["compose", "-p", project, "up", "-d", "--no-recreate", "--no-build", "--scale"])
        .arg(format!("web={count}"))
        .output()
        .context("docker compose")?;
    if !out.status.success() {
        bail!("docker compose: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// `(short container id, time of its start event)` of every container of the project.
fn watch_docker(project: &str) -> Result<(Child, Receiver<(String, Nanos)>)> {
    let mut child = Command::new("docker")
        .args(["events", "--filter", "type=container", "--filter", "event=start", "--filter"])
        .arg(format!("label=com.docker.compose.project={project}"))
        .args(["--format", "{{.TimeNano}} {{.ID}}"])
        .stdout(Stdio::piped())
        .spawn()
        .context("docker events")?;
    let out = child.stdout.take().context("no output of docker events")?;
    let (tell, told) = channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some((time, id)) = line.split_once(' ')
                && let Ok(time) = time.parse()
                && tell.send((short(id), time)).is_err()
            {
                break;
            }
        }
    });
    Ok((child, told))
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// Follows the service by blocking queries; tells which containers it sees, and when.
fn watch_catalog(address: String) -> Receiver<Vec<(String, Nanos)>> {
    let (tell, told) = channel();
    thread::spawn(move || follow(&address, &tell));
    told
}

#[expect(clippy::disallowed_methods, reason = "a pause between attempts, not a wait for something")]
fn follow(address: &str, tell: &Sender<Vec<(String, Nanos)>>) {
    let mut index = 0;
    loop {
        let path = format!("/v1/health/service/web?index={index}&wait=60s");
        let Ok((head, body)) = get(address, &path, Duration::from_secs(90)) else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let at = now();
        index = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("x-consul-index: ").map(str::to_owned)
            })
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let rows: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
        let ids = rows
            .iter()
            .filter_map(|row| row["Service"]["Meta"]["muster-container"].as_str())
            .map(|id| (short(id), at))
            .collect();
        if tell.send(ids).is_err() {
            return;
        }
    }
}

/// Asks the proxy on fresh connections until this container answers.
fn poll_proxy(address: &str, container: &str) -> Result<Nanos> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let (_, body) = get(address, "/", Duration::from_secs(5))?;
        if String::from_utf8_lossy(&body).contains(container) {
            return Ok(now());
        }
    }
    bail!("nginx never served container {container}")
}

/// One request on its own connection: head and body.
fn get(address: &str, path: &str, patience: Duration) -> Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").context("no end of headers")?;
    let body = all.split_off(end + 4);
    Ok((String::from_utf8_lossy(&all).into_owned(), body))
}
