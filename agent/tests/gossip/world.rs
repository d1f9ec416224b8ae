//! Many cores in one thread: virtual time, a network that loses, delays and parts, members that are
//! slow. One seed decides everything: the same seed gives the same trace.

#![expect(unreachable_pub, reason = "a table that is printed by hand uses this, too")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use muster_agent::gossip::core::{Input, Notice, Output, Token, Unanswered};
use muster_agent::gossip::message::{Knowledge, KnownMember, Message, Request, Response};
use muster_agent::gossip::{Core, Details, State, Status, TIME_AT_START, Tags, Time, Timing};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// Which member.
pub type Who = usize;

/// What the network does to packets.
#[derive(Debug, Clone)]
pub struct Network {
    /// Part of the datagrams that get lost. Connections lose nothing, or fail.
    pub loss: f64,
    /// Way from one member to another.
    pub delay: (Duration, Duration),
    /// Members that hear and say nothing outside their side.
    pub side: BTreeSet<Who>,
    /// Is the network parted into `side` and the rest?
    pub parted: bool,
    /// Members whose machines are gone: nothing arrives, and nothing comes back.
    pub gone: BTreeSet<Who>,
    /// Datagrams from the first to the second never arrive.
    pub deaf: BTreeSet<(Who, Who)>,
    /// Members that do everything this much later.
    pub slow: BTreeMap<Who, Duration>,
    /// Members that now and then do nothing at all for a while: how long they run, how long not.
    /// What comes meanwhile waits.
    pub stalls: BTreeMap<Who, (Duration, Duration)>,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            loss: 0.0,
            delay: (Duration::from_micros(200), Duration::from_millis(2)),
            side: BTreeSet::new(),
            parted: false,
            gone: BTreeSet::new(),
            deaf: BTreeSet::new(),
            slow: BTreeMap::new(),
            stalls: BTreeMap::new(),
        }
    }
}

#[derive(Debug)]
enum Event {
    Input(Input),
    /// Somebody's question over a connection; the answer goes back under its token.
    Asked(Who, Token, Request),
    Wake,
}

