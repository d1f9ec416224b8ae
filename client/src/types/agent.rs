//! What an agent says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ServiceAddress, Status, Weights, null_as_default};

/// A service of an agent, as `/v1/agent/services` shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentService {
    /// Unique on its agent.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    pub service: String,
    /// In the order given.
    #[serde(deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// User's pairs.
    #[serde(deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    /// Port.
    pub port: u16,
    /// Empty: the agent's address.
    pub address: String,
    /// Further addresses.
    #[serde(deserialize_with = "null_as_default")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Traffic share.
    #[serde(deserialize_with = "null_as_default")]
    pub weights: Weights,
    /// The catalog may change the tags.
    pub enable_tag_override: bool,
    /// Index of its creation (catalog and health answers only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_index: Option<u64>,
    /// Index of its last change (catalog and health answers only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modify_index: Option<u64>,
}

/// A check of an agent, as `/v1/agent/checks` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentCheck {
    /// The agent's node.
    #[serde(default)]
    pub node: String,
    /// Unique on its agent.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Its health.
    pub status: Status,
    /// For people.
    #[serde(default)]
    pub notes: String,
    /// Of its last run.
    #[serde(default)]
    pub output: String,
    /// Empty for a check of the node.
    #[serde(rename = "ServiceID", default)]
    pub service_id: String,
    /// Name of that service.
    #[serde(default)]
    pub service_name: String,
    /// Tags of that service.
    #[serde(default, deserialize_with = "null_as_default")]
    pub service_tags: Vec<String>,
    /// `http`, `ttl`, ...
    #[serde(rename = "Type", default)]
    pub kind: String,
}

/// A member of the gossip pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// Node name.
    pub name: String,
    /// IP address.
    pub addr: String,
    /// Gossip port.
    pub port: u16,
    /// Role, datacenter, id, build and more.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: BTreeMap<String, String>,
    /// See [`MemberStatus`].
    pub status: i64,
    /// Oldest protocol understood.
    #[serde(default)]
    pub protocol_min: u8,
    /// Newest protocol understood.
    #[serde(default)]
    pub protocol_max: u8,
    /// Protocol spoken.
    #[serde(default)]
    pub protocol_cur: u8,
    /// Oldest user protocol understood.
    #[serde(default)]
    pub delegate_min: u8,
    /// Newest user protocol understood.
    #[serde(default)]
    pub delegate_max: u8,
    /// User protocol spoken.
    #[serde(default)]
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
