//! Membership as a value: inputs and the time go in, outputs come out. It knows no socket, no task,
//! no clock; chance comes from a seed, so that equal inputs give equal outputs.
//!
//! The protocol is SWIM with Lifeguard's corrections:
//!
//! ```text
//! probe.rs    ping one member after the other ─▶ silent: ask others, and by TCP ─▶ Suspect
//! rival.rs    one name, claimed from two places: who has it, and when it passes on
//! rumour.rs   Alive, Suspect, Failed, Left: which statement wins, and what it changes
//! refusal.rs  what is not believed: statements beyond the limits, new names beyond a number
//! meeting.rs  all that two members know, exchanged over a connection: on joining, then now and then
//!
//!           Alive ──no answer──▶ Suspect ──no objection──▶ Failed ──long──▶ (forgotten)
//!             ▲                     │                        │
//!             └──── objects with a greater incarnation ──────┘      any ──says good-bye──▶ Left
//! ```
//!
//! A statement about a member is ordered by the member's incarnation, then by state.

mod digest;
mod io;
mod probe;
mod push_pull;
mod refusal;
mod rival;
mod rumour;
mod twin;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use indexmap::IndexMap;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::broadcast::{self, Broadcasts};
use super::member::{Details, Incarnation, Member, Name, State, Status, Time, UserEvent};
use super::message::{Claim, Knowledge, Message, Summary};
use super::newcomers::Newcomers;
use super::suspicion::{Awareness, Suspicion};
use super::validate::CLOCKS_DIFFER_MAX;
use super::vivaldi::{Coordinate, LocalCoordinate};
use digest::Digest;
pub use io::{Counters, Input, Notice, Output, Timing, Token, Unanswered};
use push_pull::Purpose;
use rival::Rival;

/// Room for messages in a datagram that passes every usual network whole, encryption included.
pub const PACKET_ROOM: usize = 1400 - 48;
/// Names of members that were pruned, kept so that late news of them bring nothing back.
const FORGOTTEN_MAX: usize = 1024;
/// Events known by id, so that none is heard twice.
const EVENTS_KNOWN_MAX: usize = 512;
/// Events that pass in a meeting: late ones, for who missed them as they went round.
const EVENTS_TOLD_MAX: usize = 64;
/// Which are late ones.
const EVENT_LATE: Duration = Duration::from_secs(30);
/// Members that have been gone for long are looked for at this interval.
const REAP_INTERVAL: Duration = Duration::from_secs(15);
/// The place of the first event.
const FIRST_EVENT: u64 = 1;
/// About as much as a packet holds.
const NEWS_PER_PACKET: usize = 16;
/// Packets beyond the first that a member gets in one round of gossip.
const PACKETS_MORE_MAX: usize = 4;
/// Longest time a good-bye takes.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// Another member.
#[derive(Debug)]
struct Peer {
    details: Arc<Details>,
    state: State,
    /// Since which second. A pool of tens of thousands has as many of these in each member.
    since: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Active,
    Leaving { until: Time },
    Gone,
}

