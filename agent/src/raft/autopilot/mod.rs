//! Autopilot: the leader promotes, watches and removes servers.
//!
//! ```text
//!   servers, presence, figures ─▶ judge ─▶ decide ─▶ promote, remove
//!            (driver)             (both pure)           (driver)
//! ```
//!
//! `decide` is plain values in and out; `driver` looks several times a second while this server
//! leads, keeps what it saw for who asks, and has the servers agree on what was decided.

mod decide;
mod driver;

use std::time::{Duration, SystemTime};

pub use decide::Presence;
use decide::{Action, Health, Leader, Rules, Seen, decide, failure_tolerance, judge};
pub(super) use driver::Driver;

use super::types::ServerId;
use crate::store::Index;

/// Health of the servers, as the leader sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// All of them are healthy.
    pub healthy: bool,
    /// Number of voters that may fail before no majority is left.
    pub failure_tolerance: usize,
    /// In the order of their IDs.
    pub servers: Vec<Assessed>,
}

/// Health of one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessed {
    /// Its lasting identity.
    pub id: ServerId,
    /// Its node's name.
    pub name: String,
    /// `ip:port`.
    pub address: String,
    /// Liveness, as gossip tells it.
    pub presence: Presence,
    /// Leads.
    pub leader: bool,
    /// Counts towards a majority.
    pub voter: bool,
    /// Time without an answer beyond what is usual; `None`: it never answered.
    pub last_contact: Option<Duration>,
    /// Term of the last entry that it is known to have.
    pub last_term: u64,
    /// Position of that entry.
    pub last_index: Index,
    /// Is it healthy?
    pub healthy: bool,
    /// Since when that is so.
    pub since: SystemTime,
}
