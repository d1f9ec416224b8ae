//! What the catalog says, in the shape that templates see.
//!
//! Lists are sorted, so that equal data gives equal text whatever order a server answers in; a list asked by distance
//! keeps its order.

use std::collections::BTreeMap;

use muster_client::types::{AgentService, CatalogNode, HealthCheck, KvPair, Node, ServiceEntry};
use serde_json::{Value as Json, json};
use tera::Value;

use crate::render::encode::host_port;

/// The id of a node's maintenance check, and how those of services begin.
const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// How a list is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By id, then by node.
    ById,
    /// As it was answered.
    AsAnswered,
}

/// The instances of a service.
pub fn instances(mut entries: Vec<ServiceEntry>, order: Order) -> Value {
    if order == Order::ById {
        entries.sort_by(|a, b| (&a.service.id, &a.node.node).cmp(&(&b.service.id, &b.node.node)));
    }
    Value::from(entries.iter().map(|entry| value(&instance(entry))).collect::<Vec<_>>())
}

fn instance(entry: &ServiceEntry) -> Json {
    let (node, checks) = (&entry.node, &entry.checks);
    let status = status(checks);
    let weights = &entry.service.weights;
    let mut shown = service(&entry.service, &node.address);
    let map = shown.as_object_mut().expect("`service` makes an object");
    map.insert("status".into(), json!(status));
    // The share of traffic for the status it has now.
    map.insert(
        "weight".into(),
        json!(if status == "warning" { weights.warning } else { weights.passing }),
    );
    map.insert("checks".into(), checks.iter().map(check).collect());
    map.insert("node".into(), json!(node.node));
    map.insert("node_id".into(), json!(node.id));
    map.insert("node_address".into(), json!(node.address));
    map.insert("node_meta".into(), json!(node.meta));
    map.insert("datacenter".into(), json!(node.datacenter));
    shown
}

/// What an instance says of itself. An empty address means that of its node.
fn service(service: &AgentService, node_address: &str) -> Json {
    let address = if service.address.is_empty() { node_address } else { &service.address };
    let tagged: BTreeMap<_, _> = (service.tagged_addresses.iter())
        .map(|(name, tagged)| (name, json!({"address": tagged.address, "port": tagged.port})))
        .collect();
    json!({
        "id": service.id,
        "name": service.service,
        "address": address,
        "port": service.port,
        "addr": host_port(address, service.port),
        "tags": service.tags,
        "meta": service.meta,
        "weights": {"passing": service.weights.passing, "warning": service.weights.warning},
        "tagged_addresses": tagged,
    })
}

fn check(check: &HealthCheck) -> Json {
    json!({
        "id": check.check_id,
        "name": check.name,
        "status": check.status,
        "output": check.output,
        "notes": check.notes,
        "service_id": check.service_id,
    })
}

/// The worst of all checks; maintenance is worse than any, for it is meant.
fn status(checks: &[HealthCheck]) -> &'static str {
    let rank = |check: &HealthCheck| match check.status.as_str() {
        _ if check.check_id == NODE_MAINTENANCE
            || check.check_id.starts_with(SERVICE_MAINTENANCE) =>
        {
            3
        }
        "passing" => 0,
        "warning" => 1,
        _ => 2,
    };
    ["passing", "warning", "critical", "maintenance"][checks.iter().map(rank).max().unwrap_or(0)]
}

/// The names of services with their tags.
pub fn services(services: BTreeMap<String, Vec<String>>) -> Value {
    let named = services.into_iter().map(|(name, mut tags)| {
        tags.sort();
        value(&json!({"name": name, "tags": tags}))
    });
    Value::from(named.collect::<Vec<_>>())
}

/// All nodes.
pub fn nodes(mut nodes: Vec<Node>, order: Order) -> Value {
    if order == Order::ById {
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
    }
    Value::from(nodes.iter().map(|one| value(&node(one))).collect::<Vec<_>>())
}

