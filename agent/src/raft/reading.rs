//! How fresh a read is: what a server must know, and whom it must ask, before it may answer.

use std::time::Duration;

use openraft::{Instant as _, ReadPolicy};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Error;
use super::consensus::{Consensus, fatal};
use super::forward::Refused;
use crate::rpc::{self, Method};

/// For the leader to say how far to read.
const READ_INDEX_MAX: Duration = Duration::from_secs(2);

/// How sure the leader must be that it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Certainty {
    /// A majority has answered within its lease.
    Leased,
    /// A majority has answered since the question.
    Confirmed,
}

impl Consensus {
    /// Makes sure that `store()` afterwards holds everything acknowledged before the call
    /// (read-index; `?consistent`).
    pub async fn read_barrier(&self) -> Result<(), Error> {
        if self.leads_alone() {
            // Nobody else can have acknowledged anything, and this server publishes before it
            // acknowledges.
            return Ok(());
        }
        self.catch_up(Certainty::Confirmed).await
    }

    /// As [`Consensus::read_barrier`], but the leader need not ask a majority as long as it holds
    /// its lease (a default read).
    pub async fn read_lease(&self) -> Result<(), Error> {
        if self.may_answer() { Ok(()) } else { self.catch_up(Certainty::Leased).await }
    }

    /// May this server answer a default read as it is? It leads, and no other can lead before its
    /// lease has run out.
    pub fn may_answer(&self) -> bool {
        let status = self.inner.status.borrow();
        status.leading
            && (status.alone || {
                let acked = self.inner.figures.borrow_watched().last_quorum_acked;
                acked.is_some_and(|acked| acked.elapsed() < self.inner.lease)
            })
    }

    /// Waits until this server has applied everything that was acknowledged before the call.
    pub(super) async fn catch_up(&self, certainty: Certainty) -> Result<(), Error> {
        let index = match self.read_index(certainty).await {
            Err(Error::NoLeader) => {
                let (_, address) = self.other_leader()?;
                let deadline = Instant::now() + READ_INDEX_MAX;
                let pool = &self.inner.network.pool;
                let answer: Result<Result<u64, Refused>, rpc::Error> =
                    pool.call(address, Method::ReadIndex, &certainty, deadline).await;
                // To ask again is harmless.
                answer.map_err(|_| Error::NoLeader)??
            }
            index => index?,
        };
        self.inner.published.reached(index).await;
        Ok(())
    }

    /// How far a server must have applied to know everything that was acknowledged before the
    /// call. Only the leader knows.
    pub(super) async fn read_index(&self, certainty: Certainty) -> Result<u64, Error> {
        if certainty == Certainty::Leased && self.may_answer() {
            return Ok(self.inner.published.applied());
        }
        match self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(read.log_id().index),
            Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_)
                | LinearizableReadError::QuorumNotEnough(_),
            )) => Err(Error::NoLeader),
            Err(RaftError::Fatal(error)) => Err(fatal(error)),
        }
    }
}
