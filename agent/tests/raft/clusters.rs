//! Servers that form, grow, lose and find each other.

use std::time::Duration;

use muster_agent::raft::{Error, KnownServers, Presence};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENCE, id, propose};
use crate::support::{get, put};

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_form_one_cluster_and_serve_from_each() {
    let began = Instant::now();
    let cluster = Cluster::formed(3).await;
    println!("formed after {:?}", began.elapsed());
    for number in 0..3 {
        let key = format!("from-{number}");
        propose(cluster.consensus(number), put(&key, "x")).await.unwrap();
        // A server that forwards has applied nothing yet; after a barrier it has.
        for (_, consensus) in cluster.running() {
            consensus.read_lease().await.unwrap();
            assert_eq!(get(consensus, &key).as_deref(), Some("x"));
        }
        let other = cluster.consensus((number + 1) % 3);
        other.read_barrier().await.unwrap();
    }
    for (_, consensus) in cluster.running() {
        assert_eq!(consensus.peers().len(), 3);
        assert!(consensus.knows_leader());
        assert!(consensus.last_contact() < Duration::from_secs(5));
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_views_never_form_two_clusters() {
    // Server 1 is seen by nobody at first, and sees only server 3; 2 and 3 and 4 see each other.
    let mut cluster = Cluster::new(4, 3);
    let mut senders = Vec::new();
    for number in 0..4 {
        let (sender, view) = watch::channel(KnownServers::default());
        cluster.start_seeing(number, view).await;
        senders.push(sender);
    }
    let listed = |number: usize| {
        let address = cluster.address(number);
        (id(number), cluster.listed(number, address))
    };
    let view = |numbers: &[usize]| KnownServers {
        servers: numbers.iter().map(|it| listed(*it)).collect(),
    };
    senders[0].send_replace(view(&[0, 2, 3]));
    for sender in &senders[1..] {
        sender.send_replace(view(&[1, 2, 3]));
    }
    // Whoever wins, in the end all are members of the same cluster.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for sender in &senders {
        sender.send_replace(view(&[0, 1, 2, 3]));
    }
    cluster.leader().await;
    until("all belong to one cluster", || {
        cluster.running().all(|(_, consensus)| consensus.peers().len() == 4)
    })
    .await;
    propose(cluster.consensus(0), put("k", "v")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_leader_is_survived_and_it_comes_back_elsewhere() {
    let mut cluster = Cluster::formed(3).await;
    propose(cluster.consensus(0), put("before", "1")).await.unwrap();
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    cluster.stop(leader).await;
    let began = Instant::now();
    propose(cluster.consensus(other), put("after", "2")).await.unwrap();
    println!("the next write after {:?}", began.elapsed());
    // Back at another address: known by its ID.
    cluster.start(leader).await;
    cluster.leader().await;
    let back = cluster.consensus(leader).clone();
    until("it has caught up", || get(&back, "after").is_some()).await;
    assert_eq!(get(&back, "before").as_deref(), Some("1"));

    // All at once, all at new addresses.
    for number in 0..3 {
        cluster.stop(number).await;
    }
    for number in 0..3 {
        cluster.start(number).await;
    }
    cluster.leader().await;
    propose(cluster.consensus(0), put("again", "3")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_knows_it_and_loses_nothing() {
    let cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.cut(&[leader], &others, true);
    let old = cluster.consensus(leader).clone();
    // Its write is not acknowledged: nothing was done, or nobody knows.
    let pending = tokio::spawn({
        let old = old.clone();
        async move { old.propose(put("k", "lost?")).await }
    });
    // Asked through the old leader the outcome is unknown; of this change twice is as good as once.
    while let Err(error) = propose(cluster.consensus(others[0]), put("k", "new")).await {
        assert!(matches!(error, Error::Unknown(_)), "{error}");
    }
    until("the old leader knows that it leads nobody", || !old.is_leader() && !old.knows_leader())
        .await;
    assert!(matches!(pending.await.unwrap(), Err(Error::Unknown(_) | Error::NoLeader)));
    assert!(matches!(old.read_lease().await, Err(Error::NoLeader)));
    assert!(matches!(old.propose(put("k", "late")).await, Err(Error::NoLeader)));
    cluster.heal();
    cluster.leader().await;
    old.read_barrier().await.unwrap();
    assert_eq!(get(&old, "k").as_deref(), Some("new"));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_join_by_the_roster_and_leave_by_it() {
    let mut cluster = Cluster::new(3, 1);
    cluster.start(0).await;
    propose(cluster.consensus(0), put("k", "v".repeat(100_000))).await.unwrap();
    cluster.expect = 0;
    cluster.start(1).await;
    cluster.start(2).await;
    let voters = |number: usize| {
        let stats = cluster.consensus(number).stats();
        let (_, servers) = stats.iter().find(|(name, _)| *name == "latest_configuration").unwrap();
        servers.matches("Suffrage:Voter").count()
    };
    until("all have a voice", || (0..3).all(|number| voters(number) == 3)).await;
    assert!(get(cluster.consensus(2), "k").is_some());
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    cluster.tell(gone, Presence::Left);
    until("it is removed", || voters(leader) == 2).await;
    cluster.shutdown().await;
}
