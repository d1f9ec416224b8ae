//! Waiters by scope. A wake costs well under a microsecond, a write that nobody watches
//! next to nothing.
//!
//! A reader registers, reads the published state, and waits only if that state does not answer it
//! yet. The applier publishes first and wakes second. Whichever comes first, no change is lost:
//! either the reader is in the registry when the applier looks, or it reads what was published.
//!
//! ```text
//!   Waiter ──▶ Signal ◀── Line of Service("web")     one line for each watched scope,
//!                     ◀── Line of Prefix("app/")     in one of 64 shards chosen by its name
//! ```
//!
//! A wake takes the whole line out of its shard and calls its signals after the lock is gone, so
//! 5,000 watchers of one scope hold nobody up. Waiters are one-shot: the next wait registers anew.
//!
//! Keys overlap prefixes. A touched key looks up only those of its own prefixes whose length some
//! waiter uses; a touched prefix takes a range of each shard's ordered keys.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::task::Poll;

use futures::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};

use crate::store::Scope;

/// A power of two well above the number of cores: two threads rarely want the same lock.
const SHARDS: usize = 64;

/// Keys are at most 512 bytes long at the interfaces; longer prefixes share the last counter.
const LENGTHS: usize = 513;

/// The registry of waiters.
#[derive(Default)]
pub struct Watches {
    registry: Arc<Registry>,
}

/// One registration; dropping it forgets it. Register first, read the state second, wait last:
/// then no change is lost.
pub struct Waiter {
    registry: Arc<Registry>,
    signal: Arc<Signal>,
    /// Registrations of this waiter: the scope's line (`None`: that of restores) and its number there.
    places: Box<[(Option<Scope>, u64)]>,
}

impl Watches {
    /// Registers for any of `scopes` (and, always, for [`Scope::Everything`]).
    ///
    /// A waiter for `Everything` itself is woken by every change.
    pub fn register(&self, scopes: &[Scope]) -> Waiter {
        let registry = Arc::clone(&self.registry);
        let signal = Arc::new(Signal::default());
        registry.waiters.fetch_add(1, Ordering::Relaxed);
        let place = |scope: Option<&Scope>| (scope.cloned(), registry.join(scope, &signal));
        let places = if scopes.is_empty() {
            Box::from([place(None)])
        } else {
            scopes.iter().map(|scope| place(Some(scope))).collect()
        };
        // Pairs with the fence in `wake`: either it counts this waiter, or the reader's next load
        // sees what was published before that wake.
        fence(Ordering::SeqCst);
        Waiter { registry, signal, places }
    }

    /// Wakes every waiter of an overlapping scope.
    ///
    /// To be called after the change is published. Wakes of a batch may name a scope only once.
    pub fn wake(&self, touched: &[Scope]) {
        if !self.is_awaited() || touched.is_empty() {
            return;
        }
        let mut due = Vec::new();
        for scope in touched {
            self.registry.collect(scope, &mut due);
        }
        self.registry.take_unscoped(&mut due);
        for line in due {
            line.call();
        }
    }

    /// Is there anybody to wake? To be asked after the change is published: who registers later
    /// reads what was published.
    pub fn is_awaited(&self) -> bool {
        fence(Ordering::SeqCst);
        self.waiting() > 0
    }

    /// Number of waiters that are registered and not dropped.
    pub fn waiting(&self) -> usize {
        self.registry.waiters.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("waiting", &self.waiting()).finish()
    }
}

