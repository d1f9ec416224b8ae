//! The registry against a plain model, under threads, and its memory after use.

use std::sync::atomic::AtomicU64;
use std::task::Context;
use std::time::{Duration, Instant};

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

/// The rule that `store::Scope` documents, in its simplest form.
fn overlaps(waited: &Scope, touched: &Scope) -> bool {
    match (waited, touched) {
        (Scope::Everything, _) | (_, Scope::Everything) => true,
        (Scope::Key(key), Scope::Prefix(prefix)) | (Scope::Prefix(prefix), Scope::Key(key)) => {
            key.starts_with(&**prefix)
        }
        (Scope::Prefix(a), Scope::Prefix(b)) => a.starts_with(&**b) || b.starts_with(&**a),
        (a, b) => a == b,
    }
}

fn is_woken(waiter: &mut Waiter) -> bool {
    waiter.woken().now_or_never().is_some()
}

fn scope() -> impl Strategy<Value = Scope> {
    // Few letters, one of them of two bytes, so that overlaps are common.
    let name = "[aé/]{0,4}".prop_map(|name| Arc::from(name.as_str()));
    prop_oneof![
        6 => name.clone().prop_map(Scope::Key),
        6 => name.clone().prop_map(Scope::Prefix),
        2 => name.clone().prop_map(Scope::Service),
        2 => name.prop_map(Scope::Node),
        1 => Just(Scope::Nodes),
        1 => Just(Scope::Everything),
    ]
}

proptest! {
    #[test]
    fn wakes_exactly_the_overlapping(
        waited in prop::collection::vec(prop::collection::vec(scope(), 0..4), 1..12),
        wakes in prop::collection::vec(prop::collection::vec(scope(), 0..3), 1..5),
        dropped in prop::collection::vec(any::<bool>(), 12),
    ) {
        let watches = Watches::default();
        let mut waiters: Vec<_> = waited.iter().map(|scopes| Some(watches.register(scopes))).collect();
        for (waiter, dropped) in waiters.iter_mut().zip(dropped) {
            if dropped {
                *waiter = None;
            }
        }
        let mut expected = vec![false; waited.len()];
        for touched in &wakes {
            watches.wake(touched);
            for (scopes, expected) in waited.iter().zip(&mut expected) {
                *expected |= touched.iter().any(|touched| {
                    *touched == Scope::Everything || scopes.iter().any(|waited| overlaps(waited, touched))
                });
            }
            for (waiter, expected) in waiters.iter_mut().zip(&expected) {
                if let Some(waiter) = waiter {
                    prop_assert_eq!(is_woken(waiter), *expected, "{:?} after {:?}", waiter, touched);
                }
            }
        }
        drop(waiters);
        assert_empty(&watches);
    }
}

fn assert_empty(watches: &Watches) {
    let registry = &watches.registry;
    assert_eq!(watches.waiting(), 0);
    for shard in &registry.shards {
        let shard = lock(shard);
        assert!(shard.keys.is_empty() && shard.prefixes.is_empty() && shard.others.is_empty());
    }
    let unscoped = lock(&registry.unscoped);
    assert_eq!(unscoped.everything.present + unscoped.restores.present, 0);
    assert!(registry.lengths.iter().all(|lines| lines.load(Ordering::Relaxed) == 0));
    assert_eq!(registry.everything.load(Ordering::Relaxed), 0);
}

#[test]
fn a_wake_before_the_first_poll_counts() {
    let watches = Watches::default();
    let mut waiter = watches.register(&[Scope::Nodes]);
    assert!(!is_woken(&mut waiter));
    watches.wake(&[Scope::Nodes]);
    assert!(is_woken(&mut waiter));
    assert!(is_woken(&mut waiter), "stays woken");
    assert!(!is_woken(&mut watches.register(&[Scope::Nodes])), "one-shot");
}

#[test]
fn a_parked_task_is_called() {
    let watches = Watches::default();
    let mut waiter = watches.register(&[Scope::Prefix("a/".into()), Scope::Nodes]);
    let (waker, calls) = futures_test_waker();
    let mut woken = Box::pin(waiter.woken());
    assert!(woken.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    watches.wake(&[Scope::Key("b/c".into())]);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    watches.wake(&[Scope::Key("a/c".into()), Scope::Nodes]);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "once, even if two scopes were touched");
    assert!(woken.poll_unpin(&mut Context::from_waker(&waker)).is_ready());
}

fn futures_test_waker() -> (std::task::Waker, Arc<AtomicUsize>) {
    struct Count(Arc<AtomicUsize>);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    (Arc::new(Count(Arc::clone(&calls))).into(), calls)
}

#[test]
fn opened_and_closed_leaves_nothing() {
    let watches = Watches::default();
    let kept = watches.register(&[Scope::Key("k".into())]);
    // All on one line, closed oldest first, newest first and in between.
    for order in [0_usize, 1, 2] {
        let mut waiters: Vec<_> =
            (0..30_000).map(|_| Some(watches.register(&[Scope::Key("k".into())]))).collect();
        let count = waiters.len();
        for at in 0..count {
            let at = match order {
                0 => at,
                1 => count - 1 - at,
                _ => (at * 7_919) % count,
            };
            waiters[at] = None;
        }
        assert_eq!(watches.waiting(), 1);
        let shard = lock(watches.registry.shard("k"));
        assert!(shard.keys["k"].places.capacity() <= 32, "the line's memory came back");
    }
    drop(kept);
    // Each on a line of its own.
    let waiters: Vec<_> = (0..30_000)
        .map(|n| {
            watches.register(&[
                Scope::Service(format!("s{n}").into()),
                Scope::Prefix(format!("p{n}").into()),
            ])
        })
        .collect();
    drop(waiters);
    assert_empty(&watches);
}

/// Readers chase a counter that is published before its wake: each must see the last value.
#[test]
fn no_wake_is_lost() {
    const LAST: u64 = 20_000;
    let watches = Arc::new(Watches::default());
    let published = Arc::new(AtomicU64::new(0));
    let scopes = [
        vec![Scope::Key("a/b".into())],
        vec![Scope::Prefix("a/".into())],
        vec![Scope::Prefix(String::new().into()), Scope::Nodes],
        vec![Scope::Everything],
    ];
    let deadline = Instant::now() + Duration::from_mins(1);
    std::thread::scope(|threads| {
        for scopes in &scopes {
            let (watches, published) = (Arc::clone(&watches), Arc::clone(&published));
            threads.spawn(move || {
                let mut seen = 0;
                while seen < LAST {
                    let mut waiter = watches.register(scopes);
                    let now = published.load(Ordering::Relaxed);
                    if now > seen {
                        seen = now;
                        continue;
                    }
                    // Waits as a task would: parked until its waker calls.
                    let thread = std::thread::current();
                    let waker = std::task::Waker::from(Arc::new(Unpark(thread)));
                    let mut woken = Box::pin(waiter.woken());
                    while woken.poll_unpin(&mut Context::from_waker(&waker)).is_pending() {
                        std::thread::park_timeout(Duration::from_secs(5));
                        assert!(Instant::now() < deadline, "lost a wake at {seen}");
                    }
                }
            });
        }
        for value in 1..=LAST {
            published.store(value, Ordering::Relaxed);
            watches.wake(&[Scope::Key("a/b".into())]);
        }
    });
    assert_empty(&watches);
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
