//! Membership of the cluster: which servers take part, and how that changes.
//!
//! | module | what happens |
//! |---|---|
//! | `known_servers` | the servers that gossip knows, with liveness and addresses |
//! | `promise` | a server promises itself to one cluster, durably |
//! | `bootstrap` | servers that know of each other form a cluster |
//! | `join` | the leader adds servers that appear, and removes those that left |
//! | `leave` | a server hands leadership over and is removed from the voters |
//! | `configuration` | the raft configuration, as an operator sees and changes it |

pub(super) mod bootstrap;
mod configuration;
mod join;
pub(super) mod known_servers;
pub(super) mod leave;
pub(super) mod promise;

pub use configuration::{Configuration, Participant};
pub use known_servers::{KnownServer, KnownServers, Presence};
pub use promise::owner_of_log;
