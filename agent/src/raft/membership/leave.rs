//! Graceful leave: hands leadership over, then removes this server from the voters.
//!
//! ```text
//!   leads? ─▶ hands over ─▶ says good-bye (gossip) ─▶ asks the leader to let it go ─▶ stops
//! ```
//!
//! Three servers of which one simply stops are still three: a majority is two. Only if whoever
//! leaves is taken out of the agreement first, while its voice can still be heard, does each
//! departure leave a cluster that works, down to the last server.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use crate::raft::consensus::Consensus;
use crate::raft::forward::Refused;
use crate::raft::types::ServerId;
use crate::raft::{Error, Presence};
use crate::rpc::{self, Method};

/// Between attempts.
const RETRY: Duration = Duration::from_millis(100);

/// For the leader's answer to one request: it needs two rounds of all servers.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// Request to the leader for a change of the membership.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::raft) enum Reconfiguration {
    /// Take the sender out: it leaves.
    Release,
    /// Have another server lead: this one, or whichever can.
    HandOver(Option<ServerId>),
}

impl Consensus {
    /// Has another server lead before this one stops, if this one leads and there is another. So
    /// nobody has to wait for an election.
    pub async fn hand_over(&self, within: Duration) {
        if !self.is_raft_leader() || self.is_last() {
            return;
        }
        match timeout(within, self.transfer_leader(None)).await {
            Ok(Ok(())) => tracing::info!("another server leads now"),
            Ok(Err(error)) => tracing::warn!("leadership was not handed over: {error}"),
            Err(_) => tracing::warn!("no other server took over within {within:?}"),
        }
    }

    /// Takes this server out of the agreement, and returns once that is agreed. The last server
    /// stays in: what it holds is the cluster.
    ///
    /// Membership follows gossip: announce the leave there first, or the
    /// leader invites it again.
    pub async fn leave(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let mut last = Error::NoLeader;
        while Instant::now() < deadline && !self.inner.stop.is_cancelled() {
            if self.is_last() || !self.takes_part() {
                return Ok(());
            }
            if !self.somebody_is_there() {
                return Err(Error::Refused("no other server is there to agree to it".to_owned()));
            }
            match timeout_at(deadline, self.ask_for_release()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = error,
                Err(_) => break,
            }
            tokio::time::sleep(RETRY).await;
        }
        Err(last)
    }

    async fn ask_for_release(&self) -> Result<(), Error> {
        if self.is_raft_leader() {
            self.transfer_leader(None).await?;
        }
        self.ask_to_reconfigure(Reconfiguration::Release, RELEASE_MAX).await
    }

    /// Asks the leader, which is another server.
    pub(in crate::raft) async fn ask_to_reconfigure(
        &self,
        wish: Reconfiguration,
        within: Duration,
    ) -> Result<(), Error> {
        let (leader, address) = self.other_leader()?;
        let network = &self.inner.network;
        let envelope = network.envelope(leader, wish).map_err(Error::Internal)?;
        let deadline = Instant::now() + within;
        let answer: Result<Result<(), Refused>, rpc::Error> =
            network.pool.call(address, Method::Reconfigure, &envelope, deadline).await;
        match answer {
            Ok(done) => done.map_err(Error::from),
            Err(error) => Err(Error::Unknown(error.to_string())),
        }
    }

    /// Does what another server asks for, as the leader.
    pub(in crate::raft) async fn reconfigure(
        &self,
        from: ServerId,
        wish: Reconfiguration,
    ) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(Error::NoLeader);
        }
        match wish {
            Reconfiguration::Release => {
                tracing::info!(server = %from, "a server leaves");
                self.remove_server(from).await
            }
            Reconfiguration::HandOver(to) => self.transfer_leader(to).await,
        }
    }

    /// Is this the only server that votes?
    fn is_last(&self) -> bool {
        let metrics = self.raft().metrics().borrow_watched().clone();
        metrics.membership_config.membership().voter_ids().eq([self.inner.id])
    }

    /// Is this server among those that agree, as far as it knows?
    fn takes_part(&self) -> bool {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let mut members = metrics.membership_config.membership().nodes();
        members.any(|(id, _)| *id == self.inner.id)
    }

    fn somebody_is_there(&self) -> bool {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let known_servers = self.inner.network.known_servers.borrow();
        let gone = |id: &ServerId| {
            let listed = known_servers.servers.get(id);
            listed.is_some_and(|listed| listed.presence != Presence::Alive)
        };
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.any(|id| id != self.inner.id && !gone(&id))
    }
}
