//! Replacing the whole state by a saved one.
//!
//! The state goes through the log, in parts small enough for it; see [`crate::store::Restore`]. So
//! every server gets it in the same place, whoever of them is away for a while, and memory holds
//! one part more than the two states.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::raft::{Consensus, Error};
use crate::store::{Change, Index, Reply, Restore, Store, snapshot};

/// Records of one entry. Large enough to make few entries, small against the limit of a change.
const PART_BYTES: usize = 1 << 20;

/// For another leader to be there, as long as requests usually wait for one.
const ELECTION_MAX: Duration = Duration::from_secs(7);

/// Between attempts meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// Parts that are encoded ahead of the log.
const PARTS_AHEAD: usize = 2;

impl Consensus {
    /// Makes `state` the state of all servers, at once. Returns its index, which is higher than
    /// any seen before. On an error nothing has changed, or (if the last answer was lost) all.
    pub async fn restore(&self, state: Store) -> Result<Index, Error> {
        let id = Uuid::new_v4().to_string();
        let restored = self.bring(&id, state).await;
        if restored.is_err() {
            // Who cannot say it leaves it to the store's own patience.
            let _ = self.propose(Change::Restore(Restore::Abandon { id })).await;
        }
        restored
    }

    async fn bring(&self, id: &str, state: Store) -> Result<Index, Error> {
        let id = || id.to_owned();
        self.step(Restore::Begin { id: id() }).await?;
        let (hand, mut parts) = tokio::sync::mpsc::channel::<Vec<u8>>(PARTS_AHEAD);
        let format = snapshot::format_of(&state);
        let encoding = tokio::task::spawn_blocking(move || {
            snapshot::pieces(&state, PART_BYTES, |part| {
                let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                Ok(hand.blocking_send(part).map_err(|_| gone())?)
            })
        });
        let mut number = 0;
        while let Some(records) = parts.recv().await {
            let records = records.into();
            self.step(Restore::Rows { id: id(), number, format, records }).await?;
            number += 1;
        }
        let encoded = encoding.await.map_err(|error| Error::Internal(error.to_string()))?;
        encoded.map_err(|error| Error::Internal(error.to_string()))?;
        self.step(Restore::Commit { id: id(), parts: number }).await
    }

    /// One step. An election in between is waited out: nothing was done then.
    async fn step(&self, step: Restore) -> Result<Index, Error> {
        let deadline = Instant::now() + ELECTION_MAX;
        loop {
            match self.propose(Change::Restore(step.clone())).await {
                Err(Error::NoLeader) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                Ok((Reply::Refused(text), _)) => return Err(Error::Refused(text)),
                done => return done.map(|(_, index)| index),
            }
        }
    }
}
