//! Requests of a follower to the leader.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Error;
use super::consensus::{Consensus, SETTLE_MAX};
use super::types::ServerId;
use crate::rpc::{self, Method};
use crate::store::{Change, Index, Reply};

/// A change that has no answer by then has an unknown outcome.
const PROPOSE_MAX: Duration = Duration::from_secs(30);

/// Errors of the leader, as they travel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Refused {
    /// It does not lead, and did nothing.
    NoLeader,
    /// It is going away, and did nothing.
    Shutdown,
    /// The rules forbid it.
    Forbidden(String),
    /// Its disk refused, or the change is too large.
    Storage(String),
    /// It lost its leadership meanwhile.
    Unknown(String),
    /// Anything else.
    Internal(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        match error {
            Error::NoLeader => Refused::NoLeader,
            Error::Shutdown => Refused::Shutdown,
            Error::Refused(text) => Refused::Forbidden(text),
            Error::Storage(error) => Refused::Storage(error.to_string()),
            Error::Unknown(text) => Refused::Unknown(text),
            Error::Internal(text) => Refused::Internal(text),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            // Another will lead: for the caller that is the same.
            Refused::NoLeader | Refused::Shutdown => Error::NoLeader,
            Refused::Forbidden(text) => Error::Refused(text),
            Refused::Storage(text) => Error::Storage(std::io::Error::other(text)),
            Refused::Unknown(text) => Error::Unknown(text),
            Refused::Internal(text) => Error::Internal(text),
        }
    }
}

impl Consensus {
    /// The leader, if it is another server and can be reached.
    pub(super) fn other_leader(&self) -> Result<(ServerId, SocketAddr), Error> {
        let status = self.inner.status.borrow();
        let leader = status.leader.filter(|leader| *leader != self.inner.id);
        let leader = leader.ok_or(Error::NoLeader)?;
        let server = status.servers.get(&leader).ok_or(Error::NoLeader)?;
        let address = self.inner.network.address(leader, server).map_err(Error::Internal)?;
        Ok((leader, address))
    }

    /// Has the leader propose. A change that may have reached it is never sent twice.
    pub(super) async fn propose_there(&self, change: Change) -> Result<(Reply, Index), Error> {
        let (leader, address) = self.other_leader()?;
        let deadline = Instant::now() + PROPOSE_MAX;
        let pool = &self.inner.network.pool;
        let asked = pool.call(address, Method::Propose, &change, deadline);
        let mut status = self.inner.status.clone();
        // A leader that was replaced may take long to fall silent. One that handed over still knows what
        // becomes of the change.
        let replaced = async {
            let replaced = status.wait_for(|status| status.leader.is_some_and(|id| id != leader));
            let _ = replaced.await;
            tokio::time::sleep(2 * SETTLE_MAX).await;
        };
        let answer: Result<Result<(Reply, Index), Refused>, rpc::Error> = tokio::select! {
            answer = asked => answer,
            () = replaced => return Err(Error::Unknown("the leader was replaced".to_owned())),
        };
        match answer {
            Ok(done) => done.map_err(Error::from),
            Err(error) if error.is_safe_to_retry() => {
                tracing::debug!("the leader cannot be asked: {error}");
                Err(Error::NoLeader)
            }
            Err(error) => Err(Error::Unknown(error.to_string())),
        }
    }
}
