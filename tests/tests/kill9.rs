//! A single durable server may be killed at any moment: every write that it acknowledged is there afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use muster_tests::{
    http::{Connection, Reply},
    process::Server,
    wait::{eventually, pause},
};
use serde_json::json;

const ROUNDS: u64 = 20;
const WRITERS: u64 = 8;

/// What one writer knows: its new keys of this and earlier rounds, and the one key that it overwrites again and again.
#[derive(Debug, Default)]
struct Writer {
    acknowledged: BTreeMap<String, String>,
    counter_acknowledged: u64,
    counter_attempted: u64,
}

#[test]
fn every_acknowledged_write_survives_twenty_kills() -> Result<()> {
    survives_kills("wal")
}

#[test]
fn every_acknowledged_write_survives_twenty_kills_in_the_other_store() -> Result<()> {
    survives_kills("sled")
}

/// With the log in this store.
#[expect(clippy::print_stdout, reason = "figures of a proof")]
fn survives_kills(backend: &str) -> Result<()> {
    let mut server = Server::prepare_with(json!({"raft_logstore": {"backend": backend}}))?;
    let mut writers: Vec<_> = (0..WRITERS).map(|_| Writer::default()).collect();
    let mut index = 0;
    for round in 0..=ROUNDS {
        let started = server.start().with_context(|| format!("start of round {round}"))?;
        index = verify(&server, &writers, index).with_context(|| format!("after kill {round}"))?;
        let written: usize = writers.iter().map(|it| it.acknowledged.len()).sum();
        println!("round {round}: ready after {started:?}, {written} keys, index {index}");
        if round == ROUNDS {
            ensure!(written > 5000, "only {written} writes: this run proves little");
            let log = server.folder().join("data/raft").join(backend);
            ensure!(log.is_dir(), "no log in {}", log.display());
            break;
        }
        writers = write_until_killed(&mut server, writers, round)?;
    }
    Ok(())
}

/// Lets all writers write, kills the server amid that, and returns what they have seen acknowledged.
fn write_until_killed(
    server: &mut Server,
    writers: Vec<Writer>,
    round: u64,
) -> Result<Vec<Writer>> {
    let total = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = writers
        .into_iter()
        .zip(0..)
        .map(|(writer, who)| {
            let (address, total) = (server.address(), Arc::clone(&total));
            thread::spawn(move || write(writer, &address, who, round, &total))
        })
        .collect();
    eventually(Duration::from_secs(20), "all writers at work", || {
        let done = total.load(Ordering::Relaxed);
        ensure!(done >= 40 * WRITERS, "{done} writes");
        Ok(())
    })?;
    // Somewhere in the life of a batch, elsewhere in each round, the same in each run.
    pause(Duration::from_micros(round * 7919 % 40_000));
    server.kill()?;
    Ok(tasks.into_iter().map(|task| task.join().expect("a writer does not panic")).collect())
}

/// Writes until the server is gone.
fn write(mut writer: Writer, address: &str, who: u64, round: u64, total: &AtomicU64) -> Writer {
    let Ok(mut connection) = Connection::open(address) else { return writer };
    for n in 0.. {
        let key = format!("{who}/{round}/{n}");
        let value = "v".repeat(1 + n % 300) + &key;
        if !acknowledged(connection.send(
            "PUT",
            &format!("/v1/kv/new/{key}"),
            &[],
            value.as_bytes(),
        )) {
            break;
        }
        writer.acknowledged.insert(key, value);
        total.fetch_add(1, Ordering::Relaxed);

        writer.counter_attempted += 1;
        let count = writer.counter_attempted.to_string();
        if !acknowledged(connection.send(
            "PUT",
            &format!("/v1/kv/counter/{who}"),
            &[],
            count.as_bytes(),
        )) {
            break;
        }
        writer.counter_acknowledged = writer.counter_attempted;
    }
    writer
}

fn acknowledged<E>(reply: Result<Reply, E>) -> bool {
    reply.is_ok_and(|it| it.status == 200 && it.text().trim() == "true")
}

/// Every acknowledged write is there, the counters stand where they may, and the index has not gone back.
fn verify(server: &Server, writers: &[Writer], index_before: u64) -> Result<u64> {
    if writers.iter().all(|it| it.acknowledged.is_empty()) {
        return Ok(index_before);
    }
    let reply = server.get("/v1/kv/new/?recurse")?;
    let index = reply.index()?;
    ensure!(index >= index_before, "the index went back from {index_before} to {index}");
    let rows = reply.json()?;
    let found: BTreeMap<_, _> = rows
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|row| {
            Some((row["Key"].as_str()?.strip_prefix("new/")?, row["Value"].as_str()?))
        })
        .collect();
    for (who, writer) in writers.iter().enumerate() {
        for (key, value) in &writer.acknowledged {
            let value = BASE64.encode(value);
            ensure!(
                found.get(key.as_str()) == Some(&value.as_str()),
                "{key}: {:?} instead of `{value}`",
                found.get(key.as_str())
            );
        }
        let count = server.get(&format!("/v1/kv/counter/{who}?raw"))?.text();
        let count: u64 = count.parse().with_context(|| format!("counter {who}: `{count}`"))?;
        ensure!(
            (writer.counter_acknowledged..=writer.counter_attempted).contains(&count),
            "counter {who} is {count}, acknowledged {}, attempted {}",
            writer.counter_acknowledged,
            writer.counter_attempted
        );
    }
    Ok(index)
}
