//! muster-registrator: watches Docker and registers containers in the catalog by itself.

pub mod address;
pub mod check;
pub mod container;
pub mod diff;
pub mod docker;
pub mod event;
pub mod metadata;
pub mod plan;
pub mod reconcile;

#[cfg(test)]
mod fixtures;
