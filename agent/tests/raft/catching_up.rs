//! A server that is too far behind for the log, and a state that is replaced while the leader
//! changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use muster_agent::raft::Error;
use muster_agent::store::Store;
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENCE, propose};
use crate::support::{get, put};

async fn until(cluster: &Cluster, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}{}", cluster.picture());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Names and contents of a server's snapshots.
fn snapshots(folder: &Path, number: usize) -> BTreeSet<(String, Vec<u8>)> {
    let folder = folder.join(format!("s{}/raft/snapshots", number + 1));
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    files
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "snap"))
        // One may be removed for a newer one at this moment.
        .filter_map(|file| {
            let name = file.file_name().into_string().unwrap();
            Some((name, std::fs::read(file.path()).ok()?))
        })
        .collect()
}

/// Bytes of the snapshot, and bytes that were sent; nothing if the leader changed meanwhile.
async fn catch_up_over_broken_connections() -> Option<(u64, u64)> {
    let mut cluster = Cluster::new(3, 3);
    (cluster.snapshot_threshold, cluster.trailing_logs) = (600, 0);
    cluster.raft_multiplier = 5;
    for number in 0..3 {
        cluster.start(number).await;
    }
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.stop(behind).await;
    // 16 MiB that stay, in enough entries for a snapshot and a purge.
    for key in 0..700 {
        let value = format!("{key:08}").repeat(3 << 10);
        propose(cluster.consensus(leader), put(&format!("k{key}"), value)).await.unwrap();
    }
    let folder = cluster.folder.path().to_owned();
    until(&cluster, "a snapshot", || !snapshots(&folder, leader).is_empty()).await;
    let whole =
        snapshots(&folder, leader).iter().map(|(_, bytes)| bytes.len() as u64).max().unwrap();
    assert!(whole > 12 << 20, "{whole}");

    let leader = cluster.leader().await;
    let term = cluster.consensus(leader).configuration().term;
    let before = cluster.carried(leader, behind);
    cluster.start(behind).await;
    let arrived = |cluster: &Cluster| cluster.carried(leader, behind) - before;
    for part in 1..=3 {
        until(&cluster, "a part arrives", || arrived(&cluster) > part * whole / 4).await;
        cluster.break_connections();
    }
    let back = cluster.consensus(behind);
    until(&cluster, "it catches up", || get(back, "k699").is_some()).await;
    let arrived = arrived(&cluster);
    let same =
        cluster.leader().await == leader && cluster.consensus(leader).configuration().term == term;
    for key in 0..700 {
        let found = get(back, &format!("k{key}")).unwrap();
        assert!(found.starts_with(&format!("{key:08}")) && found.len() == 24 << 10);
    }
    // It was the leader's snapshot and not its log.
    let both = &snapshots(&folder, leader) & &snapshots(&folder, behind);
    assert!(!same || !both.is_empty(), "no snapshot in common");
    cluster.shutdown().await;
    same.then_some((whole, arrived))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_where_its_connection_broke() {
    // Another leader begins anew, and has every right to.
    for _ in 0..4 {
        if let Some((whole, arrived)) = catch_up_over_broken_connections().await {
            println!("{whole} bytes in a snapshot, {arrived} sent over four connections");
            // Three times from the beginning would be 7/4 of it.
            assert!(arrived < whole * 3 / 2, "{arrived} bytes for {whole}: it began anew");
            return;
        }
    }
    panic!("never was there one leader for long enough");
}

/// A state of `count` keys.
async fn state(count: usize) -> Store {
    let alone = Cluster::formed(1).await;
    for key in 0..count {
        let value = "r".repeat(256 << 10);
        propose(alone.consensus(0), put(&format!("restored-{key}"), value)).await.unwrap();
    }
    let state = (*alone.consensus(0).store()).clone();
    alone.shutdown().await;
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_asked_of_a_follower_survives_a_change_of_leaders_or_changes_nothing() {
    const KEYS: usize = 24;
    let state = state(KEYS).await;
    let mut cluster = Cluster::formed(3).await;
    for (round, polite) in [true, false].into_iter().enumerate() {
        let marker = format!("present-{round}");
        while let Err(error) = propose(cluster.consensus(0), put(&marker, "x")).await {
            assert!(matches!(error, Error::Unknown(_)), "{error}");
        }
        let leader = cluster.leader().await;
        let asked = cluster.consensus((leader + 1) % 3).clone();
        let began = asked.store().index();
        let restoring = tokio::spawn({
            let (asked, state) = (asked.clone(), state.clone());
            async move { asked.restore(state).await }
        });
        // In the middle of it another comes to lead.
        until(&cluster, "some parts are there", || asked.store().index() > began + 3).await;
        if polite {
            let _ = cluster.consensus(leader).transfer_leader(None).await;
        } else {
            cluster.stop(leader).await;
        }
        let restored = restoring.await.unwrap();
        println!("leader {}: {restored:?}", if polite { "handed over" } else { "stopped" });
        if !polite {
            cluster.start(leader).await;
        }
        cluster.leader().await;
        let counts = || {
            let keys = |it: &muster_agent::raft::Consensus| {
                let all = (0..KEYS).filter(|key| get(it, &format!("restored-{key}")).is_some());
                (all.count(), get(it, &marker).is_some())
            };
            cluster.running().map(|(_, it)| keys(it)).collect::<BTreeSet<_>>()
        };
        for (_, consensus) in cluster.running() {
            while consensus.read_barrier().await.is_err() {}
        }
        let counts = counts();
        let (all, none) = (BTreeSet::from([(KEYS, false)]), BTreeSet::from([(0, true)]));
        match restored {
            Ok(_) => assert_eq!(counts, all, "round {round}"),
            Err(Error::Unknown(_)) => assert!(counts == all || counts == none, "{counts:?}"),
            Err(error) => assert_eq!(counts, none, "round {round}: {error}"),
        }
        // Whatever became of it, the next one works; then back to where it began.
        asked.restore(state.clone()).await.unwrap();
        for (_, consensus) in cluster.running() {
            while consensus.read_barrier().await.is_err() {}
            assert_eq!(get(consensus, "restored-0").map(|value| value.len()), Some(256 << 10));
            assert!(get(consensus, &marker).is_none());
        }
        asked.restore(Store::default()).await.unwrap();
    }
    cluster.shutdown().await;
}
