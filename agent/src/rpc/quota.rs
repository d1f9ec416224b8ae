//! Limit on the connections and the memory that other agents can make this one hold: for each address, and in total.
//!
//! | purse | what is in it | when it is empty |
//! |---|---|---|
//! | arriving | large frames, from their first byte on | the connection is not read from |
//! | calls | requests whose answer is not made yet | another call is refused |
//! | leaving | answers that the peer has not read yet | answers wait, and at last the connection ends |
//!
//! An address that fills its purses leaves those of the others alone: a total is several times what one address has.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Limits;
use crate::net::{
    ConnectionLimiter, ConnectionLimits, ConnectionPermit, Familiarity, Full, FullSource, Source,
};

/// Bytes of a call beside its body: its task, its entry among the others, and what its handler keeps.
pub(super) const CALL_BYTES: usize = 6 << 10;

/// One of so many connections is kept for known addresses.
const KNOWN_PART: usize = 4;

/// A body is there as bytes and as what is read from them.
const BODY_COPIES: usize = 2;

/// Answers of one address, and of all, that are made and wait for room: each may be as large as an answer can be.
const TURNS_PER_CLIENT: usize = 16;
const TURNS_TOTAL: usize = 128;

/// Addresses with their connections.
#[derive(Debug)]
pub(super) struct Clients {
    limits: Limits,
    total: [Arc<Semaphore>; 3],
    turns: Arc<Semaphore>,
    limiter: Arc<ConnectionLimiter>,
    known: Mutex<HashMap<Source, Client>>,
}

#[derive(Debug)]
struct Client {
    connections: usize,
    purses: [Arc<Semaphore>; 3],
    turns: Arc<Semaphore>,
}

/// One connection of an address.
pub(super) struct Entered {
    clients: Arc<Clients>,
    source: Source,
    permit: ConnectionPermit,
    purses: [Arc<Semaphore>; 3],
    turns: Arc<Semaphore>,
}

/// Bytes of a purse, or a turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    _own: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

/// Purpose of held bytes.
#[derive(Debug, Clone, Copy)]
enum Purse {
    Arriving,
    Calls,
    Leaving,
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS)
}

fn purses(bytes: usize) -> [Arc<Semaphore>; 3] {
    std::array::from_fn(|_| Arc::new(Semaphore::new(kib(bytes))))
}

impl Clients {
    pub(super) fn new(limits: Limits) -> Clients {
        let turns = Arc::new(Semaphore::new(TURNS_TOTAL));
        let total = limits.connections_total;
        let unknown = (total - total / KNOWN_PART).max(1);
        let limiter = Arc::new(ConnectionLimiter::new(ConnectionLimits {
            total,
            unknown,
            per_source: limits.connections_per_client,
            full_source: FullSource::Refuse,
        }));
        let total = purses(limits.bytes_total);
        Clients { limits, total, turns, limiter, known: Mutex::default() }
    }

    /// One more connection, if there are not too many or an idle one is closed for it.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, known: bool) -> Result<Entered, Full> {
        let familiarity = if known { Familiarity::Known } else { Familiarity::Unknown };
        let source = Source::new(address, familiarity);
        let permit = self.limiter.admit(source, Instant::now())?;
        let mut known = self.known.lock();
        let new = || Client {
            connections: 0,
            purses: purses(self.limits.bytes_per_client),
            turns: Arc::new(Semaphore::new(TURNS_PER_CLIENT)),
        };
        let client = known.entry(source).or_insert_with(new);
        client.connections += 1;
        let (purses, turns) = (client.purses.clone(), Arc::clone(&client.turns));
        Ok(Entered { clients: Arc::clone(self), source, permit, purses, turns })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut known = self.clients.known.lock();
        if let Some(client) = known.get_mut(&self.source) {
            client.connections -= 1;
            if client.connections == 0 {
                known.remove(&self.source);
            }
        }
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entered").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Entered {
    /// From now on the connection waits for its peer.
    pub(super) fn waits(&self) {
        self.permit.waits(Instant::now());
    }

    /// From now on it works for its peer.
    pub(super) fn works(&self) {
        self.permit.works();
    }

    /// Resolves when the connection has to give way to another one.
    pub(super) async fn ended(&self) {
        self.permit.ended().await;
    }

    /// Waits until a frame of so many bytes may arrive.
    pub(super) async fn arriving(&self, bytes: usize) -> Option<Held> {
        self.hold(Purse::Arriving, bytes).await
    }

    /// Waits until an answer of so many bytes may be queued.
    pub(super) async fn leaving(&self, bytes: usize) -> Option<Held> {
        self.hold(Purse::Leaving, bytes).await
    }

    /// Waits until another answer may be made ready.
    pub(super) async fn turn(&self) -> Option<Held> {
        let own = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let total = Arc::clone(&self.clients.turns).acquire_owned().await.ok()?;
        Some(Held { _own: own, _total: total })
    }

