//! Rows of the catalog and of health answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lenient::{integer, list, map, null_as_default};
use super::{AgentService, Weights};

/// A node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// UUID, empty for external nodes.
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    pub id: String,
    /// Name.
    #[serde(deserialize_with = "null_as_default")]
    pub node: String,
    /// IP address or host name.
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// Where it lives.
    #[serde(deserialize_with = "null_as_default")]
    pub datacenter: String,
    /// Further addresses.
    #[serde(deserialize_with = "map")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// User's pairs.
    #[serde(deserialize_with = "map")]
    pub meta: BTreeMap<String, String>,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
}

/// A further address of a service, as the catalog holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogAddress {
    /// IP address or host name.
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// As it was written: not every catalog refuses what is no port.
    #[serde(deserialize_with = "integer")]
    pub port: i64,
}

/// A node with the services on it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogNode {
    /// The node.
    #[serde(deserialize_with = "null_as_default")]
    pub node: Node,
    /// Its services by id.
    #[serde(deserialize_with = "null_as_default")]
    pub services: BTreeMap<String, AgentService>,
}

/// An instance of a service, as `/v1/catalog/service` shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogService {
    /// Node's UUID.
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    pub id: String,
    /// Node's name.
    #[serde(deserialize_with = "null_as_default")]
    pub node: String,
    /// Node's address.
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// Where it lives.
    #[serde(deserialize_with = "null_as_default")]
    pub datacenter: String,
    /// Node's further addresses.
    #[serde(deserialize_with = "map")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// Node's pairs.
    #[serde(deserialize_with = "map")]
    pub node_meta: BTreeMap<String, String>,
    /// Unique on its node.
    #[serde(rename = "ServiceID", deserialize_with = "null_as_default")]
    pub service_id: String,
    /// Name.
    #[serde(deserialize_with = "null_as_default")]
    pub service_name: String,
    /// In the order given.
    #[serde(deserialize_with = "list")]
    pub service_tags: Vec<String>,
    /// Empty: the node's address.
    #[serde(deserialize_with = "null_as_default")]
    pub service_address: String,
    /// Further addresses.
    #[serde(deserialize_with = "map")]
    pub service_tagged_addresses: BTreeMap<String, CatalogAddress>,
    /// Traffic share.
    #[serde(deserialize_with = "null_as_default")]
    pub service_weights: Weights,
    /// User's pairs.
    #[serde(deserialize_with = "map")]
    pub service_meta: BTreeMap<String, String>,
    /// As it was written: not every catalog refuses what is no port.
    #[serde(deserialize_with = "integer")]
    pub service_port: i64,
    /// The catalog may change the tags.
    #[serde(deserialize_with = "null_as_default")]
    pub service_enable_tag_override: bool,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
}

/// The tags of one service's name.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Tags(#[serde(deserialize_with = "list")] pub(crate) Vec<String>);

/// A check, as the health endpoints show it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    /// Its node.
    #[serde(deserialize_with = "null_as_default")]
    pub node: String,
    /// Unique on its node.
    #[serde(rename = "CheckID", deserialize_with = "null_as_default")]
    pub check_id: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// As text: the catalog keeps what its writer sent.
    #[serde(deserialize_with = "null_as_default")]
    pub status: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub notes: String,
    /// Of its last run.
    #[serde(deserialize_with = "null_as_default")]
    pub output: String,
    /// Empty for a check of the node.
    #[serde(rename = "ServiceID", deserialize_with = "null_as_default")]
    pub service_id: String,
    /// Name of that service.
    #[serde(deserialize_with = "null_as_default")]
    pub service_name: String,
    /// Tags of that service.
    #[serde(deserialize_with = "list")]
    pub service_tags: Vec<String>,
    /// `http`, `ttl`, ...
    #[serde(rename = "Type", deserialize_with = "null_as_default")]
    pub kind: String,
    /// What it does, as the catalog keeps it.
    pub definition: Value,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
}

/// An instance with its node and every check that bears on it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceEntry {
    /// Where it runs.
    #[serde(deserialize_with = "null_as_default")]
    pub node: Node,
    /// What runs.
    #[serde(deserialize_with = "null_as_default")]
    pub service: AgentService,
    /// How it is.
    #[serde(deserialize_with = "null_as_default")]
    pub checks: Vec<HealthCheck>,
}

/// `PUT /v1/catalog/register`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogRegistration {
    /// Another datacenter than the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Node's UUID.
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Node's name.
    pub node: String,
    /// Node's address.
    pub address: String,
    /// Node's further addresses.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// Node's pairs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_meta: BTreeMap<String, String>,
    /// A service on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<AgentService>,
    /// A check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    /// Several checks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<HealthCheck>,
    /// Leave an existing node as it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_node_update: bool,
}

/// `PUT /v1/catalog/deregister`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogDeregistration {
    /// Another datacenter than the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// The node, or the owner of what goes.
    pub node: String,
    /// Only this service.
    #[serde(rename = "ServiceID", skip_serializing_if = "Option::is_none")]
    pub service_id: Option<String>,
    /// Only this check.
    #[serde(rename = "CheckID", skip_serializing_if = "Option::is_none")]
    pub check_id: Option<String>,
}
