//! Parts of request bodies that several end points take: definitions of nodes, services, checks.
//!
//! Values are not validated here: the store does that, with the reference's texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use muster_client::types::{format_nanos, parse_nanos};
use serde_json::{Map, Value, json};

use super::decode::{Malformed, Object, wrong_type};
use crate::store::{Check, Node, Service, ServiceAddress, Weights};

/// A service as the catalog's writers define it. That a missing id is taken from the name is for the store to do: reads in
/// transactions do not.
pub(crate) fn service(mut from: Object) -> Result<Service, Malformed> {
    let kind = from.string("Kind")?;
    if !kind.is_empty() {
        return Err(Malformed(format!(
            "services of kind {kind:?} belong to a service mesh, which this agent does not offer"
        )));
    }
    // Clients of the reference send the mesh's part by default; without a kind it says nothing.
    let _ = (from.take("Proxy"), from.take("Connect"));
    let name = from.string("Service")?;
    let id = from.string("ID")?;
    let mut tagged_addresses = BTreeMap::new();
    if let Some(addresses) = from.object("TaggedAddresses")? {
        for (tag, value) in addresses.rest() {
            let mut address = Object::from(value, "TaggedAddresses")?;
            let at = ServiceAddress {
                address: address.string("Address")?,
                port: address.integer("Port")?,
            };
            address.finish()?;
            tagged_addresses.insert(tag, at);
        }
    }
    let weights = match from.object("Weights")? {
        None => Weights { passing: 1, warning: 1 },
        Some(mut weights) => {
            let given = Weights {
                passing: weights.integer("Passing")?,
                warning: weights.integer("Warning")?,
            };
            weights.finish()?;
            given
        }
    };
    let service = Service {
        kind,
        id: id.into(),
        name: name.into(),
        tags: from.strings("Tags")?,
        address: from.string("Address")?,
        tagged_addresses,
        meta: from.pairs("Meta")?.into_iter().collect(),
        port: from.integer("Port")?,
        weights,
        enable_tag_override: from.flag("EnableTagOverride")?,
        node: Arc::from(""),
        create_index: from.unsigned("CreateIndex")?,
        modify_index: from.unsigned("ModifyIndex")?,
    };
    from.finish()?;
    Ok(service)
}

/// A check as the catalog's writers define it. Its id defaults to its name, its status to critical,
/// its kind to what its definition says.
pub(crate) fn check(from: Object) -> Result<Check, Malformed> {
    check_in(from, Origin::Registration)
}

/// A check as transactions define it: there nobody looks for its kind, and it has no TTL.
pub(crate) fn check_in_transaction(from: Object) -> Result<Check, Malformed> {
    check_in(from, Origin::Transaction)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Registration,
    Transaction,
}

fn check_in(mut from: Object, origin: Origin) -> Result<Check, Malformed> {
    let name = from.string("Name")?;
    let id = from.string("CheckID")?;
    let status = from.string("Status")?;
    let definition = match from.object("Definition")? {
        None => Definition::default(),
        Some(mut definition) => {
            if origin == Origin::Transaction {
                definition.take("TTL");
            }
            Definition::read(definition)?
        }
    };
    let kind = from.string("Type")?;
    let check = Check {
        node: from.string("Node")?.into(),
        id: id.into(),
        name,
        status: if status.is_empty() { "critical".into() } else { status },
        notes: from.string("Notes")?,
        output: from.string("Output")?,
        service_id: from.string("ServiceID")?,
        service_name: from.string("ServiceName")?,
        service_tags: from.strings("ServiceTags")?,
        kind: if kind.is_empty() && origin == Origin::Registration {
            definition.kind.into()
        } else {
            kind
        },
        definition: definition.shown.into(),
        create_index: from.unsigned("CreateIndex")?,
        modify_index: from.unsigned("ModifyIndex")?,
    };
    from.finish()?;
    Ok(check)
}

/// A node as transactions define it.
pub(crate) fn node(mut from: Object) -> Result<Node, Malformed> {
    let node = Node {
        id: from.string("ID")?,
        name: from.string("Node")?.into(),
        address: from.string("Address")?,
        datacenter: from.string("Datacenter")?,
        tagged_addresses: from.pairs("TaggedAddresses")?.into_iter().collect(),
        meta: from.pairs("Meta")?.into_iter().collect(),
        create_index: from.unsigned("CreateIndex")?,
        modify_index: from.unsigned("ModifyIndex")?,
    };
    from.finish()?;
    Ok(node)
}

