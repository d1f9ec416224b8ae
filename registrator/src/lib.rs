//! muster-registrator: watches Docker and registers containers in the catalog by itself.

pub mod address;
pub mod container;
pub mod docker;
pub mod duration;
pub mod event;
pub mod metadata;

#[cfg(test)]
mod fixtures;
