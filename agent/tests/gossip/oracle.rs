//! The same random history of joins, failures, restarts and leaves goes through our core and through foca's. Both must end
//! with the same member lists on every member: those that run.
//!
//! `GOSSIP_ORACLE_HISTORIES=2000 cargo nextest run -p muster-agent --test gossip oracle` runs more of them,
//! `GOSSIP_ORACLE_SEED=7` one alone.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_agent::gossip::core::Input;
use muster_agent::gossip::{Status, Timing};
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use crate::foca_pool::FocaPool;
use crate::world::{Who, World};

const MEMBERS_MAX: usize = 16;
const STEPS: usize = 12;
/// Longer than both need to agree after the last event: terms of suspicion, and their spreading.
const QUIET: Duration = Duration::from_mins(3);

/// One history in both pools.
struct Both {
    ours: World,
    foca: FocaPool,
    running: BTreeSet<Who>,
    known: usize,
}

impl Both {
    fn start(&mut self, who: Who, through: Who) {
        if who == self.known {
            self.known += 1;
            self.ours.grow(self.known);
        } else {
            self.ours.start(who);
        }
        self.foca.start(who);
        if who != through {
            self.ours.join(who, through);
            self.foca.join(who, through);
        }
        self.running.insert(who);
    }

    fn kill(&mut self, who: Who) {
        self.ours.kill(who);
        self.foca.kill(who);
        self.running.remove(&who);
    }

    fn leave(&mut self, who: Who) {
        self.ours.tell(who, Input::Leave);
        self.foca.leave(who);
        // A leaving agent stays until the others have heard of it.
        self.run(Duration::from_secs(3));
        self.ours.kill(who);
        self.running.remove(&who);
    }

    fn run(&mut self, time: Duration) {
        self.ours.run(time);
        self.foca.run(time);
    }

    /// The members that `who` takes for alive in our pool.
    fn ours_sees(&self, who: Who) -> BTreeSet<Who> {
        (0..self.known).filter(|other| self.ours.sees(who, *other) == Some(Status::Alive)).collect()
    }

    fn agree(&self, seed: u64) {
        for who in &self.running {
            let (ours, foca) = (self.ours_sees(*who), self.foca.sees(*who).unwrap_or_default());
            assert_eq!(ours, foca, "seed {seed}: the lists of member {who} differ (ours, foca's)");
            assert_eq!(ours, self.running, "seed {seed}: the list of member {who} is wrong");
        }
    }
}

fn history(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut pools = Both {
        ours: World::new(seed, Timing::default()),
        foca: FocaPool::new(seed, 16),
        running: BTreeSet::new(),
        known: 0,
    };
    pools.start(0, 0);
    for who in 1..4 {
        pools.start(who, 0);
        pools.run(Duration::from_secs(1));
    }
    pools.ours.network.loss = rng.random_range(0.0..0.05);
    for _ in 0..STEPS {
        let some = *pools.running.iter().choose(&mut rng).expect("two always run");
        match rng.random_range(0..4) {
            0 if pools.running.len() > 2 => pools.kill(some),
            1 if pools.running.len() > 2 => pools.leave(some),
            2 => {
                // A killed or departed member comes back, often before the others have noticed.
                let away = (0..pools.known).filter(|who| !pools.running.contains(who));
                if let Some(who) = away.choose(&mut rng) {
                    pools.start(who, some);
                }
            }
            _ if pools.known < MEMBERS_MAX => pools.start(pools.known, some),
            _ => {}
        }
        pools.run(Duration::from_millis(rng.random_range(1_000..30_000)));
    }
    pools.ours.network.loss = 0.0;
    pools.run(QUIET);
    pools.agree(seed);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn our_core_and_foca_agree_on_who_is_there() {
    if let Some(seed) = number("GOSSIP_ORACLE_SEED") {
        return history(seed);
    }
    for seed in 0..number("GOSSIP_ORACLE_HISTORIES").unwrap_or(20) {
        history(seed);
    }
}
