//! The applier: committed entries in, published states and woken readers out.
//!
//! ```text
//!   batch ─▶ apply all on the owned Store ─▶ publish once ─▶ answer the proposers ─▶ wake
//! ```
//!
//! The order matters. Proposers are answered after their change is published, so a client reads
//! its own write. Readers are woken after it too, by another task: thousands of watchers do not
//! hold up the next batch, and scopes touched meanwhile are woken once.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::log::Pace;
use super::timing;
use super::types::{LogId, Payload, ProposalResult, StoredMembership, Types};
use super::watch::Watches;
use crate::raft::snapshot::files::{Coverage, Image, Snapshots};
use crate::raft::snapshot::policy::{Growth, Policy};
use crate::store::{Reply, Scope, Store};
use crate::telemetry::metrics::names;

/// The published state.
#[derive(Debug, Default)]
pub struct Published {
    store: ArcSwap<Store>,
    watches: Watches,
    touched: Mutex<BTreeSet<Scope>>,
    changed: Notify,
    /// The last entry in `store`.
    applied: watch::Sender<u64>,
}

impl Published {
    /// The newest published state.
    pub fn store(&self) -> Arc<Store> {
        self.store.load_full()
    }

    /// Watches on scopes, for readers that wait.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// The last entry that readers see.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Resolves when readers see that entry.
    pub async fn reached(&self, index: u64) {
        // The sender lives as long as `self`.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= index).await;
    }

    fn publish(&self, store: &Store, last: Option<LogId>) {
        self.store.store(Arc::new(store.clone()));
        self.applied.send_replace(last.map_or(0, |id| id.index));
    }

    fn touch(&self, scopes: impl IntoIterator<Item = Scope>) {
        if !self.watches.is_awaited() {
            // Saves every write that nobody watches the task that wakes.
            return;
        }
        self.touched.lock().extend(scopes);
        self.changed.notify_one();
    }

    /// Wakes the readers of touched scopes until `stop`, and of all at the end.
    pub async fn wake_readers(&self, stop: CancellationToken) {
        loop {
            let touched = {
                let mut touched = self.touched.lock();
                std::mem::take(&mut *touched)
            };
            if !touched.is_empty() {
                let touched: Vec<Scope> = touched.into_iter().collect();
                self.watches.wake(&touched);
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = stop.cancelled() => break,
            }
        }
        self.watches.wake(&[Scope::Everything]);
    }
}

/// The library's state machine over the [`Store`].
pub struct Machine {
    store: Store,
    last: Option<LogId>,
    membership: StoredMembership,
    published: Arc<Published>,
    snapshot_policy: Arc<Policy>,
    pace: Arc<Pace>,
    snapshots: Option<Snapshots>,
    /// The newest snapshot; built ones are noted by the builder.
    current: Arc<Mutex<Option<Current>>>,
}

#[derive(Clone)]
struct Current {
    coverage: Coverage,
    source: SnapshotSource,
}

#[derive(Clone)]
enum SnapshotSource {
    State(Box<Store>),
    File(PathBuf),
}

impl SnapshotSource {
    /// Size on disk.
    fn bytes(&self) -> io::Result<u64> {
        match self {
            SnapshotSource::State(_) => Ok(0),
            SnapshotSource::File(path) => std::fs::metadata(path).map(|file| file.len()),
        }
    }
}

impl Machine {
    /// Starts from the newest snapshot, if there is one; it must reach as far as the log was
    /// `purged`. Without a folder snapshots stay in memory.
    pub fn open(
        snapshots: Option<Snapshots>,
        purged: Option<LogId>,
        published: Arc<Published>,
        snapshot_policy: Arc<Policy>,
    ) -> io::Result<Machine> {
        let newest = match &snapshots {
            Some(snapshots) => snapshots.newest(purged)?,
            None => None,
        };
        let mut machine = Machine {
            store: Store::default(),
            last: None,
            membership: StoredMembership::default(),
            published,
            snapshot_policy,
            pace: Arc::default(),
            snapshots,
            current: Arc::default(),
        };
        if let Some((coverage, path, store)) = newest {
            let bytes = std::fs::metadata(&path)?.len();
            machine.replace(&coverage, store, bytes);
            machine.set_current(Current { coverage, source: SnapshotSource::File(path) });
        }
        Ok(machine)
    }

    /// With whom it tells what is done.
    #[must_use]
    pub fn with_pace(mut self, pace: Arc<Pace>) -> Machine {
        self.pace = pace;
        self.keep_pace();
        self
    }

    fn keep_pace(&self) {
        let membership = self.membership.membership();
        self.pace.alone(membership.nodes().count() == 1);
        self.pace.applied(self.last.map_or(0, |id| id.index));
    }

    fn replace(&mut self, coverage: &Coverage, store: Store, bytes: u64) {
        self.store = store.restored_over(&self.store);
        self.last = coverage.last;
        self.membership = coverage.membership.clone();
        self.published.publish(&self.store, self.last);
        self.snapshot_policy.saved(self.snapshot_policy.growth(), bytes);
        self.keep_pace();
        self.published.touch([Scope::Everything]);
    }

