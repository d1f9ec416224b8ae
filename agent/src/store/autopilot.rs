//! Autopilot settings: one row that operators set and the leader obeys.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::scope::ApplyContext;
use super::{Index, Reply, Store};

/// Rules for adding and removing servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Autopilot {
    /// Remove servers that failed when enough others are healthy.
    pub cleanup_dead_servers: bool,
    /// A server that did not hear from the leader for longer is not healthy.
    pub last_contact_threshold_ns: u64,
    /// Nor is one whose log is further behind than this.
    pub max_trailing_logs: u64,
    /// Never clean up below so many servers.
    pub min_quorum: u64,
    /// A new server must be healthy for so long before it votes.
    pub server_stabilization_time_ns: u64,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

impl Default for Autopilot {
    /// As the reference's.
    fn default() -> Self {
        Autopilot {
            cleanup_dead_servers: true,
            last_contact_threshold_ns: 200_000_000,
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time_ns: 10_000_000_000,
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// Sets the row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutopilotChange {
    /// The new row; its indexes are ignored.
    pub row: Autopilot,
    /// Only if the row's ModifyIndex is this; 0 means: only if there is none yet.
    pub cas: Option<Index>,
}

impl Store {
    pub(super) fn set_autopilot(
        &mut self,
        context: &ApplyContext,
        change: &AutopilotChange,
    ) -> Reply {
        let now = self.autopilot.as_ref().map_or(0, |row| row.modify_index);
        if change.cas.is_some_and(|expected| expected != now) {
            return Reply::Decided(false);
        }
        let create_index = self.autopilot.as_ref().map_or(context.index, |row| row.create_index);
        let row = Autopilot { create_index, modify_index: context.index, ..change.row.clone() };
        self.autopilot = Some(Arc::new(row));
        Reply::Decided(true)
    }
}
