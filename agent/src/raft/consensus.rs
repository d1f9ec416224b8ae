//! The handle that everyone holds, and the tasks behind it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{ChangeMembers, Instant as _, Raft, ServerState};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::autopilot::{Assessment, Driver};
use super::bond::Bonds;
use super::forming::Servers;
use super::forward::Certainty;
use super::log::Room;
use super::machine::{Machine, Published};
use super::observer::{Contact, Observer, Status};
use super::opening::{Times, config, open};
use super::sending::Incoming;
use super::tasks::Crew;
use super::transport::Network;
use super::types::{Proposal, Server, ServerId, Types};
use super::upkeep::Upkeep;
use super::watch::Watches;
use super::{Error, Links, Settings};
use crate::store::{Change, Command, Index, Reply, Store, Timestamp};

/// A change larger than this is refused: it would hold up everything behind it. The doors take no
/// larger body either.
const PROPOSAL_BYTES_MAX: usize = 8 << 20;

/// Changes under way take at most this much; more wait. What is under way must fit the current
/// log segment when the disk is found full.
const UNDER_WAY_KIB_MAX: usize = 12 << 10;

/// After a snapshot that could not be written.
const SAVE_RETRY: Duration = Duration::from_secs(30);

/// Since a leader was heard, if none ever was: more than any `max_stale`.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// How long a lone server may take to lead before `start` returns without it.
const LEAD_AT_START_MAX: Duration = Duration::from_secs(10);

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
    roles: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    figures: WatchReceiverOf<Types, RaftDataMetrics<Types>>,
    /// How long after a majority's answer no other server can lead.
    lease: Duration,
    room: Room,
    under_way: Semaphore,
    /// Newest time stamped on a command, so that it never goes back when the clock does.
    stamped: AtomicU64,
    /// When the leader was last heard.
    pub(super) contact: Arc<Contact>,
    /// How the servers are, while this one leads.
    assessed: watch::Receiver<Option<Assessment>>,
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
    /// Starts a server that stands alone.
    pub async fn start(settings: Settings) -> Result<Consensus, Error> {
        Consensus::start_among(settings, Links::none()).await
    }

    /// Opens log and snapshots, restores the state and takes part. The caller lets others reach
    /// it through [`Consensus::answer`].
    ///
    /// A server that is alone leads when this returns; one that waits for others does so in the
    /// background. Damage in the log, a command of a newer version and a folder that belongs to
    /// another server are errors that say so.
    pub async fn start_among(settings: Settings, links: Links) -> Result<Consensus, Error> {
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
            tokio::task::spawn_blocking(move || open(&settings, id, room, published, upkeep))
                .await
                .map_err(|error| Error::Internal(error.to_string()))?
                .map_err(Error::Storage)?
        };
        let directory = settings.data_dir.as_ref().map(|data_dir| data_dir.join("raft"));
        let bonds = Bonds::open(id, directory.as_deref()).map_err(Error::Storage)?;
        let Links { pool, roster, expect } = links;
        let network = Network { me: id, pool, roster, bonds: Arc::new(bonds) };
        let config = Arc::new(config(&settings).validate().map_err(internal)?);
        let crew = Crew::default();
        let raft = crew.hire(Raft::new(id, config, network.clone(), log, machine));
        let raft = raft.await.map_err(fatal)?;
        drop(tokio::spawn(crew.run()));

        let lease = Duration::from_millis(Times::scaled(settings.raft_multiplier).election_max);
        let contact = Arc::new(Contact::none());
        let (tell, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let observer = Observer {
            raft: raft.clone(),
            id,
            contact: Arc::clone(&contact),
            patience: 2 * lease,
            tell,
        };
        let servers = Servers {
            raft: raft.clone(),
            network: network.clone(),
            server: server.clone(),
            expect,
        };
        let tasks = vec![
            tokio::spawn({
                let (published, stop) = (Arc::clone(&published), stop.clone());
                async move { published.wake_readers(stop).await }
            }),
            tokio::spawn(observer.run(stop.clone())),
            tokio::spawn({
                let (servers, status, stop) = (servers.clone(), status.clone(), stop.clone());
                async move { servers.grow(status, stop).await }
            }),
            tokio::spawn(save(raft.clone(), upkeep, stop.clone())),
        ];
        let (assess, assessed) = watch::channel(None);
        let consensus = Consensus {
            inner: Arc::new(Inner {
                assessed,
                roles: raft.server_metrics(),
                figures: raft.data_metrics(),
                lease,
                network,
                incoming: tokio::sync::Mutex::new(Incoming::new(
                    directory.map(|directory| directory.join("snapshots").join("incoming.tmp")),
                )),
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
        let driver = Driver {
            consensus: Arc::downgrade(&consensus.inner),
            initial: settings.autopilot,
            tell: assess,
        };
        let (status, stop) = (consensus.inner.status.clone(), consensus.inner.stop.clone());
        let driving = tokio::spawn(driver.run(status, stop));
        consensus.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(driving);
        if let Err(error) = consensus.take_part(servers).await {
            consensus.shutdown().await;
            return Err(error);
        }
        Ok(consensus)
    }

    /// The first start of a lone server makes it its own cluster, and it elects itself at once;
    /// others wait for each other.
    async fn take_part(&self, servers: Servers) -> Result<(), Error> {
        let raft = &self.inner.raft;
        let bonds = &self.inner.network.bonds;
        if raft.is_initialized().await.map_err(fatal)? {
            let (voters, members): (Vec<ServerId>, Vec<ServerId>) = raft
                .with_raft_state(|state| {
                    let membership = state.membership_state.effective().membership().clone();
                    let members = membership.nodes().map(|(id, _)| *id).collect();
                    (membership.voter_ids().collect(), members)
                })
                .await
                .map_err(fatal)?;
            // One that was removed, or has voted only, is told by its bond that the log is its own.
            if !members.contains(&self.inner.id) && bonds.now().is_none() {
                let known: Vec<String> = members.iter().map(ToString::to_string).collect();
                return Err(Error::Internal(format!(
                    "this server has the ID {}, but the log in its data directory belongs to {}",
                    self.inner.id,
                    known.join(", ")
                )));
            }
            servers.note_formed();
            return if voters == [self.inner.id] { self.lead_alone().await } else { Ok(()) };
        }
        if servers.expect == 1 && bonds.now().is_none_or(|bond| bond.founder == self.inner.id) {
            let cluster = bonds.now().map_or_else(Uuid::new_v4, |bond| bond.cluster);
            let alone = BTreeMap::from([(self.inner.id, self.inner.server.clone())]);
            servers.initialise(alone, cluster).await?;
            return self.lead_alone().await;
        }
        let stop = self.inner.stop.clone();
        let forming = tokio::spawn(async move { servers.form(stop).await });
        self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(forming);
        Ok(())
    }

    async fn lead_alone(&self) -> Result<(), Error> {
        self.inner.raft.trigger().elect(false).await.map_err(fatal)?;
        let mut status = self.inner.status.clone();
        let leads = status.wait_for(|status| status.leading || status.failed.is_some());
        if let Ok(Ok(status)) = tokio::time::timeout(LEAD_AT_START_MAX, leads).await
            && let Some(failed) = &status.failed
        {
            return Err(Error::Internal(failed.clone()));
        }
        Ok(())
    }

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

    /// Proposes as the leader.
    pub(super) async fn propose_here(&self, change: Change) -> Result<(Reply, Index), Error> {
        if !self.is_raft_leader() {
            return Err(Error::NoLeader);
        }
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
        let written = self.inner.raft.client_write(proposal);
        if self.leads_alone() {
            let response = written.await.map_err(write_error)?;
            return Ok((response.data.reply, response.data.index));
        }
        // The library waits for as long as nobody else leads, which a leader that is cut off never
        // hears of.
        let mut status = self.inner.status.clone();
        let was_leading = status.borrow_and_update().leading;
        let lost = status.wait_for(|status| was_leading && !status.leading);
        tokio::select! {
            biased;
            response = written => {
                let response = response.map_err(write_error)?;
                Ok((response.data.reply, response.data.index))
            }
            _ = lost => Err(Error::Unknown("leadership was lost before it was confirmed".to_owned())),
        }
    }

    /// Does the library take this server for the leader?
    fn is_raft_leader(&self) -> bool {
        self.inner.roles.borrow_watched().state == ServerState::Leader
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

    /// How the servers are, as this server sees them while it leads; nothing if it does not, and
    /// until it has looked.
    pub fn assessment(&self) -> Option<Assessment> {
        self.inner.assessed.borrow().clone()
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

    /// Resolves with `leader()` when that is another than `known`.
    pub async fn leader_other_than(&self, known: Option<&str>) -> Option<String> {
        let mut status = self.inner.status.clone();
        loop {
            status.mark_unchanged();
            let now = self.leader();
            if now.as_deref() != known {
                return now;
            }
            if status.changed().await.is_err() {
                // Nothing changes any more.
                std::future::pending::<()>().await;
            }
        }
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

    /// How long ago the leader was heard; zero on the leader, and very long if never.
    pub fn last_contact(&self) -> Duration {
        if self.is_leader() {
            return Duration::ZERO;
        }
        self.inner.contact.age().unwrap_or(NEVER)
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
