//! Looks, decides and acts, while this server leads.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant, SystemTime};

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Action, Assessed, Assessment, Health, Leader, Presence, Rules, Seen, decide, failure_tolerance,
    judge,
};
use crate::raft::Consensus;
use crate::raft::consensus::Inner;
use crate::raft::membership::known_servers;
use crate::raft::observer::Status;
use crate::raft::types::ServerId;
use crate::store::{self, AutopilotChange, Change};
use crate::telemetry::metrics::names;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// Looks after the servers.
pub(in crate::raft) struct Driver {
    /// Not a handle of its own: whoever drops the last one wants agreement to end.
    pub(in crate::raft) consensus: Weak<Inner>,
    /// The rules of a cluster that has none yet.
    pub(in crate::raft) initial: store::Autopilot,
    pub(in crate::raft) tell: watch::Sender<Option<Assessment>>,
}

impl Driver {
    /// Does its duty whenever this server leads, until `stop`.
    pub(in crate::raft) async fn run(
        self,
        mut status: watch::Receiver<Status>,
        stop: CancellationToken,
    ) {
        loop {
            let led = async {
                if status.wait_for(|status| status.leading).await.is_err() {
                    return false;
                }
                let mut until = status.clone();
                tokio::select! {
                    lost = until.wait_for(|status| !status.leading) => lost.is_ok(),
                    () = self.lead() => false,
                }
            };
            let again = tokio::select! {
                () = stop.cancelled() => false,
                again = led => again,
            };
            self.tell.send_replace(None);
            if !again {
                return;
            }
        }
    }

    /// Returns when agreement has ended. What one leader saw of health does not count for the next.
    async fn lead(&self) {
        let began = Instant::now();
        let mut known = BTreeMap::new();
        while let Some(inner) = self.consensus.upgrade() {
            let consensus = Consensus { inner };
            self.set_initial_rules(&consensus).await;
            let row = consensus.store().autopilot().cloned().unwrap_or_default();
            let rules = Rules::from(&*row);
            let now = began.elapsed();
            if let Some((leader, servers)) = look(&consensus) {
                judge(&mut known, now, &rules, leader, &servers);
                self.tell(&consensus, &known, now, &servers);
                for step in decide(&known, now, &rules, &servers) {
                    act(&consensus, step).await;
                }
            }
            drop(consensus);
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The first leader of a cluster writes down what its configuration says: from then on the rules are the same
    /// whoever leads, and have an index for those who change them.
    async fn set_initial_rules(&self, consensus: &Consensus) {
        if consensus.store().autopilot().is_some() {
            return;
        }
        let change = AutopilotChange { row: self.initial.clone(), cas: Some(0) };
        if let Err(error) = consensus.propose(Change::Autopilot(change)).await {
            tracing::debug!(%error, "the rules for servers could not be written");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "people are told since when it is so")]
    fn tell(
        &self,
        consensus: &Consensus,
        known: &BTreeMap<ServerId, Health>,
        now: Duration,
        servers: &[Seen],
    ) {
        let today = SystemTime::now();
        let configuration = consensus.configuration();
        let assessed = servers.iter().filter_map(|seen| {
            let server = configuration.servers.iter().find(|server| server.id == seen.id)?;
            let health = known.get(&seen.id)?;
            let age = now.saturating_sub(health.since);
            Some(Assessed {
                id: seen.id,
                name: server.name.clone(),
                address: server.address.clone(),
                presence: seen.presence,
                leader: seen.leader,
                voter: seen.voter,
                last_contact: seen.last_contact,
                last_term: seen.last_term,
                last_index: seen.last_index,
                healthy: health.healthy,
                since: today.checked_sub(age).unwrap_or(today),
            })
        });
        let servers_assessed: Vec<Assessed> = assessed.collect();
        self.tell.send_replace(Some(Assessment {
            healthy: servers_assessed.iter().all(|server| server.healthy),
            failure_tolerance: failure_tolerance(known, servers),
            servers: servers_assessed,
        }));
    }
}

/// Collects the facts; nothing if this server does not lead any more.
fn look(consensus: &Consensus) -> Option<(Leader, Vec<Seen>)> {
    let raft = consensus.raft();
    let metrics = raft.metrics().borrow_watched().clone();
    if metrics.state != ServerState::Leader {
        return None;
    }
    // An answer comes with each heart-beat: silence is what is beyond that.
    let usual = Duration::from_millis(raft.config().heartbeat_interval);
    let membership = metrics.membership_config.membership();
    let voters: Vec<ServerId> = membership.voter_ids().collect();
    let last_index = metrics.last_log_index.unwrap_or(0);
    let seen = |id: ServerId| {
        let own = id == metrics.id;
        let answered = metrics.heartbeat.as_ref().and_then(|all| all.get(&id).copied());
        let has = metrics.replication.as_ref().and_then(|all| all.get(&id).copied());
        let has = has.flatten();
        if let Some(at) = answered.flatten().filter(|_| !own && voters.contains(&id)) {
            names::RAFT_LAST_CONTACT.took(at.elapsed());
        }
        Seen {
            id,
            presence: if own { Presence::Alive } else { presence(consensus, id) },
            leader: own,
            voter: voters.contains(&id),
            last_contact: match answered.flatten() {
                _ if own => Some(Duration::ZERO),
                Some(at) => Some(at.elapsed().saturating_sub(usual)),
                None => None,
            },
            last_term: if own {
                metrics.current_term
            } else {
                has.map_or(0, |has| has.leader_id.term)
            },
            last_index: if own { last_index } else { has.map_or(0, |has| has.index) },
        }
    };
    let servers = membership.nodes().map(|(id, _)| seen(*id)).collect();
    Some((Leader { term: metrics.current_term, last_index }, servers))
}

/// Liveness of a server according to the roster.
fn presence(consensus: &Consensus, id: ServerId) -> Presence {
    let known_servers = consensus.inner.network.known_servers.borrow();
    match known_servers.servers.get(&id).map(|server| server.presence) {
        None => Presence::Unknown,
        Some(known_servers::Presence::Alive) => Presence::Alive,
        Some(known_servers::Presence::Failed) => Presence::Failed,
        Some(known_servers::Presence::Left) => Presence::Left,
    }
}

async fn act(consensus: &Consensus, step: Action) {
    let done = match step {
        Action::Promote(id) => {
            tracing::info!(server = %id, "a server has proved itself and votes from now on");
            consensus.promote(id).await
        }
        Action::Remove(id) => {
            tracing::warn!(server = %id, "a server that is gone is removed");
            consensus.remove_server(id).await
        }
    };
    if let Err(error) = done {
        // The next look decides anew.
        tracing::warn!(%error, "the servers could not be changed");
    }
}