/// Definition of a check, kept only to be shown: the catalog runs no checks.
#[derive(Default)]
struct Definition {
    /// As the API shows it; empty for none.
    shown: String,
    kind: &'static str,
}

impl Definition {
    /// Unknown fields are ignored, as in the reference.
    fn read(mut from: Object) -> Result<Definition, Malformed> {
        let interval = time(&mut from, "Interval")?;
        let size = from.unsigned("OutputMaxSize")?;
        let timeout = time(&mut from, "Timeout")?;
        let deregister = time(&mut from, "DeregisterCriticalServiceAfter")?;
        let ttl = time(&mut from, "TTL")?;
        let text = |from: &mut Object, name: &str| from.string(name).map(Value::from);
        let http = text(&mut from, "HTTP")?;
        let tcp = text(&mut from, "TCP")?;
        let arguments = from.strings("ScriptArgs")?;
        let container = text(&mut from, "DockerContainerID")?;
        let grpc = text(&mut from, "GRPC")?;
        let alias_node = text(&mut from, "AliasNode")?;
        let alias_service = text(&mut from, "AliasService")?;

        let given = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let repeats = interval != 0;
        let kind = if given(&grpc) && repeats {
            "grpc"
        } else if given(&http) && repeats {
            "http"
        } else if ttl != 0 {
            "ttl"
        } else if given(&tcp) && repeats {
            "tcp"
        } else if given(&alias_node) || given(&alias_service) {
            "alias"
        } else if given(&container) && !arguments.is_empty() && repeats {
            "docker"
        } else if !arguments.is_empty() && repeats {
            "script"
        } else {
            ""
        };

        let shown_time = |ns: i64| if ns == 0 { json!("") } else { format_nanos(ns).into() };
        let fields: [(&str, Value); 18] = [
            ("Interval", shown_time(interval)),
            ("OutputMaxSize", size.into()),
            ("Timeout", shown_time(timeout)),
            ("DeregisterCriticalServiceAfter", shown_time(deregister)),
            ("HTTP", http),
            ("TLSSkipVerify", from.flag("TLSSkipVerify")?.into()),
            ("Header", headers(&mut from)?),
            ("Method", text(&mut from, "Method")?),
            ("Body", text(&mut from, "Body")?),
            ("TCP", tcp),
            ("ScriptArgs", arguments.into()),
            ("DockerContainerID", container),
            ("Shell", text(&mut from, "Shell")?),
            ("GRPC", grpc),
            ("GRPCUseTLS", from.flag("GRPCUseTLS")?.into()),
            ("AliasNode", alias_node),
            ("AliasService", alias_service),
            ("TTL", ttl.into()),
        ];
        let mut shown = String::new();
        for (name, value) in fields {
            let empty = match &value {
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(flag) => !flag,
                Value::Number(number) => number.as_i64() == Some(0),
                Value::Null => true,
            };
            if !empty {
                shown.push(if shown.is_empty() { '{' } else { ',' });
                let _ = write!(shown, "{name:?}:{value}");
            }
        }
        if !shown.is_empty() {
            shown.push('}');
        }
        Ok(Definition { shown, kind })
    }
}

/// HTTP headers of a check: a list of values for each name.
fn headers(from: &mut Object) -> Result<Value, Malformed> {
    let Some(given) = from.object("Header")? else { return Ok(Value::Null) };
    let mut headers = Map::new();
    for (name, value) in given.rest() {
        match value {
            Value::Array(_) | Value::Null => headers.insert(name, value),
            other => return Err(wrong_type("Header", &other, "[]string")),
        };
    }
    Ok(Value::Object(headers))
}

/// A duration in nanoseconds: as text, or as a number of nanoseconds. Also under the name that
/// the client library of transactions uses.
fn time(from: &mut Object, name: &str) -> Result<i64, Malformed> {
    let value = match from.take(&format!("{name}Duration")) {
        Some(value) => Some(value),
        None => from.take(name),
    };
    match value {
        None => Ok(0),
        Some(Value::String(text)) if text.is_empty() => Ok(0),
        Some(Value::String(text)) => {
            parse_nanos(&text).ok_or_else(|| Malformed(format!("time: invalid duration {text:?}")))
        }
        Some(other) => other.as_i64().ok_or_else(|| wrong_type(name, &other, "time.Duration")),
    }
}
