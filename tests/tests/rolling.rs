//! Servers are restarted one after the other while clients write: nobody sees it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use muster_tests::{
    agents::Agent,
    http::Connection,
    servers::{LIMIT, cluster, leader, voters},
    wait::{eventually, pause},
};
use nix::sys::signal::Signal;
use serde_json::json;

const WRITERS: usize = 8;

#[test]
fn no_write_fails_while_servers_are_restarted_one_after_the_other() -> Result<()> {
    // More for proofs by hand.
    let rounds = std::env::var("MUSTER_ROLLING_ROUNDS").ok().and_then(|it| it.parse().ok());
    let rounds: usize = rounds.unwrap_or(1);
    let mut servers = cluster(3, &json!({}))?;
    let all: Vec<_> = servers.iter().map(Agent::gossip).collect();
    let mut client = Agent::prepare("writer", &json!({"retry_join": all}))?;
    client.start()?;
    eventually(LIMIT, "the client agent has servers", || {
        client.put("/v1/kv/first", "x").map(drop)
    })?;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|who| {
            let (address, stop) = (client.address(), Arc::clone(&stop));
            let (written, failed) = (Arc::clone(&written), Arc::clone(&failed));
            thread::spawn(move || write(&address, who, &stop, &written, &failed))
        })
        .collect();
    for signal in (0..rounds).flat_map(|_| [Signal::SIGTERM, Signal::SIGINT]) {
        // The leader last, and then whoever leads by then: each restart of a leader hands over.
        let leading = leader(&servers)?;
        for number in [(leading + 1) % 3, leading, (leading + 2) % 3] {
            servers[number].process()?.signal(signal)?;
            servers[number].ended(LIMIT)?;
            servers[number].start()?;
            voters(&servers, 3)?;
            leader(&servers)?;
        }
    }
    let before = written.load(Ordering::Relaxed);
    eventually(LIMIT, "writes go on", || {
        ensure!(written.load(Ordering::Relaxed) > before + 100);
        Ok(())
    })?;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer does not panic");
    }
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
    let written = written.load(Ordering::Relaxed);
    println!("{written} written, {} failed", failed.len());
    ensure!(failed.is_empty(), "{} of {written} failed: {failed:?}", failed.len());
    ensure!(written > 500, "only {written} writes: this run proves little");
    Ok(())
}

/// Writes without a pause worth mentioning, and notes what went wrong.
fn write(
    address: &str,
    who: usize,
    stop: &AtomicBool,
    written: &AtomicU64,
    failed: &Mutex<Vec<String>>,
) {
    let mut connection: Option<Connection> = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let reply = (|| -> Result<()> {
            let connection = match &mut connection {
                Some(open) if !open.is_over() => open,
                none => none.insert(Connection::open(address)?),
            };
            let path = format!("/v1/kv/rolling/{who}/{}", number % 50);
            let reply = connection
                .send("PUT", &path, &[], b"value")
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
            ensure!(reply.status == 200 && reply.text().trim() == "true", "{}", reply.text());
            Ok(())
        })();
        match reply {
            Ok(()) => drop(written.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                connection = None;
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
            }
        }
        pause(Duration::from_millis(2));
    }
}