fn node(node: &Node) -> Json {
    json!({
        "id": node.id,
        "name": node.node,
        "address": node.address,
        "datacenter": node.datacenter,
        "tagged_addresses": node.tagged_addresses,
        "meta": node.meta,
    })
}

/// A node with its services; Tera's `none` if there is no such node.
pub fn node_with_services(found: Option<CatalogNode>) -> Value {
    let Some(found) = found else { return Value::none() };
    let mut shown = node(&found.node);
    let services = found.services.values().map(|one| service(one, &found.node.address)).collect();
    shown.as_object_mut().expect("`node` makes an object").insert("services".into(), services);
    value(&shown)
}

/// The text of a key; Tera's `none` if there is no such key. Bytes that are no text are replaced.
pub fn key(found: Option<KvPair>) -> Value {
    found.map_or_else(Value::none, |pair| Value::from(text(&pair.value)))
}

/// The pairs below a prefix.
pub fn pairs(mut pairs: Vec<KvPair>) -> Value {
    pairs.sort_by(|a, b| a.key.cmp(&b.key));
    let shown = pairs.iter().map(|pair| {
        value(&json!({
            "path": pair.key,
            "value": text(&pair.value),
            "flags": pair.flags,
            "session": pair.session,
            "create_index": pair.create_index,
            "modify_index": pair.modify_index,
            "lock_index": pair.lock_index,
        }))
    });
    Value::from(shown.collect::<Vec<_>>())
}

/// The names of datacenters.
pub fn datacenters(mut names: Vec<String>) -> Value {
    names.sort();
    Value::from(names.into_iter().map(Value::from).collect::<Vec<_>>())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value(json: &Json) -> Value {
    Value::from_serializable(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(given: &[(&str, &str)]) -> Vec<HealthCheck> {
        let check = |(id, status): &(&str, &str)| HealthCheck {
            check_id: (*id).into(),
            status: (*status).into(),
            ..HealthCheck::default()
        };
        given.iter().map(check).collect()
    }

    #[test]
    fn the_worst_check_decides() {
        for (given, expected) in [
            (&[][..], "passing"),
            (&[("serfHealth", "passing")], "passing"),
            (&[("a", "passing"), ("b", "warning")], "warning"),
            (&[("a", "critical"), ("b", "warning")], "critical"),
            (&[("a", "unknown")], "critical"),
            (&[("a", "passing"), ("_node_maintenance", "critical")], "maintenance"),
            (&[("_service_maintenance:web-1", "critical"), ("a", "critical")], "maintenance"),
        ] {
            assert_eq!(status(&checks(given)), expected, "{given:?}");
        }
    }

    #[test]
    fn an_instance_as_templates_see_it() {
        let entry = json!([{
            "Node": {"ID": "i", "Node": "n2", "Address": "10.0.0.2", "Datacenter": "dc1", "Meta": null},
            "Service": {"ID": "web-1", "Service": "web", "Tags": ["b", "a"], "Port": 80, "Address": "",
                        "Weights": {"Passing": 10, "Warning": 3}, "Meta": {"z": "1", "a": "2"}},
            "Checks": [{"CheckID": "c", "Status": "warning", "Output": "slow"}],
        }, {
            "Node": {"Node": "n1", "Address": "fe80::1"},
            "Service": {"ID": "web-0", "Service": "web", "Port": 81},
            "Checks": [],
        }]);
        let list = instances(serde_json::from_value(entry.clone()).unwrap(), Order::ById);
        insta::assert_json_snapshot!(list);
        let near = instances(serde_json::from_value(entry).unwrap(), Order::AsAnswered);
        assert_eq!(near.as_array().unwrap()[0], list.as_array().unwrap()[1]);
    }

    #[test]
    fn what_is_not_there_is_none() {
        assert!(key(None).is_none());
        assert!(node_with_services(None).is_none());
        assert_eq!(key(Some(KvPair::default())).as_str(), Some(""));
    }
}
