//! What an agent says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient::{integer, list, map, maybe_integer, null_as_default};
use super::{CatalogAddress, Status, Weights};

/// A service of an agent, as `/v1/agent/services` shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentService {
    /// Unique on its agent.
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    pub id: String,
    /// The service's name.
    #[serde(deserialize_with = "null_as_default")]
    pub service: String,
    /// In the order given.
    #[serde(deserialize_with = "list")]
    pub tags: Vec<String>,
    /// User's pairs.
    #[serde(deserialize_with = "map")]
    pub meta: BTreeMap<String, String>,
    /// As it was written: not every catalog refuses what is no port.
    #[serde(deserialize_with = "integer")]
    pub port: i64,
    /// Empty: the agent's address.
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// Further addresses.
    #[serde(deserialize_with = "map")]
    pub tagged_addresses: BTreeMap<String, CatalogAddress>,
    /// Traffic share.
    #[serde(deserialize_with = "null_as_default")]
    pub weights: Weights,
    /// The catalog may change the tags.
    #[serde(deserialize_with = "null_as_default")]
    pub enable_tag_override: bool,
    /// Index of its creation (catalog and health answers only).
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "maybe_integer")]
    pub create_index: Option<u64>,
    /// Index of its last change (catalog and health answers only).
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "maybe_integer")]
    pub modify_index: Option<u64>,
}

/// When a check of an agent was last heard of, as `/v1/agent/checks?times` says it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckTimes {
    /// Its last run, or the last report to it; empty: none since the agent started.
    pub last_run: String,
    /// When its status became what it is; empty: it has not changed since the agent started or took the check over.
    pub since: String,
    /// Output of its last run. The catalog is told of one that alone has changed only now and then.
    pub output: Option<String>,
}

/// A check of an agent, as `/v1/agent/checks` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentCheck {
    /// The agent's node.
    #[serde(default, deserialize_with = "null_as_default")]
    pub node: String,
    /// Unique on its agent.
    #[serde(rename = "CheckID", default, deserialize_with = "null_as_default")]
    pub check_id: String,
    /// For people.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    /// Its health.
    pub status: Status,
    /// For people.
    #[serde(default, deserialize_with = "null_as_default")]
    pub notes: String,
    /// Of its last run.
    #[serde(default, deserialize_with = "null_as_default")]
    pub output: String,
    /// Empty for a check of the node.
    #[serde(rename = "ServiceID", default, deserialize_with = "null_as_default")]
    pub service_id: String,
    /// Name of that service.
    #[serde(default, deserialize_with = "null_as_default")]
    pub service_name: String,
    /// Tags of that service.
    #[serde(default, deserialize_with = "list")]
    pub service_tags: Vec<String>,
    /// `http`, `ttl`, ...
    #[serde(rename = "Type", default, deserialize_with = "null_as_default")]
    pub kind: String,
}

/// A member of the gossip pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// Node name.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// IP address.
    #[serde(default, deserialize_with = "null_as_default")]
    pub addr: String,
    /// Gossip port.
    #[serde(default, deserialize_with = "integer")]
    pub port: u16,
    /// Role, datacenter, id, build and more.
    #[serde(default, deserialize_with = "map")]
    pub tags: BTreeMap<String, String>,
    /// See [`MemberStatus`].
    #[serde(default, deserialize_with = "integer")]
    pub status: i64,
    /// Oldest protocol understood.
    #[serde(default, deserialize_with = "integer")]
    pub protocol_min: u8,
    /// Newest protocol understood.
    #[serde(default, deserialize_with = "integer")]
    pub protocol_max: u8,
    /// Protocol spoken.
    #[serde(default, deserialize_with = "integer")]
    pub protocol_cur: u8,
    /// Oldest user protocol understood.
    #[serde(default, deserialize_with = "integer")]
    pub delegate_min: u8,
    /// Newest user protocol understood.
    #[serde(default, deserialize_with = "integer")]
    pub delegate_max: u8,
    /// User protocol spoken.
    #[serde(default, deserialize_with = "integer")]
    pub delegate_cur: u8,
}

/// How a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberStatus {
    /// Unknown.
    None,
    /// Answers.
    Alive,
    /// On its way out.
    Leaving,
    /// Gone by intent.
    Left,
    /// Gone without a word.
    Failed,
}

impl Member {
    /// Its status as a word.
    pub fn status(&self) -> MemberStatus {
        match self.status {
            1 => MemberStatus::Alive,
            2 => MemberStatus::Leaving,
            3 => MemberStatus::Left,
            4 => MemberStatus::Failed,
            _ => MemberStatus::None,
        }
    }
}
