//! Start of consensus on a server: the files, the library, the tasks around it.

pub(super) mod open;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, ServerState};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::raft::autopilot::Driver;
use crate::raft::consensus::{Consensus, Inner, UNDER_WAY_KIB_MAX, fatal, internal};
use crate::raft::executor::Executor;
use crate::raft::log::{DiskQuota, LogStore};
use crate::raft::machine::{Machine, Published};
use crate::raft::membership::bootstrap::Servers;
use crate::raft::membership::promise::Promises;
use crate::raft::observer::{Contact, Observer, Status};
use crate::raft::read_index::ReadIndex;
use crate::raft::snapshot::policy::Policy;
use crate::raft::snapshot::transfer::Incoming;
use crate::raft::start::open::{Times, WrapStore, config, open};
use crate::raft::transport::Network;
use crate::raft::types::{Server, ServerId, Types};
use crate::raft::{Error, Links, Settings};

/// After a snapshot that could not be written.
const SAVE_RETRY: Duration = Duration::from_secs(30);

/// Time for a lone server to lead before `start` returns without it.
const LEAD_AT_START_MAX: Duration = Duration::from_secs(10);

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
        Box::pin(Consensus::start_around(settings, links, |store| store)).await
    }

    /// The same, with the log store put into another one: a disk that is slow, or stands still.
    pub async fn start_around(
        settings: Settings,
        links: Links,
        wrap: impl FnOnce(Box<dyn LogStore>) -> Box<dyn LogStore> + Send + 'static,
    ) -> Result<Consensus, Error> {
        let id: ServerId = settings.node_id.parse().map_err(|error| {
            Error::Internal(format!("node ID `{}` is not a UUID: {error}", settings.node_id))
        })?;
        let server = Server { name: settings.node_name.clone(), address: settings.address.clone() };
        let quota = DiskQuota::default();
        let published = Arc::new(Published::default());
        let snapshot_policy = Arc::new(Policy::new(settings.snapshot_threshold));
        let (lock, log, machine) = {
            let (settings, quota) = (settings.clone(), quota.clone());
            let (published, snapshot_policy) =
                (Arc::clone(&published), Arc::clone(&snapshot_policy));
            let disk = (quota, Box::new(wrap) as WrapStore);
            tokio::task::spawn_blocking(move || {
                open(&settings, id, disk, published, snapshot_policy)
            })
            .await
            .map_err(|error| Error::Internal(error.to_string()))?
            .map_err(Error::Storage)?
        };
        let directory = settings.data_dir.as_ref().map(|data_dir| data_dir.join("raft"));
        let promises = Promises::open(id, directory.as_deref()).map_err(Error::Storage)?;
        let Links { pool, known_servers, expect } = links;
        let network = Network { me: id, pool, known_servers, promises: Arc::new(promises) };
        let config = Arc::new(config(&settings).validate().map_err(internal)?);
        let executor = Executor::default();
        let raft = executor.attach(Raft::new(id, config, network.clone(), log, machine));
        // Its first steps hold the whole state machine: too large for the stack of every caller.
        let raft = Box::pin(raft).await.map_err(fatal)?;
        drop(tokio::spawn(executor.run()));

        let times = Times::scaled(settings.raft_multiplier);
        let lease = Duration::from_millis(times.election_max);
        let contact = Arc::new(Contact::none());
        let (tell, status) = watch::channel(Status::default());
        let (waits_for, waiting) = watch::channel(String::new());
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
            waits_for,
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
            tokio::spawn(save(raft.clone(), snapshot_policy, stop.clone())),
            tokio::spawn(beat(raft.clone(), Duration::from_millis(times.heartbeat), stop.clone())),
        ];
        let (assess, assessed) = watch::channel(None);
        let consensus = Consensus {
            inner: Arc::new(Inner {
                assessed,
                waiting,
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
                quota,
                under_way: Semaphore::new(UNDER_WAY_KIB_MAX),
                read_index: ReadIndex::default(),
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
        consensus.inner.tasks.lock().push(driving);
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
        let promises = &self.inner.network.promises;
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
            if !members.contains(&self.inner.id) && promises.now().is_none() {
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
        if servers.expect == 1
            && promises.now().is_none_or(|promise| promise.founder == self.inner.id)
        {
            let cluster = promises.now().map_or_else(Uuid::new_v4, |promise| promise.cluster);
            let alone = BTreeMap::from([(self.inner.id, self.inner.server.clone())]);
            servers.initialise(alone, cluster).await?;
            return self.lead_alone().await;
        }
        let stop = self.inner.stop.clone();
        let forming = tokio::spawn(async move { servers.form(stop).await });
        self.inner.tasks.lock().push(forming);
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
}

/// Takes a snapshot whenever one is due, then cuts the log by its bytes.
async fn save(raft: Raft<Types, Machine>, snapshot_policy: Arc<Policy>, stop: CancellationToken) {
    let attempts = async {
        loop {
            snapshot_policy.due().await;
            let before = raft.metrics().borrow_watched().snapshot;
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            snapshot_policy.finished().await;
            // The library is told of a snapshot a moment after it is written.
            let saved = raft.wait(Some(SAVE_RETRY));
            let saved = saved.metrics(|metrics| metrics.snapshot > before, "snapshot").await;
            match (saved, snapshot_policy.purgeable()) {
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

/// Sends a heart-beat so often, while this server leads others.
async fn beat(raft: Raft<Types, Machine>, interval: Duration, stop: CancellationToken) {
    let mut roles = raft.server_metrics();
    let beats = async {
        loop {
            let leads = {
                let now = roles.borrow_watched();
                let members = now.membership_config.membership();
                now.state == ServerState::Leader && members.nodes().count() > 1
            };
            if !leads {
                if roles.changed().await.is_err() {
                    return;
                }
            } else if raft.trigger().heartbeat().await.is_err() {
                return;
            } else {
                tokio::time::sleep(interval).await;
            }
        }
    };
    tokio::select! {
        () = beats => {}
        () = stop.cancelled() => {}
    }
}
