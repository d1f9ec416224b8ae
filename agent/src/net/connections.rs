//! Limits on the connections of others: how many are open, and which one is closed for a new one.
//!
//! An idle connection is closed when there are too many, the oldest first: of the same source if that one has too many,
//! else of the source that has the most. One that has not sent a byte yet is idle from its start; one that has is idle
//! when it has waited for its peer for a while. So somebody who opens connections and says nothing keeps nobody out who
//! has something to say, however fast new ones come.
//!
//! The source of an IPv6 host is its network of 64 bits, for a host may choose any address of that. Known sources are
//! counted by their own address, keep some permits for themselves, and are never closed for unknown ones.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that has sent something, and waits for its peer for less than this, is not idle.
const GRACE: Duration = Duration::from_millis(250);

/// Numbers of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// All together.
    pub(crate) total: usize,
    /// All of unknown sources together.
    pub(crate) unknown: usize,
    /// Of one source.
    pub(crate) per_source: usize,
    /// Treatment of a source that has so many.
    pub(crate) full_source: FullSource,
}

/// Treatment of one more connection of a source that has as many as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FullSource {
    /// It is refused.
    Refuse,
    /// An idle one of the same source is closed for it.
    CloseIdle,
}

/// No permit for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Its source has all that it may have.
    Source,
    /// There are too many in total.
    Total,
}

/// Permits for the connections of a port.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    open: Mutex<Open>,
    limits: ConnectionLimits,
}

/// Is the address of a connection that of a member?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Familiarity {
    Known,
    Unknown,
}

/// Source of connections: an address if it is known, else a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    network: IpAddr,
    familiarity: Familiarity,
}

impl Source {
    /// Source of a connection from an address.
    pub(crate) fn new(from: IpAddr, familiarity: Familiarity) -> Source {
        let network = match familiarity {
            Familiarity::Known => from.to_canonical(),
            Familiarity::Unknown => network(from),
        };
        Source { network, familiarity }
    }

    fn is_unknown(&self) -> bool {
        self.familiarity == Familiarity::Unknown
    }
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    count: usize,
    unknown: usize,
    by_source: HashMap<Source, BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    activity: Arc<Mutex<Activity>>,
    ended: CancellationToken,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy)]
enum Activity {
    /// Its peer has not sent a byte since it was accepted.
    Silent(Instant),
    /// It waits for its peer, which has sent something before.
    Waiting(Instant),
    /// A request is served.
    Working,
}

impl Activity {
    /// Time since which it is idle, if it is.
    fn idle_since(self, now: Instant) -> Option<Instant> {
        match self {
            Activity::Silent(since) => Some(since),
            Activity::Waiting(since) => {
                (now.saturating_duration_since(since) >= GRACE).then_some(since)
            }
            Activity::Working => None,
        }
    }
}

/// Permit of one connection; returned when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    source: Source,
    number: u64,
    activity: Arc<Mutex<Activity>>,
    ended: CancellationToken,
}

impl ConnectionLimiter {
    /// A limiter without connections.
    pub(crate) fn new(limits: ConnectionLimits) -> ConnectionLimiter {
        ConnectionLimiter { open: Mutex::default(), limits }
    }

    /// A permit for a connection that came just now.
    pub(crate) fn admit(
        self: &Arc<Self>,
        source: Source,
        now: Instant,
    ) -> Result<ConnectionPermit, Full> {
        let limits = &self.limits;
        let mut open = self.open.lock();
        if open.by_source.get(&source).map_or(0, BTreeMap::len) >= limits.per_source {
            match limits.full_source {
                FullSource::Refuse => return Err(Full::Source),
                FullSource::CloseIdle => open.end_idle_of(source, now).ok_or(Full::Source)?,
            }
        } else if source.is_unknown() && open.unknown >= limits.unknown {
            open.end_idle(Familiarity::Unknown, now).ok_or(Full::Total)?;
        } else if open.count >= limits.total {
            let mut ended = open.end_idle(Familiarity::Unknown, now);
            if ended.is_none() && !source.is_unknown() {
                ended = open.end_idle(Familiarity::Known, now);
            }
            ended.ok_or(Full::Total)?;
        }
        let (number, ended) = (open.next, CancellationToken::new());
        let activity = Arc::new(Mutex::new(Activity::Silent(now)));
        open.next += 1;
        open.count += 1;
        open.unknown += usize::from(source.is_unknown());
        let entry = Entry { activity: Arc::clone(&activity), ended: ended.clone() };
        open.by_source.entry(source).or_default().insert(number, entry);
        Ok(ConnectionPermit { limiter: Arc::clone(self), source, number, activity, ended })
    }
}

