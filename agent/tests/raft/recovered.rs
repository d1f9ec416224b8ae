//! A majority is lost for good: what one server kept becomes a cluster again.

use std::fs;
use std::time::{Duration, Instant};

use muster_agent::raft::recover::{Folder, Wanted};

use crate::cluster::{Cluster, PATIENCE, id, propose};
use crate::support::{get, put};

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Three servers that agreed on something and were stopped.
async fn stopped() -> Cluster {
    let mut cluster = Cluster::formed(3).await;
    for n in 0..20 {
        propose(cluster.consensus(n % 3), put(&format!("k{n}"), n.to_string())).await.unwrap();
    }
    let everywhere =
        |cluster: &Cluster| (0..3).all(|number| get(cluster.consensus(number), "k19").is_some());
    until("all have it all", || everywhere(&cluster)).await;
    for number in 0..3 {
        cluster.stop(number).await;
    }
    cluster
}

fn wanted(number: usize) -> Wanted {
    Wanted { id: id(number), address: None, voter: true }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_goes_on_alone_and_others_join_it() {
    let mut cluster = stopped().await;
    let folder = cluster.folder.path().join("s1");
    let looked = Folder::open(&folder).unwrap().recover(id(0), &[wanted(0)], true).unwrap();
    assert_eq!((looked.kept.servers.len(), looked.servers.len()), (3, 1));
    assert_eq!(looked.kept.counts.keys, 20);
    // A look changes nothing, and what is done once is not done twice.
    let done = Folder::open(&folder).unwrap().recover(id(0), &[wanted(0)], false).unwrap();
    assert_eq!(done, looked);
    assert_ne!(Some(done.cluster), done.kept.cluster);
    let again = Folder::open(&folder).unwrap().recover(id(0), &[wanted(0)], false).unwrap();
    assert_eq!((again.cluster, again.kept.last), (done.cluster, done.kept.last));

    cluster.expect = 0;
    cluster.start(0).await;
    until("it leads alone", || cluster.consensus(0).is_leader()).await;
    propose(cluster.consensus(0), put("after", "1")).await.unwrap();
    for n in 0..20 {
        assert_eq!(get(cluster.consensus(0), &format!("k{n}")), Some(n.to_string()));
    }
    // While it runs nobody else may touch its folder.
    let busy = Folder::open(&folder).err().expect("it is in use");
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy, "{busy}");

    // A lost one that comes back as it was is not let in; emptied, it joins.
    cluster.start(1).await;
    fs::remove_dir_all(cluster.folder.path().join("s3")).unwrap();
    cluster.start(2).await;
    let voters = |cluster: &Cluster| cluster.consensus(0).configuration().voters();
    until("the emptied one votes", || voters(&cluster) == 2).await;
    until("it has caught up", || get(cluster.consensus(2), "after").is_some()).await;
    assert!(get(cluster.consensus(1), "after").is_none());
    assert!(!cluster.consensus(1).is_leader());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_brought_back_by_a_file_of_peers() {
    let mut cluster = stopped().await;
    let peers = format!(
        r#"[{{"id":"{}","address":"127.0.0.1:1"}},{{"id":"{}","address":"127.0.0.1:2","non_voter":false}}]"#,
        id(0),
        id(1)
    );
    for name in ["s1", "s2"] {
        fs::write(cluster.folder.path().join(name).join("raft/peers.json"), &peers).unwrap();
    }
    cluster.expect = 0;
    cluster.start(0).await;
    cluster.start(1).await;
    let leader = cluster.leader().await;
    assert!(leader < 2);
    propose(cluster.consensus(1 - leader), put("after", "1")).await.unwrap();
    assert_eq!(cluster.consensus(leader).configuration().voters(), 2);
    assert_eq!(get(cluster.consensus(leader), "k19").as_deref(), Some("19"));
    for name in ["s1", "s2"] {
        assert!(!cluster.folder.path().join(name).join("raft/peers.json").exists());
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_and_changes_nothing() {
    let mut cluster = stopped().await;
    let folder = cluster.folder.path().join("s1");
    let unknown = Wanted { id: id(8), address: None, voter: true };
    let error = Folder::open(&folder).unwrap().recover(id(0), &[wanted(0), unknown], false);
    assert!(error.unwrap_err().to_string().contains("address must be given"));
    let empty = tempfile::tempdir().unwrap();
    let error = Folder::open(empty.path()).err().expect("there is nothing");
    assert!(error.to_string().contains("not the data directory of a server"), "{error}");
    for number in 0..3 {
        cluster.start(number).await;
    }
    cluster.leader().await;
    propose(cluster.consensus(0), put("after", "1")).await.unwrap();
    cluster.shutdown().await;
}