    fn set_current(&self, current: Current) {
        *self.current.lock() = Some(current);
    }

    fn builder(&self) -> Builder {
        Builder {
            coverage: Coverage { last: self.last, membership: self.membership.clone() },
            store: self.store.clone(),
            growth: self.snapshot_policy.growth(),
            snapshot_policy: Arc::clone(&self.snapshot_policy),
            snapshots: self.snapshots.clone(),
            current: Arc::clone(&self.current),
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let mut answers: Vec<(ApplyResponder<Types>, ProposalResult)> = Vec::new();
        let mut touched = BTreeSet::new();
        let (mut count, mut bytes) = (0, 0);
        let mut failed = None;
        while let Some(item) = entries.next().await {
            let (entry, responder) = match item {
                Ok(item) => item,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            let index = entry.log_id.index;
            let (reply, index) = match entry.payload {
                Payload::Blank => (Reply::Done, self.store.index_of(index)),
                Payload::Normal(proposal) => {
                    bytes += proposal.encoded().len() as u64;
                    let timing = timing::of_entry(&proposal.command().change);
                    let begun = Instant::now();
                    let applied = self.store.apply(index, proposal.command());
                    let took = begun.elapsed();
                    names::RAFT_FSM_APPLY.took(took);
                    if let Some(timing) = timing {
                        timing.took(took);
                    }
                    touched.extend(applied.touched);
                    (applied.reply, applied.index)
                }
                Payload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    (Reply::Done, self.store.index_of(index))
                }
            };
            self.last = Some(entry.log_id);
            count += 1;
            answers.extend(responder.map(|responder| (responder, ProposalResult { reply, index })));
        }
        self.published.publish(&self.store, self.last);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        if !touched.is_empty() {
            self.published.touch(touched);
        }
        self.snapshot_policy.applied(self.last.map_or(0, |id| id.index), count, bytes);
        self.keep_pace();
        failed.map_or(Ok(()), Err)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: Image,
    ) -> io::Result<()> {
        let coverage =
            Coverage { last: meta.last_log_id, membership: meta.last_membership.clone() };
        let snapshots = self.snapshots.clone();
        let (store, coverage, source, bytes) = blocking(move || {
            let store = snapshot.load()?;
            let source = match snapshots {
                Some(snapshots) => SnapshotSource::File(snapshots.write(&coverage, &store)?.0),
                None => SnapshotSource::State(Box::new(store.clone())),
            };
            let bytes = source.bytes()?;
            Ok((store, coverage, source, bytes))
        })
        .await?;
        self.replace(&coverage, store, bytes);
        self.set_current(Current { coverage, source });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, Image>>> {
        let current = self.current.lock().clone();
        Ok(current.map(Current::snapshot))
    }
}

impl Current {
    fn snapshot(self) -> SnapshotOf<Types, Image> {
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: self.coverage.last,
            last_membership: self.coverage.membership,
        };
        let image = match self.source {
            SnapshotSource::State(store) => Image::State(store),
            SnapshotSource::File(path) => Image::File(path),
        };
        SnapshotOf::<Types, Image> { meta, snapshot: image }
    }
}

/// Saves the state as it was when the builder was made.
pub struct Builder {
    coverage: Coverage,
    store: Store,
    /// Growth of the log that the snapshot covers.
    growth: Growth,
    snapshot_policy: Arc<Policy>,
    snapshots: Option<Snapshots>,
    current: Arc<Mutex<Option<Current>>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, Image>> {
        let source = match &self.snapshots {
            None => Ok((SnapshotSource::State(Box::new(self.store.clone())), 0)),
            Some(snapshots) => {
                let snapshots = snapshots.clone();
                let (coverage, store) = (self.coverage.clone(), self.store.clone());
                blocking(move || snapshots.write(&coverage, &store)).await.map(|(path, bytes)| {
                    tracing::info!("snapshot {} of {bytes} bytes written", path.display());
                    (SnapshotSource::File(path), bytes)
                })
            }
        };
        let mut current = self.current.lock();
        match source {
            Ok((source, bytes)) => {
                self.snapshot_policy.saved(self.growth, bytes);
                let built = Current { coverage: self.coverage.clone(), source };
                // A newer one may have been installed meanwhile.
                if current.as_ref().is_none_or(|old| old.coverage.last <= built.coverage.last) {
                    *current = Some(built.clone());
                }
                Ok(built.snapshot())
            }
            Err(error) => {
                // An error here would stop the server, but nothing is lost: the log stays as long
                // as it is needed, and the next attempt comes with the next entries.
                tracing::error!("{error}; the log is kept");
                self.snapshot_policy.not_saved();
                let old = current.clone().unwrap_or_else(|| Current {
                    coverage: Coverage::default(),
                    source: SnapshotSource::State(Box::default()),
                });
                Ok(old.snapshot())
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
