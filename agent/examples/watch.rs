//! What it costs to wait and to wake: nanoseconds each, one thread.
#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "its figures are what it is for"
)]

use std::hint::black_box;
use std::time::Instant;

use muster_agent::raft::{Waiter, Watches};
use muster_agent::store::Scope;

fn main() {
    const COUNT: usize = 200_000;
    let watches = Watches::default();
    let key = |n: usize| Scope::Key(format!("some/folder/key-{n}").into());
    let keys: Vec<Scope> = (0..COUNT).map(key).collect();
    let each = |what: &str, count: usize, started: Instant| {
        println!("{what}: {:.0} ns", started.elapsed().as_nanos() as f64 / count as f64);
    };

    let started = Instant::now();
    for touched in &keys {
        watches.wake(black_box(std::slice::from_ref(touched)));
    }
    each("a write while nobody waits", COUNT, started);

    let few: Vec<Waiter> = (0..5000).map(|n| watches.register(&[key(n + 3 * COUNT)])).collect();
    let started = Instant::now();
    for touched in &keys {
        watches.wake(black_box(std::slice::from_ref(touched)));
    }
    each("a write that none of 5,000 waits for", COUNT, started);
    drop(few);

    let started = Instant::now();
    let waiters: Vec<Waiter> =
        keys.iter().map(|scope| watches.register(std::slice::from_ref(scope))).collect();
    each("register, 200,000 different keys", COUNT, started);

    let others: Vec<Scope> = (COUNT..2 * COUNT).map(key).collect();
    let started = Instant::now();
    for touched in &others {
        watches.wake(black_box(std::slice::from_ref(touched)));
    }
    each("a write that none of 200,000 waits for", COUNT, started);

    let started = Instant::now();
    for touched in &keys {
        watches.wake(black_box(std::slice::from_ref(touched)));
    }
    each("a write that one of them waits for", COUNT, started);

    let started = Instant::now();
    drop(waiters);
    each("drop", COUNT, started);

    let prefixes: Vec<Waiter> = (0..1000)
        .map(|n| watches.register(&[Scope::Prefix(format!("some/folder-{n}/").into())]))
        .collect();
    let started = Instant::now();
    for touched in &keys {
        watches.wake(black_box(std::slice::from_ref(touched)));
    }
    each("a write beside 1,000 watched prefixes", COUNT, started);
    drop(prefixes);

    let scope = [Scope::Service("web".into())];
    let waiters: Vec<Waiter> = (0..COUNT).map(|_| watches.register(&scope)).collect();
    let started = Instant::now();
    watches.wake(&scope);
    each("a wake of one of 200,000 on one service", COUNT, started);
    drop(waiters);
    assert_eq!(watches.waiting(), 0);
}
