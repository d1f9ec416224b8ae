//! The leader's timers of session lifetimes.
//!
//! A session with a TTL lives for at least that long after it was created or last renewed, and for
//! at most twice as long: the leader destroys it after twice the TTL, which leaves its holder room
//! for slow networks. Timers live in the leader's memory alone. A new leader starts all of them
//! anew, so a change of leadership prolongs lives and never cuts them short. A server that does not lead
//! passes renewals on to the one that does.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use muster_client::types::parse_duration;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::raft::{self, Consensus};
use crate::rpc::{Handlers, Method, Pool};
use crate::store::{Change, Scope, SessionId, Store};

/// A session ends after this many TTLs without renewal.
const TTL_FACTOR: u32 = 2;
/// Session changes that come together are looked at together. Short against the least TTL.
const GATHER: Duration = Duration::from_millis(100);
/// Interval of looking for a leader.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// When a session could not be destroyed (no quorum, most likely), this much later again.
const RETRY: Duration = Duration::from_secs(2);

/// Handle on the timers: interfaces renew through it, one task runs it.
#[derive(Debug, Clone)]
pub struct Lifetimes {
    timers: Arc<Mutex<Timers>>,
    /// The way to the other servers.
    peers: Pool,
}

/// Deadlines of all sessions that have a TTL; empty unless this server leads.
#[derive(Debug, Default)]
struct Timers {
    by_id: HashMap<SessionId, Timer>,
    order: BTreeSet<(Instant, SessionId)>,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    deadline: Instant,
    lifetime: Duration,
}

impl Timers {
    /// Starts a timer, or moves it.
    fn set(&mut self, id: &SessionId, deadline: Instant, lifetime: Duration) {
        self.remove(id);
        self.by_id.insert(Arc::clone(id), Timer { deadline, lifetime });
        self.order.insert((deadline, Arc::clone(id)));
    }

    fn remove(&mut self, id: &SessionId) {
        if let Some(timer) = self.by_id.remove(id) {
            self.order.remove(&(timer.deadline, Arc::clone(id)));
        }
    }

    /// Gives the holder another lifetime.
    fn renew(&mut self, id: &str, now: Instant) {
        let Some((id, timer)) = self.by_id.get_key_value(id).map(|(id, t)| (Arc::clone(id), *t))
        else {
            return;
        };
        self.set(&id, now + timer.lifetime, timer.lifetime);
    }

    /// Makes the timers those of the sessions that exist.
    fn follow(&mut self, store: &Store, now: Instant) {
        let sessions = store.sessions().list().rows;
        let mut gone: BTreeSet<SessionId> = self.by_id.keys().cloned().collect();
        for session in sessions {
            let Some(lifetime) = lifetime(&session.ttl) else { continue };
            if !gone.remove(&session.id) {
                self.set(&session.id, now + lifetime, lifetime);
            }
        }
        for id in gone {
            self.remove(&id);
        }
    }

    /// Sessions whose time is up.
    fn due(&self, now: Instant) -> Vec<SessionId> {
        self.order
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, id)| Arc::clone(id))
            .collect()
    }
}

/// Lifetime of a session without renewal; `None`: for ever.
fn lifetime(ttl: &str) -> Option<Duration> {
    parse_duration(ttl).ok().filter(|ttl| !ttl.is_zero()).map(|ttl| ttl * TTL_FACTOR)
}

impl Lifetimes {
    /// Timers that nobody runs yet, and the way to the other servers.
    pub fn new(peers: Pool) -> Lifetimes {
        Lifetimes { timers: Arc::default(), peers }
    }

