//! The handle that everyone holds: proposing, the published state, the end.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Raft, ServerState};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::autopilot::Assessment;
use super::judge::{self, Own};
use super::log::{DiskQuota, Reservation};
use super::machine::{Machine, Published};
use super::observer::{Contact, Status};
use super::timing;
use super::transport::Network;
use super::types::{Proposal, Server, ServerId, Types};
use super::watch::Watches;
use crate::raft::read_index::ReadIndex;
use crate::raft::snapshot::transfer::Incoming;
use crate::store::{Change, Command, Index, Reply, Store, Timestamp};
use crate::telemetry::metrics::names;

/// A change larger than this is refused: it would hold up everything behind it. The interfaces take no
/// larger body either.
pub(super) const PROPOSAL_BYTES_MAX: usize = 8 << 20;

/// Changes under way take at most this much; more wait. All of it must fit one segment of the log.
pub(super) const UNDER_WAY_KIB_MAX: usize = 12 << 10;

/// Time to wait for the outcome of a change once another server leads: about two elections.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(3);

/// Cheap handle on the agreement of this datacenter's servers.
#[derive(Clone)]
pub struct Consensus {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) raft: Raft<Types, Machine>,
    pub(super) id: ServerId,
    pub(super) server: Server,
    pub(super) published: Arc<Published>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) network: Network,
    pub(super) incoming: tokio::sync::Mutex<Incoming>,
    /// The library's own word on roles, ahead of `status`.
    pub(super) roles: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    pub(super) figures: WatchReceiverOf<Types, RaftDataMetrics<Types>>,
    /// Time after a majority's answer in which no other server can lead.
    pub(super) lease: Duration,
    pub(super) quota: DiskQuota,
    pub(super) under_way: Semaphore,
    /// Questions that concurrent reads share.
    pub(super) read_index: ReadIndex,
    /// Newest time stamped on a command, so that it never goes back when the clock does.
    pub(super) stamped: AtomicU64,
    /// When the leader was last heard.
    pub(super) contact: Arc<Contact>,
    /// The condition that bootstrap waits for, in words; empty: none.
    pub(super) waiting: watch::Receiver<String>,
    /// Health of the servers, while this one leads.
    pub(super) assessed: watch::Receiver<Option<Assessment>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Keeps other processes away from the folder.
    pub(super) lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus")
            .field("id", &self.inner.id)
            .field("status", &*self.inner.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Consensus {
    /// Replicates a change, waits until it is durable and applied, returns its reply and index. A
    /// server that does not lead asks the one that does.
    ///
    /// [`Error::NoLeader`] means that nothing was done: the caller waits out an election up to its
    /// patience (`rpc_hold_timeout`) and tries again. [`Error::Unknown`] means that it may have been
    /// done, and may be done yet. So does dropping this future.
    pub async fn propose(&self, change: Change) -> Result<(Reply, Index), Error> {
        if self.is_raft_leader() {
            self.propose_here(change).await
        } else {
            self.propose_there(change).await
        }
    }

    /// [`Consensus::propose`] for another agent. What it sends is judged before it gets anywhere near a log.
    pub async fn propose_for_peer(&self, change: Change) -> Result<(Reply, Index), Error> {
        judge::change(&change).map_err(Error::Refused)?;
        self.propose(change).await
    }

    /// Proposes as the leader.
    pub(super) async fn propose_here(&self, change: Change) -> Result<(Reply, Index), Error> {
        if !self.is_raft_leader() {
            return Err(Error::NoLeader);
        }
        if let Some(error) = self.inner.quota.refusal() {
            return Err(Error::Storage(error));
        }
        let timing = timing::of_proposal(&change);
        let proposal = Proposal::new(Command { at: self.stamp(), change });
        let bytes = proposal.encoded().len();
        if bytes > PROPOSAL_BYTES_MAX {
            return Err(Error::Storage(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a change of {bytes} bytes exceeds the limit of {PROPOSAL_BYTES_MAX}"),
            )));
        }
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let _permit = self.inner.under_way.acquire_many(kib).await.map_err(|_| Error::Shutdown)?;
        let _promise = self.room_for(bytes as u64).await?;
        let begun = Instant::now();
        names::RAFT_APPLY.add();
        let done = self.written(proposal).await;
        names::RAFT_COMMIT.since(begun);
        if let Some(timing) = timing {
            timing.since(begun);
        }
        done
    }

    /// Has the servers agree on an entry.
    async fn written(&self, proposal: Proposal) -> Result<(Reply, Index), Error> {
        let written = self.inner.raft.client_write(proposal);
        if self.leads_alone() {
            let response = written.await.map_err(write_error)?;
            return Ok((response.data.reply, response.data.index));
        }
        // The library waits for as long as nobody else leads, which a leader that is cut off never
        // hears of.
        let mut status = self.inner.status.clone();
        let was_leading = status.borrow_and_update().leading;
        // What was written before another server took over is most likely in that one's log: it says so
        // with its first messages.
        let lost = async {
            let lost = status.wait_for(|status| was_leading && !status.leading).await.is_ok();
            if lost {
                tokio::time::sleep(SETTLE_MAX).await;
            }
        };
        tokio::select! {
            biased;
            response = written => {
                let response = response.map_err(write_error)?;
                Ok((response.data.reply, response.data.index))
            }
            () = lost => Err(Error::Unknown("leadership was lost before it was confirmed".to_owned())),
        }
    }

    /// Waits until the log has room for a change of so many bytes, while this server leads.
    async fn room_for(&self, bytes: u64) -> Result<Reservation, Error> {
        if let Some(promise) = self.inner.quota.promise_at_once(bytes).map_err(Error::Storage)? {
            return Ok(promise);
        }
        let mut status = self.inner.status.clone();
        let lost = status.wait_for(|status| !status.leading);
        tokio::select! {
            biased;
            promise = self.inner.quota.promise(bytes) => promise.map_err(Error::Storage),
            () = self.inner.stop.cancelled() => Err(Error::Shutdown),
            _ = lost => Err(Error::NoLeader),
        }
    }

    /// Does the library take this server for the leader?
    pub(super) fn is_raft_leader(&self) -> bool {
        self.inner.roles.borrow_watched().state == ServerState::Leader
    }

    /// Milliseconds since 1970, never less than before.
    #[expect(clippy::disallowed_methods, reason = "this is where a command gets its time")]
    fn stamp(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.inner.stamped.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// This server's own facts, against which messages of other servers are validated.
    pub(super) fn own(&self) -> Own {
        let vote = self.inner.roles.borrow_watched().vote;
        Own { vote, applied: self.inner.figures.borrow_watched().last_applied }
    }

    /// The library's handle, for the other files of this module.
    pub(super) fn raft(&self) -> &Raft<Types, Machine> {
        &self.inner.raft
    }

    /// `ip:port` under which this server was started.
    pub(super) fn own_address(&self) -> &str {
        &self.inner.server.address
    }

    /// Has the servers agree on who takes part.
    pub(super) async fn change_servers(
        &self,
        change: ChangeMembers<ServerId, Server>,
    ) -> Result<(), Error> {
        self.inner.raft.change_membership(change, false).await.map_err(write_error)?;
        Ok(())
    }

    /// The newest published state. Never blocks.
    pub fn store(&self) -> Arc<Store> {
        self.inner.published.store()
    }

    /// Watches on scopes, for readers that wait.
    pub fn watches(&self) -> &Watches {
        self.inner.published.watches()
    }

    /// Stops taking part; what was acknowledged is on disk.
    pub async fn shutdown(&self) {
        self.inner.under_way.close();
        self.inner.stop.cancel();
        self.inner.quota.end();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!("agreement did not end well: {error}");
        }
        let tasks = {
            let mut tasks = self.inner.tasks.lock();
            std::mem::take(&mut *tasks)
        };
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!("a task of agreement ended by a panic: {error}");
            }
        }
        *self.inner.lock.lock() = None;
    }
}

pub(super) fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(error.to_string())
}

pub(super) fn fatal(error: Fatal<Types>) -> Error {
    match error {
        Fatal::Stopped => Error::Shutdown,
        Fatal::StorageError(error) => Error::Storage(io::Error::other(error.to_string())),
        Fatal::Panicked => Error::Internal("agreement ended by a panic".to_owned()),
    }
}

fn write_error(error: RaftError<Types, ClientWriteError<Types>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            Error::Unknown("leadership was lost before it was confirmed".to_owned())
        }
        RaftError::APIError(error) => internal(error),
        // What was under way may be in the log already.
        RaftError::Fatal(Fatal::Stopped) => Error::Unknown("the server stopped".to_owned()),
        RaftError::Fatal(error) => fatal(error),
    }
}
