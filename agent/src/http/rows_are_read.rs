//! Whatever a writer gets into the catalog, the client's types read: one row that they do not take
//! would stop every program that reads the list.

use std::collections::BTreeMap;

use muster_client::Rows as _;
use muster_client::types::{
    AgentService, CatalogNode, CatalogService, HealthCheck, Node, ServiceEntry,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::catalog::registration;
use super::encode::{self, Layout};
use super::rows::{CatalogServiceRow, CheckRow, Empty, NodeRow, Rows, ServiceRow};
use crate::store::{Change, Register};

fn register(body: &Value) -> Option<Register> {
    match registration(body.to_string().as_bytes(), "dc1").ok()?.0 {
        Change::Register(register) => Some(*register),
        _ => None,
    }
}

/// All rows of a registration in one body, read by the client: every one, and as they were.
fn is_read(register: &Register) {
    let node = NodeRow::from(&register.node);
    let nodes = encode::json(&Rows([&node].into_iter()), Layout::Compact);
    let (nodes, odd) = <Vec<Node>>::read(&nodes).expect("a list");
    assert_eq!(odd, []);
    assert_eq!(nodes[0].node, *register.node.name);
    assert_eq!(nodes[0].meta, register.node.meta);

    let mut shown = json!({"Node": node, "Service": null, "Checks": []});
    if let Some(service) = &register.service {
        let rows = [CatalogServiceRow::new(&register.node, service)];
        let body = encode::json(&Rows(rows.iter()), Layout::Compact);
        let (services, odd) = <Vec<CatalogService>>::read(&body).expect("a list");
        assert_eq!(odd, []);
        assert_eq!(services[0].service_port, service.port);
        assert_eq!(services[0].service_tags, service.tags);
        assert_eq!(services[0].service_weights.passing, service.weights.passing);

        for empty in [Empty::List, Empty::Null] {
            let by_id = BTreeMap::from([(&*service.id, ServiceRow::new(service, empty))]);
            let body = encode::json(&by_id, Layout::Compact);
            let (by_id, odd) = BTreeMap::<String, AgentService>::read(&body).expect("a map");
            assert_eq!(odd, []);
            assert_eq!(by_id[&*service.id].port, service.port);
            let body = json!({"Node": node, "Services": by_id}).to_string();
            let (found, odd) = <Option<CatalogNode>>::read(body.as_bytes()).expect("a node");
            assert_eq!(odd, []);
            let read = &found.expect("it exists").services[&*service.id];
            assert_eq!(read.meta, service.meta);
            let ports = |(name, port): (&String, i64)| (name.clone(), port);
            let read: Vec<_> =
                read.tagged_addresses.iter().map(|(name, at)| ports((name, at.port))).collect();
            let kept: Vec<_> =
                service.tagged_addresses.iter().map(|(name, at)| ports((name, at.port))).collect();
            assert_eq!(read, kept);
        }
        shown["Service"] = json!(ServiceRow::new(service, Empty::List));
    }
    for empty in [Empty::List, Empty::Null] {
        let rows = register.checks.iter().map(|check| CheckRow::new(check, empty));
        let body = encode::json(&Rows(rows), Layout::Compact);
        let (checks, odd) = <Vec<HealthCheck>>::read(&body).expect("a list");
        assert_eq!(odd, []);
        let kept: Vec<&str> = register.checks.iter().map(|check| &*check.status).collect();
        assert_eq!(checks.iter().map(|check| &*check.status).collect::<Vec<_>>(), kept);
        shown["Checks"] = serde_json::from_slice(&body).expect("what was just written");
    }
    let (entries, odd) =
        <Vec<ServiceEntry>>::read(json!([shown]).to_string().as_bytes()).expect("a list");
    assert_eq!((entries.len(), odd), (1, Vec::new()));
}

#[test]
fn odd_registrations_are_read() {
    for (service, check) in [
        (json!({"Service": "s", "Port": 70_000}), json!({"Name": "c", "Status": "odd"})),
        (json!({"Service": "s", "Port": -1, "Tags": null, "Meta": null}), json!({})),
        (
            json!({"Service": "s", "Port": i64::MIN, "Weights": {"Passing": -7, "Warning": i64::MAX},
                "TaggedAddresses": {"lan": {"Address": "", "Port": -70_000}, "": {}}}),
            json!({"CheckID": "", "Definition": {"Interval": "10s", "HTTP": "x"}}),
        ),
        (json!({"Service": "line\nfeed", "Tags": ["", "\u{1}"], "Meta": {"": ""}}), json!(null)),
    ] {
        let body = json!({"Node": "n", "Address": "a", "Service": service, "Check": check});
        is_read(&register(&body).unwrap_or_else(|| panic!("the catalog takes {body}")));
    }
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        "\\PC{0,12}".prop_map(Value::from),
        "[a-z]{1,8}".prop_map(Value::from)
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        (-70_000_i64..70_000).prop_map(Value::from),
        any::<u16>().prop_map(|port| Value::from(port.to_string())),
    ]
}

fn pairs() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        prop::collection::btree_map("[a-zA-Z_]{0,6}", text(), 0..3)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
    ]
}

fn texts() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), prop::collection::vec(text(), 0..3).prop_map(Value::from)]
}

prop_compose! {
    fn service()(
        id in text(), name in text(), tags in texts(), meta in pairs(), port in number(),
        address in text(), tagged in number(), passing in number(), index in any::<u64>(),
    ) -> Value {
        json!({
            "ID": id, "Service": name, "Tags": tags, "Meta": meta, "Port": port, "Address": address,
            "TaggedAddresses": {"wan": {"Address": address, "Port": tagged}},
            "Weights": {"Passing": passing, "Warning": 1}, "CreateIndex": index,
        })
    }
}

prop_compose! {
    fn check()(
        id in text(), name in text(), status in text(), output in text(), tags in texts(),
        service in text(), kind in text(),
    ) -> Value {
        json!({
            "CheckID": id, "Name": name, "Status": status, "Output": output, "ServiceTags": tags,
            "ServiceID": service, "Type": kind,
        })
    }
}

proptest! {
    #[test]
    fn what_the_catalog_takes_is_read(
        id in text(), node in text(), address in text(), meta in pairs(), tagged in pairs(),
        service in prop::option::of(service()), checks in prop::collection::vec(check(), 0..3),
    ) {
        let body = json!({
            "ID": id, "Node": node, "Address": address, "NodeMeta": meta,
            "TaggedAddresses": tagged, "Service": service, "Checks": checks,
        });
        if let Some(register) = register(&body) {
            is_read(&register);
        }
    }
}