impl Waiter {
    /// Resolves once a registered scope was touched since `register`.
    pub async fn woken(&mut self) {
        std::future::poll_fn(|context| {
            if self.signal.called.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            self.signal.waker.register(context.waker());
            // The call may have come between the look and the registration.
            if self.signal.called.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        for (scope, number) in &self.places {
            self.registry.leave(scope.as_ref(), *number);
        }
        self.registry.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<_> = self.places.iter().map(|(scope, _)| scope).collect();
        f.debug_struct("Waiter").field("scopes", &scopes).finish_non_exhaustive()
    }
}

/// One waiter's bell. It rings once.
#[derive(Default)]
struct Signal {
    called: AtomicBool,
    waker: AtomicWaker,
}

/// The waiters of one scope in the order they came.
#[derive(Default)]
struct Line {
    /// Numbers only grow, so a place is found by bisection. Who left is a gap until gaps are most
    /// of the line; both together keep leaving cheap and the memory bounded.
    places: Vec<(u64, Option<Arc<Signal>>)>,
    present: usize,
}

impl Line {
    fn join(&mut self, number: u64, signal: &Arc<Signal>) {
        self.places.push((number, Some(Arc::clone(signal))));
        self.present += 1;
    }

    /// Forgets a place. A number that was taken out by a wake before is not there any more.
    fn leave(&mut self, number: u64) {
        let Ok(at) = self.places.binary_search_by_key(&number, |place| place.0) else {
            return;
        };
        if self.places[at].1.take().is_some() {
            self.present -= 1;
        }
        if self.places.len() > 16 && self.present * 2 < self.places.len() {
            self.places.retain(|place| place.1.is_some());
            self.places.shrink_to(self.present * 2);
        }
    }

    fn call(self) {
        for signal in self.places.into_iter().filter_map(|place| place.1) {
            if !signal.called.swap(true, Ordering::AcqRel) {
                signal.waker.wake();
            }
        }
    }
}

/// A part of the registry under one lock.
#[derive(Default)]
struct Shard {
    /// The number that the next one to join gets; never used twice in a shard.
    next: u64,
    keys: BTreeMap<Arc<str>, Line>,
    prefixes: BTreeMap<Arc<str>, Line>,
    /// Scopes that only overlap their equals.
    others: BTreeMap<Scope, Line>,
}

/// Waiters of [`Scope::Everything`] and those without a scope.
#[derive(Default)]
struct Unscoped {
    next: u64,
    /// Woken by every change.
    everything: Line,
    /// Woken by a restore only.
    restores: Line,
}

struct Registry {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    unscoped: Mutex<Unscoped>,
    /// Waiters of `Everything`, so that a wake usually passes that lock by.
    everything: AtomicUsize,
    /// Waiters that were not dropped yet.
    waiters: AtomicUsize,
    /// Number of lines of prefixes with this many bytes.
    lengths: Box<[AtomicUsize]>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            unscoped: Mutex::default(),
            everything: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            lengths: (0..LENGTHS).map(|_| AtomicUsize::new(0)).collect(),
        }
    }
}

