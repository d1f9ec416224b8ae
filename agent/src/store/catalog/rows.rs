//! The rows of the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::Index;

/// A machine, or something that is registered as one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Node {
    /// UUID or empty (external nodes).
    pub id: String,
    /// As its owner spells it; looked up without regard to case.
    pub name: Arc<str>,
    /// An IP address or a host name.
    pub address: String,
    /// The datacenter of the node.
    pub datacenter: String,
    /// `lan`, `wan`, `lan_ipv4`, ...
    pub tagged_addresses: BTreeMap<String, String>,
    /// User's pairs.
    pub meta: BTreeMap<String, String>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// An address with its port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// IP or host name.
    pub address: String,
    /// Port.
    pub port: i64,
}

/// Share of the traffic that an instance wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// While all checks pass.
    pub passing: i64,
    /// While some warn.
    pub warning: i64,
}

/// One registered instance of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Mesh kind; always empty for us, kept for the wire's sake.
    pub kind: String,
    /// Unique on its node.
    pub id: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// In the order given.
    pub tags: Vec<String>,
    /// Empty: the node's.
    pub address: String,
    /// Further addresses.
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// User's pairs.
    pub meta: BTreeMap<String, String>,
    /// Port.
    pub port: i64,
    /// Traffic share.
    pub weights: Weights,
    /// The catalog may change its tags.
    pub enable_tag_override: bool,
    /// The node it runs on.
    pub node: Arc<str>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// Health of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CheckStatus {
    /// Fine.
    Passing,
    /// Usable, look at it.
    Warning,
    /// Not to be used.
    Critical,
}

/// One health check's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The node it belongs to.
    pub node: Arc<str>,
    /// Unique on its node.
    pub id: Arc<str>,
    /// For people.
    pub name: String,
    /// As text: the catalog API accepts and keeps what its writer sent.
    pub status: String,
    /// For people.
    pub notes: String,
    /// Of its last run.
    pub output: String,
    /// Empty for a node's check.
    pub service_id: String,
    /// Filled in from the service.
    pub service_name: String,
    /// Filled in from the service.
    pub service_tags: Vec<String>,
    /// `http`, `tcp`, `ttl`, ...
    pub kind: String,
    /// The definition as the API shows it, already JSON; empty means `{}`.
    pub definition: Arc<str>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// A service with its node and every check that bears on it (the node's and its own).
///
/// Kept joined by the catalog and replaced when any part changes: while the `Arc` of an instance
/// is the same, everything about it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// The node that it runs on.
    pub node: Arc<Node>,
    /// The registered service.
    pub service: Arc<Service>,
    /// Its checks: those of the node first, then its own, each group by id.
    pub checks: Vec<Arc<Check>>,
}

/// Rows compare without their indexes: is a write a change at all?
impl Node {
    pub(crate) fn same(&self, other: &Node) -> bool {
        self.id == other.id
            && self.name == other.name
            && self.address == other.address
            && self.datacenter == other.datacenter
            && self.tagged_addresses == other.tagged_addresses
            && self.meta == other.meta
    }
}

impl Service {
    /// The node is not compared: it is part of the row's place.
    pub(crate) fn same(&self, other: &Service) -> bool {
        self.kind == other.kind
            && self.id == other.id
            && self.name == other.name
            && self.tags == other.tags
            && self.address == other.address
            && self.tagged_addresses == other.tagged_addresses
            && self.meta == other.meta
            && self.port == other.port
            && self.weights == other.weights
            && self.enable_tag_override == other.enable_tag_override
    }
}

impl Check {
    pub(crate) fn same(&self, other: &Check) -> bool {
        self.node == other.node
            && self.id == other.id
            && self.name == other.name
            && self.status == other.status
            && self.notes == other.notes
            && self.output == other.output
            && self.service_id == other.service_id
            && self.service_name == other.service_name
            && self.service_tags == other.service_tags
            && self.kind == other.kind
            && self.definition == other.definition
    }
}

impl CheckStatus {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckStatus::Passing => "passing",
            CheckStatus::Warning => "warning",
            CheckStatus::Critical => "critical",
        }
    }

    /// From the API's spelling; other texts are kept by the catalog but mean nothing.
    pub fn parse(text: &str) -> Option<CheckStatus> {
        match text {
            "passing" => Some(CheckStatus::Passing),
            "warning" => Some(CheckStatus::Warning),
            "critical" => Some(CheckStatus::Critical),
            _ => None,
        }
    }
}
