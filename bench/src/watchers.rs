//! Watchers in crowds: how soon a change reaches all of them, and what they cost while they wait.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::LocalSet;

use crate::scenario::{Figure, figure, load, registration, scaled, tagged};
use crate::server::Server;
use crate::wire::{Connection, request};

/// What is watched.
#[derive(Clone, Copy)]
pub(crate) enum Watched {
    /// One key.
    Key,
    /// A service of 100 instances.
    Service,
}

/// One change, and when the last watcher has it; what a watcher on a new and on a used connection costs.
pub(crate) async fn fanout(
    server: &Server,
    watchers: usize,
    watched: Watched,
) -> Result<Vec<Figure>> {
    let (path, change): (&str, fn(usize) -> Vec<u8>) = match watched {
        Watched::Key => {
            ("/v1/kv/bench/key", |n| request("PUT", "/v1/kv/bench/key", n.to_string().as_bytes()))
        }
        Watched::Service => {
            ("/v1/health/service/web", |n| registration("web", 7, &format!("run {n}")))
        }
    };
    if let Watched::Service = watched {
        load(server, 16, 100, |n| registration("web", n, "ok")).await?;
    }
    let mut writer = Connection::open(&server.address).await?;
    writer.call(&change(0)).await?;
    let mut index = writer.call(&request("GET", path, b"")).await?.index;
    let before = server.resident()?;
    let mut parked = Vec::new();
    for _ in 0..watchers {
        let mut connection = Connection::open(&server.address).await?;
        connection.send(&request("GET", &format!("{path}?index={index}&wait=120s"), b"")).await?;
        parked.push(connection);
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // let the last of them park
    let fresh = per_watcher(server, before, watchers)?;
    let mut last = Vec::new();
    for round in 1..=5 {
        let (latest, answers) =
            until_all_told(&mut writer, &change(round), &mut parked, async |it| {
                it.answer().await.map(|answer| answer.index)
            })
            .await?;
        index = answers.into_iter().fold(index, u64::max);
        last.push(latest);
        for connection in &mut parked {
            connection
                .send(&request("GET", &format!("{path}?index={index}&wait=120s"), b""))
                .await?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    last.sort_unstable();
    // A server may take a moment to give back what the answers needed.
    let mut used = per_watcher(server, before, watchers)?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        used = used.min(per_watcher(server, before, watchers)?);
    }
    Ok(vec![
        figure("last answer, median of 5", "ms", last[2].as_secs_f64() * 1e3, false),
        figure("memory a watcher, new connection", "KiB", fresh, false),
        figure("memory a watcher, used connection", "KiB", used, false),
    ])
}

/// Writes while all of `parked` wait, each by `wait`: how long until the last was told, and what
/// each was told.
pub(crate) async fn until_all_told<T: 'static>(
    writer: &mut Connection,
    write: &[u8],
    parked: &mut Vec<Connection>,
    wait: impl AsyncFn(&mut Connection) -> io::Result<T> + Copy + 'static,
) -> Result<(Duration, Vec<T>)> {
    let began = Instant::now();
    let tasks = LocalSet::new();
    let done = Rc::new(RefCell::new(Vec::new()));
    for mut connection in std::mem::take(parked) {
        let done = done.clone();
        tasks.spawn_local(async move {
            let came = wait(&mut connection).await;
            done.borrow_mut().push((began.elapsed(), came, connection));
        });
    }
    let ((), written) = tokio::join!(tasks, writer.call(write));
    ensure!(written?.status == 200, "the change was refused");
    let (mut latest, mut told) = (Duration::ZERO, Vec::new());
    for (after, came, connection) in done.take() {
        told.push(came?);
        latest = latest.max(after);
        parked.push(connection);
    }
    Ok((latest, told))
}

/// Resident KiB a watcher since `before`.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn per_watcher(server: &Server, before: u64, watchers: usize) -> Result<f64> {
    Ok(server.resident()?.saturating_sub(before) as f64 / watchers as f64 / 1024.0)
}

