//! Nodes, services and checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Found, Index};

/// A machine, or something that is registered as one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Node {
    /// UUID or empty (external nodes).
    pub id: String,
    /// As its owner spells it; looked up without regard to case.
    pub name: Arc<str>,
    /// An IP address or a host name.
    pub address: String,
    /// Where it lives.
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

/// How much traffic an instance wants.
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
#[derive(Debug, Clone)]
pub struct Instance {
    /// Where it runs.
    pub node: Arc<Node>,
    /// What runs.
    pub service: Arc<Service>,
    /// How it is: node checks first, then its own.
    pub checks: Vec<Arc<Check>>,
}

/// The catalog's tables.
#[derive(Debug, Clone, Default)]
pub struct Catalog {}

/// Reads. Names are looked up without regard to case.
impl Catalog {
    /// All nodes, by name.
    pub fn nodes(&self) -> Found<Vec<Arc<Node>>> {
        todo!("owner: store")
    }
    /// One node by name, or by a unique prefix of its id.
    pub fn node(&self, name_or_id: &str) -> Found<Option<Arc<Node>>> {
        let _ = name_or_id;
        todo!("owner: store")
    }
    /// Service names with the union of their tags; only those on nodes that `keep` (node-meta).
    pub fn services(&self, keep: &dyn Fn(&Node) -> bool) -> Found<BTreeMap<Arc<str>, Vec<String>>> {
        let _ = keep;
        todo!("owner: store")
    }
    /// A node and the services on it.
    #[expect(clippy::type_complexity, reason = "a node with its services, named nowhere else")]
    pub fn node_services(&self, name_or_id: &str) -> Found<Option<(Arc<Node>, Vec<Arc<Service>>)>> {
        let _ = name_or_id;
        todo!("owner: store")
    }
    /// Instances of a service with their nodes, without checks.
    #[expect(clippy::type_complexity, reason = "rows of a join, named nowhere else")]
    pub fn service(&self, name: &str) -> Found<Vec<(Arc<Node>, Arc<Service>)>> {
        let _ = name;
        todo!("owner: store")
    }
    /// Instances of a service with nodes and checks.
    pub fn instances(&self, name: &str) -> Found<Vec<Instance>> {
        let _ = name;
        todo!("owner: store")
    }
    /// Checks of one node, its services' included.
    pub fn node_checks(&self, node: &str) -> Found<Vec<Arc<Check>>> {
        let _ = node;
        todo!("owner: store")
    }
    /// Checks of the instances of one service.
    pub fn service_checks(&self, name: &str) -> Found<Vec<Arc<Check>>> {
        let _ = name;
        todo!("owner: store")
    }
    /// Checks in a state; `any` for all.
    pub fn checks_in_state(&self, state: &str) -> Found<Vec<Arc<Check>>> {
        let _ = state;
        todo!("owner: store")
    }
    /// The newest index of one service, without collecting its rows: what a cached answer is
    /// compared with. Equal to `instances(name).index`.
    pub fn service_index(&self, name: &str) -> Index {
        let _ = name;
        todo!("owner: store")
    }
}
