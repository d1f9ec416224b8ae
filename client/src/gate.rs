//! At most so many connections of this program to one agent.
//!
//! An agent refuses connections of an address above `http_max_conns_per_client` (200), whoever of that host asks. So
//! that no program takes them from the others, all clients of one process that talk to the same agent share one
//! number, a quarter of that by default ([`crate::Settings::connections_max`]). Requests above it queue in the order
//! in which they came. Those that wait for a change leave some connections to those that are answered at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;

/// The fewest connections that a client can work with: one that waits, and one for calls.
const MIN: usize = 2;
/// The most that make sense: an agent has a few hundred for a whole host.
const MAX: usize = 10_000;
/// One connection in so many is kept from requests that wait.
const RESERVE_PART: usize = 8;

/// The gates of this process, by address and number.
static GATES: Mutex<BTreeMap<(String, usize), Weak<Gate>>> = Mutex::new(BTreeMap::new());

/// How long a request may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is answered at once.
    Call,
    /// The agent holds it until something changes, or its answer goes on.
    Wait,
}

/// What all requests to one agent pass.
#[derive(Debug)]
pub(crate) struct Gate {
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    waits_max: usize,
}

/// The right to one request, for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Pass {
    _wait: Option<OwnedSemaphorePermit>,
    _request: OwnedSemaphorePermit,
}

impl Gate {
    /// The gate to the agent at `address`, shared by all clients that ask for the same number.
    pub(crate) fn of(address: &str, connections_max: usize) -> Result<Arc<Gate>, Error> {
        if !(MIN..=MAX).contains(&connections_max) {
            return Err(Error::Connections { value: connections_max, min: MIN, max: MAX });
        }
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|_, gate| gate.strong_count() > 0);
        let key = (address.to_owned(), connections_max);
        if let Some(gate) = gates.get(&key).and_then(Weak::upgrade) {
            return Ok(gate);
        }
        let gate = Arc::new(Gate::new(connections_max));
        gates.insert(key, Arc::downgrade(&gate));
        Ok(gate)
    }

    fn new(connections_max: usize) -> Gate {
        let waits_max = connections_max - connections_max.div_ceil(RESERVE_PART);
        Gate {
            connections: Arc::new(Semaphore::new(connections_max)),
            requests: Arc::new(Semaphore::new(connections_max)),
            waits: Arc::new(Semaphore::new(waits_max)),
            waits_max,
        }
    }

    /// How many requests may wait for a change at the same time.
    pub(crate) fn waits_max(&self) -> usize {
        self.waits_max
    }

    /// Waits for the right to one request.
    pub(crate) async fn enter(&self, kind: Kind) -> Pass {
        let wait = match kind {
            Kind::Call => None,
            Kind::Wait => Some(acquire(&self.waits).await),
        };
        Pass { _wait: wait, _request: acquire(&self.requests).await }
    }

    /// Waits for the right to open one connection. The library that keeps idle connections may open one for a request
    /// that it then sends on another: they all count.
    pub(crate) async fn connection(&self) -> OwnedSemaphorePermit {
        acquire(&self.connections).await
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("nobody closes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_leave_room_for_calls() {
        for (connections, waits) in [(2, 1), (3, 2), (8, 7), (9, 7), (50, 43), (200, 175)] {
            assert_eq!(Gate::new(connections).waits_max(), waits, "of {connections}");
        }
        for wrong in [0, 1, MAX + 1] {
            let error = Gate::of("h:1", wrong).expect_err("out of bounds").to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn clients_of_one_agent_share_a_gate() {
        let one = Gate::of("gate.test:1", 5).expect("a number in bounds");
        let two = Gate::of("gate.test:1", 5).expect("a number in bounds");
        let other = Gate::of("gate.test:2", 5).expect("a number in bounds");
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
    }
}
