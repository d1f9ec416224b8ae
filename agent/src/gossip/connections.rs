//! Connections of others: how many are open, how much memory they take, and which one has to go.
//!
//! A connection that waits for its other side for a while gives way when there are too many, the oldest first: of the
//! same address if that one has too many, else of the address that has the most. So somebody who opens connections
//! and says nothing takes no place from who has something to say. The address of an IPv6 host is its network of
//! 64 bits, for a host may choose any address of that.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that waits for its other side for less than this does not have to go.
const GRACE: Duration = Duration::from_millis(250);
/// Part of all places that one address may have.
const PER_ADDRESS: usize = 4;
/// Bytes of questions and answers under way at once, of all connections together.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes are counted by this many.
pub(super) const UNIT: usize = 64 * 1024;
/// Long questions and answers that are read at once: what is read takes several times what came.
const READ_AT_ONCE: usize = 2;

/// All of one pool.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Open>,
    max: usize,
    bytes: Arc<Semaphore>,
    turns: Semaphore,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    next: u64,
    by_address: HashMap<IpAddr, BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Since when it waits for its other side, if it does.
    waits_since: Option<Instant>,
    ended: CancellationToken,
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    address: IpAddr,
    number: u64,
    ended: CancellationToken,
}

impl Connections {
    /// Places for `max` connections.
    pub(super) fn new(max: usize) -> Connections {
        Connections {
            open: Mutex::default(),
            max: max.max(PER_ADDRESS),
            bytes: Arc::new(Semaphore::new(BYTES_MAX / UNIT)),
            turns: Semaphore::new(READ_AT_ONCE),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that came just now, or none if all are taken by who does something.
    pub(super) fn admit(self: &Arc<Self>, from: IpAddr, now: Instant) -> Option<ConnectionPermit> {
        let address = network(from);
        let mut open = self.open();
        let own = open.by_address.get(&address).map_or(0, BTreeMap::len);
        if own >= (self.max / PER_ADDRESS).max(1) {
            open.end_idle_of(address, now)?;
        } else if open.count >= self.max {
            let (most, _) = open.by_address.iter().max_by_key(|(_, entries)| entries.len())?;
            let most = *most;
            open.end_idle_of(most, now)?;
        }
        let (number, ended) = (open.next, CancellationToken::new());
        open.next += 1;
        open.count += 1;
        let entry = Entry { waits_since: Some(now), ended: ended.clone() };
        open.by_address.entry(address).or_default().insert(number, entry);
        Some(ConnectionPermit { connections: Arc::clone(self), address, number, ended })
    }

    /// Waits until so many bytes more may be under way.
    pub(super) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = bytes.div_ceil(UNIT).min(BYTES_MAX / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).acquire_many_owned(units).await;
        permit.expect("the semaphore is never closed")
    }

    /// Waits until another long question or answer may be read.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("the semaphore is never closed")
    }
}

impl Open {
    /// Ends the connection of an address that has waited longest; `None` if all do something.
    fn end_idle_of(&mut self, address: IpAddr, now: Instant) -> Option<()> {
        let entries = self.by_address.get(&address)?;
        let idle = entries.iter().filter_map(|(number, entry)| {
            let since = entry.waits_since?;
            (now.saturating_duration_since(since) >= GRACE).then_some((since, *number))
        });
        let (_, number) = idle.min()?;
        self.remove(address, number).map(|entry| entry.ended.cancel())
    }

    fn remove(&mut self, address: IpAddr, number: u64) -> Option<Entry> {
        let entries = self.by_address.get_mut(&address)?;
        let entry = entries.remove(&number)?;
        if entries.is_empty() {
            self.by_address.remove(&address);
        }
        self.count -= 1;
        Some(entry)
    }
}

impl ConnectionPermit {
    /// From now on the connection waits for its other side, or does not.
    pub(super) fn waits(&self, since: Option<Instant>) {
        let mut open = self.connections.open();
        let entries = open.by_address.get_mut(&self.address);
        if let Some(entry) = entries.and_then(|entries| entries.get_mut(&self.number)) {
            entry.waits_since = since;
        }
    }

    /// Resolves when the connection has to go.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // It is gone already if it had to give way.
        self.connections.open().remove(self.address, self.number);
    }
}

/// Network that counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test]
    async fn who_waits_gives_way_the_oldest_first_and_who_works_does_not() {
        let connections = Arc::new(Connections::new(8));
        let start = Instant::now();
        let first = connections.admit(ip(1), start).unwrap();
        let second = connections.admit(ip(1), start).unwrap();
        assert!(
            connections.admit(ip(1), start).is_none(),
            "two of eight, and none waited for long"
        );
        let later = start + GRACE;
        let third = connections.admit(ip(1), later).expect("the first gives way");
        assert!(first.ended.is_cancelled() && !second.ended.is_cancelled());
        second.waits(None);
        assert!(connections.admit(ip(1), later).is_none(), "one works, one is new");
        drop(third);
        let _again = connections.admit(ip(1), later).expect("a free place");
        // Another address is not concerned.
        assert!(connections.admit(ip(2), later).is_some());
        drop((first, second));
    }

    #[tokio::test]
    async fn all_addresses_together_have_a_bound_and_the_largest_gives_way() {
        let connections = Arc::new(Connections::new(8));
        let start = Instant::now();
        let admit = |last: u8, now| connections.admit(ip(last), now);
        let many: Vec<ConnectionPermit> =
            [1, 1, 2, 3, 4, 5, 6, 7].map(|last| admit(last, start).unwrap()).into();
        assert!(admit(8, start).is_none());
        let late = admit(8, start + GRACE).expect("one of the largest gives way");
        assert!(
            many[0].ended.is_cancelled() && many[1..].iter().all(|it| !it.ended.is_cancelled())
        );
        assert_eq!(connections.open().count, 8);
        drop((many, late));
        let open = connections.open();
        assert!(open.count == 0 && open.by_address.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
