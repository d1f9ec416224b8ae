//! Prints the CPU time that our gossip core and foca's need for the same work, one member of a pool alone:
//!
//! ```text
//! cargo run --release -p muster-agent --example gossip_cores -- 100 1000 10000
//! ```
//!
//! `learn all`: the first list of all members. `apply 25`: a datagram of 25 updates that are known already. `round, full`:
//! one round of gossip while there are updates of the whole pool to pass on, as when a fleet starts; `round, steady`: one
//! without any.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foca::{
    Config, Foca, Identity, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer,
};
use muster_agent::gossip::core::{Input, Output};
use muster_agent::gossip::message::{Knowledge, KnownMember, Message, Response};
use muster_agent::gossip::{Core, Details, State, TIME_AT_START, Tags, Time, Timing};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const UPDATES: usize = 25;

/// Times of one core.
struct Times {
    learn: Duration,
    apply: Duration,
    round_full: Duration,
    round_steady: Duration,
}

fn main() {
    println!("| members | core | learn all | apply {UPDATES} | round, full | round, steady |");
    println!("|---|---|---|---|---|---|");
    for size in std::env::args().skip(1).filter_map(|size| size.parse().ok()) {
        for (name, times) in [("foca", foca(size)), ("ours", ours(size))] {
            let Times { learn, apply, round_full, round_steady } = times;
            println!(
                "| {size} | {name} | {learn:.1?} | {apply:.2?} | {round_full:.2?} | {round_steady:.2?} |"
            );
        }
    }
}

/// Mean time of `count` calls.
fn mean(count: u32, mut call: impl FnMut()) -> Duration {
    let began = Instant::now();
    for _ in 0..count {
        call();
    }
    began.elapsed() / count
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member(Uuid, SocketAddr, u64);

impl Identity for Member {
    type Addr = Uuid;

    fn renew(&self) -> Option<Member> {
        Some(Member(self.0, self.1, self.2 + 1))
    }

    fn addr(&self) -> Uuid {
        self.0
    }

    fn win_addr_conflict(&self, adversary: &Member) -> bool {
        self.2 > adversary.2
    }
}

/// Counts what is sent, as a driver would take it over.
#[derive(Default)]
struct Sent(usize);

impl Runtime<Member> for &mut Sent {
    fn notify(&mut self, _: Notification<'_, Member>) {}

    fn send_to(&mut self, _: Member, data: &[u8]) {
        self.0 += data.len();
    }

    fn submit_after(&mut self, _: Timer<Member>, _: Duration) {}
}

fn address(number: usize) -> SocketAddr {
    let [_, a, b, c] = u32::try_from(number).expect("fewer than four billion").to_be_bytes();
    (Ipv4Addr::new(10, a, b, c), 8301).into()
}

fn foca(size: usize) -> Times {
    let member = |number: usize| Member(Uuid::from_u128(number as u128 + 1), address(number), 1);
    let others: Vec<_> = (1..size).map(|it| foca::Member::alive(member(it))).collect();
    let config = Config::new_lan(
        NonZeroU32::new(u32::try_from(size).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN),
    );
    let rng = SmallRng::seed_from_u64(1);
    let mut core: Foca<Member, _, _, NoCustomBroadcast> =
        Foca::new(member(0), config, rng, PostcardCodec);
    let mut sent = Sent::default();
    let began = Instant::now();
    core.apply_many(others.iter().cloned(), true, &mut sent).expect("sound updates");
    let learn = began.elapsed();
    let round_full = mean(20, || core.gossip(&mut sent).expect("it sends"));
    while core.updates_backlog() > 0 {
        core.gossip(&mut sent).expect("it sends");
    }
    let round_steady = mean(1000, || core.gossip(&mut sent).expect("it sends"));
    let known: Vec<_> = others.iter().rev().take(UPDATES).cloned().collect();
    let apply = mean(1000, || {
        core.apply_many(known.iter().cloned(), true, &mut sent).expect("sound updates");
    });
    assert!(sent.0 > 0 && core.num_members() == size - 1);
    Times { learn, apply, round_full, round_steady }
}

fn ours(size: usize) -> Times {
    let details = |number: usize| Details {
        name: format!("node-{number}").into(),
        id: Uuid::from_u128(number as u128 + 1),
        address: address(number),
        incarnation: 1,
        tags: Tags::default(),
    };
    let others: Vec<Arc<Details>> = (1..size).map(|it| Arc::new(details(it))).collect();
    let timing = Timing::default();
    let interval = timing.gossip_interval;
    let mut now: Time = TIME_AT_START;
    let mut core = Core::new(now, details(0), timing, 1);
    let mut out = Vec::new();
    core.step(now, Input::Join { token: 0, address: address(1) }, &mut out);
    let asked = out.iter().find_map(|output| match output {
        Output::Ask { token, .. } => Some(*token),
        _ => None,
    });
    let known = |details: &Arc<Details>| KnownMember {
        details: details.clone(),
        state: State::Alive,
        age: Duration::ZERO,
    };
    let answer = Response::Exchange(Box::new(Knowledge {
        join: true,
        from: others[0].clone(),
        members: others.iter().map(known).collect(),
        events: Vec::new(),
        event_clock: 2,
    }));
    let input = Input::Answered { token: asked.expect("who joins asks"), result: Ok(answer) };
    let began = Instant::now();
    core.step(now, input, &mut out);
    let learn = began.elapsed();
    out.clear();
    // A round of gossip comes with a tick of its interval; what else is due then is done, too.
    let mut round = |core: &mut Core| {
        now += interval;
        core.step(now, Input::Tick, &mut out);
        out.clear();
    };
    for other in &others {
        core.step(
            TIME_AT_START,
            Input::Packet(vec![Message::Alive(newer(other))]),
            &mut Vec::new(),
        );
    }
    let round_full = mean(20, || round(&mut core));
    while core.updates() > 0 {
        round(&mut core);
    }
    let round_steady = mean(20, || round(&mut core));
    let known: Vec<Message> =
        others.iter().rev().take(UPDATES).map(|it| Message::Alive(newer(it))).collect();
    let mut out = Vec::new();
    let apply = mean(1000, || {
        core.step(now, Input::Packet(known.clone()), &mut out);
        out.clear();
    });
    Times { learn, apply, round_full, round_steady }
}

/// A later statement of the same member.
fn newer(details: &Details) -> Arc<Details> {
    Arc::new(Details { incarnation: 2, ..details.clone() })
}
