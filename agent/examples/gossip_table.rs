//! Prints how simulated pools do. By hand, and niced:
//!
//! ```text
//! cargo run --release -p muster-agent --example gossip_table -- sizes 100 1000 10000
//! cargo run --release -p muster-agent --example gossip_table -- years 4
//! cargo run --release -p muster-agent --example gossip_table -- stalls
//! ```
//!
//! `sizes`: time until all know of a join and of a death, what a member says for that. A pool of 10,000
//! needs about 8 GB and ten minutes. `years`: members wrongly declared dead in so many years of a
//! member. `stalls`: the same while one member in twenty stops now and then, with Lifeguard's
//! corrections and without.

#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/gossip/world.rs"]
mod world;

use std::time::{Duration, Instant};

use muster_agent::gossip::{Status, Timing};
use world::World;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Members of a pool whose years are counted, and of one that stalls.
const POOL: usize = 128;
/// Those of them that stall: 5 %.
const STALLING: usize = 6;

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or_default();
    let numbers: Vec<usize> = args.filter_map(|arg| arg.parse().ok()).collect();
    match kind.as_str() {
        "years" => years(numbers.first().copied().unwrap_or(1)),
        "stalls" => stalls(),
        _ => sizes(&numbers),
    }
}

/// A pool that knows itself, with nothing on its way.
fn pool(count: usize, timing: Timing, seed: u64) -> World {
    let mut world = World::new(seed, timing);
    world.grow(count);
    world.acquaint();
    world.run(MINUTE);
    assert!(world.is_whole());
    world
}

fn sizes(sizes: &[usize]) {
    println!("1 % of datagrams lost, the reference's timings, seed 1");
    println!(
        "| members | join known to half | to 99 % | to all | a process dies: first knows | all know | a machine is gone: first knows | all know | bytes/s each, datagrams | connections | wrongly declared | took |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for count in sizes {
        size(*count);
    }
}

fn size(count: usize) {
    let began = Instant::now();
    let mut world = pool(count, Timing::default(), 1);
    world.network.loss = 0.01;
    world.weigh_streams = true;
    let (bytes, streams, at) = (world.bytes, world.stream_bytes, world.now);
    world.run(MINUTE);
    let seconds = world.now.saturating_sub(at).as_secs_f64();
    let each = |bytes: u64| bytes as f64 / seconds / count as f64;
    let (rate, stream_rate) = (each(world.bytes - bytes), each(world.stream_bytes - streams));
    world.weigh_streams = false;

    world.grow(count + 1);
    world.join(count, count / 2);
    let knows = |world: &World, part: f64| {
        let aware = world.running().filter(|(_, core)| core.live() == count + 1).count();
        aware as f64 >= part * (count + 1) as f64
    };
    let joined = steps(&mut world, [0.5, 0.99, 1.0], knows);
    world.run(MINUTE);
    let mut left = count + 1;
    let [died, lost] =
        [(count / 3, World::kill as fn(&mut World, usize)), (count / 2, World::lose)].map(
            |(dead, end)| {
                left -= 1;
                end(&mut world, dead);
                let gone = |world: &World, part: f64| {
                    let seen = |who| world.sees(who, dead) == Some(Status::Failed);
                    let aware = world.running().filter(|(who, _)| seen(*who)).count();
                    aware as f64 >= (part * left as f64).max(1.0)
                };
                let times = steps(&mut world, [0.0, 0.5, 1.0], gone);
                world.run(MINUTE);
                times
            },
        );
    println!(
        "| {count} | {} | {} | {} | {} | {} | {} | {} | {rate:.0} | {stream_rate:.1} | {} | {:.0} s |",
        joined[0],
        joined[1],
        joined[2],
        died[0],
        died[2],
        lost[0],
        lost[2],
        world.wrongly_declared.len(),
        began.elapsed().as_secs_f64(),
    );
}

/// When these parts of the pool had come to know, from now on.
fn steps(world: &mut World, parts: [f64; 3], knows: impl Fn(&World, f64) -> bool) -> [String; 3] {
    let since = world.now;
    parts.map(|part| {
        let known = world.until(10 * MINUTE, |world| knows(world, part));
        let time = world.now.saturating_sub(since).as_secs_f64();
        known.map_or_else(|| "never".to_owned(), |_| format!("{time:.1} s"))
    })
}

fn years(years: usize) {
    println!("{POOL} members, {years} years of a member");
    println!("| datagrams lost | wrongly declared dead | denied doubts | took |");
    println!("|---|---|---|---|");
    for loss in [0.0, 0.01] {
        let began = Instant::now();
        let mut world = pool(POOL, Timing::default(), 2);
        world.network.loss = loss;
        let hours = years * 24 * 365 / POOL + 1;
        for _ in 0..hours {
            world.run(HOUR);
        }
        let denied: u64 = world.running().map(|(_, core)| core.counters().refutations).sum();
        println!(
            "| {:.0} % | {} | {denied} | {:.0} s |",
            loss * 100.0,
            world.wrongly_declared.len(),
            began.elapsed().as_secs_f64()
        );
    }
}

fn stalls() {
    println!("{POOL} members of which {STALLING} stop now and then; half an hour each");
    println!(
        "| runs | stops | plain: healthy declared dead | all | Lifeguard: healthy declared dead | all | all, of plain |"
    );
    println!("|---|---|---|---|---|---|---|");
    let plain = Timing { suspicion_max_mult: 1, awareness_max: 0, ..Timing::default() };
    let mut sums = [0, 0, 0, 0];
    for runs in [SECOND / 16, SECOND, 4 * SECOND, 16 * SECOND] {
        for stops in [2 * SECOND, 8 * SECOND, 16 * SECOND, 32 * SECOND] {
            let [(plain_healthy, plain_all), (healthy, all)] =
                [&plain, &Timing::default()].map(|timing| stalling(timing.clone(), runs, stops));
            println!(
                "| {runs:?} | {stops:?} | {plain_healthy} | {plain_all} | {healthy} | {all} | {:.1} % |",
                100.0 * all as f64 / (plain_all as f64).max(1.0)
            );
            for (sum, part) in sums.iter_mut().zip([plain_healthy, plain_all, healthy, all]) {
                *sum += part;
            }
        }
    }
    let [plain_healthy, plain_all, healthy, all] = sums;
    println!(
        "| together | | {plain_healthy} | {plain_all} | {healthy} | {all} | {:.1} % |",
        100.0 * all as f64 / (plain_all as f64).max(1.0)
    );
}

/// Members wrongly declared dead: healthy ones, and all.
fn stalling(timing: Timing, runs: Duration, stops: Duration) -> (usize, usize) {
    let mut world = pool(POOL, timing, 3);
    let ill: Vec<usize> = (0..STALLING).map(|number| number * POOL / STALLING).collect();
    world.network.stalls = ill.iter().map(|who| (*who, (runs, stops))).collect();
    world.run(HOUR / 2);
    let healthy = world.wrongly_declared.iter().filter(|(_, whom)| !ill.contains(whom)).count();
    (healthy, world.wrongly_declared.len())
}
