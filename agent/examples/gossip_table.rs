//! Prints how long a simulated pool takes to know of a join and of a death, and what it says for
//! that. By hand: `cargo run --release -p muster-agent --example gossip_table -- 100 1000 10000`.

#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/gossip/world.rs"]
mod world;

use std::time::{Duration, Instant};

use muster_agent::gossip::{Status, Timing};
use world::World;

const MINUTE: Duration = Duration::from_mins(1);

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    println!("1 % of datagrams lost, reference's timings, seed 1");
    println!(
        "| members | cold start whole | join known to all | death: first knows | death known to all | bytes/s each | false deaths | took |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for count in if sizes.is_empty() { vec![100, 1000] } else { sizes } {
        row(count);
    }
}

fn row(count: usize) {
    let began = Instant::now();
    let verbose = std::env::var_os("VERBOSE").is_some();
    let mut world = World::new(1, Timing::default());
    world.network.loss = 0.01;
    // All at once through the first, as a fleet starts; in ten seconds.
    let mut started = 0;
    for step in 1..=100 {
        let until = (count * step / 100).max(1);
        world.grow(until);
        for who in started.max(1)..until {
            world.join(who, 0);
        }
        started = until;
        world.run(Duration::from_millis(100));
    }
    let mut looks = 0;
    let whole = world.until(20 * MINUTE, |world| {
        looks += 1;
        if verbose && looks % 20 == 0 {
            let mut lives: Vec<usize> = world.running().map(|(_, core)| core.live()).collect();
            lives.sort_unstable();
            let news: usize = world.running().map(|(_, core)| core.news()).sum();
            println!(
                "{} s: least {} median {} most {}, news {}",
                looks / 10,
                lives[0],
                lives[lives.len() / 2],
                lives[lives.len() - 1],
                news / lives.len()
            );
        }
        world.is_whole()
    });
    world.run(MINUTE);
    world.grow(count + 1);
    world.join(count, count / 2);
    let joined = world.until(10 * MINUTE, World::is_whole);
    world.run(MINUTE);
    let (bytes, at) = (world.bytes, world.now);
    world.run(MINUTE / 2);
    let seconds = world.now.saturating_sub(at).as_secs_f64();
    let rate = (world.bytes - bytes) as f64 / seconds / count as f64;
    let dead = count / 3;
    world.kill(dead);
    let seen = |world: &World| {
        world.running().filter(|(who, _)| world.sees(*who, dead) == Some(Status::Failed)).count()
    };
    let first = world.until(10 * MINUTE, |world| seen(world) > 0);
    let rest = world.until(10 * MINUTE, |world| seen(world) == count);
    let show = |time: Option<Duration>| match time {
        None => "never".to_owned(),
        Some(time) => format!("{:.1} s", time.as_secs_f64()),
    };
    println!(
        "| {count} | {} after the last start | {} | {} | {} | {rate:.0} | {} | {:.0} s |",
        show(whole),
        show(joined),
        show(first),
        show(first.zip(rest).map(|(first, rest)| first + rest)),
        world.false_deaths,
        began.elapsed().as_secs_f64(),
    );
}
