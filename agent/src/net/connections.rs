//! Places for connections of others: how many are open, and which one has to go.
//!
//! A connection that waits for its other side for a while gives way when there are too many, the oldest first: of the
//! same address if that one has too many, else of the address that has the most. So somebody who opens connections
//! and says nothing takes no place from who has something to say. The address of an IPv6 host is its network of
//! 64 bits, for a host may choose any address of that.
//!
//! Those who are known are counted by their own address, keep some places for themselves, and never give way to those who are not.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that waits for its other side for less than this does not have to go.
const GRACE: Duration = Duration::from_millis(250);

/// Numbers of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of all together.
    pub(crate) all: usize,
    /// Of all that are not known together.
    pub(crate) unknown: usize,
    /// Of one address.
    pub(crate) of_one: usize,
}

/// All places of a port.
#[derive(Debug)]
pub(crate) struct Places {
    open: Mutex<Open>,
    bounds: Bounds,
}

/// Other side of connections: an address if it is known, else a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    network: IpAddr,
    known: bool,
}

impl Owner {
    /// Owner of a connection from an address.
    pub(crate) fn new(from: IpAddr, known: bool) -> Owner {
        Owner { network: if known { from.to_canonical() } else { network(from) }, known }
    }
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    count: usize,
    unknown: usize,
    by_owner: HashMap<Owner, BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    waits_since: Arc<Waits>,
    ended: CancellationToken,
}

/// Time since which a connection waits for its other side, if it does.
type Waits = Mutex<Option<Instant>>;

fn lock(waits: &Waits) -> MutexGuard<'_, Option<Instant>> {
    waits.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    places: Arc<Places>,
    owner: Owner,
    number: u64,
    waits_since: Arc<Waits>,
    ended: CancellationToken,
}

impl Places {
    /// So many places.
    pub(crate) fn new(bounds: Bounds) -> Places {
        Places { open: Mutex::default(), bounds }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that came just now, or none if all are taken by who does something.
    pub(crate) fn admit(self: &Arc<Self>, owner: Owner, now: Instant) -> Option<ConnectionPermit> {
        let known = owner.known;
        let mut open = self.open();
        let own = open.by_owner.get(&owner).map_or(0, BTreeMap::len);
        if own >= self.bounds.of_one {
            open.end_idle_of(owner, now)?;
        } else if !known && open.unknown >= self.bounds.unknown {
            open.end_idle(false, now)?;
        } else if open.count >= self.bounds.all && open.end_idle(false, now).is_none() {
            known.then(|| open.end_idle(true, now))??;
        }
        let (number, ended) = (open.next, CancellationToken::new());
        let waits_since = Arc::new(Waits::new(Some(now)));
        open.next += 1;
        open.count += 1;
        open.unknown += usize::from(!known);
        let entry = Entry { waits_since: Arc::clone(&waits_since), ended: ended.clone() };
        open.by_owner.entry(owner).or_default().insert(number, entry);
        Some(ConnectionPermit { places: Arc::clone(self), owner, number, waits_since, ended })
    }
}

impl Open {
    /// Ends a connection that waits: of the owner that has the most, or of any if all of that one's do something.
    fn end_idle(&mut self, known: bool, now: Instant) -> Option<()> {
        let owners = || self.by_owner.iter().filter(|(owner, _)| owner.known == known);
        let (largest, entries) = owners().max_by_key(|(_, entries)| entries.len())?;
        let (owner, number) = match longest_idle(entries, now) {
            Some((_, number)) => (*largest, number),
            None => owners()
                .filter_map(|(owner, entries)| Some((longest_idle(entries, now)?, *owner)))
                .min_by_key(|(idle, _)| *idle)
                .map(|((_, number), owner)| (owner, number))?,
        };
        self.remove(owner, number).map(|entry| entry.ended.cancel())
    }

    /// Ends the connection that has waited longest; `None` if all do something.
    fn end_idle_of(&mut self, owner: Owner, now: Instant) -> Option<()> {
        let (_, number) = longest_idle(self.by_owner.get(&owner)?, now)?;
        self.remove(owner, number).map(|entry| entry.ended.cancel())
    }

    fn remove(&mut self, owner: Owner, number: u64) -> Option<Entry> {
        let entries = self.by_owner.get_mut(&owner)?;
        let entry = entries.remove(&number)?;
        if entries.is_empty() {
            self.by_owner.remove(&owner);
        }
        self.count -= 1;
        self.unknown -= usize::from(!owner.known);
        Some(entry)
    }
}

fn longest_idle(entries: &BTreeMap<u64, Entry>, now: Instant) -> Option<(Instant, u64)> {
    let idle = entries.iter().filter_map(|(number, entry)| {
        let since = (*lock(&entry.waits_since))?;
        (now.saturating_duration_since(since) >= GRACE).then_some((since, *number))
    });
    idle.min()
}

impl ConnectionPermit {
    /// From now on the connection waits for its other side, or does not.
    pub(crate) fn waits(&self, since: Option<Instant>) {
        *lock(&self.waits_since) = since;
    }

