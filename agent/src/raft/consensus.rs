//! The handle that everyone holds, and the tasks behind it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Raft, ReadPolicy, ServerState};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::log::Room;
use super::machine::{Machine, Published};
use super::observer::{Observer, Status};
use super::opening::{config, open};
use super::transport::Network;
use super::types::{LogId, Proposal, Server, ServerId, Types};
use super::upkeep::Upkeep;
use super::watch::Watches;
use super::{Error, Settings};
use crate::store::{Change, Command, Index, Reply, Store, Timestamp};

/// A change larger than this is refused: it would hold up everything behind it. The doors take no
/// larger body either.
const PROPOSAL_BYTES_MAX: usize = 8 << 20;

/// Changes under way take at most this much; more wait. What is under way must fit the current
/// log segment when the disk is found full.
const UNDER_WAY_KIB_MAX: usize = 12 << 10;

/// After a snapshot that could not be written.
const SAVE_RETRY: Duration = Duration::from_secs(30);

/// How long a lone server may take to lead before `start` returns without it.
const LEAD_AT_START_MAX: Duration = Duration::from_secs(10);

/// Cheap handle on the agreement of this datacenter's servers.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft<Types, Machine>,
    id: ServerId,
    server: Server,
    published: Arc<Published>,
    status: watch::Receiver<Status>,
    /// The library's own word on roles, ahead of `status`.
    roles: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    room: Room,
    under_way: Semaphore,
    /// Newest time stamped on a command, so that it never goes back when the clock does.
    stamped: AtomicU64,
    /// When a leader was last known to be there.
    contact: Arc<Mutex<Instant>>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Keeps other processes away from the folder.
    lock: Mutex<Option<File>>,
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
    /// Opens log and snapshots, restores the state and takes part.
    ///
    /// A server that is alone leads when this returns. Damage in the log, a command of a newer
    /// version and a folder that belongs to another server are errors that say so.
    pub async fn start(settings: Settings) -> Result<Consensus, Error> {
        let id: ServerId = settings.node_id.parse().map_err(|error| {
            Error::Internal(format!("node ID `{}` is not a UUID: {error}", settings.node_id))
        })?;
        let server = Server { name: settings.node_name.clone(), address: settings.address.clone() };
        let room = Room::default();
        let published = Arc::new(Published::default());
        let upkeep = Arc::new(Upkeep::new(settings.snapshot_threshold));
        let (lock, log, machine) = {
            let (settings, room) = (settings.clone(), room.clone());
            let (published, upkeep) = (Arc::clone(&published), Arc::clone(&upkeep));
            tokio::task::spawn_blocking(move || open(&settings, room, published, upkeep))
                .await
                .map_err(|error| Error::Internal(error.to_string()))?
                .map_err(Error::Storage)?
        };
        let config = Arc::new(config(&settings).validate().map_err(internal)?);
        let raft = Raft::new(id, config, Network::default(), log, machine).await.map_err(fatal)?;

        let contact = Arc::new(Mutex::new(Instant::now()));
        let (tell, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let observer = Observer {
            raft: raft.clone(),
            id,
            server: server.clone(),
            contact: Arc::clone(&contact),
            tell,
        };
        let tasks = vec![
            tokio::spawn({
                let (published, stop) = (Arc::clone(&published), stop.clone());
                async move { published.wake_readers(stop).await }
            }),
            tokio::spawn(observer.run(stop.clone())),
            tokio::spawn(save(raft.clone(), upkeep, stop.clone())),
        ];
        let consensus = Consensus {
            inner: Arc::new(Inner {
                roles: raft.server_metrics(),
                raft,
                id,
                server,
                published,
                status,
                room,
                under_way: Semaphore::new(UNDER_WAY_KIB_MAX),
                stamped: AtomicU64::new(0),
                contact,
                stop,
                tasks: Mutex::new(tasks),
                lock: Mutex::new(lock),
            }),
        };
        if let Err(error) = consensus.take_part().await {
            consensus.shutdown().await;
            return Err(error);
        }
        Ok(consensus)
    }

    /// The first start makes this server its own cluster; a lone server elects itself at once.
    async fn take_part(&self) -> Result<(), Error> {
        let raft = &self.inner.raft;
        if !raft.is_initialized().await.map_err(fatal)? {
            let alone = BTreeMap::from([(self.inner.id, self.inner.server.clone())]);
            raft.initialize(alone).await.map_err(internal)?;
        }
        let voters: Vec<ServerId> = raft
            .with_raft_state(|state| state.membership_state.effective().voter_ids().collect())
            .await
            .map_err(fatal)?;
        if !voters.contains(&self.inner.id) {
            let known: Vec<String> = voters.iter().map(ToString::to_string).collect();
            return Err(Error::Internal(format!(
                "this server has the ID {}, but the log in its data directory belongs to {}",
                self.inner.id,
                known.join(", ")
            )));
        }
        if voters.len() == 1 {
            raft.trigger().elect(false).await.map_err(fatal)?;
            let mut status = self.inner.status.clone();
            let leads = status.wait_for(|status| status.leading || status.failed.is_some());
            if let Ok(Ok(status)) = tokio::time::timeout(LEAD_AT_START_MAX, leads).await
                && let Some(failed) = &status.failed
            {
                return Err(Error::Internal(failed.clone()));
            }
        }
        Ok(())
    }

    /// Replicates a change, waits until it is durable and applied, returns its reply and index.
    /// Waits out an election up to the caller's patience (`rpc_hold_timeout`, the caller's job).
    ///
    /// When this future is dropped the change may still happen.
    pub async fn propose(&self, change: Change) -> Result<(Reply, Index), Error> {
        if let Some(error) = self.inner.room.refusal() {
            return Err(Error::Storage(error));
        }
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
        let response = self.inner.raft.client_write(proposal).await.map_err(write_error)?;
        Ok((response.data.reply, response.data.index))
    }

    /// Milliseconds since 1970, never less than before.
    #[expect(clippy::disallowed_methods, reason = "this is where a command gets its time")]
    fn stamp(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.inner.stamped.fetch_max(now, Ordering::Relaxed).max(now))
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

    /// Where readers wait for scopes.
    pub fn watches(&self) -> &Watches {
        self.inner.published.watches()
    }

    /// Makes sure that `store()` afterwards holds everything acknowledged before the call
    /// (read-index; `?consistent`).
    pub async fn read_barrier(&self) -> Result<(), Error> {
        if self.leads_alone() {
            // Nobody else can have acknowledged anything, and this server publishes before it
            // acknowledges.
            return Ok(());
        }
        match self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_)
                | LinearizableReadError::QuorumNotEnough(_),
            )) => Err(Error::NoLeader),
            Err(RaftError::Fatal(error)) => Err(fatal(error)),
        }
    }

    /// Is a leader known?
    pub fn knows_leader(&self) -> bool {
        let status = self.inner.status.borrow();
        match status.leader {
            Some(leader) if leader == self.inner.id => status.leading,
            Some(leader) => status.servers.contains_key(&leader),
            None => false,
        }
    }

    /// Is this server, caught up, the only voter there is? Then `read_barrier` has nothing to wait
    /// for.
    pub fn leads_alone(&self) -> bool {
        let now = self.inner.roles.borrow_watched();
        let voters = now.membership_config.membership().voter_ids();
        now.state == ServerState::Leader && voters.eq([self.inner.id]) && self.is_leader()
    }

    /// `ip:port` of the leader, if one is known.
    pub fn leader(&self) -> Option<String> {
        let status = self.inner.status.borrow();
        let leader = status.leader?;
        if leader == self.inner.id {
            // Its own address may be newer than what the log says. Until it has caught up with
            // what was acknowledged before, it cannot serve as leader.
            return status.leading.then(|| self.inner.server.address.clone());
        }
        status.servers.get(&leader).map(|server| server.address.clone())
    }

    /// Does this server lead (and hold its lease)? It has then applied everything that was
    /// acknowledged before.
    pub fn is_leader(&self) -> bool {
        self.inner.status.borrow().leading
    }

    /// Resolves when `is_leader()` differs from `now`.
    pub async fn leadership_changed(&self, now: bool) {
        let mut status = self.inner.status.clone();
        if status.wait_for(|status| status.leading != now).await.is_err() {
            // Nothing changes any more.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when agreement has ended on this server without [`Consensus::shutdown`], with the
    /// reason. The process should end: what it serves grows old.
    pub async fn failed(&self) -> String {
        let mut status = self.inner.status.clone();
        if let Ok(status) = status.wait_for(|status| status.failed.is_some()).await
            && let Some(failed) = &status.failed
        {
            return failed.clone();
        }
        std::future::pending().await
    }

    /// How long ago the leader was heard; zero on the leader.
    pub fn last_contact(&self) -> Duration {
        if self.is_leader() {
            return Duration::ZERO;
        }
        self.inner.contact.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Raft addresses of all servers.
    pub fn peers(&self) -> Vec<String> {
        let status = self.inner.status.borrow();
        let address = |(id, server): (&ServerId, &Server)| {
            let own = *id == self.inner.id;
            if own { self.inner.server.address.clone() } else { server.address.clone() }
        };
        status.servers.iter().map(address).collect()
    }

    /// Figures for `/v1/agent/self` (`Stats.raft`): name and value.
    pub fn stats(&self) -> Vec<(&'static str, String)> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let term = |id: Option<LogId>| id.map_or(0, |id| id.leader_id.term);
        let last_log = self.inner.raft.data_metrics().borrow_watched().last_log;
        let applied = index(metrics.last_applied);
        let committed = index(metrics.local_committed);
        let membership = metrics.membership_config.membership();
        let servers: Vec<String> = membership
            .nodes()
            .map(|(id, server)| {
                let voter = membership.voter_ids().any(|voter| voter == *id);
                let suffrage = if voter { "Voter" } else { "Nonvoter" };
                format!("{{Suffrage:{suffrage} ID:{id} Address:{}}}", server.address)
            })
            .collect();
        let peers = membership.voter_ids().filter(|id| *id != self.inner.id).count();
        let contact = match (self.is_leader(), metrics.current_leader) {
            (true, _) => "0".to_owned(),
            (false, Some(_)) => format!("{:?}", self.last_contact()),
            (false, None) => "never".to_owned(),
        };
        let state = match metrics.state {
            ServerState::Leader => "Leader",
            ServerState::Candidate => "Candidate",
            ServerState::Follower | ServerState::Learner => "Follower",
            ServerState::Shutdown => "Shutdown",
        };
        vec![
            ("applied_index", applied.to_string()),
            ("commit_index", committed.to_string()),
            ("fsm_pending", committed.saturating_sub(applied).to_string()),
            ("last_contact", contact),
            ("last_log_index", metrics.last_log_index.unwrap_or(0).to_string()),
            ("last_log_term", term(last_log).to_string()),
            ("last_snapshot_index", index(metrics.snapshot).to_string()),
            ("last_snapshot_term", term(metrics.snapshot).to_string()),
            ("latest_configuration", format!("[{}]", servers.join(" "))),
            ("latest_configuration_index", index(*metrics.membership_config.log_id()).to_string()),
            ("num_peers", peers.to_string()),
            ("protocol_version", "3".to_owned()),
            ("protocol_version_max", "3".to_owned()),
            ("protocol_version_min", "0".to_owned()),
            ("snapshot_version_max", "1".to_owned()),
            ("snapshot_version_min", "0".to_owned()),
            ("state", state.to_owned()),
            ("term", metrics.current_term.to_string()),
        ]
    }

    /// Stops taking part; what was acknowledged is on disk.
    pub async fn shutdown(&self) {
        self.inner.under_way.close();
        self.inner.stop.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!("agreement did not end well: {error}");
        }
        let tasks = {
            let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!("a task of agreement ended by a panic: {error}");
            }
        }
        *self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Takes a snapshot whenever one is due, then cuts the log by its bytes.
async fn save(raft: Raft<Types, Machine>, upkeep: Arc<Upkeep>, stop: CancellationToken) {
    let attempts = async {
        loop {
            upkeep.due().await;
            let before = raft.metrics().borrow_watched().snapshot;
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            upkeep.finished().await;
            // The library is told of a snapshot a moment after it is written.
            let saved = raft.wait(Some(SAVE_RETRY));
            let saved = saved.metrics(|metrics| metrics.snapshot > before, "snapshot").await;
            match (saved, upkeep.purgeable()) {
                (Err(_), _) => tokio::time::sleep(SAVE_RETRY).await,
                (Ok(_), Some(index)) if raft.trigger().purge_log(index).await.is_err() => return,
                (Ok(_), _) => {}
            }
        }
    };
    tokio::select! {
        () = attempts => {}
        () = stop.cancelled() => {}
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(error.to_string())
}

fn fatal(error: Fatal<Types>) -> Error {
    match error {
        Fatal::Stopped => Error::Shutdown,
        Fatal::StorageError(error) => Error::Storage(io::Error::other(error.to_string())),
        Fatal::Panicked => Error::Internal("agreement ended by a panic".to_owned()),
    }
}

fn write_error(error: RaftError<Types, ClientWriteError<Types>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(error) => internal(error),
        RaftError::Fatal(error) => fatal(error),
    }
}
