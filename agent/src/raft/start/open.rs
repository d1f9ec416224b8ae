//! From settings to what is on disk, and to the library's settings.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

use crate::disk;
use crate::raft::judge::TERM_MAX;
use crate::raft::log::sled::Sled;
use crate::raft::log::wal::Wal;
use crate::raft::log::{DiskQuota, Log, LogStore, Pace, Recovered, WAY_OUT, invalid};
use crate::raft::machine::{Machine, Published};
use crate::raft::recover::take_peers;
use crate::raft::snapshot::files::Snapshots;
use crate::raft::snapshot::policy::Policy;
use crate::raft::types::ServerId;
use crate::raft::{LogBackend, Settings};

/// Wraps a log store before it is used.
pub(in crate::raft) type WrapStore = Box<dyn FnOnce(Box<dyn LogStore>) -> Box<dyn LogStore> + Send>;

/// Opens what is on disk, or nothing for a server in memory.
pub(in crate::raft) fn open(
    settings: &Settings,
    me: ServerId,
    (quota, wrap): (DiskQuota, WrapStore),
    published: Arc<Published>,
    snapshot_policy: Arc<Policy>,
) -> io::Result<(Option<File>, Log, Machine)> {
    let pace = Arc::new(Pace::here());
    let Some(data_dir) = &settings.data_dir else {
        return Ok((
            None,
            Log::in_memory(),
            Machine::open(None, None, published, snapshot_policy)?,
        ));
    };
    let directory = data_dir.join("raft");
    disk::folder(&directory)?;
    let lock = lock(&directory)?;
    let (wal, sled) = (directory.join("wal"), directory.join("sled"));
    let (ours, other, name) = match settings.log_backend {
        LogBackend::Wal => (&wal, &sled, "wal"),
        LogBackend::Sled => (&sled, &wal, "sled"),
    };
    if other.exists() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "raft_logstore.backend is `{name}`, but there is a log of the other kind in {}",
                other.display()
            ),
        ));
    }
    let lock = take_peers(&directory, lock, settings.log_backend, me)?;
    let (store, recovered): (Box<dyn LogStore>, Recovered) = match settings.log_backend {
        LogBackend::Wal => {
            let (store, recovered) = Wal::open(ours, &quota)?;
            (Box::new(store), recovered)
        }
        LogBackend::Sled => {
            let (store, recovered) = Sled::open(ours, quota)?;
            (Box::new(store), recovered)
        }
    };
    let snapshots = Snapshots::open(&directory.join("snapshots"))?;
    if recovered == Recovered::default() && !snapshots.is_empty()? {
        // The votes were in the log: without them this server could vote twice in one term.
        return Err(invalid(format!(
            "there are snapshots in {}, but the log in {} is empty; bring the log back, or remove both and let this server join its peers anew",
            directory.join("snapshots").display(),
            ours.display()
        )));
    }
    if let Some(term) = recovered.vote.map(|vote| vote.leader_id.term).filter(|it| *it > TERM_MAX) {
        return Err(invalid(format!(
            "the vote in {} is of term {term}, after which there can be no election; a lone server is brought back by `muster operator recover`; of several servers: {WAY_OUT}",
            ours.display()
        )));
    }
    let log = Log::over(wrap(store), &recovered)?;
    let machine = Machine::open(Some(snapshots), recovered.purged, published, snapshot_policy)?;
    Ok((Some(lock), log.with_pace(Arc::clone(&pace)), machine.with_pace(pace)))
}

pub(in crate::raft) fn lock(directory: &Path) -> io::Result<File> {
    let path = directory.join("lock");
    let file = disk::create(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("another server is using {}", directory.display()),
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Heart-beats and elections in milliseconds, as `raft_multiplier` scales them.
///
/// A follower gives its leader up after the longest election time, then waits for a random one
/// between both: with 1 the next leader is there within 0.6 to 0.8 s. The reference's default of 5
/// means 5 s there; here it means 1.7 to 2.2 s, since what makes short times dangerous, a server that
/// was merely slow and disturbs the others with a higher term, is prevented by asking first
/// (pre-vote). That still leaves a pause of 1.1 s that disturbs nobody.
#[derive(Debug, Clone, Copy)]
pub(in crate::raft) struct Times {
    /// Between two heart-beats.
    pub(in crate::raft) heartbeat: u64,
    /// For the answer to one. A machine that has much else to do answers late: a leader that gave
    /// up after each heart-beat's own time would hear nobody, and its followers, who do hear it,
    /// would elect nobody else.
    pub(in crate::raft) answer: u64,
    pub(in crate::raft) election_min: u64,
    pub(in crate::raft) election_max: u64,
}

impl Times {
    pub(in crate::raft) fn scaled(multiplier: u32) -> Times {
        let multiplier = u64::from(multiplier.clamp(1, 10));
        Times {
            heartbeat: 50 * multiplier,
            answer: 75 + 75 * multiplier,
            election_min: 100 + 100 * multiplier,
            election_max: 225 + 175 * multiplier,
        }
    }
}

/// The library's settings. A lone server never waits for any of the times.
pub(in crate::raft) fn config(settings: &Settings) -> Config {
    let times = Times::scaled(settings.raft_multiplier);
    Config {
        cluster_name: "muster".to_owned(),
        // The library sends the next one when it gives up the last. `beat` sends more of them.
        heartbeat_interval: times.answer,
        election_timeout_min: times.election_min,
        election_timeout_max: times.election_max,
        // A leader that is heard but hears nobody must fall silent now and then, or its followers
        // would never elect another.
        quorum_loss_probe_interval: Some(3 * times.election_max),
        // `Policy` decides: the library counts entries only.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: settings.trailing_logs,
        // Each purge is a record in the log; a few hundred entries make it worth while.
        purge_batch_size: 256,
        // Beyond this a snapshot is the shorter way; it must exceed what a snapshot leaves behind.
        replication_lag_threshold: settings.snapshot_threshold.max(settings.trailing_logs) + 5000,
        // A server that was cut off must not disturb the others with a higher term.
        enable_pre_vote: Some(true),
        // The commit position on disk may lag: a restarted leader learns it by an election.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}