/// A member of a pool.
#[derive(Debug)]
pub struct Core {
    timing: Timing,
    me: Arc<Details>,
    /// When this member began, and its first incarnation: what its wall clock showed.
    begun: (Time, Incarnation),
    phase: Phase,
    rng: SmallRng,
    /// Everybody else, in the order in which they are asked.
    peers: IndexMap<Name, Peer>,
    live: usize,
    failed: usize,
    suspicions: BTreeMap<Name, Suspicion>,
    /// Members of whom somebody said that they are to leave; when they fail, they have left.
    leaving: BTreeSet<Name>,
    /// Other claimants of a member's name.
    rivals: BTreeMap<Name, Rival>,
    /// When a warning of that was last given.
    warned: BTreeMap<Name, Time>,
    /// Others told of somebody else when they were last asked for the member with this one's name.
    is_disowned: bool,
    /// Others told of somebody else when they were last asked for the member with this one's id.
    is_copy: bool,
    ids: twin::Ids,
    /// The last statement of each member that was forgotten, the first to go first.
    forgotten: IndexMap<Name, Incarnation>,
    newcomers: Newcomers,
    refusals: refusal::Refusals,
    broadcasts: Broadcasts,
    awareness: Awareness,
    place: LocalCoordinate,
    /// Coordinates of other members.
    places: OrdMap<Name, Coordinate>,
    digest: Digest,
    /// Others' digests are looked at again from then on.
    next_comparison: Time,
    probe: Option<probe::Probe>,
    relays: VecDeque<probe::Relay>,
    /// Place of the next member to ask.
    turn: usize,
    seq: u32,
    token: Token,
    /// Meetings under way.
    meetings: BTreeMap<Token, Purpose>,
    heard: VecDeque<(Time, Arc<UserEvent>)>,
    event_clock: u64,
    next_probe: Time,
    /// When news were last passed on.
    last_gossip: Time,
    /// When somebody was last told what is believed of it.
    last_reminder: Time,
    next_exchange: Time,
    next_reconnect: Time,
    next_reap: Time,
    /// Pause between attempts of a member whose name is taken.
    retry: Duration,
    counters: Counters,
}

impl Core {
    /// A member that knows nobody. `seed` decides what chance will bring.
    pub fn new(now: Time, me: Details, timing: Timing, seed: u64) -> Core {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut within = |pause: Duration| now + pause.mul_f64(rng.random_range(0.0..1.0));
        let (next_probe, next_exchange, next_reconnect) = (
            within(timing.probe_interval),
            within(timing.exchange_interval),
            within(timing.reconnect_interval),
        );
        let me = Arc::new(me);
        let mut digest = Digest::default();
        digest.toggle(&me, State::Alive);
        Core {
            timing,
            begun: (now, me.incarnation),
            me,
            phase: Phase::Active,
            peers: IndexMap::new(),
            live: 0,
            failed: 0,
            suspicions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            rivals: BTreeMap::new(),
            warned: BTreeMap::new(),
            is_disowned: false,
            is_copy: false,
            ids: twin::Ids::default(),
            forgotten: IndexMap::new(),
            newcomers: Newcomers::default(),
            refusals: refusal::Refusals::default(),
            broadcasts: Broadcasts::default(),
            awareness: Awareness::default(),
            place: LocalCoordinate::default(),
            places: OrdMap::new(),
            digest,
            next_comparison: now,
            probe: None,
            relays: VecDeque::new(),
            turn: usize::MAX,
            seq: rng.random(),
            token: 0,
            meetings: BTreeMap::new(),
            heard: VecDeque::new(),
            event_clock: FIRST_EVENT,
            next_probe,
            last_gossip: now,
            last_reminder: Time::ZERO,
            next_exchange,
            next_reconnect,
            next_reap: now + REAP_INTERVAL,
            retry: Duration::from_secs(1),
            counters: Counters::default(),
            rng,
        }
    }

