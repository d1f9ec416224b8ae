//! What the leader does about who takes part: invites servers that appear, corrects addresses,
//! removes those that said good-bye. When a newcomer gets a voice is decided in `autopilot`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bond::Invitation;
use super::forming::Servers;
use super::observer::Status;
use super::roster::{Presence, Roster};
use super::types::{Membership, Server, ServerId, Types};

/// Between looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// A change that a majority does not confirm by then is looked at again.
const CHANGE_MAX: Duration = Duration::from_secs(10);

impl Servers {
    /// Does the leader's duty whenever this server leads, until `stop`.
    pub(super) async fn grow(&self, mut status: watch::Receiver<Status>, stop: CancellationToken) {
        let mut roster = self.network.roster.clone();
        loop {
            let leads = status.borrow_and_update().leading;
            if leads {
                let now = roster.borrow_and_update().clone();
                self.admit(&now).await;
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() {
                    return;
                },
                Ok(()) = roster.changed(), if leads => {}
                () = tokio::time::sleep(INTERVAL), if leads => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn admit(&self, roster: &Roster) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        self.invite_new(roster, membership).await;
        for change in changes(roster, &metrics, self.network.me, &self.server) {
            tracing::info!("changing who takes part: {change}");
            let changed = self.raft.change_membership(change, false);
            match tokio::time::timeout(CHANGE_MAX, changed).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!("the servers could not be changed: {error}"),
                Err(_) => tracing::warn!("a change of the servers is not confirmed yet"),
            }
        }
    }

    /// Servers that are there and take no part yet.
    async fn invite_new(&self, roster: &Roster, membership: &Membership) {
        let Some(bond) = self.network.bonds.now() else {
            return;
        };
        let members: BTreeSet<ServerId> = membership.nodes().map(|(id, _)| *id).collect();
        for (id, listed) in roster.alive().filter(|(id, _)| !members.contains(id)) {
            // Members are asked too: only they can say that a plan of theirs was given up.
            let mut servers = members.clone();
            servers.remove(&self.network.me);
            let (cluster, founder) = (bond.cluster, bond.founder);
            let alone = Invitation {
                to: id,
                from: Some(self.network.me),
                asks: false,
                cluster,
                founder,
                formed: true,
                void: Vec::new(),
            };
            let mut invited = self.invite_all(&BTreeSet::from([id]), alone.clone()).await;
            if invited.is_err() && listed.presence == Presence::Alive {
                servers.insert(id);
                invited = self.invite_all(&servers, alone).await;
            }
            if let Err(why) = invited {
                tracing::debug!("cannot invite {}: {why}", listed.name);
                continue;
            }
            let server = Server { name: listed.name.clone(), address: listed.address.to_string() };
            tracing::info!("server {} at {} joins", server.name, server.address);
            let added = self.raft.add_learner(id, server, false);
            match tokio::time::timeout(CHANGE_MAX, added).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!("{} cannot join: {error}", listed.name),
                Err(_) => tracing::warn!("that {} joins is not confirmed yet", listed.name),
            }
        }
    }
}

type Change = ChangeMembers<ServerId, Server>;

/// What is to be changed about those that take part.
fn changes(
    roster: &Roster,
    metrics: &RaftMetrics<Types>,
    me: ServerId,
    own: &Server,
) -> Vec<Change> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<ServerId> = membership.voter_ids().collect();
    let mut moved = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for (id, server) in membership.nodes() {
        if *id == me {
            if server != own {
                moved.insert(me, own.clone());
            }
            continue;
        }
        let Some(listed) = roster.servers.get(id) else {
            continue;
        };
        match listed.presence {
            Presence::Left => {
                gone.insert(*id);
            }
            Presence::Failed => {}
            Presence::Alive => {
                let now = Server { name: listed.name.clone(), address: listed.address.to_string() };
                if *server != now {
                    moved.insert(*id, now);
                }
            }
        }
    }
    let mut changes = Vec::new();
    if !moved.is_empty() {
        changes.push(ChangeMembers::SetNodes(moved));
    }
    let leaving: BTreeSet<ServerId> = gone.intersection(&voters).copied().collect();
    if !leaving.is_empty() {
        changes.push(ChangeMembers::RemoveVoters(leaving.clone()));
    }
    let learners: BTreeSet<ServerId> = gone.difference(&leaving).copied().collect();
    if !learners.is_empty() {
        changes.push(ChangeMembers::RemoveNodes(learners));
    }
    changes
}
