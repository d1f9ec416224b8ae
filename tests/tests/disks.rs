//! Servers whose disk is slow, or fails: nothing that was acknowledged is lost, and nothing is acknowledged that is not
//! durable.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    agents::Agent,
    disk::{Fault, Flush, can_fail},
    http::{self, Connection},
    servers::{LIMIT, cluster, holds, leader, put},
    wait::eventually,
};
use serde_json::json;

const SLOW: Duration = Duration::from_millis(200);
const WRITES: u32 = 150;

/// Writers that go on, each with keys of its own, until they are told or their server is gone.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<BTreeMap<String, String>>>,
}

impl Writers {
    fn begin(servers: &[&Agent], prefix: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = servers.iter().enumerate().map(|(who, server)| {
            let (address, stop) = (server.address(), Arc::clone(&stop));
            let prefix = format!("{prefix}-{who}");
            thread::spawn(move || write(&address, &prefix, &stop))
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    /// What was acknowledged.
    fn end(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.into_iter().flat_map(|it| it.join().expect("a writer does not panic")).collect()
    }
}

fn write(address: &str, prefix: &str, stop: &AtomicBool) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    let Ok(mut connection) = Connection::open(address) else { return acknowledged };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("{prefix}-{number}"), format!("{prefix} {number}"));
        let path = format!("/v1/kv/{key}");
        match connection.send("PUT", &path, &[], value.as_bytes()) {
            Ok(reply) if reply.status == 200 && reply.text().trim() == "true" => {
                acknowledged.insert(key, value);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    acknowledged
}

fn fault(server: &mut Agent, flush: Flush) -> Result<Fault> {
    let log = server.data().with_file_name("tracer.log");
    Fault::begin(server.process()?, flush, &log)
}

#[test]
fn a_follower_on_a_slow_disk_holds_nobody_up() -> Result<()> {
    if !can_fail()? {
        return Ok(());
    }
    let mut servers = cluster(3, &json!({}))?;
    let leading = leader(&servers)?;
    let slow = (leading + 1) % 3;
    let fault = fault(&mut servers[slow], Flush::Late(SLOW))?;
    let began = Instant::now();
    let mut written = BTreeMap::new();
    for number in 0..WRITES {
        let key = format!("k{number}");
        put(&servers[leading], &key, "x")?;
        written.insert(key, "x".to_owned());
    }
    let took = began.elapsed();
    println!("{WRITES} writes one after the other, one of three flushes {SLOW:?} late: {took:?}");
    // Each of them would have waited for its flush.
    ensure!(took < SLOW * WRITES, "{took:?}");
    // It keeps up, since it flushes many at once, and it does so before it is quick again.
    holds(&servers[slow], &written)?;
    fault.end()?;
    put(&servers[slow], "after", "x")?;
    servers.iter_mut().try_for_each(Agent::kill)?;
    servers.iter_mut().try_for_each(Agent::start)?;
    servers.iter().try_for_each(|server| holds(server, &written))
}

#[test]
fn acknowledgements_wait_for_a_majority_of_disks() -> Result<()> {
    if !can_fail()? {
        return Ok(());
    }
    let mut servers = cluster(3, &json!({}))?;
    let leading = leader(&servers)?;
    let first = fault(&mut servers[leading], Flush::Late(SLOW))?;
    let mut written = BTreeMap::new();
    for number in 0..30 {
        let key = format!("leader-{number}");
        put(&servers[leading], &key, "x")?;
        written.insert(key, "x".to_owned());
    }
    // Two of three are slow: whoever leads, one of them is needed.
    let second = fault(&mut servers[(leading + 1) % 3], Flush::Late(SLOW))?;
    for number in 0..10 {
        let key = format!("two-{number}");
        let began = Instant::now();
        put(&servers[leading], &key, "x")?;
        ensure!(began.elapsed() >= SLOW, "acknowledged after {:?}", began.elapsed());
        written.insert(key, "x".to_owned());
    }
    let all: Vec<&Agent> = servers.iter().chain(&servers).collect();
    let writers = Writers::begin(&all, "many");
    eventually(LIMIT, "they write", || {
        let reply = servers[leading].get("/v1/kv/many?keys&stale")?.json()?;
        ensure!(reply.as_array().is_some_and(|it| it.len() > 50), "{reply}");
        Ok(())
    })?;
    servers.iter_mut().try_for_each(Agent::kill)?;
    let acknowledged = writers.end();
    println!("{} acknowledged by six writers before all were killed", acknowledged.len());
    written.extend(acknowledged);
    drop((first, second));
    servers.iter_mut().try_for_each(Agent::start)?;
    servers.iter().try_for_each(|server| holds(server, &written))
}

/// Waits until a server has ended by itself, and checks that it said which file it could not flush.
fn ended_by_its_disk(server: &mut Agent, file: &str) -> Result<()> {
    let status = server.ended(LIMIT)?;
    ensure!(!status.success(), "{status}");
    let log = server.log();
    // Others may have heard of theirs, and this one of others'.
    let own = server.data().display().to_string();
    let mut lines = log.lines().filter(|line| line.contains(&own));
    let named = lines.find(|line| line.contains("cannot flush log"));
    let named = named.with_context(|| format!("the file is not named in\n{log}"))?;
    ensure!(named.contains(file) && named.contains("Input/output error"), "{named}");
    Ok(())
}

#[test]
fn a_lone_server_whose_flush_fails_acknowledges_nothing_more() -> Result<()> {
    acknowledges_nothing_more("wal", ".wal")
}

#[test]
fn nor_does_one_with_the_other_store() -> Result<()> {
    acknowledges_nothing_more("sled", "sled/db")
}

/// With the log in this store, whose file has such a name.
fn acknowledges_nothing_more(backend: &str, file: &str) -> Result<()> {
    if !can_fail()? {
        return Ok(());
    }
    let mut servers = cluster(1, &json!({"raft_logstore": {"backend": backend}}))?;
    let mut written = BTreeMap::new();
    for (round, flush) in [Flush::Fails, Flush::FailsOnce].into_iter().enumerate() {
        for number in 0..20 {
            let key = format!("before-{round}-{number}");
            put(&servers[0], &key, "x")?;
            written.insert(key, "x".to_owned());
        }
        let fault = fault(&mut servers[0], flush)?;
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let (address, path) = (servers[0].address(), format!("/v1/kv/lost-{number}"));
                thread::spawn(move || http::put(&address, &path, b"x"))
            })
            .collect();
        for writer in writers {
            if let Ok(reply) = writer.join().expect("no panic") {
                ensure!(reply.status != 200, "acknowledged: {}", reply.text());
            }
        }
        ended_by_its_disk(&mut servers[0], file)?;
        drop(fault);
        servers[0].start()?;
        put(&servers[0], "again", "x")?;
        holds(&servers[0], &written)?;
    }
    Ok(())
}

#[test]
fn a_leader_whose_flush_fails_makes_way() -> Result<()> {
    if !can_fail()? {
        return Ok(());
    }
    let mut servers = cluster(3, &json!({}))?;
    let mut written = BTreeMap::new();
    for flush in [Flush::Fails, Flush::FailsOnce] {
        let leading = leader(&servers)?;
        let others: Vec<&Agent> =
            servers.iter().enumerate().filter(|(it, _)| *it != leading).map(|(_, it)| it).collect();
        let writers = Writers::begin(&others, &format!("{flush:?}"));
        let fault = fault(&mut servers[leading], flush)?;
        ended_by_its_disk(&mut servers[leading], ".wal")?;
        drop(fault);
        // The others go on.
        let other = (leading + 1) % 3;
        put(&servers[other], &format!("without-{leading}"), "x")?;
        written.insert(format!("without-{leading}"), "x".to_owned());
        let acknowledged = writers.end();
        println!("{flush:?}: {} acknowledged meanwhile", acknowledged.len());
        written.extend(acknowledged);
        servers[leading].start()?;
        servers.iter().try_for_each(|server| holds(server, &written))?;
    }
    Ok(())
}
