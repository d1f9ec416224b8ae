//! A server that is its own cluster.

use std::time::{Duration, Instant};

use muster_agent::raft::{Consensus, Error, LogBackend};
use muster_agent::store::{Reply, Scope};

use crate::support::{get, put, settings};

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
    assert!(!consensus.is_leader() || consensus.read_barrier().await.is_err());
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

#[tokio::test]
async fn restarts_with_what_was_acknowledged() {
    for backend in [LogBackend::Wal, LogBackend::Sled] {
        let folder = tempfile::tempdir().unwrap();
        let mut index = 0;
        for round in 0..3 {
            let settings = settings(Some(folder.path()), backend);
            let consensus = Consensus::start(settings).await.unwrap();
            for earlier in 0..round {
                let value = get(&consensus, &format!("k{earlier}"));
                assert_eq!(value, Some(earlier.to_string()), "{backend:?}");
            }
            assert!(consensus.store().index() >= index, "the index never goes back");
            let change = put(&format!("k{round}"), round.to_string());
            index = consensus.propose(change).await.unwrap().1;
            consensus.shutdown().await;
        }
    }
}
