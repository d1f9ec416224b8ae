//! Many HTTP checks on one agent: are they on time, what do they cost, and is the catalog left alone
//! while nothing changes?
//!
//! The checked program is this one. It sees when each check comes: what passes between two visits
//! beyond the interval is lateness (the run itself is part of it, a fraction of a millisecond). It
//! listens on several addresses, or the ports of one would run out: every run is a connection.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::scenario::{Figure, figure, scaled};
use crate::server::Server;
use crate::wire::{Connection, request};

const CHECKS: usize = 10_000;
const INTERVAL: Duration = Duration::from_secs(10);
/// Addresses that the checked program listens on.
const ADDRESSES: usize = 8;
/// The catalog stands still when it did for this long: longer than an interval, so that every check
/// ran once more without a word to the catalog.
const STILL: Duration = Duration::from_secs(15);
/// By then it must stand still. First runs are spread over an interval or more, and the catalog learns
/// of each; some servers write one check at a time.
const STILL_WITHIN: Duration = Duration::from_mins(10);
/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(40);
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// When each check came last, and how late visits were.
struct Visits {
    last: Vec<Option<Instant>>,
    late: Vec<Duration>,
    watched: bool,
}

pub(crate) async fn run(binary: &Path, scale: f64) -> Result<Vec<Figure>> {
    let count = scaled(CHECKS, scale);
    let visits =
        Rc::new(RefCell::new(Visits { last: vec![None; count], late: Vec::new(), watched: false }));
    let tasks = LocalSet::new();
    let mut addresses = Vec::new();
    for number in 1..=ADDRESSES {
        let listener = TcpListener::bind((format!("127.0.0.{number}"), 0)).await?;
        addresses.push(listener.local_addr()?);
        let visits = Rc::clone(&visits);
        tasks.spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(answer(stream, Rc::clone(&visits)));
            }
        });
    }
    let checks: Vec<_> = (0..count)
        .map(|n| {
            serde_json::json!({
                "id": format!("c{n}"), "name": format!("c{n}"), "interval": "10s",
                "http": format!("http://{}/{n}", addresses[n % ADDRESSES]),
            })
        })
        .collect();
    let config = serde_json::json!({ "checks": checks });
    let watch = watch(binary, config, Rc::clone(&visits));
    tasks.run_until(watch).await
}

async fn watch(
    binary: &Path,
    config: serde_json::Value,
    visits: Rc<RefCell<Visits>>,
) -> Result<Vec<Figure>> {
    let server = Server::start_with(binary, config).await?;
    let mut connection = Connection::open(&server.address).await?;
    let state = request("GET", "/v1/health/state/critical", b"");
    let (before, still_after) = still(&mut connection, &state).await?;
    visits.borrow_mut().watched = true;
    let cpu = server.cpu()?;
    tokio::time::sleep(WATCHED).await;
    let cpu = server.cpu()?.saturating_sub(cpu);
    visits.borrow_mut().watched = false;
    let after = connection.call(&state).await?.index;
    let mut late = std::mem::take(&mut visits.borrow_mut().late);
    late.sort_unstable();
    let runs = late.len();
    let expected = visits.borrow().last.len() * 3;
    ensure!(runs >= expected, "{runs} runs in {WATCHED:?}, not {expected}");
    let ms = |at: usize| late[at.min(runs - 1)].as_secs_f64() * 1e3;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (count, changes) = (runs as f64, (after - before) as f64);
    Ok(vec![
        figure("late, median", "ms", ms(runs / 2), false),
        figure("late, p99", "ms", ms(runs * 99 / 100), false),
        figure("late, last", "ms", ms(runs - 1), false),
        figure("cpu a run", "us", cpu.as_secs_f64() * 1e6 / count, false),
        figure("catalog changes", "", changes, false),
        figure("start to catalog still", "s", still_after.as_secs_f64(), false),
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        figure("memory", "MiB", server.resident()? as f64 / 1024.0 / 1024.0, false),
    ])
}

/// Waits until all checks pass and the catalog stands still: its index, and after what time it was reached.
async fn still(connection: &mut Connection, state: &[u8]) -> Result<(u64, Duration)> {
    let began = Instant::now();
    let (mut index, mut since) = (0, began);
    loop {
        let answer = connection.call(state).await?;
        // An empty list is two brackets.
        let passing = answer.bytes <= "[]\n".len();
        if !passing || answer.index != index {
            (index, since) = (answer.index, Instant::now());
        } else if since.elapsed() >= STILL {
            return Ok((index, since - began));
        }
        ensure!(began.elapsed() < STILL_WITHIN, "the catalog did not stand still, index {index}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Notes who came, and answers.
async fn answer(mut stream: TcpStream, visits: Rc<RefCell<Visits>>) {
    let came = Instant::now();
    let mut request = [0; 1024];
    let mut filled = 0;
    while !request[..filled].windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut request[filled..]).await {
            Ok(count @ 1..) => filled += count,
            _ => return,
        }
    }
    let line = String::from_utf8_lossy(&request[..filled]);
    let number = line.split(['/', ' ']).nth(2).and_then(|number| number.parse::<usize>().ok());
    if let Some(number) = number {
        let mut visits = visits.borrow_mut();
        let last = visits.last.get_mut(number).and_then(|last| last.replace(came));
        if let Some(last) = last.filter(|_| visits.watched) {
            visits.late.push((came - last).saturating_sub(INTERVAL));
        }
    }
    let _ = stream.write_all(ANSWER).await;
    // The one who asked closes first: that side can use the port again at once.
    let _ = stream.read(&mut request).await;
}