    /// Gives a session another lifetime from now on: at the leader, whoever that is. Sessions without TTL need none.
    /// Waits for a leader until `deadline`.
    pub async fn renew(
        &self,
        consensus: &Consensus,
        id: &str,
        deadline: Instant,
    ) -> Result<(), raft::Error> {
        loop {
            if self.renew_here(consensus, id) {
                return Ok(());
            }
            let leader = consensus.leader().and_then(|address| address.parse().ok());
            if let Some(leader) = leader {
                match self.peers.call(leader, Method::Renew, id, deadline).await {
                    Ok(true) => return Ok(()),
                    // It has stopped leading.
                    Ok(false) => {}
                    Err(error) => tracing::debug!(session = id, %error, "not renewed"),
                }
            }
            if Instant::now() >= deadline {
                return Err(raft::Error::NoLeader);
            }
            tokio::time::sleep(LEADER_RETRY).await;
        }
    }

    /// Number of sessions whose time limit this server watches, which only the leader does.
    pub fn active(&self) -> usize {
        self.timers().by_id.len()
    }

    /// Does this server lead, and has it renewed the session?
    fn renew_here(&self, consensus: &Consensus, id: &str) -> bool {
        let leads = consensus.is_leader();
        if leads {
            self.timers().renew(id, Instant::now());
        }
        leads
    }

    /// Adds what a leader answers to the other servers.
    #[must_use]
    pub fn answer(&self, handlers: Handlers, consensus: &Consensus) -> Handlers {
        let (lifetimes, consensus) = (self.clone(), consensus.clone());
        handlers.on(Method::Renew, move |id: String, _| {
            std::future::ready(Ok(lifetimes.renew_here(&consensus, &id)))
        })
    }

    /// Destroys sessions whose time is up, for as long as this server leads. Returns at `shutdown`.
    pub async fn run(self, consensus: Consensus, shutdown: CancellationToken) {
        loop {
            let leads = consensus.is_leader();
            *self.timers() = Timers::default();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = consensus.leadership_changed(leads) => {}
                () = self.lead(&consensus), if leads => {}
            }
        }
    }

    async fn lead(&self, consensus: &Consensus) {
        loop {
            let mut changed = consensus.watches().register(&[Scope::Sessions]);
            let now = Instant::now();
            let store = consensus.store();
            self.timers().follow(&store, now);
            drop(store);
            let next = loop {
                let due = self.timers().due(Instant::now());
                if due.is_empty() {
                    break self.timers().order.first().map(|(deadline, _)| *deadline);
                }
                for id in due {
                    self.expire(consensus, &id).await;
                }
            };
            // Renewals only move deadlines away: an early look finds nothing due.
            let until = next.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            if tokio::time::timeout_at(until, changed.woken()).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    async fn expire(&self, consensus: &Consensus, id: &SessionId) {
        tracing::debug!(session = %id, "the time of a session is up");
        match consensus.propose(Change::SessionDestroy { id: Arc::clone(id) }).await {
            Ok(_) => self.timers().remove(id),
            Err(error) => {
                tracing::warn!(session = %id, %error, "cannot end a session");
                let mut timers = self.timers();
                if let Some(lifetime) = timers.by_id.get(id).map(|timer| timer.lifetime) {
                    timers.set(id, Instant::now() + RETRY, lifetime);
                }
            }
        }
    }

    fn timers(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_renewed_and_come_due_in_order() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let (a, b): (SessionId, SessionId) = ("a".into(), "b".into());
        let second = Duration::from_secs(1);
        timers.set(&a, start + second, second);
        timers.set(&b, start + 2 * second, 2 * second);
        assert!(timers.due(start).is_empty());
        assert_eq!(timers.due(start + second), [Arc::clone(&a)]);
        timers.renew("a", start + second);
        assert!(timers.due(start + second).is_empty());
        assert_eq!(timers.due(start + 3 * second), [Arc::clone(&a), Arc::clone(&b)]);
        timers.renew("unknown", start);
        timers.remove(&a);
        assert_eq!(timers.due(start + 9 * second), [b]);
    }

    #[test]
    fn lifetimes_are_twice_the_ttl() {
        for (ttl, expected) in [("10s", Some(20)), ("", None), ("0s", None), ("bogus", None)] {
            assert_eq!(lifetime(ttl), expected.map(Duration::from_secs), "{ttl}");
        }
    }
}
