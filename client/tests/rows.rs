//! What a catalog holds, every reader can read; and what cannot be read costs its own row alone.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;

use muster_client::Rows;
use muster_client::types::{
    AgentCheck, AgentService, CatalogNode, CatalogService, HealthCheck, KvPair, Member, Node,
    ServiceEntry, Session,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read<R: Rows>(body: &Value) -> (R, Vec<String>) {
    let (rows, odd) = R::read(body.to_string().as_bytes()).unwrap();
    (rows, odd.iter().map(ToString::to_string).collect())
}

#[test]
fn ports_that_are_none_are_shown_as_they_are() {
    for port in [json!(70_000), json!(-1), json!("70000"), json!(i64::MIN), json!(80.0)] {
        let entry = json!([{"Service": {"ID": "a", "Port": port,
            "TaggedAddresses": {"lan": {"Address": "x", "Port": port}}}}]);
        let (entries, odd) = read::<Vec<ServiceEntry>>(&entry);
        assert_eq!(odd, [""; 0], "{port}");
        let shown = entries[0].service.port;
        assert_eq!(entries[0].service.tagged_addresses["lan"].port, shown);
        assert_ne!(shown, 0);
        let (services, _) = read::<Vec<CatalogService>>(&json!([{"ServicePort": port}]));
        assert_eq!(services[0].service_port, shown);
        let services = json!({"a": {"ID": "a", "Port": port}});
        assert_eq!(read::<BTreeMap<String, AgentService>>(&services).0["a"].port, shown);
        let (node, odd) =
            read::<Option<CatalogNode>>(&json!({"Node": {"Node": "n"}, "Services": services}));
        assert_eq!((node.unwrap().services["a"].port, odd.len()), (shown, 0));
    }
}

/// The named rows of a type, every field `null`, then no field but a new one.
fn bare<T: serde::de::DeserializeOwned>(fields: &[&str], needed: &Value) {
    let mut nulls: serde_json::Map<String, Value> =
        fields.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    let mut new = serde_json::Map::from_iter([("Novel".to_owned(), json!({"a": [1]}))]);
    for (name, value) in needed.as_object().unwrap() {
        nulls.insert(name.clone(), value.clone());
        new.insert(name.clone(), value.clone());
    }
    let (rows, odd) = read::<Vec<T>>(&json!([nulls, new]));
    assert_eq!((rows.len(), odd), (2, Vec::new()), "{}", std::any::type_name::<T>());
}

#[test]
fn null_missing_and_unknown_fields_are_fine() {
    let none = json!({});
    bare::<Node>(
        &["ID", "Node", "Address", "Datacenter", "TaggedAddresses", "Meta", "CreateIndex"],
        &none,
    );
    bare::<CatalogService>(
        &[
            "ID",
            "Node",
            "Address",
            "ServiceID",
            "ServiceName",
            "ServiceTags",
            "ServiceMeta",
            "ServicePort",
            "ServiceWeights",
            "ServiceTaggedAddresses",
            "ServiceAddress",
            "ServiceEnableTagOverride",
            "NodeMeta",
            "ModifyIndex",
        ],
        &none,
    );
    bare::<ServiceEntry>(&["Node", "Service", "Checks"], &none);
    bare::<HealthCheck>(
        &["Node", "CheckID", "Status", "ServiceTags", "Type", "Definition", "CreateIndex"],
        &none,
    );
    let service = [
        "ID",
        "Service",
        "Tags",
        "Meta",
        "Port",
        "Address",
        "TaggedAddresses",
        "Weights",
        "EnableTagOverride",
        "CreateIndex",
        "ModifyIndex",
    ];
    bare::<AgentService>(&service, &none);
    bare::<AgentCheck>(
        &["Node", "CheckID", "Name", "Notes", "Output", "ServiceID", "ServiceTags", "Type"],
        &json!({"Status": "passing"}),
    );
    bare::<Member>(&["Addr", "Port", "Tags", "Status", "ProtocolMin"], &json!({"Name": "n"}));
    bare::<KvPair>(&["LockIndex", "Key", "Flags", "Value", "Session", "CreateIndex"], &none);
    bare::<Session>(&["ID", "Name", "LockDelay", "TTL", "NodeChecks", "Behavior"], &none);
}

#[test]
fn a_list_may_be_null_but_must_be_a_list() {
    assert_eq!(read::<Vec<Node>>(&json!(null)).0.len(), 0);
    assert_eq!(read::<BTreeMap<String, AgentService>>(&json!(null)).0.len(), 0);
    assert_eq!(read::<Option<CatalogNode>>(&json!(null)).0, None);
    assert!(<Vec<Node>>::read(b"{\"Node\":1}").is_err());
    assert!(<Vec<Node>>::read(b"[{\"Node\":").is_err());
}

#[test]
fn what_cannot_be_read_is_named() {
    let rows = json!([
        {"Service": {"ID": "good"}},
        {"Service": {"ID": "web-1", "Tags": 7}},
        {"Service": {"ID": "line\nfeed", "Port": 80.5}},
        "no row",
    ]);
    let (good, odd) = read::<Vec<ServiceEntry>>(&rows);
    assert_eq!(good.len(), 1);
    assert_eq!(odd.len(), 3);
    assert!(odd[0].starts_with("row `web-1`: invalid type: integer `7`"), "{}", odd[0]);
    assert!(odd[1].starts_with("row `line\\nfeed`: "), "{}", odd[1]);
    assert!(odd[2].starts_with("row `3`: "), "{}", odd[2]);

    let services = json!({"a": {"Port": []}, "b": {"Port": 1}, "c": null});
    let found = json!({"Node": {"Node": "n"}, "Services": services});
    let (node, odd) = <Option<CatalogNode>>::read(found.to_string().as_bytes()).unwrap();
    assert_eq!(node.unwrap().services.into_keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(odd.iter().map(|odd| &*odd.key).collect::<Vec<_>>(), ["a", "c"]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[A-Z][a-z]{0,4}", inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Any value in any field of one row leaves all other rows as they are.
    #[test]
    fn an_odd_row_costs_itself_alone(
        field in prop::sample::select(vec![
            "ID", "Service", "Tags", "Meta", "Port", "Address", "TaggedAddresses", "Weights",
            "EnableTagOverride", "CreateIndex", "ModifyIndex", "Other",
        ]),
        value in any_json(),
        place in 0_usize..4,
    ) {
        let good = |number: usize| json!({"ID": format!("id-{number}"), "Port": number});
        let mut odd = good(place);
        odd[field] = value;
        let list: Vec<Value> =
            (0..4).map(|number| if number == place { odd.clone() } else { good(number) }).collect();
        let by_id: serde_json::Map<String, Value> =
            list.iter().enumerate().map(|(at, row)| (at.to_string(), row.clone())).collect();

        let (rows, left_out) = read::<Vec<AgentService>>(&Value::from(list));
        prop_assert_eq!(rows.len() + left_out.len(), 4);
        prop_assert!(left_out.len() <= 1);
        let (by_id, _) = read::<BTreeMap<String, AgentService>>(&Value::Object(by_id));
        for number in (0..4).filter(|number| *number != place) {
            let id = format!("id-{number}");
            prop_assert!(rows.iter().any(|row| row.id == id));
            prop_assert_eq!(&by_id[&number.to_string()].id, &id);
        }
    }
}
