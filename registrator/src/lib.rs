//! muster-registrator: watches Docker and registers containers in the catalog by itself.
//!
//! ```text
//!  Docker ──list, inspect, events──▶ docker ─▶ event      container
//!                                      │                     │ metadata, address, check
//!                                      ▼                     ▼
//!                      runner ◀──▶ reconcile ◀──targets── plan
//!                        │             │
//!                        ▼             ▼
//!  agent ◀──services,    agent       diff
//!           calls
//! ```
//!
//! Pure: [`container`], [`metadata`], [`address`], [`check`], [`plan`], [`event`], [`diff`],
//! [`reconcile`]. At the edges: [`docker`], [`agent`], [`identity`], [`runner`], [`probe`],
//! [`args`], [`orphans`].

pub mod address;
pub mod agent;
pub mod args;
pub mod check;
pub mod container;
pub mod diff;
pub mod docker;
pub mod event;
pub mod identity;
pub mod metadata;
pub mod orphans;
pub mod plan;
pub mod probe;
pub mod reconcile;
pub mod runner;

#[cfg(test)]
mod fixtures;
