//! Servers that lose their disks and come back under their names with other ids: the new one takes the
//! place of the old one, and nobody counts for long who is not there.
//!
//! Histories by chance: `MUSTER_REBUILT_ROUNDS` of them (2 without), the first with the seed
//! `MUSTER_REBUILT_SEED` (by the clock without).

use std::collections::BTreeSet;
use std::time::Duration;

use muster_agent::raft::Presence;
use muster_agent::raft::types::ServerId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENCE, propose};
use crate::support::{get, put};

/// Waits until every server that runs knows exactly those that run as voters, and nobody else.
async fn settled(cluster: &Cluster, seed: u64) {
    let wanted: BTreeSet<ServerId> =
        cluster.running().map(|(number, _)| cluster.id(number)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is_settled = cluster.running().all(|(number, _)| {
            let (voters, learners) = cluster.members(number);
            voters == wanted && learners.is_empty()
        });
        if is_settled {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "seed {seed}: voters are not those that run, {wanted:?}: {}",
            cluster.picture()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_built_anew_takes_its_old_place_and_another_may_die() {
    let mut cluster = Cluster::formed(3).await;
    propose(cluster.consensus(0), put("before", "1")).await.unwrap();
    let leader = cluster.leader().await;
    let (anew, dies) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.stop(anew).await;
    let old = cluster.id(anew);
    cluster.rebuild(anew);
    cluster.start(anew).await;
    // Never are both counted, not even on the way.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (voters, learners) = cluster.members(leader);
        let new = cluster.id(anew);
        assert!(!(voters.contains(&old) && learners.contains(&new)), "{voters:?} {learners:?}");
        if voters.contains(&new) && !voters.contains(&old) {
            break;
        }
        assert!(Instant::now() < deadline, "{voters:?} {learners:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    settled(&cluster, 0).await;
    let back = cluster.consensus(anew).clone();
    while get(&back, "before").is_none() {
        assert!(Instant::now() < deadline, "it has not caught up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.stop(dies).await;
    cluster.tell(dies, Presence::Failed);
    propose(cluster.consensus(leader), put("after", "2")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_or_has_the_address_of_another_is_replaced() {
    let mut cluster = Cluster::formed(3).await;
    // The leader itself is built anew while the others elect another.
    let first = cluster.leader().await;
    cluster.stop(first).await;
    cluster.rebuild(first);
    cluster.start(first).await;
    settled(&cluster, 0).await;
    // One after the other, each once the last has its place.
    for number in 0..3 {
        cluster.stop(number).await;
        cluster.rebuild(number);
        cluster.start(number).await;
        settled(&cluster, 0).await;
        propose(cluster.consensus(number), put("k", format!("{number}"))).await.unwrap();
    }
    // A voter of which nobody knows anything is not counted for longer than it may be away.
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    cluster.stop(gone).await;
    cluster.rebuild(gone);
    let began = Instant::now();
    settled(&cluster, 0).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    cluster.shutdown().await;
}

/// One history: servers die, come back, are built anew, and elections come in between.
async fn history(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let count = if rng.random_bool(0.5) { 3 } else { 5 };
    let mut cluster = Cluster::formed(count).await;
    for step in 0..4 {
        // At most a minority at once, and each with a majority that has all of the log.
        let mut numbers: Vec<usize> = (0..count).collect();
        let affected = rng.random_range(1..=(count - 1) / 2);
        for _ in 0..affected {
            let number = numbers.swap_remove(rng.random_range(0..numbers.len()));
            let other = numbers[rng.random_range(0..numbers.len())];
            if rng.random_bool(0.3) {
                // Died while there was no leader.
                let leader = cluster.leader().await;
                let _ = cluster.consensus(leader).transfer_leader(None).await;
            }
            cluster.stop(number).await;
            if rng.random_bool(0.3) {
                cluster.tell(number, Presence::Failed);
            }
            if rng.random_bool(0.7) {
                cluster.rebuild(number);
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            cluster.start(number).await;
            let _ = cluster.consensus(other).propose(put("amid", "x")).await;
        }
        settled(&cluster, seed).await;
        let key = format!("{step}");
        // Of this change twice is as good as once.
        while propose(cluster.consensus(0), put(&key, "v")).await.is_err() {}
    }
    // Whoever is left agrees, with as many away as may be.
    let leader = cluster.leader().await;
    for offset in 1..=(count - 1) / 2 {
        cluster.stop((leader + offset) % count).await;
    }
    while let Err(error) = propose(cluster.consensus(leader), put("last", "v")).await {
        assert!(matches!(error, muster_agent::raft::Error::Unknown(_)), "seed {seed}: {error}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_history_of_rebuilding_ends_with_those_that_are_there() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("MUSTER_REBUILT_ROUNDS").unwrap_or(2);
    let first = number("MUSTER_REBUILT_SEED").unwrap_or_else(rand::random::<u64>);
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        println!("seed {seed}; again: MUSTER_REBUILT_SEED={seed} MUSTER_REBUILT_ROUNDS=1");
        history(seed).await;
    }
}