    /// Resolves when the connection has to go.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // It is gone already if it had to give way.
        self.places.open().remove(self.owner, self.number);
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

    fn places(all: usize, unknown: usize, of_one: usize) -> Arc<Places> {
        Arc::new(Places::new(Bounds { all, unknown, of_one }))
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test]
    async fn who_waits_gives_way_the_oldest_first_and_who_works_does_not() {
        let places = places(8, 8, 2);
        let start = Instant::now();
        let admit = |last: u8, now| places.admit(Owner::new(ip(last), false), now);
        let first = admit(1, start).unwrap();
        let second = admit(1, start).unwrap();
        assert!(admit(1, start).is_none(), "two of two, and none waited for long");
        let later = start + GRACE;
        let third = admit(1, later).expect("the first gives way");
        assert!(first.ended.is_cancelled() && !second.ended.is_cancelled());
        second.waits(None);
        assert!(admit(1, later).is_none(), "one works, one is new");
        drop(third);
        let _again = admit(1, later).expect("a free place");
        // Another address is not concerned.
        assert!(admit(2, later).is_some());
        drop((first, second));
    }

    #[tokio::test]
    async fn all_addresses_together_have_a_bound_and_the_largest_gives_way() {
        let places = places(8, 8, 2);
        let start = Instant::now();
        let admit = |last: u8, now| places.admit(Owner::new(ip(last), false), now);
        let many: Vec<ConnectionPermit> =
            [1, 1, 2, 3, 4, 5, 6, 7].map(|last| admit(last, start).unwrap()).into();
        assert!(admit(8, start).is_none());
        let late = admit(8, start + GRACE).expect("one of the largest gives way");
        assert!(
            many[0].ended.is_cancelled() && many[1..].iter().all(|it| !it.ended.is_cancelled())
        );
        assert_eq!(places.open().count, 8);
        drop((many, late));
        let open = places.open();
        assert!(open.count == 0 && open.unknown == 0 && open.by_owner.is_empty());
    }

    #[tokio::test]
    async fn who_is_known_gets_in_and_does_not_give_way_to_who_is_not() {
        let places = places(8, 6, 8);
        let start = Instant::now();
        let admit = |last: u8, known, now| places.admit(Owner::new(ip(last), known), now);
        let strangers: Vec<_> = (1..=6).map(|last| admit(last, false, start).unwrap()).collect();
        assert!(admit(7, false, start).is_none(), "the last places are for others");
        for stranger in &strangers {
            stranger.waits(None);
        }
        let known: Vec<_> = (0..2).map(|_| admit(20, true, start).unwrap()).collect();
        let later = start + GRACE;
        assert!(admit(7, false, later).is_none(), "who is known does not give way");
        strangers[3].waits(Some(start));
        let third = admit(21, true, later).expect("one of those that are not known gives way");
        let ended = |them: &[ConnectionPermit]| -> Vec<bool> {
            them.iter().map(|it| it.ended.is_cancelled()).collect()
        };
        assert_eq!(ended(&strangers), [false, false, false, true, false, false]);
        assert_eq!(ended(&known), [false, false]);
        third.waits(None);
        let _fourth = admit(22, true, later).expect("and if all of those work, a known one");
        assert_eq!(ended(&known), [true, false]);
        assert_eq!(places.open().count, 8);
    }

    #[tokio::test]
    async fn who_waits_gives_way_even_if_the_largest_works() {
        let places = places(4, 4, 4);
        let start = Instant::now();
        let busy: Vec<_> =
            (0..3).map(|_| places.admit(Owner::new(ip(1), false), start).unwrap()).collect();
        for it in &busy {
            it.waits(None);
        }
        let idle = places.admit(Owner::new(ip(2), false), start).unwrap();
        assert!(places.admit(Owner::new(ip(3), false), start + GRACE).is_some());
        assert!(idle.ended.is_cancelled());
    }

    #[test]
    fn who_is_known_is_counted_by_its_own_address() {
        let of = |text: &str, known| Owner::new(text.parse().unwrap(), known);
        assert_eq!(of("fd00::1", false), of("fd00::2", false));
        assert_ne!(of("fd00::1", true), of("fd00::2", true));
        assert_ne!(of("fd00::1", true), of("fd00::1", false));
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
