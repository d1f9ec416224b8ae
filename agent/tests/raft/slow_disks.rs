//! Disks that are slow or stand still: one of three holds nobody up.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, PATIENCE, propose};
use crate::support::{get, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_disk_that_stands_still_stops_nobody() {
    let cluster = Cluster::formed(3).await;
    for victim in 0..3 {
        let leads = cluster.leader().await == victim;
        let key = |number: usize| format!("{victim}-{number}");
        cluster.disks[victim].hang();
        for number in 0..20 {
            // Asked of the others: this one cannot promise anything.
            let other = cluster.consensus((victim + 1 + number % 2) % 3);
            let written = timeout(PATIENCE, propose(other, put(&key(number), "x"))).await;
            let written = written.unwrap_or_else(|_| panic!("no answer, leads: {leads}"));
            written.unwrap();
        }
        cluster.disks[victim].recover();
        let back = cluster.consensus(victim);
        let deadline = Instant::now() + PATIENCE;
        while get(back, &key(19)).is_none() {
            assert!(Instant::now() < deadline, "it does not catch up{}", cluster.picture());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for number in 0..20 {
            assert_eq!(get(back, &key(number)).as_deref(), Some("x"));
        }
    }
    cluster.shutdown().await;
}