impl Open {
    /// Ends an idle connection: of the source that has the most, or of any if none of that one's is idle.
    fn end_idle(&mut self, familiarity: Familiarity, now: Instant) -> Option<()> {
        let sources =
            || self.by_source.iter().filter(|(source, _)| source.familiarity == familiarity);
        let (largest, entries) = sources().max_by_key(|(_, entries)| entries.len())?;
        let (source, number) = match longest_idle(entries, now) {
            Some((_, number)) => (*largest, number),
            None => sources()
                .filter_map(|(source, entries)| Some((longest_idle(entries, now)?, *source)))
                .min_by_key(|(idle, _)| *idle)
                .map(|((_, number), source)| (source, number))?,
        };
        self.remove(source, number).map(|entry| entry.ended.cancel())
    }

    /// Ends the connection of a source that has been idle for longest; `None` if none is.
    fn end_idle_of(&mut self, source: Source, now: Instant) -> Option<()> {
        let (_, number) = longest_idle(self.by_source.get(&source)?, now)?;
        self.remove(source, number).map(|entry| entry.ended.cancel())
    }

    fn remove(&mut self, source: Source, number: u64) -> Option<Entry> {
        let entries = self.by_source.get_mut(&source)?;
        let entry = entries.remove(&number)?;
        if entries.is_empty() {
            self.by_source.remove(&source);
        }
        self.count -= 1;
        self.unknown -= usize::from(source.is_unknown());
        Some(entry)
    }
}

fn longest_idle(entries: &BTreeMap<u64, Entry>, now: Instant) -> Option<(Instant, u64)> {
    let idle = entries
        .iter()
        .filter_map(|(number, entry)| Some((entry.activity.lock().idle_since(now)?, *number)));
    idle.min()
}

impl ConnectionPermit {
    /// From now on the connection waits for its peer, which has sent something.
    pub(crate) fn waits(&self, now: Instant) {
        *self.activity.lock() = Activity::Waiting(now);
    }

    /// From now on a request of the connection is served.
    pub(crate) fn works(&self) {
        *self.activity.lock() = Activity::Working;
    }

    /// Resolves when the connection is to be closed for another one.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // It is gone already if it was closed for another one.
        self.limiter.open.lock().remove(self.source, self.number);
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
    use super::Familiarity::{Known, Unknown};
    use super::*;

    fn limiter(total: usize, unknown: usize, per_source: usize) -> Arc<ConnectionLimiter> {
        let full_source = FullSource::CloseIdle;
        Arc::new(ConnectionLimiter::new(ConnectionLimits {
            total,
            unknown,
            per_source,
            full_source,
        }))
    }

    fn source(last: u8, familiarity: Familiarity) -> Source {
        Source::new([10, 0, 0, last].into(), familiarity)
    }

    fn are_ended<const N: usize>(permits: [&ConnectionPermit; N]) -> [bool; N] {
        permits.map(|permit| permit.ended.is_cancelled())
    }

    #[tokio::test]
    async fn idle_connections_are_closed_the_oldest_first_and_others_are_not() {
        let limiter = limiter(8, 8, 2);
        let start = Instant::now();
        let admit = |last: u8, now| limiter.admit(source(last, Unknown), now);
        let first = admit(1, start).unwrap();
        let second = admit(1, start).unwrap();
        first.waits(start);
        second.waits(start);
        assert!(admit(1, start).is_err(), "two of two, and none waited for long");
        let later = start + GRACE;
        let third = admit(1, later).expect("the first is closed");
        assert_eq!(are_ended([&first, &second]), [true, false]);
        second.works();
        third.waits(later);
        assert!(admit(1, later).is_err(), "one works, one has just spoken");
        drop(third);
        let _again = admit(1, later).expect("a free permit");
        // Another source is not concerned.
        assert!(admit(2, later).is_ok());
        drop((first, second));
    }