    /// May a call with such a body begin?
    pub(super) fn call(&self, body: usize) -> Option<Held> {
        let (own, total, count) = self.pair(Purse::Calls, CALL_BYTES + BODY_COPIES * body);
        let own = own.try_acquire_many_owned(count).ok()?;
        let total = total.try_acquire_many_owned(count).ok()?;
        Some(Held { _own: own, _total: total })
    }

    /// `None`: nothing is given any more, which does not happen while anybody asks.
    async fn hold(&self, purse: Purse, bytes: usize) -> Option<Held> {
        let (own, total, count) = self.pair(purse, bytes);
        let own = own.acquire_many_owned(count).await.ok()?;
        let total = total.acquire_many_owned(count).await.ok()?;
        Some(Held { _own: own, _total: total })
    }

    fn pair(&self, purse: Purse, bytes: usize) -> (Arc<Semaphore>, Arc<Semaphore>, u32) {
        let limits = &self.clients.limits;
        // What is larger than a purse waits for all of it, not for ever.
        let most = kib(limits.bytes_per_client).min(kib(limits.bytes_total));
        let count = u32::try_from(kib(bytes).min(most)).unwrap_or(u32::MAX);
        let (own, total) = (&self.purses[purse as usize], &self.clients.total[purse as usize]);
        (Arc::clone(own), Arc::clone(total), count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(bytes_per_client: usize, bytes_total: usize) -> Arc<Clients> {
        let limits = Limits { bytes_per_client, bytes_total, ..Limits::default() };
        Arc::new(Clients::new(limits))
    }

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn an_address_has_its_share_over_all_its_connections() {
        let clients = clients(10 * CALL_BYTES, 25 * CALL_BYTES);
        let connections: Vec<_> =
            (0..6).map(|n| clients.enter(address(n / 2), false).unwrap()).collect();
        let mut held = Vec::new();
        let mut begun = |connection: usize| {
            let mut count = 0;
            while let Some(call) = connections[connection].call(0) {
                held.push(call);
                count += 1;
            }
            count
        };
        assert_eq!((begun(0), begun(1)), (10, 0), "one share for both of its connections");
        assert_eq!((begun(2), begun(4)), (10, 5), "a share for each address, within the total");
        drop(held);
        assert!(connections[1].call(0).is_some());
        let body = 9 * CALL_BYTES / BODY_COPIES;
        assert!(connections[3].call(body).is_some());
        let large = connections[3].call(body);
        assert!(large.is_some() && connections[2].call(CALL_BYTES).is_none(), "bodies count");
    }

    #[tokio::test]
    async fn what_is_larger_than_a_share_waits_for_all_of_it() {
        let clients = clients(1 << 20, 4 << 20);
        let one = clients.enter(address(1), false).unwrap();
        let all = one.arriving(16 << 20).await;
        assert!(all.is_some());
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), one.arriving(1));
        assert!(waiting.await.is_err());
        assert!(one.leaving(1).await.is_some(), "another purse");
        drop(all);
        assert!(one.arriving(1).await.is_some());
    }

    #[test]
    fn addresses_of_a_network_share_its_connections_unless_they_are_known() {
        let limits = Limits { connections_per_client: 2, ..Limits::default() };
        let clients = Arc::new(Clients::new(limits));
        let enter =
            |last: u16, known| clients.enter(IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, last]), known);
        let _some = [enter(1, false).unwrap(), enter(2, false).unwrap()];
        assert_eq!(enter(3, false).unwrap_err(), Full::Source);
        let _known = [enter(3, true).unwrap(), enter(3, true).unwrap(), enter(4, true).unwrap()];
        assert_eq!(enter(3, true).unwrap_err(), Full::Source);
    }

    #[test]
    fn all_addresses_together_have_a_bound_that_leaves_places_for_those_who_are_known() {
        let limits = Limits { connections_total: 8, ..Limits::default() };
        let clients = Arc::new(Clients::new(limits));
        let enter = |n, known| clients.enter(address(n), known).inspect(Entered::works);
        let strangers: Vec<_> = (0..6).map(|n| enter(n, false).unwrap()).collect();
        assert_eq!(enter(7, false).unwrap_err(), Full::Total);
        assert!(
            !clients.known.lock().contains_key(&Source::new(address(7), Familiarity::Unknown)),
            "nothing is kept"
        );
        let known: Vec<_> = (0..2).map(|n| enter(n, true).unwrap()).collect();
        assert_eq!(enter(3, true).unwrap_err(), Full::Total);
        drop((strangers, known));
        assert!(enter(7, false).is_ok());
    }

    #[test]
    fn an_address_that_has_gone_is_forgotten() {
        let clients = clients(1 << 20, 4 << 20);
        let entered: Vec<_> = (0..3).map(|_| clients.enter(address(1), false).unwrap()).collect();
        assert_eq!(clients.known.lock().len(), 1);
        drop(entered);
        assert!(clients.known.lock().is_empty());
    }
}