    /// Takes one input at a time; what is to be done is added to `out`.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => self.time_passes(now, out),
            Input::Packet(messages) => {
                for message in messages {
                    self.message(now, message, out);
                }
            }
            Input::Asked { token, request } => {
                let answer = self.asked(now, request, out);
                out.push(Output::Response { token, answer });
            }
            Input::Answered { token, result } => self.answered(now, token, result, out),
            Input::Join { token, address } => {
                let own = self.meet(now, address, true, out);
                self.meetings.insert(own, Purpose::Join(token));
            }
            Input::Leave => self.leave(now, out),
            Input::ForceLeave { name, prune } => {
                if let Some(peer) = self.peers.get(&name) {
                    let claim = Claim {
                        id: peer.details.id,
                        incarnation: peer.details.incarnation,
                        name,
                        from: self.me.name.clone(),
                    };
                    self.left(now, &Arc::new(claim), prune, out);
                }
            }
            Input::Fire(mut event) => {
                event.ltime = self.event_clock;
                if let Err(unfit) = event.validate() {
                    self.refuse(now, &unfit, out);
                    return;
                }
                self.event(now, &Arc::new(event), false, out);
            }
            Input::SetTags(tags) => {
                let incarnation = self.me.incarnation.saturating_add(1);
                let me = Details { incarnation, tags, ..Details::clone(&self.me) };
                if let Err(unfit) = me.validate() {
                    self.refuse(now, &unfit, out);
                    return;
                }
                self.speak(me);
                out.push(Output::Notice(Notice::Updated(self.me.name.clone())));
            }
        }
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn deadline(&self) -> Time {
        let mut earliest = self.next_exchange.min(self.next_reap).min(self.next_reconnect);
        let mut consider = |time: Time| earliest = earliest.min(time);
        match &self.probe {
            Some(probe) => consider(probe.next()),
            None if self.live > 0 && self.phase == Phase::Active => consider(self.next_probe),
            None => {}
        }
        if !self.broadcasts.is_empty() && !self.peers.is_empty() {
            consider(self.last_gossip + self.timing.gossip_interval);
        }
        if let Some(relay) = self.relays.front() {
            consider(relay.nack_at);
        }
        for suspicion in self.suspicions.values() {
            consider(suspicion.deadline());
        }
        if let Phase::Leaving { until } = self.phase {
            // The last of the news may have gone with an answer.
            consider(if self.broadcasts.is_empty() { Time::ZERO } else { until });
        }
        earliest
    }

    /// This member's own details.
    pub fn me(&self) -> &Arc<Details> {
        &self.me
    }

    /// A member by name; this one included.
    pub fn member(&self, name: &str) -> Option<Member> {
        if *name == *self.me.name {
            return Some(self.myself());
        }
        self.peers.get(name).map(|peer| self.seen(peer))
    }

    /// Everybody, this one included, in no order.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        std::iter::once(self.myself()).chain(self.peers.values().map(|peer| self.seen(peer)))
    }

    /// Members that are there, this one included.
    pub fn live(&self) -> usize {
        self.live + 1
    }

    /// Counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Doubt of this member in itself: 0 is none.
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// Does the pool take somebody else for the member with this one's name?
    pub fn is_disowned(&self) -> bool {
        self.is_disowned || self.is_copy
    }

    /// News waiting to be passed on.
    pub fn updates(&self) -> usize {
        self.broadcasts.len()
    }

    /// Coordinate of this member.
    pub fn place(&self) -> &LocalCoordinate {
        &self.place
    }

    /// Coordinates of other members.
    pub fn places(&self) -> &OrdMap<Name, Coordinate> {
        &self.places
    }

    /// The order of events as far as it got.
    pub fn event_clock(&self) -> u64 {
        self.event_clock
    }

    fn myself(&self) -> Member {
        let status = match self.phase {
            Phase::Active => Status::Alive,
            Phase::Leaving { .. } => Status::Leaving,
            Phase::Gone => Status::Left,
        };
        let conflict = self.rivals.get(&self.me.name).map(Rival::text);
        Member { details: Arc::clone(&self.me), status, conflict }
    }

    fn seen(&self, peer: &Peer) -> Member {
        let status = match peer.state {
            State::Alive | State::Suspect if self.leaving.contains(&peer.details.name) => {
                Status::Leaving
            }
            State::Alive | State::Suspect => Status::Alive,
            State::Failed => Status::Failed,
            State::Left => Status::Left,
        };
        let conflict = self.rivals.get(&peer.details.name).map(Rival::text);
        Member { details: Arc::clone(&peer.details), status, conflict }
    }

    /// Does whatever is due.
    fn time_passes(&mut self, now: Time, out: &mut Vec<Output>) {
        self.doubts_end(now, out);
        self.probe_goes_on(now, out);
        self.relays_end(now, out);
        if now >= self.next_reap {
            self.next_reap = now + REAP_INTERVAL;
            self.reap(now, out);
            self.rivals_end(now, out);
        }
        self.meetings(now, out);
        if now >= self.last_gossip + self.timing.gossip_interval {
            self.gossip(now, out);
        }
        if let Phase::Leaving { until } = self.phase
            && (now >= until || self.broadcasts.is_empty())
        {
            self.phase = Phase::Gone;
            out.push(Output::Gone);
        }
    }

    /// Passes news on to a few.
    fn gossip(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.broadcasts.is_empty() {
            return;
        }
        self.last_gossip = now;
        let recently = self.timing.gossip_to_gone;
        let mut chosen = match self.phase {
            Phase::Active => Vec::new(),
            Phase::Leaving { .. } | Phase::Gone => self.pick_answering(self.timing.gossip_nodes),
        };
        for address in self.pick(self.timing.gossip_nodes, |peer| {
            peer.state.is_live() || now < peer.since() + recently
        }) {
            if chosen.len() < self.timing.gossip_nodes && !chosen.contains(&address) {
                chosen.push(address);
            }
        }
        // Much news at once, as when a fleet starts, goes in several packets.
        let packets = 1 + (self.broadcasts.len() / NEWS_PER_PACKET).min(PACKETS_MORE_MAX);
        for to in chosen {
            for _ in 0..packets {
                let messages = self.with_news(Vec::new());
                if messages.is_empty() {
                    return;
                }
                out.push(Output::Send { to, messages });
            }
        }
    }

    /// Fills a packet up with news.
    fn with_news(&mut self, mut messages: Vec<Message>) -> Vec<Message> {
        let used: usize = messages.iter().map(Message::size).sum();
        let times = broadcast::times(self.timing.retransmit_mult, self.live + 1);
        self.broadcasts.fill(&mut messages, PACKET_ROOM.saturating_sub(used), times);
        messages
    }

    /// Addresses of up to `count` members by chance, none twice.
    fn pick(&mut self, count: usize, wanted: impl Fn(&Peer) -> bool) -> Vec<SocketAddr> {
        /// In pools up to this size all are looked at; in larger ones, places by chance.
        const SMALL: usize = 64;
        let mut chosen: Vec<usize> = Vec::with_capacity(count);
        let total = self.peers.len();
        if total <= SMALL {
            let mut places: Vec<usize> = (0..total).filter(|at| wanted(&self.peers[*at])).collect();
            while chosen.len() < count && !places.is_empty() {
                chosen.push(places.swap_remove(self.rng.random_range(0..places.len())));
            }
        } else {
            for _ in 0..3 * SMALL {
                if chosen.len() == count {
                    break;
                }
                let at = self.rng.random_range(0..total);
                if !chosen.contains(&at) && wanted(&self.peers[at]) {
                    chosen.push(at);
                }
            }
        }
        chosen.into_iter().map(|at| self.peers[at].details.address).collect()
    }

    /// Addresses of up to `count` members by chance that have answered before. A good-bye has little time, and names that
    /// somebody made up must not take it.
    fn pick_answering(&mut self, count: usize) -> Vec<SocketAddr> {
        let answering = self.places.keys().filter_map(|name| self.peers.get(name));
        let mut live: Vec<SocketAddr> = answering
            .filter(|peer| peer.state.is_live())
            .map(|peer| peer.details.address)
            .collect();
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count && !live.is_empty() {
            chosen.push(live.swap_remove(self.rng.random_range(0..live.len())));
        }
        chosen
    }

    /// Says something new of oneself. Who leaves takes its good-bye back for nobody: it says it anew, later than what it
    /// objects to.
    fn speak(&mut self, me: Details) {
        self.digest.toggle(&self.me, State::Alive);
        self.me = Arc::new(me);
        self.digest.toggle(&self.me, State::Alive);
        self.repeat();
    }

    /// Says what this member said last.
    fn repeat(&mut self) {
        let updates = match self.phase {
            Phase::Active => Message::Alive(Arc::clone(&self.me)),
            Phase::Leaving { .. } | Phase::Gone => self.good_bye(),
        };
        self.broadcasts.push(updates, Some(self.me.name.clone()));
    }

    fn good_bye(&self) -> Message {
        let claim = Claim {
            name: self.me.name.clone(),
            id: self.me.id,
            incarnation: self.me.incarnation,
            from: self.me.name.clone(),
        };
        Message::Left { claim: Arc::new(claim), prune: false }
    }

    /// The largest incarnation that anybody believes. It grows with time, so that there is always room for a member to
    /// object to whatever was believed before.
    fn incarnation_max(&self, now: Time) -> Incarnation {
        let (begun, clock) = self.begun;
        let since = u64::try_from(now.saturating_sub(begun).as_millis()).unwrap_or(u64::MAX);
        clock.saturating_add(since).saturating_add(CLOCKS_DIFFER_MAX)
    }

    /// Objects to what is said of oneself: `incarnation` was the last that was spoken of. What nobody believes is not
    /// taken for a number to get ahead of.
    fn refute(&mut self, now: Time, incarnation: Incarnation) {
        self.counters.refutations += 1;
        let said = if incarnation > self.incarnation_max(now) { 0 } else { incarnation };
        let incarnation = said.max(self.me.incarnation).saturating_add(1);
        self.speak(Details { incarnation, ..Details::clone(&self.me) });
    }

    /// Passes on at once what must not wait, unless something was passed on just now: who is told one thing after
    /// the other must not make this member flood the others.
    fn gossip_urgently(&mut self, now: Time, out: &mut Vec<Output>) {
        if now >= self.last_gossip + self.timing.gossip_interval / 8 {
            self.gossip(now, out);
        }
    }

    fn leave(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.phase != Phase::Active {
            return;
        }
        let time = if self.live > 0 { LEAVE_MAX } else { Duration::ZERO };
        self.phase = Phase::Leaving { until: now + time };
        self.probe = None;
        if self.live > 0 {
            self.broadcasts.push(self.good_bye(), Some(self.me.name.clone()));
            self.gossip(now, out);
        }
        out.push(Output::Notice(Notice::Updated(self.me.name.clone())));
    }

    /// Hears an event, once. Who is `deaf` only remembers that it was heard.
    fn event(&mut self, now: Time, event: &Arc<UserEvent>, deaf: bool, out: &mut Vec<Output>) {
        let known = EVENTS_KNOWN_MAX as u64;
        if event.ltime.saturating_add(known) < self.event_clock
            || self.heard.iter().any(|(_, heard)| heard.id == event.id)
        {
            return;
        }
        // A clock that somebody set to the end of time must not stop all others.
        let sane = event.ltime.min(self.event_clock.saturating_add(u64::from(u32::MAX)));
        self.event_clock = self.event_clock.max(sane.saturating_add(1));
        if self.heard.len() == EVENTS_KNOWN_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back((now, Arc::clone(event)));
        if !deaf {
            self.broadcasts.push(Message::Event(Arc::clone(event)), None);
            out.push(Output::Notice(Notice::Event(Arc::clone(event))));
        }
    }

    /// Events of late, the last first.
    fn late_events(&self, now: Time) -> Vec<Arc<UserEvent>> {
        let late = self.heard.iter().rev().take(EVENTS_TOLD_MAX);
        late.filter(|(at, _)| now < *at + EVENT_LATE).map(|(_, event)| Arc::clone(event)).collect()
    }

    fn summary(&self, now: Time) -> Summary {
        Summary {
            digest: self.digest.parts(),
            events: self.late_events(now),
            event_clock: self.event_clock,
        }
    }

    fn knowledge(&self, now: Time, join: bool) -> Knowledge {
        Knowledge {
            join,
            from: Arc::clone(&self.me),
            members: self.peers.values().map(|peer| peer.known(now)).collect(),
            events: self.late_events(now),
            event_clock: self.event_clock,
        }
    }

    fn next_token(&mut self) -> Token {
        self.token += 1;
        self.token
    }

    /// Is `id` this member's own?
    fn is_me(&self, name: &str, id: Uuid) -> bool {
        *name == *self.me.name && id == self.me.id
    }
}
