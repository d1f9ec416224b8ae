//! A pool of members run by foca, an independent implementation of SWIM: virtual time, one thread, a network that
//! delays datagrams. One seed decides everything.
//!
//! The network loses nothing. Where datagrams get lost, one of two last members can be declared down wrongly, and
//! foca 2.0 does not always bring it back, although it has taken another identity.

#![expect(unreachable_pub, reason = "the example that compares both cores uses this, too")]

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::num::NonZeroU32;
use std::time::Duration;

use foca::{
    Config, Foca, Identity, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::world::Who;

/// A member's name, and a number that grows with each start and each objection to being declared down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub who: Who,
    generation: u64,
}

/// Starts of one member lie this far apart, so that objections in between never reach the next start.
const GENERATIONS_PER_START: u64 = 1 << 32;

impl Member {
    pub fn first(who: Who) -> Member {
        Member { who, generation: 0 }
    }
}

impl Identity for Member {
    type Addr = Who;

    fn renew(&self) -> Option<Member> {
        Some(Member { who: self.who, generation: self.generation + 1 })
    }

    fn addr(&self) -> Who {
        self.who
    }

    fn win_addr_conflict(&self, adversary: &Member) -> bool {
        self.generation > adversary.generation
    }
}

pub type Core = Foca<Member, PostcardCodec, SmallRng, NoCustomBroadcast>;

/// Collects the effects of one call.
#[derive(Default)]
pub struct Effects {
    pub datagrams: Vec<(Who, Vec<u8>)>,
    pub timers: Vec<(Timer<Member>, Duration)>,
}

impl Runtime<Member> for &mut Effects {
    fn notify(&mut self, _: Notification<'_, Member>) {}

    fn send_to(&mut self, to: Member, data: &[u8]) {
        self.datagrams.push((to.who, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Member>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// Interval of asking to be let in until somebody answers: the member that is asked may just have ended.
const JOIN_INTERVAL: Duration = Duration::from_secs(1);

enum Event {
    Datagram(Vec<u8>),
    Join { through: Who },
    Timer(Timer<Member>),
}

struct Due {
    at: Duration,
    order: u64,
    who: Who,
    /// Timers belong to one start of the member; datagrams reach whichever runs.
    start: Option<u64>,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Default)]
struct Node {
    core: Option<Core>,
    starts: u64,
}

/// The pool.
pub struct FocaPool {
    now: Duration,
    size: NonZeroU32,
    nodes: Vec<Node>,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    rng: SmallRng,
}

impl FocaPool {
    /// An empty pool, with the library's own timings for a local network of about `size` members.
    pub fn new(seed: u64, size: u32) -> FocaPool {
        FocaPool {
            now: Duration::ZERO,
            size: NonZeroU32::new(size).expect("a pool has members"),
            nodes: Vec::new(),
            due: BinaryHeap::new(),
            order: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Starts `who` as a new process that knows nobody.
    pub fn start(&mut self, who: Who) {
        while self.nodes.len() <= who {
            self.nodes.push(Node::default());
        }
        let node = &mut self.nodes[who];
        node.starts += 1;
        let identity = Member { who, generation: node.starts * GENERATIONS_PER_START };
        let rng = SmallRng::seed_from_u64(self.rng.random());
        node.core = Some(Foca::new(identity, Config::new_lan(self.size), rng, PostcardCodec));
    }

    /// `who` asks `through` to let it into the pool, until it knows somebody.
    pub fn join(&mut self, who: Who, through: Who) {
        let node = &self.nodes[who];
        if node.core.as_ref().is_some_and(|core| core.num_members() == 0) {
            self.schedule(JOIN_INTERVAL, who, Some(node.starts), Event::Join { through });
            self.with(who, |core, effects| core.announce(Member::first(through), effects));
        }
    }

    /// `who` says good-bye and stops.
    pub fn leave(&mut self, who: Who) {
        self.with(who, |core, effects| core.leave_cluster(effects));
        self.kill(who);
    }

    /// The process of `who` stops without a word.
    pub fn kill(&mut self, who: Who) {
        self.nodes[who].core = None;
    }

    /// The members that `who` takes for alive, itself included; nothing if it does not run.
    pub fn sees(&self, who: Who) -> Option<BTreeSet<Who>> {
        let core = self.nodes.get(who)?.core.as_ref()?;
        Some(core.iter_members().map(|member| member.id().who).chain([who]).collect())
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.due.peek().is_some_and(|due| due.0.at <= end) {
            let Some(Reverse(due)) = self.due.pop() else { break };
            self.now = due.at;
            if due.start.is_some_and(|start| start != self.nodes[due.who].starts) {
                continue;
            }
            match due.event {
                Event::Datagram(data) => {
                    self.with(due.who, |core, effects| core.handle_data(&data, effects));
                }
                Event::Timer(timer) => {
                    self.with(due.who, |core, effects| core.handle_timer(timer, effects));
                }
                Event::Join { through } => {
                    // A member that has ended meanwhile lets nobody in.
                    let runs = |who: &Who| *who != due.who && self.nodes[*who].core.is_some();
                    let through =
                        Some(through).filter(runs).or_else(|| (0..self.nodes.len()).find(runs));
                    if let Some(through) = through {
                        self.join(due.who, through);
                    }
                }
            }
        }
        self.now = end;
    }

    /// Does something with a member that runs, and sends what it wants sent. The library refuses what comes from members
    /// that it has declared down; such an error is part of its protocol.
    fn with(
        &mut self,
        who: Who,
        call: impl FnOnce(&mut Core, &mut Effects) -> Result<(), foca::Error>,
    ) {
        let mut effects = Effects::default();
        let node = &mut self.nodes[who];
        let Some(core) = &mut node.core else { return };
        let _ = call(core, &mut effects);
        let start = Some(node.starts);
        for (timer, after) in effects.timers {
            self.schedule(after, who, start, Event::Timer(timer));
        }
        for (to, data) in effects.datagrams {
            if to < self.nodes.len() {
                let delay = Duration::from_micros(self.rng.random_range(200..=2_000));
                self.schedule(delay, to, None, Event::Datagram(data));
            }
        }
    }

    fn schedule(&mut self, after: Duration, who: Who, start: Option<u64>, event: Event) {
        self.order += 1;
        let at = self.now + after;
        self.due.push(Reverse(Due { at, order: self.order, who, start, event }));
    }
}