    #[tokio::test]
    async fn a_flood_of_silent_connections_keeps_nobody_out_who_speaks() {
        let limiter = limiter(8, 8, 4);
        let now = Instant::now();
        // All at one moment, from one source and from many.
        let flood = |sources: u8| -> Vec<ConnectionPermit> {
            let from = |number: u8| source(number % sources, Unknown);
            (0..100).map(|number| limiter.admit(from(number), now).expect("silent")).collect()
        };
        for sources in [1, 5, 100] {
            let before = flood(sources);
            let speaks = limiter.admit(source(0, Unknown), now).expect("one that speaks");
            speaks.waits(now);
            let after = flood(sources);
            assert!(!speaks.ended.is_cancelled(), "{sources} sources");
            assert!(limiter.open.lock().count <= 8);
            drop((before, after));
        }
    }

    #[tokio::test]
    async fn all_sources_together_have_a_limit_and_the_largest_gives_way() {
        let limiter = limiter(8, 8, 2);
        let start = Instant::now();
        let admit = |last: u8, now| {
            let permit = limiter.admit(source(last, Unknown), now);
            permit.inspect(|permit| permit.waits(now))
        };
        let many: Vec<ConnectionPermit> =
            [1, 1, 2, 3, 4, 5, 6, 7].map(|last| admit(last, start).unwrap()).into();
        assert_eq!(admit(8, start).unwrap_err(), Full::Total);
        let late = admit(8, start + GRACE).expect("one of the largest gives way");
        assert!(
            many[0].ended.is_cancelled() && many[1..].iter().all(|it| !it.ended.is_cancelled())
        );
        assert_eq!(limiter.open.lock().count, 8);
        drop((many, late));
        let open = limiter.open.lock();
        assert!(open.count == 0 && open.unknown == 0 && open.by_source.is_empty());
    }

    #[tokio::test]
    async fn known_sources_get_in_and_do_not_give_way_to_unknown_ones() {
        let limiter = limiter(8, 6, 8);
        let start = Instant::now();
        let admit = |last: u8, familiarity, now| limiter.admit(source(last, familiarity), now);
        let strangers: Vec<_> = (1..=6).map(|last| admit(last, Unknown, start).unwrap()).collect();
        for stranger in &strangers {
            stranger.works();
        }
        assert!(admit(7, Unknown, start).is_err(), "the last permits are for others");
        let known = [0, 1].map(|_| admit(20, Known, start).unwrap());
        let later = start + GRACE;
        assert!(admit(7, Unknown, later).is_err(), "known ones do not give way");
        strangers[3].waits(start);
        let third = admit(21, Known, later).expect("an unknown one gives way");
        let ended: Vec<bool> = strangers.iter().map(|it| it.ended.is_cancelled()).collect();
        assert_eq!(ended, [false, false, false, true, false, false]);
        assert_eq!(are_ended([&known[0], &known[1]]), [false, false]);
        third.works();
        let _fourth = admit(22, Known, later).expect("and if all of those work, a known one");
        assert_eq!(are_ended([&known[0], &known[1]]), [true, false]);
        assert_eq!(limiter.open.lock().count, 8);
    }

    #[tokio::test]
    async fn an_idle_connection_gives_way_even_if_the_largest_source_works() {
        let limiter = limiter(4, 4, 4);
        let start = Instant::now();
        let busy = [0; 3].map(|_| limiter.admit(source(1, Unknown), start).unwrap());
        for it in &busy {
            it.works();
        }
        let idle = limiter.admit(source(2, Unknown), start).unwrap();
        assert!(limiter.admit(source(3, Unknown), start + GRACE).is_ok());
        assert!(idle.ended.is_cancelled());
    }

    #[test]
    fn known_sources_are_counted_by_their_own_address() {
        let of = |text: &str, familiarity| Source::new(text.parse().unwrap(), familiarity);
        assert_eq!(of("fd00::1", Unknown), of("fd00::2", Unknown));
        assert_ne!(of("fd00::1", Known), of("fd00::2", Known));
        assert_ne!(of("fd00::1", Known), of("fd00::1", Unknown));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
