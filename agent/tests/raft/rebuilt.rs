//! Servers that lose their disks and come back under their names with other ids: the new one takes the
//! place of the old one, and nobody counts for long who is not there.
//!
//! Histories by chance: `MUSTER_REBUILT_ROUNDS` of them (2 without), the first with the seed
//! `MUSTER_REBUILT_SEED` (by chance without), `MUSTER_REBUILT_AT_ONCE` at a time: for the most part they wait.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use muster_agent::raft::types::ServerId;
use muster_agent::raft::{Error, Presence};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENCE, Patience, propose};
use crate::support::{get, put};

/// Waits until every server that runs knows exactly those that run as voters, and nobody else.
async fn settled(cluster: &Cluster, seed: u64) {
    let wanted: BTreeSet<ServerId> =
        cluster.running().map(|(number, _)| cluster.id(number)).collect();
    let mut patience = Patience::new();
    loop {
        let is_settled = cluster.running().all(|(number, _)| {
            let (voters, learners) = cluster.members(number);
            voters == wanted && learners.is_empty()
        });
        if is_settled {
            return;
        }
        let goes_on = patience.turn().await;
        assert!(
            goes_on,
            "seed {seed}: voters are not those that run, {wanted:?}: {}",
            cluster.picture()
        );
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

#[expect(clippy::print_stdout, reason = "a failing history shows its steps")]
fn tell(seed: u64, what: &str) {
    println!("seed {seed}: {what}");
}

/// Attempts of what takes seconds each.
const ATTEMPTS_MAX: u32 = 20;

/// Servers that die, leave, come back and are built anew, while elections come in between.
struct History {
    seed: u64,
    rng: SmallRng,
    cluster: Cluster,
    /// Keys of all changes that were acknowledged.
    acknowledged: Vec<String>,
}

impl History {
    async fn new(seed: u64) -> History {
        let mut rng = SmallRng::seed_from_u64(seed);
        let count = if rng.random_bool(0.5) { 3 } else { 5 };
        let cluster = Cluster::formed(count).await;
        History { seed, rng, cluster, acknowledged: Vec::new() }
    }

    /// Those that run.
    fn running(&self) -> Vec<usize> {
        self.cluster.running().map(|(number, _)| number).collect()
    }

    /// For who looks at a failure.
    fn tell(&self, what: &str) {
        tell(self.seed, what);
    }

    fn any_of(&mut self, numbers: &[usize]) -> usize {
        numbers[self.rng.random_range(0..numbers.len())]
    }

    async fn pause(&mut self) {
        let pause = self.rng.random_range(0..200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// A change through `number`, which may get lost.
    async fn try_to_write(&mut self, number: usize, key: &str) {
        if self.cluster.consensus(number).propose(put(key, "v")).await.is_ok() {
            self.acknowledged.push(key.to_owned());
        }
    }

    /// A change through `number`, until it is acknowledged: twice is as good as once.
    async fn write(&mut self, number: usize, key: &str) {
        let mut left = ATTEMPTS_MAX;
        while let Err(error) = propose(self.cluster.consensus(number), put(key, "v")).await {
            left -= 1;
            let may_go_on = left > 0 && matches!(error, Error::Unknown(_));
            let (seed, picture) = (self.seed, self.cluster.picture());
            assert!(may_go_on, "seed {seed}: {key} through {number}: {error}: {picture}");
        }
        self.acknowledged.push(key.to_owned());
    }

    /// A server that does not run comes back, as it was or built anew.
    async fn comes_back(&mut self, number: usize) {
        let is_anew = self.rng.random_bool(0.6);
        if is_anew {
            self.cluster.rebuild(number);
        }
        self.tell(&format!("{number} comes back, built anew: {is_anew}"));
        self.cluster.start(number).await;
    }

    async fn dies(&mut self, number: usize) {
        self.tell(&format!("{number} dies"));
        self.cluster.stop(number).await;
        if self.rng.random_bool(0.3) {
            self.cluster.tell(number, Presence::Failed);
        }
    }

    /// As `node` does it. One of more than two may die under way.
    async fn leaves(&mut self, number: usize, is_one_of_two: bool) {
        self.tell(&format!("{number} leaves, one of two: {is_one_of_two}"));
        let consensus = self.cluster.consensus(number).clone();
        consensus.hand_over(Duration::from_secs(2)).await;
        self.cluster.tell(number, Presence::Left);
        if is_one_of_two || self.rng.random_bool(0.7) {
            let mut patience = Patience::new();
            while let Err(error) = consensus.leave(Duration::from_secs(5)).await {
                assert!(
                    patience.turn().await,
                    "seed {}: {number} cannot leave: {error}",
                    self.seed
                );
            }
        }
        self.cluster.stop(number).await;
    }

    /// At most a minority is away at once, so that a majority has all of the log.
    async fn step(&mut self, step: usize) {
        let voters = self.running();
        for number in 0..self.cluster.servers.len() {
            if !voters.contains(&number) && self.rng.random_bool(0.5) {
                self.comes_back(number).await;
            }
        }
        let is_one_of_two = voters.len() == 2 && self.running().len() == 2;
        let mut affected = (voters.len() - 1) / 2;
        if affected > 1 {
            affected = self.rng.random_range(1..=affected);
        } else if is_one_of_two {
            affected = 1;
        }
        let mut others = voters;
        for _ in 0..affected {
            let number = others.swap_remove(self.rng.random_range(0..others.len()));
            let other = self.any_of(&others);
            if self.rng.random_bool(0.3) {
                // While there is no leader.
                let leader = self.cluster.leader().await;
                self.tell(&format!("{leader} hands over"));
                let _ = self.cluster.consensus(leader).transfer_leader(None).await;
            }
            if is_one_of_two || self.rng.random_bool(0.3) {
                self.leaves(number, is_one_of_two).await;
            } else {
                self.dies(number).await;
            }
            self.pause().await;
            if self.rng.random_bool(0.8) {
                self.comes_back(number).await;
            } else if self.cluster.presence(number) == Presence::Alive {
                // Sooner or later gossip tells of its death.
                self.cluster.tell(number, Presence::Failed);
            }
            self.tell(&format!("{other} is asked to write"));
            self.try_to_write(other, &format!("amid {step} {number}")).await;
        }
        self.tell("settles");
        settled(&self.cluster, self.seed).await;
        let running = self.running();
        let through = self.any_of(&running);
        self.write(through, &format!("after {step}")).await;
    }

    /// Whoever is left agrees, with as many away as may be, and has all that was acknowledged.
    async fn end(mut self) {
        self.tell("ends");
        let leader = self.cluster.leader().await;
        let others: Vec<usize> = self.running().into_iter().filter(|it| *it != leader).collect();
        for number in &others[..others.len() / 2] {
            self.cluster.stop(*number).await;
        }
        self.write(leader, "last").await;
        let leader = self.cluster.leader().await;
        for key in &self.acknowledged {
            let value = get(self.cluster.consensus(leader), key);
            assert_eq!(value.as_deref(), Some("v"), "seed {}: {key}", self.seed);
        }
        self.cluster.shutdown().await;
    }
}

async fn history(seed: u64) {
    tell(seed, &format!("again: MUSTER_REBUILT_SEED={seed} MUSTER_REBUILT_ROUNDS=1"));
    let mut history = History::new(seed).await;
    for step in 0..4 {
        history.step(step).await;
    }
    history.end().await;
    tell(seed, "well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_history_of_rebuilding_and_leaving_ends_with_those_that_are_there() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("MUSTER_REBUILT_ROUNDS").unwrap_or(2);
    let at_once = number("MUSTER_REBUILT_AT_ONCE").unwrap_or(2);
    let first = number("MUSTER_REBUILT_SEED").unwrap_or_else(rand::random::<u64>);
    let seeds = futures::stream::iter((0..rounds).map(|round| first.wrapping_add(round)));
    let histories = seeds.map(|seed| async move {
        let ended = tokio::spawn(history(seed)).await;
        ended.is_err().then_some(seed)
    });
    let at_once = usize::try_from(at_once).unwrap();
    let failed: Vec<u64> = histories.buffer_unordered(at_once).filter_map(ready).collect().await;
    assert!(failed.is_empty(), "histories that failed, by their seeds: {failed:?}");
}
