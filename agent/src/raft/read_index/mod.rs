//! Freshness of reads: the index that a server must have applied, and the confirmation that it needs, before it answers.

mod rounds;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant as _, Raft, ReadPolicy};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::raft::Error;
use crate::raft::consensus::{Consensus, fatal};
use crate::raft::forward::Refused;
use crate::raft::machine::Machine;
use crate::raft::read_index::rounds::Rounds;
use crate::raft::types::Types;
use crate::rpc::{self, Method};

/// For the leader to say how far to read, and for a majority to confirm that it leads.
const READ_INDEX_MAX: Duration = Duration::from_secs(2);

/// Proof of leadership that a read needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Confirmation {
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
        self.catch_up(Confirmation::Confirmed).await
    }

    /// As [`Consensus::read_barrier`], but the leader need not ask a majority as long as it holds
    /// its lease (a default read).
    pub async fn read_lease(&self) -> Result<(), Error> {
        if self.may_answer() { Ok(()) } else { self.catch_up(Confirmation::Leased).await }
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
    async fn catch_up(&self, confirmation: Confirmation) -> Result<(), Error> {
        let index = match self.read_index(confirmation).await {
            Err(Error::NoLeader) => self.ask_leader(confirmation).await?,
            index => index?,
        };
        self.inner.published.reached(index).await;
        Ok(())
    }

    /// Index that a server must have applied to know everything that was acknowledged before the
    /// call. Only the leader knows.
    pub(super) async fn read_index(&self, confirmation: Confirmation) -> Result<u64, Error> {
        if confirmation == Confirmation::Leased && self.may_answer() {
            return Ok(self.inner.published.applied());
        }
        if !self.is_raft_leader() {
            return Err(Error::NoLeader);
        }
        let raft = self.inner.raft.clone();
        let round = move || {
            let raft = raft.clone();
            async move { confirm(&raft).await.map_err(Arc::new) }
        };
        answer(self.inner.read_index.majority.ask(round).await)
    }

    /// The same from the server that leads. To ask again is harmless.
    async fn ask_leader(&self, confirmation: Confirmation) -> Result<u64, Error> {
        let consensus = self.clone();
        let round = move || {
            let consensus = consensus.clone();
            async move {
                let (_, address) = consensus.other_leader().map_err(Arc::new)?;
                let deadline = Instant::now() + READ_INDEX_MAX;
                let pool = &consensus.inner.network.pool;
                let answer: Result<Result<u64, Refused>, rpc::Error> =
                    pool.call(address, Method::ReadIndex, &confirmation, deadline).await;
                match answer {
                    Ok(answer) => answer.map_err(|refused| Arc::new(Error::from(refused))),
                    Err(_) => Err(Arc::new(Error::NoLeader)),
                }
            }
        };
        let read_index = match confirmation {
            Confirmation::Leased => &self.inner.read_index.leader_leased,
            Confirmation::Confirmed => &self.inner.read_index.leader_confirmed,
        };
        answer(read_index.ask(round).await)
    }
}

/// Rounds that concurrent reads share: a majority's confirmation, and the leader's word.
#[derive(Debug, Default)]
pub(super) struct ReadIndex {
    majority: Rounds<Shared>,
    leader_leased: Rounds<Shared>,
    leader_confirmed: Rounds<Shared>,
}

type Shared = Result<u64, Arc<Error>>;

/// Asks a majority whether this server still leads.
async fn confirm(raft: &Raft<Types, Machine>) -> Result<u64, Error> {
    // A leader that is cut off would wait for as long as it is.
    let asked = tokio::time::timeout(READ_INDEX_MAX, raft.get_read_log_id(ReadPolicy::ReadIndex));
    match asked.await.map_err(|_| Error::NoLeader)? {
        Ok((read, _)) => Ok(read.log_id().index),
        Err(RaftError::APIError(
            LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
        )) => Err(Error::NoLeader),
        Err(RaftError::Fatal(error)) => Err(fatal(error)),
    }
}

/// One of many copies of an answer as an answer of its own.
fn answer(shared: Option<Shared>) -> Result<u64, Error> {
    match shared {
        Some(Ok(index)) => Ok(index),
        Some(Err(error)) => Err(match &*error {
            Error::NoLeader => Error::NoLeader,
            Error::Shutdown => Error::Shutdown,
            Error::Storage(error) => {
                Error::Storage(io::Error::new(error.kind(), error.to_string()))
            }
            error => Error::Internal(error.to_string()),
        }),
        // Its task was given up: the server ends.
        None => Err(Error::Shutdown),
    }
}
