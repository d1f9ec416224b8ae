//! The rows of the API: the truth's types as clients see them, key by key in the reference's order.
//!
//! These are views: they borrow from the store and are encoded at once. Lists that are empty show
//! as `[]`, maps that were never filled as `null`, where the reference does so.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::store::{Check, Entry, Instance, Node, Service, ServiceAddress, Session, Weights};

/// An empty map is shown as `null`: nobody ever put anything there.
fn null_if_empty<S: Serializer>(map: &BTreeMap<String, String>, to: S) -> Result<S::Ok, S::Error> {
    if map.is_empty() { to.serialize_none() } else { map.serialize(to) }
}

/// Form of an empty list of tags: transactions show `null`, all else `[]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    List,
    Null,
}

struct Tags<'a>(&'a [String], Empty);

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() && self.1 == Empty::Null {
            to.serialize_none()
        } else {
            self.0.serialize(to)
        }
    }
}

/// A node.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeRow<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    #[serde(serialize_with = "null_if_empty")]
    tagged_addresses: &'a BTreeMap<String, String>,
    #[serde(serialize_with = "null_if_empty")]
    meta: &'a BTreeMap<String, String>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<&'a Node> for NodeRow<'a> {
    fn from(node: &'a Node) -> Self {
        NodeRow {
            id: &node.id,
            node: &node.name,
            address: &node.address,
            datacenter: &node.datacenter,
            tagged_addresses: &node.tagged_addresses,
            meta: &node.meta,
            create_index: node.create_index,
            modify_index: node.modify_index,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AddressRow<'a> {
    address: &'a str,
    port: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WeightsRow {
    passing: i64,
    warning: i64,
}

impl From<Weights> for WeightsRow {
    fn from(weights: Weights) -> Self {
        WeightsRow { passing: weights.passing, warning: weights.warning }
    }
}

fn addresses<S: Serializer>(
    addresses: &BTreeMap<String, ServiceAddress>,
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(addresses.len()))?;
    for (name, at) in addresses {
        map.serialize_entry(name, &AddressRow { address: &at.address, port: at.port })?;
    }
    map.end()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn no_addresses(addresses: &&BTreeMap<String, ServiceAddress>) -> bool {
    addresses.is_empty()
}

/// Mesh fields of a service: always the same, for clients that expect the keys.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NoProxy {
    mesh_gateway: NoFields,
    expose: NoFields,
}

#[derive(Serialize)]
struct NoFields {}

const NO_PROXY: NoProxy = NoProxy { mesh_gateway: NoFields {}, expose: NoFields {} };

/// A service as a part of other rows.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceRow<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: Tags<'a>,
    address: &'a str,
    #[serde(serialize_with = "addresses", skip_serializing_if = "no_addresses")]
    tagged_addresses: &'a BTreeMap<String, ServiceAddress>,
    #[serde(serialize_with = "null_if_empty")]
    meta: &'a BTreeMap<String, String>,
    port: i64,
    weights: WeightsRow,
    enable_tag_override: bool,
    proxy: NoProxy,
    connect: NoFields,
    create_index: u64,
    modify_index: u64,
}

