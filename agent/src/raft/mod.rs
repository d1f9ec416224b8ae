//! Agreement: one log, applied in one order, published without locks.
//!
//! `log` keeps entries durably, `machine` applies committed batches and publishes the [`Store`],
//! `watch` wakes who waits for a scope. [`Consensus`] is the handle that everyone else holds.

mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use watch::{Waiter, Watches};

use crate::store::{Change, Index, Reply, Store};

/// What consensus needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where log, vote and snapshots live; `None` keeps all in memory (`-dev`).
    pub data_dir: Option<PathBuf>,
    /// This server's UUID.
    pub node_id: String,
    /// Its name, for people.
    pub node_name: String,
    /// `ip:port` under which servers reach it.
    pub address: String,
    /// Which log store: `wal` (default) or `sled`.
    pub log_backend: LogBackend,
    /// Scales the election and heart-beat times, as in the reference.
    pub raft_multiplier: u32,
    /// New log entries that make a snapshot due.
    pub snapshot_threshold: u64,
    /// Entries kept behind a snapshot.
    pub trailing_logs: u64,
}

/// Stores of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogBackend {
    /// Segments of our own.
    #[default]
    Wal,
    /// Packed chunks in sled.
    Sled,
}

/// Why consensus could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody leads; the caller may try again.
    #[error("No cluster leader")]
    NoLeader,
    /// This server is going away.
    #[error("the server is shutting down")]
    Shutdown,
    /// The disk refused.
    #[error("log storage failed")]
    Storage(#[source] std::io::Error),
    /// Anything that should not be.
    #[error("consensus failed: {0}")]
    Internal(String),
}

/// Cheap handle on the agreement of this datacenter's servers.
#[derive(Debug, Clone)]
pub struct Consensus {
    // owner: raft
}

impl Consensus {
    /// Opens log and snapshots, restores the state and takes part.
    pub async fn start(settings: Settings) -> Result<Consensus, Error> {
        let _ = settings;
        todo!("owner: raft")
    }
    /// Replicates a change, waits until it is durable and applied, returns its reply and index.
    /// Waits out an election up to the caller's patience (`rpc_hold_timeout`, the caller's job).
    pub async fn propose(&self, change: Change) -> Result<(Reply, Index), Error> {
        let _ = change;
        todo!("owner: raft")
    }
    /// The newest published state. Never blocks.
    pub fn store(&self) -> Arc<Store> {
        todo!("owner: raft")
    }
    /// Where readers wait for scopes.
    pub fn watches(&self) -> &Watches {
        todo!("owner: raft")
    }
    /// Makes sure that `store()` afterwards holds everything acknowledged before the call
    /// (read-index; `?consistent`).
    pub async fn read_barrier(&self) -> Result<(), Error> {
        todo!("owner: raft")
    }
    /// `ip:port` of the leader, if one is known.
    pub fn leader(&self) -> Option<String> {
        todo!("owner: raft")
    }
    /// Does this server lead (and hold its lease)?
    pub fn is_leader(&self) -> bool {
        todo!("owner: raft")
    }
    /// Resolves when `is_leader()` differs from `now`.
    pub async fn leadership_changed(&self, now: bool) {
        let _ = now;
        todo!("owner: raft")
    }
    /// How long ago the leader was heard; zero on the leader.
    pub fn last_contact(&self) -> Duration {
        todo!("owner: raft")
    }
    /// Raft addresses of all servers.
    pub fn peers(&self) -> Vec<String> {
        todo!("owner: raft")
    }
    /// Figures for `/v1/agent/self` (`Stats.raft`): name and value.
    pub fn stats(&self) -> Vec<(&'static str, String)> {
        todo!("owner: raft")
    }
    /// Stops taking part; what was acknowledged is on disk.
    pub async fn shutdown(&self) {
        todo!("owner: raft")
    }
}
