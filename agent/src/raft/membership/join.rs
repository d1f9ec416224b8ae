//! Join: the leader invites servers that appear, corrects addresses,
//! removes those that said good-bye. When a newcomer gets a voice is decided in `autopilot`, unless it
//! is a server that was built anew: it takes the place of its earlier life in one change, so that the
//! two never count together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::raft::membership::bootstrap::Servers;
use crate::raft::membership::known_servers::{KnownServer, KnownServers, Presence};
use crate::raft::membership::promise::Invitation;
use crate::raft::observer::Status;
use crate::raft::types::{Membership, Server, ServerId, Types};

/// Between looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// A change that a majority does not confirm by then is looked at again.
const CHANGE_MAX: Duration = Duration::from_secs(10);

impl Servers {
    /// Does the leader's duty whenever this server leads, until `stop`.
    pub(in crate::raft) async fn grow(
        &self,
        mut status: watch::Receiver<Status>,
        stop: CancellationToken,
    ) {
        let mut known_servers = self.network.known_servers.clone();
        loop {
            let leads = status.borrow_and_update().leading;
            if leads {
                let now = known_servers.borrow_and_update().clone();
                self.admit(&now).await;
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() {
                    return;
                },
                Ok(()) = known_servers.changed(), if leads => {}
                () = tokio::time::sleep(INTERVAL), if leads => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn admit(&self, known_servers: &KnownServers) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        self.invite_new(known_servers, membership).await;
        let metrics = self.raft.metrics().borrow_watched().clone();
        for change in changes(known_servers, &metrics, self.network.me, &self.server) {
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
    async fn invite_new(&self, known_servers: &KnownServers, membership: &Membership) {
        let Some(promise) = self.network.promises.now() else {
            return;
        };
        let members: BTreeSet<ServerId> = membership.nodes().map(|(id, _)| *id).collect();
        for (id, listed) in known_servers.alive().filter(|(id, _)| !members.contains(id)) {
            // Members are asked too: only they can say that a plan of theirs was given up.
            let mut servers = members.clone();
            servers.remove(&self.network.me);
            let (cluster, founder) = (promise.cluster, promise.founder);
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
            let earlier = earlier_life(known_servers, membership, self.network.me, (id, listed));
            let change = if let Some(earlier) = earlier {
                tracing::info!(
                    "server {} at {} was built anew: {id} takes the place of {earlier}",
                    listed.name,
                    listed.address
                );
                replacement(membership, earlier, id, listed)
            } else {
                tracing::info!("server {} at {} joins", listed.name, listed.address);
                ChangeMembers::AddNodes(BTreeMap::from([(id, server(listed))]))
            };
            let added = self.raft.change_membership(change, false);
            match tokio::time::timeout(CHANGE_MAX, added).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!("{} cannot join: {error}", listed.name),
                Err(_) => tracing::warn!("that {} joins is not confirmed yet", listed.name),
            }
            // Who takes part is another set now.
            return;
        }
    }
}

fn server(listed: &KnownServer) -> Server {
    Server { name: listed.name.clone(), address: listed.address.to_string() }
}

/// The server that had this one's name, or else its address, if it is there no more.
fn earlier_life(
    known_servers: &KnownServers,
    membership: &Membership,
    me: ServerId,
    (id, listed): (ServerId, &KnownServer),
) -> Option<ServerId> {
    let is_alive = |id: &ServerId| {
        let listed = known_servers.servers.get(id);
        *id == me || listed.is_some_and(|listed| listed.presence == Presence::Alive)
    };
    let (name, address) = (&listed.name, listed.address.to_string());
    let gone = || membership.nodes().filter(|(other, _)| **other != id && !is_alive(other));
    let voters: BTreeSet<ServerId> = membership.voter_ids().collect();
    let with_name = gone().filter(|(_, server)| server.name == *name);
    let with_address = gone().filter(|(_, server)| server.address == address);
    // Of several the one with a voice: that is the one that is missed.
    let voice_first = |(id, _): &(&ServerId, &Server)| !voters.contains(id);
    let found = with_name.min_by_key(voice_first).or_else(|| with_address.min_by_key(voice_first));
    found.map(|(id, _)| *id)
}

/// Puts a server in the place of its earlier life: with a voice if that had one. The majority needs as
/// many as before, and one more of them is there.
fn replacement(
    membership: &Membership,
    earlier: ServerId,
    id: ServerId,
    listed: &KnownServer,
) -> Change {
    let newcomer = BTreeMap::from([(id, server(listed))]);
    let gone = BTreeSet::from([earlier]);
    let is_voter = membership.voter_ids().any(|voter| voter == earlier);
    ChangeMembers::Batch(if is_voter {
        vec![ChangeMembers::AddVoters(newcomer), ChangeMembers::RemoveVoters(gone)]
    } else {
        vec![ChangeMembers::AddNodes(newcomer), ChangeMembers::RemoveNodes(gone)]
    })
}

type Change = ChangeMembers<ServerId, Server>;

/// Changes of the membership that are due.
fn changes(
    known_servers: &KnownServers,
    metrics: &RaftMetrics<Types>,
    me: ServerId,
    own: &Server,
) -> Vec<Change> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<ServerId> = membership.voter_ids().collect();
    let mut moved = BTreeMap::new();
    let mut gone = BTreeSet::new();
    let mut changes = Vec::new();
    for (id, known) in membership.nodes() {
        if *id == me {
            if known != own {
                moved.insert(me, own.clone());
            }
            continue;
        }
        let Some(listed) = known_servers.servers.get(id) else {
            continue;
        };
        match listed.presence {
            Presence::Left => {
                gone.insert(*id);
            }
            Presence::Failed => {}
            Presence::Alive => {
                let now = server(listed);
                if *known != now {
                    moved.insert(*id, now);
                }
                // It came while its earlier life still seemed to be there.
                if let Some(earlier) = earlier_life(known_servers, membership, me, (*id, listed)) {
                    changes.push(replacement(membership, earlier, *id, listed));
                }
            }
        }
    }
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
