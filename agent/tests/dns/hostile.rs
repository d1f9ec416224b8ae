//! A hostile resolver: queries that are as good as any, and mean harm. Names at their limits, every type, many at once,
//! half sent, never read. After each the agent takes no more memory than it should, and others are answered.
//!
//! More rounds: `MUSTER_HOSTILE_ROUNDS=2000 MUSTER_HOSTILE_SEED=7 cargo nextest run -p muster-agent --test dns hostile`

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::agent::{Agent, DEADLINE};
use crate::wire::{Question, by_udp};

/// Connections that the peer holds at one time.
const HELD_MAX: usize = 100;
/// Memory that the agent may take beyond that of the start.
const MEMORY_MAX: usize = 128 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Bytes of memory of a process.
fn memory(pid: u32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A name on the wire that ends below our domain, or nowhere near it.
fn name(chance: &mut StdRng) -> Vec<u8> {
    let mut labels: Vec<Vec<u8>> = Vec::new();
    let length = *[1_usize, 2, 20, 63].choose(chance).unwrap();
    for _ in 0..chance.random_range(0..(200 / (length + 1)).max(1)) {
        labels.push((0..length).map(|_| chance.random()).collect());
    }
    let endings = [
        "web.service.consul",
        "n1.node.consul",
        "consul",
        "service.consul",
        "example.com",
        "7f000001.addr.consul",
        "1.0.0.127.in-addr.arpa",
        "",
    ];
    let ending = endings.choose(chance).unwrap();
    let mut name = Vec::new();
    for label in labels.iter().map(Vec::as_slice).chain(ending.split('.').map(str::as_bytes)) {
        if !label.is_empty() && name.len() + label.len() + 2 <= 255 {
            name.push(u8::try_from(label.len()).unwrap());
            name.extend_from_slice(label);
        }
    }
    name.push(0);
    name
}

fn query(chance: &mut StdRng) -> Vec<u8> {
    let extras = chance.random_range(0..3_u8);
    let mut packet = vec![chance.random(), chance.random(), chance.random::<u8>() & 0x01, 0];
    packet.extend([0, 1, 0, 0, 0, 0, 0, extras.min(1)]);
    packet.extend(name(chance));
    let kind = *[1_u16, 28, 33, 16, 255, 6, 2, 12, 5, 252, chance.random()].choose(chance).unwrap();
    packet.extend(kind.to_be_bytes());
    packet.extend([0, *[1, 1, 1, 255, 3].choose(chance).unwrap()]);
    if extras > 0 {
        let size: u16 = *[0, 1, 512, 4096, 65_535].choose(chance).unwrap();
        let options = vec![0_u8; 4 * *[0, 1, 100, 1000].choose(chance).unwrap()];
        packet.extend([0, 0, 41]);
        packet.extend(size.to_be_bytes());
        packet.extend([0, 0, chance.random::<u8>() & 0x80, 0]);
        packet.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        packet.extend(options);
    }
    packet
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = u16::try_from(packet.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(packet);
    frame
}

/// One round. A connection is given back if the peer goes on to hold it.
fn harm(agent: &Agent, chance: &mut StdRng) -> Option<TcpStream> {
    if chance.random_range(0..2) == 0 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", agent.dns)).unwrap();
        for _ in 0..chance.random_range(1..200) {
            // Who asks does not listen: it may be refused.
            let _ = socket.send(&query(chance));
        }
        return None;
    }
    let mut stream = TcpStream::connect(("127.0.0.1", agent.dns)).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..*[1, 10, 1000].choose(chance).unwrap() {
        bytes.extend(frame(&query(chance)));
    }
    if chance.random_range(0..2) == 0 {
        bytes.extend([0xff, 0xff, 0, 1]);
    }
    // Answers are never read: the agent stops reading at some point.
    let _ = stream.write_all(&bytes);
    Some(stream)
}

#[test]
fn hostile_resolvers_cost_a_bounded_amount_and_others_go_on() {
    let rounds = number("MUSTER_HOSTILE_ROUNDS", 60);
    let seed = number("MUSTER_HOSTILE_SEED", 1);
    eprintln!(
        "replay: MUSTER_HOSTILE_ROUNDS={rounds} MUSTER_HOSTILE_SEED={seed} cargo nextest run -p muster-agent \
         --test dns hostile"
    );
    let tags: Vec<String> = (0..200).map(|n| format!("tag{n}")).collect();
    let agent = Agent::ours(&json!({"services": [
        {"id": "web1", "name": "web", "tags": tags, "port": 80, "meta": {"text": "x".repeat(500)}},
        {"id": "web2", "name": "web", "port": 81},
    ]}));
    let normal = Question::parse("n1.node.consul A").bytes();
    by_udp(agent.dns, &normal, DEADLINE).expect("an answer");
    let before = memory(agent.pid());
    let mut chance = StdRng::seed_from_u64(seed);
    let mut held = VecDeque::new();
    for round in 0..rounds {
        held.extend(harm(&agent, &mut chance));
        while held.len() > HELD_MAX {
            held.pop_front();
        }
        let more = memory(agent.pid()).saturating_sub(before);
        assert!(more < MEMORY_MAX, "round {round} of seed {seed}: {} MiB more", more >> 20);
        // A packet may be lost behind a thousand others: a resolver asks again.
        let answered = (0..20).any(|_| by_udp(agent.dns, &normal, DEADLINE / 30).is_some());
        assert!(answered, "round {round} of seed {seed}: no answer");
    }
    eprintln!("{} MiB more at the end", memory(agent.pid()).saturating_sub(before) >> 20);
}
