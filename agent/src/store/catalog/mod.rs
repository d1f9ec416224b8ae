//! Nodes, services and checks.
//!
//! | map | key (look-up form) | answers |
//! |---|---|---|
//! | `nodes` | name | nodes, one node |
//! | `ids` | UUID without hyphens | one node by id or a unique prefix of it |
//! | `services` | node, service id | the services of a node |
//! | `instances` | service name, node, service id | the instances of a service, joined |
//! | `names` | service name as spelt | the map of services and tags |
//! | `checks` | node, check id | the checks of a node |
//! | `checks_of` | node, service id or nothing, check id | what bears on an instance |
//! | `checks_by_service` | service name, node, check id | the checks of a service |
//! | `checks_by_status` | status, node, check id | the checks in a state |
//!
//! Indexes follow the reference: one for the table of nodes, of services and of checks, and one
//! for each service name that exists. A name without instances answers with the index of the last
//! time that any name lost its last instance, so that no answer slides back.

mod derived;
mod key;
mod read;
mod restore;
mod rows;
mod validate;
mod write;

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use rows::{Check, CheckStatus, Instance, Node, Service, ServiceAddress, Weights};

pub(super) use validate::{validate_node_id, validate_service_name};

use super::Index;
use key::{Pair, Triple};

/// The catalog's tables.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    nodes: OrdMap<Arc<str>, Arc<Node>>,
    ids: OrdMap<Arc<str>, Arc<str>>,
    services: OrdMap<Pair, Arc<Service>>,
    instances: OrdMap<Triple, Arc<Instance>>,
    names: OrdMap<Arc<str>, Tally>,
    checks: OrdMap<Pair, Arc<Check>>,
    checks_of: OrdMap<Triple, Arc<Check>>,
    checks_by_service: OrdMap<Triple, Arc<Check>>,
    checks_by_status: OrdMap<Triple, Arc<Check>>,
    /// Of each service name that has instances, in look-up form.
    service_indexes: OrdMap<Arc<str>, Index>,
    indexes: Indexes,
}

/// Counts the instances with this spelling of a service's name, and those of them with each tag.
#[derive(Debug, Clone, Default)]
struct Tally {
    instances: usize,
    tags: OrdMap<String, usize>,
}

/// Indexes of the tables, as a snapshot keeps them too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Indexes {
    nodes: Index,
    services: Index,
    checks: Index,
    /// When a service name last lost its last instance.
    service_extinction: Index,
    /// When a node or the id of one last went.
    node_extinction: Index,
}

impl Indexes {
    /// All of them.
    pub(super) fn all(&self) -> [Index; 5] {
        let Indexes { nodes, services, checks, service_extinction, node_extinction } = *self;
        [nodes, services, checks, service_extinction, node_extinction]
    }
}