impl<'a> ServiceRow<'a> {
    pub(crate) fn new(service: &'a Service, empty: Empty) -> Self {
        ServiceRow {
            kind: &service.kind,
            id: &service.id,
            service: &service.name,
            tags: Tags(&service.tags, empty),
            address: &service.address,
            tagged_addresses: &service.tagged_addresses,
            meta: &service.meta,
            port: service.port,
            weights: service.weights.into(),
            enable_tag_override: service.enable_tag_override,
            proxy: NO_PROXY,
            connect: NoFields {},
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

/// An instance with its node's row in one, as the catalog lists it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CatalogServiceRow<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    #[serde(serialize_with = "null_if_empty")]
    tagged_addresses: &'a BTreeMap<String, String>,
    #[serde(serialize_with = "null_if_empty")]
    node_meta: &'a BTreeMap<String, String>,
    service_kind: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(serialize_with = "addresses", skip_serializing_if = "no_addresses")]
    service_tagged_addresses: &'a BTreeMap<String, ServiceAddress>,
    service_weights: WeightsRow,
    service_meta: &'a BTreeMap<String, String>,
    service_port: i64,
    service_enable_tag_override: bool,
    service_proxy: NoProxy,
    service_connect: NoFields,
    create_index: u64,
    modify_index: u64,
}

impl<'a> CatalogServiceRow<'a> {
    pub(crate) fn new(node: &'a Node, service: &'a Service) -> Self {
        CatalogServiceRow {
            id: &node.id,
            node: &node.name,
            address: &node.address,
            datacenter: &node.datacenter,
            tagged_addresses: &node.tagged_addresses,
            node_meta: &node.meta,
            service_kind: &service.kind,
            service_id: &service.id,
            service_name: &service.name,
            service_tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: &service.tagged_addresses,
            service_weights: service.weights.into(),
            service_meta: &service.meta,
            service_port: service.port,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: NO_PROXY,
            service_connect: NoFields {},
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

/// A check.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckRow<'a> {
    node: &'a str,
    #[serde(rename = "CheckID")]
    id: &'a str,
    name: &'a str,
    status: &'a str,
    notes: &'a str,
    output: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Tags<'a>,
    r#type: &'a str,
    definition: Definition<'a>,
    create_index: u64,
    modify_index: u64,
    /// Ours, for who asks: how what the check is about is on the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_status: Option<&'static str>,
}

impl<'a> CheckRow<'a> {
    pub(crate) fn new(check: &'a Check, empty: Empty) -> Self {
        CheckRow {
            node: &check.node,
            id: &check.id,
            name: &check.name,
            status: &check.status,
            notes: &check.notes,
            output: &check.output,
            service_id: &check.service_id,
            service_name: &check.service_name,
            service_tags: Tags(&check.service_tags, empty),
            r#type: &check.kind,
            definition: Definition(&check.definition),
            create_index: check.create_index,
            modify_index: check.modify_index,
            effective_status: None,
        }
    }

    /// With the status of the whole, if that is asked for.
    pub(crate) fn with_effective(mut self, status: Option<&'static str>) -> Self {
        self.effective_status = status;
        self
    }

    /// As the agent's own end points of health show it: there the reference fills this row only in part.
    pub(crate) fn in_part(check: &'a Check) -> Self {
        const DEFINITION: &str = r#"{"Interval":"0s","Timeout":"0s","DeregisterCriticalServiceAfter":"0s","HTTP":"","Header":null,"Method":"","Body":"","TLSSkipVerify":false,"TCP":""}"#;
        CheckRow {
            service_tags: Tags(&[], Empty::Null),
            r#type: "",
            definition: Definition(DEFINITION),
            create_index: 0,
            modify_index: 0,
            ..CheckRow::new(check, Empty::Null)
        }
    }
}

/// JSON that is kept as text, laid out anew with the rest.
struct Definition<'a>(&'a str);

impl Serialize for Definition<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() || self.0 == "{}" {
            return NoFields {}.serialize(to);
        }
        match serde_json::from_str::<Tree>(self.0) {
            Ok(tree) => tree.serialize(to),
            Err(_) => NoFields {}.serialize(to),
        }
    }
}

/// JSON whose keys stay in order.
enum Tree {
    Leaf(serde_json::Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Leaf(value) => value.serialize(to),
            Tree::List(items) => items.serialize(to),
            Tree::Map(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Tree, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(serde_json::Value::Null))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = from.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Map(fields))
    }
}

/// An instance with its node and its checks, as `/v1/health/service/` lists it.
pub(crate) struct InstanceRow<'a> {
    pub(crate) instance: &'a Instance,
    /// Say how it is on the whole: ours, for who asks.
    pub(crate) effective: bool,
}

impl Serialize for InstanceRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Instance { node, service, checks } = self.instance;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("Node", &NodeRow::from(&**node))?;
        map.serialize_entry("Service", &ServiceRow::new(service, Empty::List))?;
        map.serialize_entry(
            "Checks",
            &Rows(checks.iter().map(|check| CheckRow::new(check, Empty::List))),
        )?;
        if self.effective {
            map.serialize_entry("EffectiveStatus", self.instance.effective_status())?;
        }
        map.end()
    }
}

/// Rows that are made one by one while they are encoded.
pub(crate) struct Rows<I>(pub(crate) I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Rows<I> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.clone())
    }
}

/// A key.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EntryRow<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> EntryRow<'a> {
    /// With its value, or as a transaction answers a write: without.
    pub(crate) fn new(entry: &'a Entry, with_value: bool) -> Self {
        let shown = with_value && !entry.value.is_empty();
        EntryRow {
            lock_index: entry.lock_index,
            key: &entry.key,
            flags: entry.flags,
            value: shown.then(|| BASE64_STANDARD.encode(&entry.value)),
            session: entry.session.as_deref(),
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }
}

#[derive(Serialize)]
struct ServiceCheckRow<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Namespace")]
    namespace: &'a str,
}

/// A session.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SessionRow<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    node: &'a str,
    lock_delay: u64,
    behavior: &'static str,
    #[serde(rename = "TTL")]
    ttl: &'a str,
    node_checks: &'a [String],
    #[serde(serialize_with = "service_checks")]
    service_checks: &'a [(String, String)],
    create_index: u64,
    modify_index: u64,
}

fn service_checks<S: Serializer>(checks: &&[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    if checks.is_empty() {
        return to.serialize_none();
    }
    Rows(checks.iter().map(|(id, namespace)| ServiceCheckRow { id, namespace })).serialize(to)
}

impl<'a> From<&'a Session> for SessionRow<'a> {
    fn from(session: &'a Session) -> Self {
        SessionRow {
            id: &session.id,
            name: &session.name,
            node: &session.node,
            lock_delay: session.lock_delay_ns,
            behavior: match session.behavior {
                crate::store::Behavior::Release => "release",
                crate::store::Behavior::Delete => "delete",
            },
            ttl: &session.ttl,
            node_checks: &session.node_checks,
            service_checks: &session.service_checks,
            create_index: session.create_index,
            modify_index: session.modify_index,
        }
    }
}
