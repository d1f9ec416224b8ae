//! The types that agreement is about: who takes part, what an entry carries, what comes back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::store::{Command, Index, Reply};

openraft::declare_raft_types!(
    /// Our choice for each of the library's types: standard Raft, one leader per term.
    pub Types:
        D = Proposal,
        R = ProposalResult,
        NodeId = ServerId,
        Node = Server,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = crate::raft::executor::ExecutorRuntime,
);

/// A position in the log together with the term that wrote it.
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
/// The candidate that this server voted for, and whether a majority agreed.
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
/// One entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
/// Content of an entry: nothing, a command, or the list of servers.
pub type Payload = openraft::type_config::alias::PayloadOf<Types>;
/// Voters and learners with their addresses.
pub type Membership = openraft::Membership<ServerId, Server>;
/// A membership and the entry that set it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;

/// A server's lasting name: the UUID of its data directory. Addresses change, this does not.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ServerId(pub Uuid);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for ServerId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<ServerId, uuid::Error> {
        Uuid::parse_str(text).map(ServerId)
    }
}

/// Small numbers as identities, for tests and simulations.
impl From<u64> for ServerId {
    fn from(number: u64) -> ServerId {
        ServerId(Uuid::from_u128(u128::from(number)))
    }
}

/// Name and address of a server, as the members of a cluster know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Node name, for people.
    pub name: String,
    /// `ip:port` of its server port.
    pub address: String,
}

/// A command on its way through the log, decoded and encoded: it is encoded once by who proposes
/// it and decoded once by who receives it over the network or reads it from disk.
#[derive(Clone, PartialEq)]
pub struct Proposal {
    command: Arc<Command>,
    encoded: Bytes,
}

impl Proposal {
    /// Encodes a command for the log.
    pub fn new(command: Command) -> Proposal {
        let encoded = Bytes::from(command.encode());
        Proposal { command: Arc::new(command), encoded }
    }

    /// Takes a command from its bytes. The error names what is not understood: a newer format or
    /// an unknown command must stop the server before its state differs from the others'.
    pub fn decode(encoded: Bytes) -> Result<Proposal, crate::store::DecodeError> {
        let command = Arc::new(Command::decode(&encoded)?);
        Ok(Proposal { command, encoded })
    }

    /// The command to apply.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Its bytes as they stand in the log.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values can be secrets and large: logs only see the size.
        write!(f, "Proposal({} bytes)", self.encoded.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encoded.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Proposal, D::Error> {
        Proposal::decode(Bytes::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Result of applying an entry, for its proposer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposalResult {
    /// The store's answer.
    pub reply: Reply,
    /// The entry's position, which is the index of the change.
    pub index: Index,
}
