//! Raft configuration, as an operator sees and changes it.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Instant as _};

use crate::raft::membership::leave::Reconfiguration;
use crate::raft::types::{ServerId, StoredMembership};
use crate::raft::{Consensus, Error};
use crate::store::Index;

/// A server that does not take over by then will not.
const TRANSFER_MAX: Duration = Duration::from_secs(10);

/// For the leader's answer to be heard after that.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The servers as last agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The position in the log that set them.
    pub index: Index,
    /// The term that this server is in.
    pub term: u64,
    /// Sorted by ID.
    pub servers: Vec<Participant>,
}

/// One of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// Its lasting identity.
    pub id: ServerId,
    /// Its node's name.
    pub name: String,
    /// `ip:port`.
    pub address: String,
    /// Leads, as far as this server knows.
    pub leader: bool,
    /// Counts towards a majority.
    pub voter: bool,
}

impl Configuration {
    fn of(membership: &StoredMembership, term: u64, leader: Option<ServerId>) -> Configuration {
        let (position, members) = (membership.log_id(), membership.membership());
        let voters: BTreeSet<ServerId> = members.voter_ids().collect();
        let servers = members.nodes().map(|(id, server)| Participant {
            id: *id,
            name: server.name.clone(),
            address: server.address.clone(),
            leader: leader == Some(*id),
            voter: voters.contains(id),
        });
        Configuration {
            index: position.as_ref().map_or(0, |position| position.index),
            term,
            servers: servers.collect(),
        }
    }

    /// Number of voters.
    pub fn voters(&self) -> usize {
        self.servers.iter().filter(|server| server.voter).count()
    }
}

impl Consensus {
    /// The servers as last agreed, as far as this server knows.
    pub fn configuration(&self) -> Configuration {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let leader = metrics.current_leader.filter(|_| self.knows_leader());
        let mut found = Configuration::of(&metrics.membership_config, metrics.current_term, leader);
        let own = self.own_address();
        for server in &mut found.servers {
            // Its own address may be newer than what the log says.
            if server.id == metrics.id {
                own.clone_into(&mut server.address);
            }
        }
        found
    }

    /// Gives a learner a voice.
    pub async fn promote(&self, id: ServerId) -> Result<(), Error> {
        self.change_servers(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Asks the leader to hand over: to `to`, or to the voter that has most of the log of those that
    /// answer. Returns
    /// once another server leads.
    pub async fn transfer_leader(&self, to: Option<ServerId>) -> Result<(), Error> {
        if !self.is_leader() {
            // The answer comes from a server that leads no more.
            let wish = Reconfiguration::HandOver(to);
            return self.ask_to_reconfigure(wish, TRANSFER_MAX + ANSWER_MAX).await;
        }
        let metrics = self.raft().metrics().borrow_watched().clone();
        let voters: BTreeSet<ServerId> =
            metrics.membership_config.membership().voter_ids().collect();
        // One that does not answer cannot take over, however much of the log it has.
        let answers = |id: &ServerId| {
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
            heard.is_some_and(|at| at.elapsed() < self.inner.lease)
        };
        let has = |id: &ServerId| {
            let known = metrics.replication.as_ref().and_then(|all| all.get(id).copied().flatten());
            known.map(|position| position.index)
        };
        let heir = match to {
            Some(id) if id == metrics.id => return Ok(()),
            Some(id) if voters.contains(&id) => Some(id),
            Some(id) => {
                return Err(Error::Refused(format!("server {id} is not one of those that vote")));
            }
            None => voters
                .iter()
                .copied()
                .filter(|id| *id != metrics.id)
                .max_by_key(|id| (answers(id), has(id))),
        };
        let Some(heir) = heir else {
            return Err(Error::Refused("cannot find peer: no other server votes".to_owned()));
        };
        self.raft()
            .trigger()
            .transfer_leader(heir)
            .await
            .map_err(|error| Error::Internal(error.to_string()))?;
        let handed_over = self.leadership_changed(true);
        if tokio::time::timeout(TRANSFER_MAX, handed_over).await.is_err() {
            return Err(Error::Refused(format!(
                "server {heir} did not take over within {} s",
                TRANSFER_MAX.as_secs()
            )));
        }
        Ok(())
    }

    /// Takes a server out of the agreement. The last voter stays.
    pub async fn remove_server(&self, id: ServerId) -> Result<(), Error> {
        let now = self.configuration();
        let Some(server) = now.servers.iter().find(|server| server.id == id) else {
            return Ok(());
        };
        if server.voter && now.voters() == 1 {
            return Err(Error::Refused(
                "Need at least one voter in configuration: {[]}".to_owned(),
            ));
        }
        let ids = BTreeSet::from([id]);
        if server.voter {
            self.change_servers(ChangeMembers::RemoveVoters(ids.clone())).await?;
        }
        // A voter that was removed may be left as a learner.
        let rest = self.raft().metrics().borrow_watched().membership_config.clone();
        if rest.membership().nodes().any(|(known, _)| *known == id) {
            self.change_servers(ChangeMembers::RemoveNodes(ids)).await?;
        }
        Ok(())
    }
}
