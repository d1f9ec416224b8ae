//! Whatever comes in at a server's port for agents: its memory stays within its bounds, it takes writes, and it starts
//! again from what it has kept.

use std::{env, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    agents::Agent,
    hostile::{METHODS, Peer, Target},
    wait::eventually,
};
use serde_json::{Value, json};

/// In a run of all tests. By hand: more, by `MUSTER_HOSTILE_ROUNDS`.
const ROUNDS: u64 = 120;

/// Far above what a start or an election takes.
const LIMIT: Duration = Duration::from_mins(1);

/// What an idle server of a debug build takes, and the shares that one address has of what a server holds: frames,
/// calls and answers of 96 MiB each, with what an allocator adds.
const MEMORY_MIB_MAX: u64 = 450;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn uuid(text: &str) -> Result<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut bytes = [0; 16];
    ensure!(digits.len() == 32, "{text} is no UUID");
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair)?, 16)?;
    }
    Ok(bytes)
}

/// MiB that the process holds.
fn memory(server: &mut Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process()?.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib >> 10)
}

fn writes(server: &Agent, key: &str, value: &str) -> Result<()> {
    let written = eventually(LIMIT, "a write is taken", || {
        server.put(&format!("/v1/kv/{key}"), value)?;
        ensure!(server.get(&format!("/v1/kv/{key}?raw"))?.text() == value, "another value");
        Ok(())
    });
    written.map(drop)
}

/// A server that runs, and a peer that knows all that there is to know of it.
fn attacked(seed: u64) -> Result<(Agent, Peer)> {
    let more = json!({ "server": true, "bootstrap_expect": 1, "log_level": "INFO" });
    let mut server = Agent::prepare("victim", &more)?;
    server.start()?;
    writes(&server, "watched", "0")?;
    let bond = fs::read(server.data().join("raft/cluster.json"))?;
    let bond: Value = serde_json::from_slice(&bond)?;
    let id = |name: &str| uuid(bond[name].as_str().unwrap_or_default());
    let target = Target { server: id("server")?, cluster: id("cluster")? };
    let address = format!("127.0.0.1:{}", server.config["ports"]["server"]);
    Ok((server, Peer::new(address, target, seed)))
}

/// What the server's decoder says of a body that is no request of the method.
const UNREAD: [&str; 7] = [
    "missing field",
    "invalid type",
    "invalid value",
    "invalid length",
    "unknown variant",
    "wrong msgpack marker",
    "does not answer method",
];

/// A peer whose requests are not understood attacks nothing.
#[test]
fn every_method_understands_what_the_hostile_peer_sends() -> Result<()> {
    let (_server, mut peer) = attacked(1)?;
    for (place, (number, ..)) in METHODS.iter().enumerate() {
        let (mut understood, mut last) = (0, String::new());
        for _ in 0..40 {
            let (kind, rest) = peer.ask(place).with_context(|| format!("method {number}"))?;
            last = format!("kind {kind}: {}", String::from_utf8_lossy(&rest));
            understood += u32::from(kind != 5 || !UNREAD.iter().any(|it| last.contains(it)));
        }
        ensure!(understood >= 5, "method {number} understood {understood} of 40; the last: {last}");
    }
    Ok(())
}

/// The port for agents speaks these numbers.
#[test]
fn the_hostile_peer_knows_every_method() -> Result<()> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src/rpc/method.rs");
    let text = fs::read_to_string(source)?;
    let numbers: Vec<u16> = text
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = ")?.1.parse().ok())
        .collect();
    let known: Vec<u16> = METHODS.iter().map(|(number, ..)| *number).collect();
    ensure!(known.len() > 10 && known == numbers, "{known:?}, and there are {numbers:?}");
    Ok(())
}

#[test]
fn a_hostile_peer_neither_ends_a_server_nor_fills_its_memory() -> Result<()> {
    let rounds = number("MUSTER_HOSTILE_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("MUSTER_HOSTILE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!(
        "again: MUSTER_HOSTILE_SEED={seed} MUSTER_HOSTILE_ROUNDS={rounds} cargo nextest run -p muster-tests --test hostile"
    );
    let (mut server, mut peer) = attacked(seed)?;
    let mut most = memory(&mut server)?;
    for round in 0..rounds {
        let (what, _) = eventually(LIMIT, "the server takes connections", || Ok(peer.act()?))
            .with_context(|| format!("round {round}\n{}", server.log()))?;
        let told = || format!("round {round}: {what}");
        server.process()?.ensure_running().with_context(told)?;
        let held = memory(&mut server)?;
        most = most.max(held);
        ensure!(held < MEMORY_MIB_MAX, "{}: {held} MiB", told());
        if round % 10 == 9 {
            writes(&server, "watched", &round.to_string()).with_context(told)?;
        }
    }
    println!("at most {most} MiB in {rounds} rounds");
    peer.leave();
    writes(&server, "watched", "last")?;
    server.kill()?;
    server.start()?;
    eventually(LIMIT, "it starts again with what it had", || {
        let kept = server.get("/v1/kv/watched?raw")?;
        ensure!(kept.status == 200 && kept.text() == "last", "{} {}", kept.status, kept.text());
        Ok(())
    })
    .with_context(|| server.log())?;
    writes(&server, "watched", "again")
}