/// Many watchers of one instance among many, which changes faster than they can all be told: what
/// counts is that everybody comes to know the last state, how soon, and at what cost.
///
/// The answer holds one row, chosen by its tag: with all of them this would move half a terabyte.
pub(crate) async fn crowd(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    const INSTANCES: usize = 10_000;
    const CHANGES: usize = 100;
    const PACE: Duration = Duration::from_millis(10);
    /// The reference looks at every row for every watcher, and needs about a minute.
    const PATIENCE: Duration = Duration::from_mins(5);
    let watchers = scaled(1_000, scale);
    let path = "/v1/health/service/web?tag=canary";
    let change = |n: usize| tagged("web", INSTANCES / 2, &format!("run {n}"), &["v1", "canary"]);
    load(server, 16, INSTANCES, |n| registration("web", n, "ok")).await?;
    let mut writer = Connection::open(&server.address).await?;
    writer.call(&change(0)).await?;
    let first = writer.call(&request("GET", path, b"")).await?.index;

    let (last, done) = (Rc::new(Cell::new(u64::MAX)), Rc::new(RefCell::new(Vec::new())));
    let answers = Rc::new(Cell::new(0_usize));
    let tasks = LocalSet::new();
    for _ in 0..watchers {
        let mut connection = Connection::open(&server.address).await?;
        let (last, done, answers) = (last.clone(), done.clone(), answers.clone());
        tasks.spawn_local(async move {
            let (mut index, mut since) = (first, Instant::now());
            while index < last.get() {
                // Short waits: the last change may be in before it is known to be the last.
                let get = request("GET", &format!("{path}&index={index}&wait=2s"), b"");
                let Ok(answer) = connection.call(&get).await else { return };
                answers.set(answers.get() + 1);
                if answer.index > index {
                    (index, since) = (answer.index, Instant::now());
                }
            }
            done.borrow_mut().push(since);
        });
    }
    let cpu = server.cpu()?;
    let began = Instant::now();
    let writing = async {
        tokio::time::sleep(Duration::from_secs(1)).await; // let them park
        for n in 1..=CHANGES {
            ensure!(writer.call(&change(n)).await?.status == 200, "change {n} was refused");
            tokio::time::sleep(PACE).await;
        }
        let written = Instant::now();
        last.set(writer.call(&request("GET", path, b"")).await?.index);
        Ok(written)
    };
    let ended = tokio::time::timeout(PATIENCE, async { tokio::join!(tasks, writing) }).await;
    let knows = done.borrow().len();
    ensure!(knows == watchers, "{knows} of {watchers} watchers know the last state");
    let Ok(((), written)) = ended else { anyhow::bail!("the changes were not written in time") };
    let written = written?;
    let latest = done.borrow().iter().max().copied().unwrap_or(began);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = answers.get() as f64 / watchers as f64;
    let after = latest.saturating_duration_since(written).as_secs_f64() * 1e3;
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    Ok(vec![
        figure("last state is with all after", "ms", after, false),
        figure("answers a watcher", "1", each, true),
        figure("server cpu in all", "s", cpu, false),
    ])
}

/// Watchers of keys and of a service that come, wait and hang up.
pub(crate) async fn churn(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    const AT_ONCE: usize = 5_000;
    load(server, 16, 100, |n| registration("web", n, "ok")).await?;
    let path = |n: usize| match n % 4 {
        0 => "/v1/health/service/web?passing".to_owned(),
        _ => format!("/v1/kv/bench/{}", n % 1_000),
    };
    // What is loaded and set up by the first watches of their kinds is not what is asked for here.
    let mut open = Vec::new();
    park(server, &mut open, 0..8, path).await?;
    open.clear();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.resident()?;
    let (mut at, total, mut peak) = (0, scaled(100_000, scale), before);
    while at < total {
        let next = (at + AT_ONCE).min(total);
        park(server, &mut open, at..next, path).await?;
        peak = peak.max(server.resident()?);
        open.clear();
        at = next;
    }
    // A server may take a moment to notice who is gone, and to tidy up.
    let mut after = server.resident()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while after > before + before / 20 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(250)).await;
        after = after.min(server.resident()?);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(vec![
        figure("before", "MiB", mib(before), false),
        figure("most", "MiB", mib(peak), false),
        figure("after", "MiB", mib(after), false),
        figure("after, of before", "%", mib(after) / mib(before) * 100.0, false),
    ])
}

/// Opens a watch for each number, and waits until all of them sleep.
async fn park(
    server: &Server,
    open: &mut Vec<Connection>,
    numbers: std::ops::Range<usize>,
    path: impl Fn(usize) -> String,
) -> Result<()> {
    for n in numbers {
        let mut connection = Connection::open(&server.address).await?;
        let path = path(n);
        let index = connection.call(&request("GET", &path, b"")).await?.index;
        let glue = if path.contains('?') { '&' } else { '?' };
        let watch = format!("{path}{glue}index={index}&wait=300s");
        connection.send(&request("GET", &watch, b"")).await?;
        open.push(connection);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}
