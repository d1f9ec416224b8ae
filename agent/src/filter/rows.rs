//! The fields of the rows that the API filters, under the names of [`schema`](super::schema).
//!
//! A name that a row does not carry (the mesh's columns) is [`Value::Empty`].

use std::sync::Arc;

use muster_client::types::{AgentCheck, AgentService, CatalogAddress, Weights as Share};

use super::expression::{Row, RowList, Value};
use crate::store::{Check, Instance, Node, Service, ServiceAddress, Weights};

impl Row for Node {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "ID" => Value::Text(&self.id),
            "Node" => Value::Text(&self.name),
            "Address" => Value::Text(&self.address),
            "Datacenter" => Value::Text(&self.datacenter),
            "TaggedAddresses" => Value::TextMap(&self.tagged_addresses),
            "Meta" => Value::TextMap(&self.meta),
            _ => Value::Empty,
        }
    }
}

impl Row for Service {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Kind" => Value::Text(&self.kind),
            "ID" => Value::Text(&self.id),
            "Service" => Value::Text(&self.name),
            "Tags" => Value::Texts(&self.tags),
            "Address" => Value::Text(&self.address),
            "TaggedAddresses" => Value::RowMap(&self.tagged_addresses),
            "Meta" => Value::TextMap(&self.meta),
            "Port" => Value::Int(self.port),
            "Weights" => Value::Row(&self.weights),
            "EnableTagOverride" => Value::Bool(self.enable_tag_override),
            _ => Value::Empty,
        }
    }
}

impl Row for Weights {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Passing" => Value::Int(self.passing),
            "Warning" => Value::Int(self.warning),
            _ => Value::Empty,
        }
    }
}

impl Row for ServiceAddress {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Address" => Value::Text(&self.address),
            "Port" => Value::Int(self.port),
            _ => Value::Empty,
        }
    }
}

impl Row for Check {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Node" => Value::Text(&self.node),
            "CheckID" => Value::Text(&self.id),
            "Name" => Value::Text(&self.name),
            "Status" => Value::Text(&self.status),
            "Notes" => Value::Text(&self.notes),
            "Output" => Value::Text(&self.output),
            "ServiceID" => Value::Text(&self.service_id),
            "ServiceName" => Value::Text(&self.service_name),
            "ServiceTags" => Value::Texts(&self.service_tags),
            "Type" => Value::Text(&self.kind),
            _ => Value::Empty,
        }
    }
}

impl Row for Instance {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Node" => Value::Row(&self.node),
            "Service" => Value::Row(&self.service),
            "Checks" => Value::Rows(self as &dyn RowList),
            _ => Value::Empty,
        }
    }
}

/// The checks of an instance.
impl RowList for Instance {
    fn count(&self) -> usize {
        self.checks.len()
    }
    fn row(&self, place: usize) -> &dyn Row {
        let check: &Arc<Check> = &self.checks[place];
        check
    }
}

/// An instance with the columns of its node.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The node that it runs on.
    pub node: &'a Node,
    /// The registered service.
    pub service: &'a Service,
}

impl Row for Placed<'_> {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "NodeMeta" => self.node.field("Meta"),
            "ServiceName" => self.service.field("Service"),
            _ => match name.strip_prefix("Service") {
                Some(of_service) => self.service.field(of_service),
                None => self.node.field(name),
            },
        }
    }
}

impl Row for AgentService {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "ID" => Value::Text(&self.id),
            "Service" => Value::Text(&self.service),
            "Tags" => Value::Texts(&self.tags),
            "Address" => Value::Text(&self.address),
            "TaggedAddresses" => Value::RowMap(&self.tagged_addresses),
            "Meta" => Value::TextMap(&self.meta),
            "Port" => Value::Int(self.port),
            "Weights" => Value::Row(&self.weights),
            "EnableTagOverride" => Value::Bool(self.enable_tag_override),
            _ => Value::Empty,
        }
    }
}

impl Row for Share {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Passing" => Value::Int(self.passing),
            "Warning" => Value::Int(self.warning),
            _ => Value::Empty,
        }
    }
}

impl Row for CatalogAddress {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Address" => Value::Text(&self.address),
            "Port" => Value::Int(self.port),
            _ => Value::Empty,
        }
    }
}

impl Row for AgentCheck {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "Node" => Value::Text(&self.node),
            "CheckID" => Value::Text(&self.check_id),
            "Name" => Value::Text(&self.name),
            "Status" => Value::Text(self.status.as_str()),
            "Notes" => Value::Text(&self.notes),
            "Output" => Value::Text(&self.output),
            "ServiceID" => Value::Text(&self.service_id),
            "ServiceName" => Value::Text(&self.service_name),
            "ServiceTags" => Value::Texts(&self.service_tags),
            "Type" => Value::Text(&self.kind),
            _ => Value::Empty,
        }
    }
}
