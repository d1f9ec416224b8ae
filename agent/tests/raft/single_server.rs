//! A server that is its own cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use muster_agent::raft::{Consensus, Error, LogBackend};
use muster_agent::store::{Reply, Scope};

use crate::support::{BACKENDS, NODE_ID, get, put, settings};

#[tokio::test]
async fn leads_at_once_and_answers() {
    let started = Instant::now();
    let consensus = Consensus::start(settings(None, LogBackend::Wal)).await.unwrap();
    assert!(consensus.is_leader());
    assert_eq!(consensus.leader().as_deref(), Some("127.0.0.1:8300"));
    assert_eq!(consensus.peers(), ["127.0.0.1:8300"]);
    assert_eq!(consensus.last_contact(), Duration::ZERO);
    let (reply, first) = consensus.propose(put("a", "1")).await.unwrap();
    assert_eq!(reply, Reply::Done);
    assert!(first >= 2, "the library's own entries come first");
    assert!(started.elapsed() < Duration::from_secs(2));
    let (_, second) = consensus.propose(put("a", "2")).await.unwrap();
    assert_eq!(second, first + 1);
    assert_eq!(get(&consensus, "a").as_deref(), Some("2"), "the writer sees its own write");
    assert_eq!(consensus.store().index(), second);
    consensus.read_barrier().await.unwrap();
    consensus.shutdown().await;
    assert!(matches!(consensus.propose(put("a", "3")).await, Err(Error::Shutdown)));
    assert!(consensus.read_barrier().await.is_err());
}

#[tokio::test]
async fn wakes_readers_of_what_changed() {
    let consensus = Consensus::start(settings(None, LogBackend::Wal)).await.unwrap();
    let mut touched = consensus.watches().register(&[Scope::Prefix("app/".into())]);
    let mut other = consensus.watches().register(&[Scope::Prefix("other/".into())]);
    consensus.propose(put("app/a", "1")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), touched.woken()).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(20), other.woken()).await.is_err(),
        "nothing touched it"
    );
    consensus.shutdown().await;
    tokio::time::timeout(Duration::from_secs(10), other.woken()).await.unwrap();
}

/// A lone change is written by the library's own thread; as soon as there are more they gather in
/// the queue. Both ways meet here over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_changes_and_crowds_keep_their_order_on_disk() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let consensus = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
        for round in 0..40 {
            let alone = format!("alone/{round}");
            consensus.propose(put(&alone, alone.clone())).await.unwrap();
            let crowd = (0..round % 5).map(|n| {
                let consensus = consensus.clone();
                let key = format!("crowd/{round}/{n}");
                tokio::spawn(async move { consensus.propose(put(&key, key.clone())).await })
            });
            for task in crowd.collect::<Vec<_>>() {
                task.await.unwrap().unwrap();
            }
        }
        let (store, keys) = (consensus.store(), consensus.store().counts().keys);
        consensus.shutdown().await;
        drop(consensus);
        let again = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
        assert_eq!(again.store().counts().keys, keys);
        assert_eq!(again.store().kv().list("").rows, store.kv().list("").rows);
        again.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_get_indexes_of_their_own() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let consensus = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
        let tasks: Vec<_> = (0..32)
            .map(|proposer| {
                let consensus = consensus.clone();
                tokio::spawn(async move {
                    let mut indexes = Vec::new();
                    for round in 0..20 {
                        let key = format!("{proposer}/{round}");
                        let (_, index) = consensus.propose(put(&key, key.clone())).await.unwrap();
                        let entry = consensus.store().kv().get(&key).rows.unwrap();
                        assert_eq!(entry.modify_index, index, "published before the answer");
                        indexes.push(index);
                    }
                    assert!(indexes.is_sorted());
                    indexes
                })
            })
            .collect();
        let mut indexes = Vec::new();
        for task in tasks {
            indexes.extend(task.await.unwrap());
        }
        indexes.sort_unstable();
        let count = indexes.len();
        indexes.dedup();
        assert_eq!(indexes.len(), count, "no two changes share an index");
        assert_eq!(indexes.last().copied(), Some(consensus.store().index()));
        consensus.shutdown().await;
    }
}

#[tokio::test]
async fn tells_its_figures() {
    let consensus = Consensus::start(settings(None, LogBackend::Wal)).await.unwrap();
    let (_, index) = consensus.propose(put("a", "1")).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let figures = loop {
        let figures: BTreeMap<_, _> = consensus.stats().into_iter().collect();
        // The library's figures follow a moment later.
        if figures["applied_index"] == index.to_string() || Instant::now() > deadline {
            break figures;
        }
        tokio::task::yield_now().await;
    };
    let names: Vec<&str> = figures.keys().copied().collect();
    assert_eq!(
        names,
        [
            "applied_index",
            "commit_index",
            "fsm_pending",
            "last_contact",
            "last_log_index",
            "last_log_term",
            "last_snapshot_index",
            "last_snapshot_term",
            "latest_configuration",
            "latest_configuration_index",
            "num_peers",
            "protocol_version",
            "protocol_version_max",
            "protocol_version_min",
            "snapshot_version_max",
            "snapshot_version_min",
            "state",
            "term",
        ]
    );
    assert_eq!(figures["applied_index"], index.to_string());
    assert_eq!(figures["state"], "Leader");
    assert_eq!(figures["num_peers"], "0");
    assert_eq!(
        figures["latest_configuration"],
        format!("[{{Suffrage:Voter ID:{NODE_ID} Address:127.0.0.1:8300}}]")
    );
    consensus.shutdown().await;
}

#[tokio::test]
async fn leadership_is_told() {
    let consensus = Consensus::start(settings(None, LogBackend::Wal)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), consensus.leadership_changed(false))
        .await
        .unwrap();
    let later = tokio::time::timeout(Duration::from_millis(20), consensus.leadership_changed(true));
    assert!(later.await.is_err(), "it still leads");
    consensus.shutdown().await;
    tokio::time::timeout(Duration::from_secs(10), consensus.leadership_changed(true))
        .await
        .unwrap();
    assert!(!consensus.is_leader());
    assert_eq!(consensus.leader(), None);
}

#[tokio::test]
async fn a_change_beyond_the_limit_is_refused() {
    let consensus = Consensus::start(settings(None, LogBackend::Wal)).await.unwrap();
    let error = consensus.propose(put("large", vec![0; 9 << 20])).await.unwrap_err();
    assert!(matches!(&error, Error::Storage(source) if source.to_string().contains("exceeds")));
    consensus.propose(put("fits", vec![0; 7 << 20])).await.unwrap();
    assert_eq!(get(&consensus, "large"), None);
    consensus.shutdown().await;
}
