//! Random faults from a seed: whatever breaks, the histories of all keys have an order, and
//! afterwards everything works again.
//!
//! `MUSTER_FAULT_ROUNDS=2000 MUSTER_FAULT_SEED=7 cargo test -p muster-agent --test raft random_faults`
//! runs more of them, with `MUSTER_FAULT_CLUSTERS=2` on a machine that has much else to do. The faults
//! follow from the seed; when they strike follows from the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_agent::raft::{Consensus, Error};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, PATIENCE, propose};
use crate::linear::{Deed, Operation, check};
use crate::support::{get, put};

const CLIENTS: usize = 4;
const DEEDS: usize = 10;
const KEYS: usize = 2;

/// A deed that takes longer has an unknown outcome.
const DEED_MAX: Duration = Duration::from_millis(1500);

type Servers = Arc<Mutex<Vec<Option<Consensus>>>>;
type Histories = Arc<Mutex<BTreeMap<String, Vec<Operation>>>>;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_leave_every_history_in_order() {
    let rounds = number("MUSTER_FAULT_ROUNDS", 200);
    let seed = number("MUSTER_FAULT_SEED", 1);
    let clusters = number("MUSTER_FAULT_CLUSTERS", 8);
    let each = rounds.div_ceil(clusters);
    let runs: Vec<_> = (0..clusters)
        .map(|nth| {
            tokio::spawn(endure(seed.wrapping_mul(1000) + nth, each, 3 + 2 * usize::from(nth == 0)))
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
    println!("{} rounds in {clusters} clusters, seed {seed}: all in order", each * clusters);
}

async fn endure(seed: u64, rounds: u64, count: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::formed(count).await;
    let began = Instant::now();
    for round in 0..rounds {
        let servers: Servers =
            Arc::new(Mutex::new(cluster.running().map(|(_, it)| Some(it.clone())).collect()));
        let histories = Histories::default();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let random = StdRng::seed_from_u64(random.random());
                let (servers, histories) = (Arc::clone(&servers), Arc::clone(&histories));
                tokio::spawn(work(random, (round, client), servers, histories, began))
            })
            .collect();
        let fault = strike(&mut cluster, &servers, &mut random).await;
        for client in clients {
            client.await.unwrap();
        }
        for (number, consensus) in cluster.running() {
            let recovered = propose(consensus, put("recovered", "x"));
            let recovered = timeout(PATIENCE, recovered).await;
            assert!(
                matches!(recovered, Ok(Ok(_) | Err(Error::Unknown(_)))),
                "seed {seed}, round {round}, {fault}: server {number} says {recovered:?}{}",
                cluster.picture()
            );
        }
        let mut histories = std::mem::take(&mut *histories.lock().unwrap());
        for (key, history) in &mut histories {
            let reader = cluster.consensus(random.random_range(0..count));
            let deadline = Instant::now() + PATIENCE;
            let last = loop {
                if let Some(last) = read(reader, key, began).await {
                    break last;
                }
                assert!(Instant::now() < deadline, "seed {seed}, round {round}, {fault}: no read");
            };
            history.push(last);
            if let Err(why) = check(history) {
                panic!("seed {seed}, round {round}, {fault}, key {key}: {why}");
            }
        }
    }
    cluster.shutdown().await;
}

/// One fault for a while. Returns what it was.
async fn strike(cluster: &mut Cluster, servers: &Servers, random: &mut StdRng) -> String {
    let count = cluster.servers.len();
    let victim = random.random_range(0..count);
    let others: Vec<usize> = (0..count).filter(|it| *it != victim).collect();
    let early = Duration::from_millis(random.random_range(0..60));
    let long = Duration::from_millis(random.random_range(30..300));
    tokio::time::sleep(early).await;
    match random.random_range(0..7) {
        0 | 1 => {
            cluster.cut(&[victim], &others, true);
            tokio::time::sleep(long).await;
            cluster.heal();
            format!("server {victim} alone for {long:?}")
        }
        2 => {
            cluster.cut(&[victim], &others, false);
            tokio::time::sleep(long).await;
            cluster.heal();
            format!("server {victim} unheard for {long:?}")
        }
        3 => {
            cluster.cut(&others, &[victim], false);
            tokio::time::sleep(long).await;
            cluster.heal();
            format!("server {victim} deaf for {long:?}")
        }
        4 => {
            replace(cluster, servers, &[victim], long).await;
            format!("server {victim} down for {long:?}")
        }
        5 => {
            let by = Duration::from_millis(random.random_range(5..400));
            cluster.disks[victim].slow_down(by);
            tokio::time::sleep(2 * long).await;
            cluster.disks[victim].recover();
            format!("the disk of server {victim} slower by {by:?} for {:?}", 2 * long)
        }
        _ => {
            let all: Vec<usize> = (0..count).collect();
            replace(cluster, servers, &all, Duration::ZERO).await;
            "all servers down".to_owned()
        }
    }
}

async fn replace(cluster: &mut Cluster, servers: &Servers, victims: &[usize], long: Duration) {
    for victim in victims {
        servers.lock().unwrap()[*victim] = None;
        cluster.stop(*victim).await;
    }
    tokio::time::sleep(long).await;
    for victim in victims {
        cluster.start(*victim).await;
        servers.lock().unwrap()[*victim] = Some(cluster.consensus(*victim).clone());
    }
}

/// One client: reads and writes at random servers.
async fn work(
    mut random: StdRng,
    (round, client): (u64, usize),
    servers: Servers,
    histories: Histories,
    epoch: Instant,
) {
    for deed in 0..DEEDS {
        let key = format!("{round}-{}", random.random_range(0..KEYS));
        let chosen = {
            let servers = servers.lock().unwrap();
            servers[random.random_range(0..servers.len())].clone()
        };
        let Some(consensus) = chosen else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let done = if random.random_bool(0.5) {
            // Each value is written once, so that a read tells which write it saw.
            write(&consensus, &key, (client * DEEDS + deed + 1) as u64, epoch).await
        } else {
            read(&consensus, &key, epoch).await
        };
        if let Some(done) = done {
            histories.lock().unwrap().entry(key).or_default().push(done);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    }
}

async fn write(consensus: &Consensus, key: &str, value: u64, epoch: Instant) -> Option<Operation> {
    let began = epoch.elapsed().as_nanos();
    let ended = match timeout(DEED_MAX, consensus.propose(put(key, value.to_string()))).await {
        Ok(Ok(_)) => Some(epoch.elapsed().as_nanos()),
        // Nothing was done.
        Ok(Err(Error::NoLeader)) => return None,
        Ok(Err(_)) | Err(_) => None,
    };
    Some(Operation { deed: Deed::Write(value), began, ended })
}

async fn read(consensus: &Consensus, key: &str, epoch: Instant) -> Option<Operation> {
    let began = epoch.elapsed().as_nanos();
    let ready = async {
        // Both kinds must be right.
        if began.is_multiple_of(2) {
            consensus.read_lease().await
        } else {
            consensus.read_barrier().await
        }
    };
    timeout(DEED_MAX, ready).await.ok()?.ok()?;
    let found = get(consensus, key).map_or(0, |text| text.parse().expect("a number"));
    Some(Operation { deed: Deed::Read(found), began, ended: Some(epoch.elapsed().as_nanos()) })
}
