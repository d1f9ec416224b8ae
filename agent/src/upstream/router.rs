//! Router: the servers in the order in which they are tried.
//!
//! The first is asked until it fails; then it goes to the end. Every few minutes another one that answers a ping
//! comes to the front, so that the agents spread over the servers again after one was away.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::sync::watch;

/// A server stays the first for this long, and up to half as long again.
const REBALANCE: Duration = Duration::from_mins(2);
/// A server that takes longer to answer a ping is passed over.
pub(super) const PING_MAX: Duration = Duration::from_secs(2);

/// A server that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// For people.
    pub name: String,
    /// Address of its RPC port.
    pub address: SocketAddr,
}

/// The servers in order.
#[derive(Debug)]
pub(super) struct Router {
    servers: watch::Receiver<Vec<Server>>,
    order: Mutex<Order>,
    /// Counts servers that came.
    returns: watch::Sender<u64>,
}

impl Router {
    pub(super) fn new(servers: watch::Receiver<Vec<Server>>) -> Router {
        let router = Router { servers, order: Mutex::default(), returns: watch::Sender::new(0) };
        router.follow();
        router
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock()
    }

    /// Takes the list over as it is now.
    fn follow(&self) {
        let known: Vec<SocketAddr> = self.servers.borrow().iter().map(|it| it.address).collect();
        if self.order().follow(&known, &mut rand::rng()) {
            self.returns.send_modify(|count| *count += 1);
        }
    }

    /// Server to ask now.
    pub(super) fn current(&self) -> Option<SocketAddr> {
        self.order().0.first().copied()
    }

    /// Number of servers.
    pub(super) fn len(&self) -> usize {
        self.order().0.len()
    }

    /// That server did not answer: the others come first.
    pub(super) fn failed(&self, server: SocketAddr) {
        self.order().failed(server);
    }

    /// Counts servers that came, or came back.
    pub(super) fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// Resolves when a server is known.
    pub(super) async fn reachable(&self) {
        let mut servers = self.servers.clone();
        while self.current().is_none() {
            if servers.wait_for(|servers| !servers.is_empty()).await.is_err() {
                // Nothing changes any more.
                std::future::pending::<()>().await;
            }
            self.follow();
        }
    }

    /// Resolves when that server is no longer among the known ones.
    pub(super) async fn gone(&self, server: SocketAddr) {
        let mut servers = self.servers.clone();
        let is_gone = |servers: &Vec<Server>| servers.iter().all(|it| it.address != server);
        if servers.wait_for(is_gone).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.follow();
    }

    /// Follows the list, and brings another server to the front now and then.
    pub(super) async fn run(&self, ping: impl Fn(SocketAddr) -> BoxFuture<'static, bool>) {
        let mut servers = self.servers.clone();
        loop {
            let stay = REBALANCE + REBALANCE.mul_f64(rand::rng().random::<f64>() / 2.0);
            let rebalance = tokio::time::sleep(stay);
            tokio::pin!(rebalance);
            loop {
                tokio::select! {
                    changed = servers.changed() => {
                        if changed.is_err() {
                            std::future::pending::<()>().await;
                        }
                        self.follow();
                    }
                    () = &mut rebalance => break,
                }
            }
            self.rebalance(&ping).await;
        }
    }

    async fn rebalance(&self, ping: &impl Fn(SocketAddr) -> BoxFuture<'static, bool>) {
        let mut candidates = self.order().0.clone();
        if candidates.len() < 2 {
            return;
        }
        candidates.shuffle(&mut rand::rng());
        for candidate in candidates {
            if ping(candidate).await {
                self.order().prefer(candidate);
                return;
            }
        }
        tracing::warn!("no server answers");
    }
}

/// Addresses in the order in which they are tried.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order(Vec<SocketAddr>);

impl Order {
    /// Takes over who is known; those that stay keep their places. Did any come?
    fn follow(&mut self, known: &[SocketAddr], rng: &mut impl rand::Rng) -> bool {
        self.0.retain(|server| known.contains(server));
        let mut came: Vec<_> = known.iter().filter(|it| !self.0.contains(it)).copied().collect();
        came.sort_unstable();
        came.dedup();
        came.shuffle(rng);
        let any = !came.is_empty();
        self.0.append(&mut came);
        any
    }

    fn failed(&mut self, server: SocketAddr) {
        // One that is not asked now may have been tried again since by somebody else.
        if self.0.first() == Some(&server) {
            self.0.rotate_left(1);
        }
    }

    fn prefer(&mut self, server: SocketAddr) {
        if let Some(place) = self.0.iter().position(|it| *it == server) {
            self.0[..=place].rotate_right(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn the_failed_go_to_the_end_and_the_known_keep_their_places() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut order = Order::default();
        assert!(order.follow(&[address(1)], &mut rng));
        assert!(order.follow(&[address(1), address(2), address(2)], &mut rng));
        assert_eq!(order.0, [address(1), address(2)]);
        assert!(!order.follow(&[address(2), address(1)], &mut rng));
        order.failed(address(2));
        assert_eq!(order.0, [address(1), address(2)]);
        order.failed(address(1));
        assert_eq!(order.0, [address(2), address(1)]);
        order.prefer(address(1));
        assert_eq!(order.0, [address(1), address(2)]);
        assert!(!order.follow(&[], &mut rng));
        order.failed(address(1));
        assert_eq!(order, Order::default());
    }

    #[test]
    fn agents_begin_at_different_servers() {
        let known = [address(1), address(2), address(3)];
        let first = |seed| {
            let mut order = Order::default();
            order.follow(&known, &mut rand::rngs::StdRng::seed_from_u64(seed));
            order.0[0]
        };
        let mut begun: Vec<_> = (0..32).map(first).collect();
        begun.sort_unstable();
        begun.dedup();
        assert_eq!(begun, known);
    }
}
