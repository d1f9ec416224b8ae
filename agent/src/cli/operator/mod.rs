//! `operator`: tools for whoever runs the cluster.

pub(super) mod autopilot;
pub(super) mod raft;
pub(super) mod recover;
pub(super) mod state;

pub(super) const ABOUT: &str = "Tools for whoever runs the cluster. Some can do harm: read each \
one's help first.";
