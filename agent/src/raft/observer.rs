//! From the library's roles to what the handle's readers are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Raft, ReadPolicy, ServerState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use super::types::{Membership, Server, ServerId, Types};

/// A new leader that no majority confirms yet asks again.
const CONFIRM_RETRY: Duration = Duration::from_millis(50);

/// What the handle's readers are told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Status {
    /// This server leads and has applied everything acknowledged before.
    pub(super) leading: bool,
    /// The leader, if one is known.
    pub(super) leader: Option<ServerId>,
    /// All servers as last agreed.
    pub(super) servers: BTreeMap<ServerId, Server>,
    /// Why agreement has ended on this server.
    pub(super) failed: Option<String>,
}

/// Turns the library's figures into [`Status`].
pub(super) struct Observer {
    pub(super) raft: Raft<Types, Machine>,
    pub(super) id: ServerId,
    pub(super) server: Server,
    pub(super) contact: Arc<Mutex<Instant>>,
    pub(super) tell: watch::Sender<Status>,
}

impl Observer {
    /// Runs until `stop`, or until agreement ends on its own.
    pub(super) async fn run(self, stop: CancellationToken) {
        // Unlike the figures, these change with roles and servers only, not with each entry.
        let mut metrics = self.raft.server_metrics();
        let mut led_term = None;
        loop {
            let now = metrics.borrow_watched().clone();
            let term = now.vote.leader_id.term;
            let leads = now.state == ServerState::Leader && now.current_leader == Some(self.id);
            if !leads {
                led_term = None;
            } else if led_term != Some(term) {
                // Leading counts from the moment that everything acknowledged before is applied.
                match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                    Ok(_) => {
                        led_term = Some(term);
                        self.correct_address(now.membership_config.membership()).await;
                    }
                    Err(error) => tracing::debug!("leadership is not confirmed yet: {error}"),
                }
            }
            if now.current_leader.is_some() {
                *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            let servers = now.membership_config.membership().nodes();
            let status = Status {
                leading: led_term == Some(term),
                leader: now.current_leader,
                servers: servers.map(|(id, server)| (*id, server.clone())).collect(),
                failed: None,
            };
            self.tell.send_if_modified(|old| {
                let modified = *old != status;
                *old = status;
                modified
            });
            tokio::select! {
                // The library's core has ended.
                changed = metrics.changed() => if changed.is_err() {
                    break;
                },
                () = tokio::time::sleep(CONFIRM_RETRY), if leads && led_term != Some(term) => {}
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

    /// Servers are known by their ID: a lone server that was started with a new address or name
    /// writes it down.
    async fn correct_address(&self, membership: &Membership) {
        let recorded = membership.get_node(&self.id);
        if membership.voter_ids().count() != 1 || recorded == Some(&self.server) {
            return;
        }
        let nodes = BTreeMap::from([(self.id, self.server.clone())]);
        let change = ChangeMembers::SetNodes(nodes);
        if let Err(error) = self.raft.change_membership(change, true).await {
            tracing::warn!("cannot record this server's new address: {error}");
        }
    }
}
