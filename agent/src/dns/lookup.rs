//! Looks a question up in the catalog. Pure; question and rows are plain values that can travel, so that
//! an agent without a catalog asks a server for this one step and does the rest itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{CheckStatus, Index, Instance, Node, Store};

/// A look-up. Names are in look-up form (lower case).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lookup {
    /// Instances of a service that are not critical.
    Service {
        /// The service.
        name: String,
        /// Only those with this tag, compared without regard to case.
        tag: Option<String>,
    },
    /// A node, whatever its health.
    Node {
        /// Its name, or a unique beginning of its id.
        name: String,
    },
    /// The owner of an address.
    Reverse {
        /// The address.
        address: IpAddr,
    },
}

impl Lookup {
    /// Bytes of memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = match self {
            Lookup::Service { name, tag } => name.len() + tag.as_ref().map_or(0, String::len),
            Lookup::Node { name } => name.len(),
            Lookup::Reverse { .. } => 0,
        };
        size_of::<Lookup>() + texts
    }

    /// The service that is asked for, or nothing.
    pub(super) fn service_name(&self) -> &str {
        match self {
            Lookup::Service { name, .. } => name,
            Lookup::Node { .. } | Lookup::Reverse { .. } => "",
        }
    }
}

/// Result of a look-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Rows {
    /// Of [`Lookup::Service`]; none: the name is not there.
    Instances(Vec<InstanceRow>),
    /// Of [`Lookup::Node`].
    Node(Option<NodeRow>),
    /// Of [`Lookup::Reverse`].
    Owner(Option<OwnerRow>),
}

impl Rows {
    /// Is what was looked up not there?
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Rows::Instances(rows) => rows.is_empty(),
            Rows::Node(node) => node.is_none(),
            Rows::Owner(owner) => owner.is_none(),
        }
    }

    /// Bytes of memory that they take, about.
    pub(super) fn bytes(&self) -> usize {
        let address = |at: &Address| at.any.len() + at.v4.len() + at.v6.len();
        let node = |node: &NodeRow| {
            // An entry of a map takes more than its two texts.
            let pair = |(key, value): (&String, &String)| {
                3 * size_of::<String>() + key.len() + value.len()
            };
            node.name.len() + address(&node.address) + node.meta.iter().map(pair).sum::<usize>()
        };
        let own = match self {
            Rows::Instances(rows) => {
                let row = |row: &InstanceRow| {
                    size_of::<InstanceRow>() + node(&row.node) + address(&row.address)
                };
                rows.iter().map(row).sum()
            }
            Rows::Node(found) => found.as_ref().map_or(0, node),
            Rows::Owner(Some(OwnerRow::Node(name) | OwnerRow::Service(name))) => name.len(),
            Rows::Owner(None) => 0,
        };
        size_of::<Rows>() + own
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name, as it is spelt.
    pub name: Arc<str>,
    /// Address of the node.
    pub address: Address,
    /// Its pairs.
    pub meta: BTreeMap<String, String>,
}

/// An address, perhaps with others of either family.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Address {
    /// An IP address, a host name or nothing.
    pub any: String,
    /// For those who ask for IPv4.
    pub v4: String,
    /// For those who ask for IPv6.
    pub v6: String,
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// The node that it runs on.
    pub node: NodeRow,
    /// Its own address; empty: the node's.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Its share, by its health.
    pub weight: u16,
    /// Does nothing warn?
    pub passing: bool,
}

/// The owner of an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum OwnerRow {
    /// A node of this name.
    Node(Arc<str>),
    /// A service of this name.
    Service(Arc<str>),
}

/// Looks up.
pub fn look(store: &Store, lookup: &Lookup) -> Rows {
    let catalog = store.catalog();
    match lookup {
        Lookup::Service { name, tag } => {
            let found = catalog.instances(name).rows;
            let wanted =
                |instance: &&Arc<Instance>| tag.as_ref().is_none_or(|tag| has_tag(instance, tag));
            Rows::Instances(found.iter().filter(wanted).filter_map(|it| instance_row(it)).collect())
        }
        Lookup::Node { name } => Rows::Node(catalog.node(name).rows.map(|node| node_row(&node))),
        Lookup::Reverse { address } => Rows::Owner(owner(store, *address)),
    }
}

/// A number that changes whenever the answer to `lookup` may: what a kept answer is compared with.
pub(super) fn version(store: &Store, lookup: &Lookup) -> Index {
    let catalog = store.catalog();
    match lookup {
        Lookup::Service { name, .. } => catalog.service_index(name),
        Lookup::Node { .. } => catalog.nodes_index(),
        Lookup::Reverse { .. } => catalog.services_by_node_index(),
    }
}

fn has_tag(instance: &Instance, tag: &str) -> bool {
    instance.service.tags.iter().any(|own| own.to_lowercase() == *tag)
}

/// `None` if some check that bears on it is critical.
fn instance_row(instance: &Instance) -> Option<InstanceRow> {
    let mut passing = true;
    for check in &instance.checks {
        match CheckStatus::parse(&check.status) {
            Some(CheckStatus::Critical) => return None,
            Some(CheckStatus::Passing) => {}
            Some(CheckStatus::Warning) | None => passing = false,
        }
    }
    let service = &instance.service;
    let tagged = |name: &str| {
        service.tagged_addresses.get(name).map(|it| it.address.clone()).unwrap_or_default()
    };
    let weights = service.weights;
    let weight = if passing { weights.passing } else { weights.warning };
    Some(InstanceRow {
        node: node_row(&instance.node),
        address: Address {
            any: service.address.clone(),
            v4: tagged("lan_ipv4"),
            v6: tagged("lan_ipv6"),
        },
        port: clamp(service.port),
        weight: clamp(weight),
        passing,
    })
}

fn node_row(node: &Node) -> NodeRow {
    let tagged = |name: &str| node.tagged_addresses.get(name).cloned().unwrap_or_default();
    let address =
        Address { any: node.address.clone(), v4: tagged("lan_ipv4"), v6: tagged("lan_ipv6") };
    NodeRow { name: node.name.clone(), address, meta: node.meta.clone() }
}

/// Into the range of a field of 16 bits.
fn clamp(number: i64) -> u16 {
    u16::try_from(number.max(0)).unwrap_or(u16::MAX)
}

/// The first node that has the address, else the first service.
fn owner(store: &Store, address: IpAddr) -> Option<OwnerRow> {
    let catalog = store.catalog();
    let text = address.to_string();
    // An IPv4 address is written in one way; the others are read first.
    let has = |other: &str| {
        other == text
            || (other.contains(':')
                && other.parse::<IpAddr>().is_ok_and(|it| it.to_canonical() == address))
    };
    if let Some(node) = catalog.node_at(has) {
        return Some(OwnerRow::Node(node.name.clone()));
    }
    catalog.service_at(has).map(|service| OwnerRow::Service(service.name.clone()))
}