struct Due {
    at: Time,
    order: u64,
    who: Who,
    /// Which life of the member it is meant for.
    life: u32,
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

struct Node {
    core: Option<Core>,
    life: u32,
    /// Questions asked of this member, by the token under which its core knows them.
    asked: BTreeMap<Token, (Who, Token)>,
    token: Token,
    /// When its next wake-up is due.
    wake: Time,
}

/// The world.
pub struct World {
    pub now: Time,
    pub network: Network,
    pub timing: Timing,
    nodes: Vec<Node>,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    rng: SmallRng,
    seed: u64,
    /// All that happened, as one number.
    pub trace: u64,
    /// Datagrams and their bytes; bytes over connections.
    pub datagrams: u64,
    pub bytes: u64,
    pub stream_bytes: u64,
    /// Count bytes of connections too: costs an encoding each.
    pub weigh_streams: bool,
    /// Members declared failed by somebody though they were there.
    pub false_deaths: u64,
    /// The same, as who declared whom, for nobody else had done so before.
    pub wrongly_declared: Vec<(Who, Who)>,
    /// Times that somebody heard a user's event.
    pub events: u64,
    /// Times that somebody saw another one change.
    pub updates: u64,
    /// Members that warned, and their texts.
    pub warnings: Vec<(Who, String)>,
    /// The last changes that members saw: when, who, and what.
    pub log: VecDeque<String>,
    out: Vec<Output>,
}

/// Lines of the log that are kept.
const LOG_LINES: usize = 100;

pub fn name(who: Who) -> Arc<str> {
    format!("node-{who}").into()
}

fn number(name: &str) -> Who {
    name.rsplit('-').next().unwrap_or("0").parse().unwrap_or(0)
}

fn address(who: Who) -> SocketAddr {
    let [_, a, b, c] = u32::try_from(who).expect("fewer than four billion").to_be_bytes();
    (Ipv4Addr::new(10, a, b, c), 8301).into()
}

fn at(address: SocketAddr) -> Who {
    let SocketAddr::V4(address) = address else { panic!("only IPv4 here") };
    let [_, a, b, c] = address.ip().octets();
    u32::from_be_bytes([0, a, b, c]) as usize
}

impl World {
    pub fn new(seed: u64, timing: Timing) -> World {
        World {
            now: TIME_AT_START,
            network: Network::default(),
            timing,
            nodes: Vec::new(),
            due: BinaryHeap::new(),
            order: 0,
            rng: SmallRng::seed_from_u64(seed),
            seed,
            trace: 0,
            datagrams: 0,
            bytes: 0,
            stream_bytes: 0,
            weigh_streams: false,
            false_deaths: 0,
            wrongly_declared: Vec::new(),
            events: 0,
            updates: 0,
            warnings: Vec::new(),
            log: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// Starts members until there are `count`.
    pub fn grow(&mut self, count: usize) {
        while self.nodes.len() < count {
            let who = self.nodes.len();
            self.grow_without_start(who + 1);
            self.start(who);
        }
    }

    /// Makes places for members.
    pub fn grow_without_start(&mut self, count: usize) {
        while self.nodes.len() < count {
            self.nodes.push(Node {
                core: None,
                life: 0,
                asked: BTreeMap::new(),
                token: 0,
                wake: Time::MAX,
            });
        }
    }

    /// Starts a member, as itself.
    pub fn start(&mut self, who: Who) {
        self.start_named(who, &name(who), Uuid::from_u128(who as u128 + 1));
    }

    /// Starts a member under another name, with an id of its own.
    pub fn start_named(&mut self, who: Who, name: &Arc<str>, id: Uuid) {
        self.start_behind(who, name, id, Duration::ZERO);
    }

    /// The same, on a machine whose clock is behind.
    pub fn start_behind(&mut self, who: Who, name: &Arc<str>, id: Uuid, behind: Duration) {
        let tags: [(&str, String); 9] = [
            ("dc", "dc1".into()),
            ("role", "node".into()),
            ("id", id.to_string()),
            ("build", "1.8.7:".into()),
            ("acls", "0".into()),
            ("segment", String::new()),
            ("vsn", "2".into()),
            ("vsn_max", "3".into()),
            ("vsn_min", "2".into()),
        ];
        let tags: Tags = tags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let incarnation =
            u64::try_from(self.now.saturating_sub(behind).as_millis()).expect("not that late");
        let me = Details { name: name.clone(), id, address: address(who), incarnation, tags };
        let seed = self.seed ^ (who as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ incarnation;
        let core = Core::new(self.now, me, self.timing.clone(), seed);
        self.nodes[who].core = Some(core);
        self.nodes[who].life += 1;
        self.reschedule(who);
    }

    /// Has all that run know each other, as if they had met long ago.
    pub fn acquaint(&mut self) {
        let all = self.running().map(|(_, core)| core.me());
        let known = |it: &Arc<Details>| KnownMember {
            details: it.clone(),
            state: State::Alive,
            age: self.now,
        };
        let all: Vec<KnownMember> = all.map(known).collect();
        for who in 0..self.nodes.len() {
            let Some(core) = &mut self.nodes[who].core else { continue };
            core.step(self.now, Input::Join { token: 0, address: address(who) }, &mut self.out);
            let token = self.out.iter().find_map(|output| match output {
                Output::Ask { token, .. } => Some(*token),
                _ => None,
            });
            let (other, from) = ((who + 1) % all.len(), core.me().name.clone());
            let mut members = all.clone();
            members.retain(|it| it.details.name != from);
            let knowledge = Knowledge {
                join: true,
                from: all[other].details.clone(),
                members,
                events: Vec::new(),
                event_clock: 2,
            };
            let result = Ok(Response::Exchange(Box::new(knowledge)));
            let token = token.expect("who joins asks");
            core.step(self.now, Input::Answered { token, result }, &mut self.out);
            self.out.clear();
            self.reschedule(who);
        }
    }

    /// A member's process stops without a word: its machine refuses connections from now on.
    pub fn kill(&mut self, who: Who) {
        self.nodes[who].core = None;
        self.nodes[who].life += 1;
        self.nodes[who].asked.clear();
        self.nodes[who].wake = Time::MAX;
    }

    /// A member's machine is gone, and the member with it.
    pub fn lose(&mut self, who: Who) {
        self.network.gone.insert(who);
        self.kill(who);
    }

    /// A member gets something to do at once.
    pub fn tell(&mut self, who: Who, input: Input) {
        self.step(who, input);
    }

    /// `who` meets the pool through `through`.
    pub fn join(&mut self, who: Who, through: Who) {
        self.tell(who, Input::Join { token: 0, address: address(through) });
    }

    pub fn core(&self, who: Who) -> Option<&Core> {
        self.nodes.get(who)?.core.as_ref()
    }

    pub fn running(&self) -> impl Iterator<Item = (Who, &Core)> {
        self.nodes.iter().enumerate().filter_map(|(who, node)| Some((who, node.core.as_ref()?)))
    }

    /// How a member sees another.
    pub fn sees(&self, who: Who, other: Who) -> Option<Status> {
        self.core(who)?.member(&name(other)).map(|member| member.status)
    }

    /// Do all that run see exactly those that run as alive?
    pub fn is_whole(&self) -> bool {
        let count = self.running().count();
        self.running().all(|(_, core)| core.live() == count)
    }

    /// Runs until `done`, at most for `patience`; says how long it took.
    pub fn until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Option<Duration> {
        /// How often it is looked.
        const LOOK: Duration = Duration::from_millis(100);
        let start = self.now;
        while self.now < start + patience {
            if done(self) {
                return Some(self.now.saturating_sub(start));
            }
            self.run(LOOK);
        }
        done(self).then(|| self.now.saturating_sub(start))
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.due.peek().is_some_and(|Reverse(due)| due.at <= end) {
            let Some(Reverse(due)) = self.due.pop() else { break };
            self.now = due.at;
            let stalled_until = self.stalled_until(due.who);
            let node = &mut self.nodes[due.who];
            if let Some(end) = stalled_until
                && due.life == node.life
            {
                if node.wake == due.at && matches!(due.event, Event::Wake) {
                    node.wake = end;
                }
                self.due.push(Reverse(Due { at: end, ..due }));
                continue;
            }
            if due.life != node.life || node.core.is_none() {
                if let Event::Asked(asker, token, _) = due.event {
                    let refused = Input::Answered {
                        token,
                        result: Err(Unanswered {
                            refused: true,
                            reason: "connect: connection refused".into(),
                        }),
                    };
                    self.send(asker, Duration::ZERO, Event::Input(refused));
                }
                continue;
            }
            match due.event {
                Event::Wake => {
                    if node.wake == due.at {
                        node.wake = Time::MAX;
                        self.step(due.who, Input::Tick);
                    }
                }
                Event::Input(input) => self.step(due.who, input),
                Event::Asked(asker, theirs, request) => {
                    node.token += 1;
                    let token = node.token;
                    node.asked.insert(token, (asker, theirs));
                    self.step(due.who, Input::Asked { token, request });
                }
            }
        }
        self.now = end;
    }

    /// Until when a member does nothing, if it does nothing now. Each begins at another time.
    fn stalled_until(&self, who: Who) -> Option<Time> {
        let (runs, stops) = *self.network.stalls.get(&who)?;
        let round = (runs + stops).as_nanos();
        let shift = round * (who as u128 * 7919 % 1000) / 1000;
        let within = (self.now.as_nanos() + shift) % round;
        let left = u64::try_from(round - within).expect("a round is short");
        (within >= runs.as_nanos()).then(|| self.now + Duration::from_nanos(left))
    }

    fn step(&mut self, who: Who, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        if let Some(core) = &mut self.nodes[who].core {
            let before = core.counters().failures;
            core.step(self.now, input, &mut out);
            if core.counters().failures > before {
                let failed = out.iter().filter_map(|output| match output {
                    Output::Notice(Notice::Failed(name)) => Some(number(name)),
                    _ => None,
                });
                let wrongly: Vec<Who> = failed.filter(|it| self.core(*it).is_some()).collect();
                self.wrongly_declared.extend(wrongly.into_iter().map(|whom| (who, whom)));
            }
        }
        for output in out.drain(..) {
            self.output(who, output);
        }
        self.out = out;
        self.reschedule(who);
    }

    fn output(&mut self, who: Who, output: Output) {
        match output {
            Output::Send { to, messages } => {
                let to = at(to);
                self.datagrams += 1;
                // The frame of the network and the encryption are part of what it costs.
                let size: usize = messages.iter().map(Message::size).sum();
                self.bytes += size as u64 + 1 + 28;
                self.mix(&[1, who as u64, to as u64, size as u64]);
                let lost = self.rng.random_bool(self.network.loss)
                    || self.network.deaf.contains(&(who, to))
                    || self.is_cut(who, to);
                if !lost && to < self.nodes.len() {
                    let way = self.way(who, to);
                    self.send(to, way, Event::Input(Input::Packet(messages)));
                }
            }
            Output::Ask { token, to, request, patience } => {
                let to = at(to);
                self.mix(&[2, who as u64, to as u64]);
                if self.weigh_streams {
                    let bytes = muster_agent::gossip::wire::question(&request).len();
                    self.stream_bytes += bytes as u64;
                }
                if self.is_cut(who, to) || to >= self.nodes.len() {
                    let failed =
                        Input::Answered { token, result: Err("dial tcp: i/o timeout".into()) };
                    self.send(who, patience, Event::Input(failed));
                } else {
                    // There and back before a word is said.
                    let way = self.way(who, to) + self.way(to, who) + self.way(who, to);
                    self.send(to, way, Event::Asked(who, token, request));
                }
            }
            Output::Response { token, answer } => {
                if let Some((asker, theirs)) = self.nodes[who].asked.remove(&token) {
                    self.answer(who, asker, theirs, answer);
                }
            }
            Output::Notice(notice) => self.notice(who, &notice),
            Output::Gone => self.kill(who),
            Output::Joined { .. } => {}
        }
    }

    fn answer(&mut self, who: Who, asker: Who, token: Token, answer: Response) {
        if self.weigh_streams {
            self.stream_bytes += muster_agent::gossip::wire::answer(&answer).len() as u64;
        }
        let way = self.way(who, asker);
        let result = if self.is_cut(who, asker) { Err("i/o timeout".into()) } else { Ok(answer) };
        self.send(asker, way, Event::Input(Input::Answered { token, result }));
    }

    fn notice(&mut self, who: Who, notice: &Notice) {
        let about = number;
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        let since = self.now.saturating_sub(TIME_AT_START);
        self.log.push_back(format!("{since:?} {who}: {notice:?}"));
        let (kind, other) = match notice {
            Notice::Joined(name) => (1, about(name)),
            Notice::Failed(name) => {
                let other: usize = about(name);
                let is_there = self.nodes.get(other).is_some_and(|node| node.core.is_some());
                self.false_deaths += u64::from(is_there);
                (2, other)
            }
            Notice::Left(name) => (3, about(name)),
            Notice::Reaped(name) => (4, about(name)),
            Notice::Updated(name) => {
                self.updates += 1;
                (5, about(name))
            }
            Notice::Event(_) => {
                self.events += 1;
                (6, 0)
            }
            Notice::Warning(text) => {
                self.warnings.push((who, text.clone()));
                (7, 0)
            }
        };
        self.mix(&[3, kind, who as u64, other as u64]);
    }

    fn is_cut(&self, a: Who, b: Who) -> bool {
        let side = |who| self.network.side.contains(&who);
        let gone = |who| self.network.gone.contains(&who);
        gone(a) || gone(b) || self.network.parted && side(a) != side(b)
    }

    fn way(&mut self, from: Who, to: Who) -> Duration {
        let (least, most) = self.network.delay;
        let way = self.rng.random_range(least..=most);
        let slow = |who| self.network.slow.get(&who).copied().unwrap_or_default();
        way + slow(from) + slow(to)
    }

    fn send(&mut self, who: Who, way: Duration, event: Event) {
        self.order += 1;
        let (at, order, life) = (self.now + way, self.order, self.nodes[who].life);
        self.due.push(Reverse(Due { at, order, who, life, event }));
    }

    fn reschedule(&mut self, who: Who) {
        let Some(core) = &self.nodes[who].core else { return };
        let wake = core.deadline().max(self.now);
        if wake < self.nodes[who].wake {
            self.nodes[who].wake = wake;
            self.send(who, wake.saturating_sub(self.now), Event::Wake);
        }
    }

    fn mix(&mut self, words: &[u64]) {
        for word in words.iter().chain([&u64::try_from(self.now.as_nanos()).unwrap_or(0)]) {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }
}
