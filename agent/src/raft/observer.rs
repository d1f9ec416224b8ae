//! From the library's roles to what the handle's readers are told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, Raft, ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use super::types::{Server, ServerId, Types};
use crate::telemetry::metrics::names;

/// A new leader that no majority confirms yet asks again.
const CONFIRM_RETRY: Duration = Duration::from_millis(50);

/// Status that readers of the handle see.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Status {
    /// This server leads, has applied everything acknowledged before, and is heard by a majority.
    pub(super) leading: bool,
    /// It is the only voter.
    pub(super) alone: bool,
    /// The leader, if one is known and heard.
    pub(super) leader: Option<ServerId>,
    /// All servers as last agreed.
    pub(super) servers: BTreeMap<ServerId, Server>,
    /// Reason why consensus has ended on this server.
    pub(super) failed: Option<String>,
}

/// When a leader was last heard.
#[derive(Debug)]
pub(super) struct Contact(Mutex<Option<Instant>>);

impl Contact {
    /// Not yet.
    pub(super) fn none() -> Contact {
        Contact(Mutex::new(None))
    }

    /// Just now.
    pub(super) fn heard(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Age of the last contact.
    pub(super) fn age(&self) -> Option<Duration> {
        self.0.lock().map(|moment| moment.elapsed())
    }
}

/// Turns the library's figures into [`Status`].
pub(super) struct Observer {
    pub(super) raft: Raft<Types, Machine>,
    pub(super) id: ServerId,
    pub(super) contact: std::sync::Arc<Contact>,
    /// A leader that no majority answers for so long does not lead any more, and one that was not
    /// heard for so long is not known any more. The library waits for another to be elected, which
    /// a server that is cut off never hears of.
    pub(super) patience: Duration,
    pub(super) tell: watch::Sender<Status>,
}

impl Observer {
    /// Runs until `stop`, or until agreement ends on its own.
    pub(super) async fn run(self, stop: CancellationToken) {
        // Unlike the figures, these change with roles and servers only, not with each entry.
        let mut metrics = self.raft.server_metrics();
        let figures = self.raft.data_metrics();
        let mut led_term = None;
        let mut state = None;
        loop {
            let now = metrics.borrow_watched().clone();
            if state.replace(now.state) != Some(now.state) {
                match now.state {
                    ServerState::Leader => names::RAFT_LEADER.add(),
                    ServerState::Candidate => names::RAFT_CANDIDATE.add(),
                    ServerState::Follower => names::RAFT_FOLLOWER.add(),
                    ServerState::Learner | ServerState::Shutdown => {}
                }
            }
            let term = now.vote.leader_id.term;
            let membership = now.membership_config.membership();
            let alone = membership.voter_ids().eq([self.id]);
            let leads = now.state == ServerState::Leader && now.current_leader == Some(self.id);
            if !leads {
                led_term = None;
            } else if led_term != Some(term) {
                // Leading counts from the moment that everything acknowledged before is applied.
                let confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
                match tokio::time::timeout(self.patience, confirmed).await {
                    Ok(Ok(_)) => led_term = Some(term),
                    Ok(Err(error)) => tracing::debug!("leadership is not confirmed yet: {error}"),
                    Err(_) => tracing::debug!("nobody confirms this server's leadership"),
                }
            }
            let heard = if leads {
                let acked = figures.borrow_watched().last_quorum_acked;
                alone || acked.is_some_and(|acked| acked.elapsed() < self.patience)
            } else {
                self.contact.age().is_some_and(|age| age < self.patience)
            };
            let status = Status {
                leading: led_term == Some(term) && heard,
                alone,
                leader: now.current_leader.filter(|_| heard),
                servers: membership.nodes().map(|(id, server)| (*id, server.clone())).collect(),
                failed: None,
            };
            self.tell.send_if_modified(|old| {
                let modified = *old != status;
                *old = status;
                modified
            });
            let unsettled = leads && led_term != Some(term);
            let pause = if unsettled { CONFIRM_RETRY } else { self.patience / 8 };
            tokio::select! {
                // The library's core has ended.
                changed = metrics.changed() => if changed.is_err() {
                    break;
                },
                () = tokio::time::sleep(pause), if !alone || unsettled => {}
                () = stop.cancelled() => break,
            }
        }
        let failed = (!stop.is_cancelled()).then(|| {
            let why = self.raft.metrics().borrow_watched().running_state.clone();
            why.err().map_or_else(|| "it ended by a panic".to_owned(), |why| why.to_string())
        });
        if let Some(failed) = &failed {
            tracing::error!("agreement has ended on this server: {failed}");
        }
        self.tell.send_modify(|status| {
            status.leading = false;
            status.leader = None;
            status.failed = failed;
        });
    }
}
