//! Which servers there are, as the rest of the agent learns it.
//!
//! `node` feeds a `watch` of this from gossip; tests feed it by hand. Agreement itself decides who
//! takes part: the roster only says whom to ask, and where.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::raft::types::ServerId;

/// All servers that this agent has heard of, itself included or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownServers {
    /// By their lasting names.
    pub servers: BTreeMap<ServerId, KnownServer>,
}

/// One server of the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownServer {
    /// Node name, for people.
    pub name: String,
    /// Address of its RPC port.
    pub address: SocketAddr,
    /// Number of servers that it waits for before a cluster is formed (`bootstrap_expect`); 0: it only
    /// joins.
    pub expect: u32,
    /// It forms a cluster alone (`bootstrap`).
    pub bootstrap: bool,
    /// Is it there?
    pub presence: Presence,
}

/// Liveness of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// It answers.
    #[default]
    Alive,
    /// It does not answer; it may come back.
    Failed,
    /// It said good-bye: the leader removes it from the cluster.
    Left,
}

impl KnownServers {
    /// The address of a server, whatever the log says of it: addresses change, IDs do not.
    pub fn address(&self, id: ServerId) -> Option<SocketAddr> {
        self.servers.get(&id).map(|server| server.address)
    }

    /// Those that answer.
    pub fn alive(&self) -> impl Iterator<Item = (ServerId, &KnownServer)> {
        let servers = self.servers.iter().map(|(id, server)| (*id, server));
        servers.filter(|(_, server)| server.presence == Presence::Alive)
    }
}
