//! Agreement: one log, applied in one order, published without locks.
//!
//! ```text
//!   propose ─▶ consensus ─▶ log (durable) ─▶ machine ─▶ published Store
//!                              ╎                └─────▶ watch: wakes who waits for a scope
//!                           transport (other servers)
//! ```
//!
//! `log` keeps entries durably, `machine` applies committed batches and publishes the store, `snapshot` keeps
//! it as files so that the log can be purged, `watch` wakes readers that wait for a scope. `transport` carries the
//! protocol to other servers and `service` answers theirs; `judge` validates what they send; `forward` asks the
//! leader on behalf of this server's users; `membership` is bootstrap, join, leave and the configuration;
//! `autopilot` promotes and removes servers. [`Consensus`] is the handle that everyone else holds: `start` makes
//! it, `consensus` proposes, `read_index` says when a read may be answered, `leadership` tells the leader. The Raft
//! protocol itself is openraft's, on the tasks of `executor`; no name of that library appears outside this module.

pub mod autopilot;
mod consensus;
pub mod executor;
mod forward;
mod judge;
mod leadership;
pub mod log;
pub mod machine;
mod membership;
mod observer;
mod read_index;
pub mod recover;
mod service;
pub mod snapshot;
mod start;
mod stats;
mod timing;
mod transport;
pub mod types;
mod watch;

use std::path::PathBuf;

use tokio::sync::watch as channel;

pub use consensus::Consensus;
pub use membership::{
    Configuration, KnownServer, KnownServers, Participant, Presence, owner_of_log,
};
pub use watch::{Waiter, Watches};

use crate::rpc::Pool;

/// Settings of consensus.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of log, vote and snapshots; `None` keeps all in memory (`-dev`).
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
    /// Autopilot settings of a new cluster.
    pub autopilot: crate::store::Autopilot,
}

/// Connections of a server to the others.
#[derive(Debug, Clone)]
pub struct Links {
    /// Calls to other servers.
    pub pool: Pool,
    /// The servers that gossip knows.
    pub known_servers: channel::Receiver<KnownServers>,
    /// Number of servers that form the cluster (`bootstrap_expect`; `bootstrap` is 1); 0: it only joins
    /// one that exists.
    pub expect: u32,
}

impl Links {
    /// A server that stands alone.
    pub fn none() -> Links {
        let (_, known_servers) = channel::channel(KnownServers::default());
        Links { pool: Pool::default(), known_servers, expect: 1 }
    }
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

/// Failure of consensus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody leads; the caller may try again.
    #[error("No cluster leader")]
    NoLeader,
    /// Understood, and refused by the rules; the text is for whoever asked.
    #[error("{0}")]
    Refused(String),
    /// It may have been done, and may be done yet: leadership was lost meanwhile, or the leader did
    /// not answer. To try again may do it twice.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
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