/// Nothing here can panic half-way through a change, so a poisoned lock guards sound data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Registry {
    fn shard<T: std::hash::Hash + ?Sized>(&self, name: &T) -> &Mutex<Shard> {
        // The mask keeps the low bits only, which fit any `usize`.
        let at = usize::try_from(self.hasher.hash_one(name) & (SHARDS as u64 - 1)).unwrap_or(0);
        &self.shards[at]
    }

    fn lines_of_length(&self, bytes: usize) -> &AtomicUsize {
        &self.lengths[bytes.min(LENGTHS - 1)]
    }

    fn join(&self, scope: Option<&Scope>, signal: &Arc<Signal>) -> u64 {
        let Some(scope) = scope.filter(|scope| **scope != Scope::Everything) else {
            let mut unscoped = lock(&self.unscoped);
            let number = unscoped.next;
            unscoped.next += 1;
            if scope.is_none() {
                unscoped.restores.join(number, signal);
            } else {
                unscoped.everything.join(number, signal);
                self.everything.fetch_add(1, Ordering::Relaxed);
            }
            return number;
        };
        let mut shard = lock(match scope {
            Scope::Key(name) | Scope::Prefix(name) => self.shard(&**name),
            other => self.shard(other),
        });
        let number = shard.next;
        shard.next += 1;
        let line = match scope {
            Scope::Key(key) => shard.keys.entry(Arc::clone(key)).or_default(),
            Scope::Prefix(prefix) => {
                shard.prefixes.entry(Arc::clone(prefix)).or_insert_with(|| {
                    self.lines_of_length(prefix.len()).fetch_add(1, Ordering::Relaxed);
                    Line::default()
                })
            }
            other => shard.others.entry(other.clone()).or_default(),
        };
        line.join(number, signal);
        number
    }

    fn leave(&self, scope: Option<&Scope>, number: u64) {
        fn part<K: Ord + ?Sized, O: Ord + std::borrow::Borrow<K>>(
            lines: &mut BTreeMap<O, Line>,
            name: &K,
            number: u64,
        ) -> bool {
            let Some(line) = lines.get_mut(name) else {
                return false;
            };
            line.leave(number);
            line.present == 0 && lines.remove(name).is_some()
        }
        match scope {
            None => lock(&self.unscoped).restores.leave(number),
            Some(Scope::Everything) => {
                let mut unscoped = lock(&self.unscoped);
                unscoped.everything.leave(number);
                self.everything.store(unscoped.everything.present, Ordering::Relaxed);
            }
            Some(Scope::Key(key)) => {
                part::<str, _>(&mut lock(self.shard(&**key)).keys, key, number);
            }
            Some(Scope::Prefix(prefix)) => {
                let mut shard = lock(self.shard(&**prefix));
                if part::<str, _>(&mut shard.prefixes, prefix, number) {
                    self.lines_of_length(prefix.len()).fetch_sub(1, Ordering::Relaxed);
                }
            }
            Some(scope) => {
                part(&mut lock(self.shard(scope)).others, scope, number);
            }
        }
    }

    /// Takes out every line that overlaps the touched scope.
    fn collect(&self, touched: &Scope, due: &mut Vec<Line>) {
        match touched {
            Scope::Everything => {
                for shard in &self.shards {
                    let mut shard = lock(shard);
                    due.extend(std::mem::take(&mut shard.keys).into_values());
                    due.extend(std::mem::take(&mut shard.others).into_values());
                    for (prefix, line) in std::mem::take(&mut shard.prefixes) {
                        self.lines_of_length(prefix.len()).fetch_sub(1, Ordering::Relaxed);
                        due.push(line);
                    }
                }
                due.push(std::mem::take(&mut lock(&self.unscoped).restores));
            }
            Scope::Key(key) => {
                due.extend(lock(self.shard(&**key)).keys.remove(&**key));
                self.collect_prefixes_of(key, key.len(), due);
            }
            Scope::Prefix(prefix) => {
                // Longer ones and the prefix itself, wherever they are; then the shorter ones.
                for shard in &self.shards {
                    let mut shard = lock(shard);
                    take_range(&mut shard.keys, prefix, |_, line| due.push(line));
                    take_range(&mut shard.prefixes, prefix, |longer, line| {
                        self.lines_of_length(longer.len()).fetch_sub(1, Ordering::Relaxed);
                        due.push(line);
                    });
                }
                self.collect_prefixes_of(prefix, prefix.len().saturating_sub(1), due);
            }
            other => due.extend(lock(self.shard(other)).others.remove(other)),
        }
    }

    /// Takes out the lines of all prefixes of `key` with at most `longest` bytes.
    fn collect_prefixes_of(&self, key: &str, longest: usize, due: &mut Vec<Line>) {
        for bytes in 0..=longest {
            let lines = self.lines_of_length(bytes);
            if lines.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Waiters' prefixes are text: one that ends inside a character does not exist.
            let Some(prefix) = key.get(..bytes) else {
                continue;
            };
            if let Some(line) = lock(self.shard(prefix)).prefixes.remove(prefix) {
                lines.fetch_sub(1, Ordering::Relaxed);
                due.push(line);
            }
        }
    }

    /// Takes out those who wait for any change at all.
    fn take_unscoped(&self, due: &mut Vec<Line>) {
        if self.everything.load(Ordering::Relaxed) > 0 {
            let mut unscoped = lock(&self.unscoped);
            due.push(std::mem::take(&mut unscoped.everything));
            self.everything.store(0, Ordering::Relaxed);
        }
    }
}

/// Takes out every line whose name starts with `prefix`.
fn take_range(
    lines: &mut BTreeMap<Arc<str>, Line>,
    prefix: &str,
    mut took: impl FnMut(&str, Line),
) {
    let names: Vec<Arc<str>> = lines
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .map(|(name, _)| name)
        .take_while(|name| name.starts_with(prefix))
        .cloned()
        .collect();
    for name in names {
        if let Some(line) = lines.remove(&name) {
            took(&name, line);
        }
    }
}

#[cfg(test)]
mod tests;
