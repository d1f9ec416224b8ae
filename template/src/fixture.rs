//! Made-up answers from a file, so that templates can be tried without a catalog.
//!
//! ```json
//! {
//!   "services": {"web": [{"address": "10.0.0.1", "port": 80, "tags": ["http"], "status": "warning"}]},
//!   "keys": {"config/limit": "5"},
//!   "nodes": [{"name": "n1", "address": "10.0.0.1"}],
//!   "datacenters": ["dc1"],
//!   "files": {"/etc/motd": "hello"}
//! }
//! ```
//!
//! What is not said of an instance is filled in (`id`, `status`, `weight`, ...); a service, key or node that is not
//! there is answered as absent.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tera::Value;

use crate::facts::{Facts, Query};
use crate::render::encode::host_port;

/// The answers of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fixture {
    services: BTreeMap<String, Vec<Map<String, Json>>>,
    keys: BTreeMap<String, String>,
    nodes: Vec<Map<String, Json>>,
    datacenters: Vec<String>,
    files: BTreeMap<String, String>,
}

impl Fixture {
    /// Answers these questions in `facts`.
    pub fn answer(&self, queries: &BTreeSet<Query>, facts: &mut Facts) {
        for query in queries {
            facts.set(query.clone(), Value::from_serializable(&self.json(query)));
        }
    }

    fn json(&self, query: &Query) -> Json {
        match query {
            Query::Service { name, .. } => {
                let instances = self.services.get(name).map(Vec::as_slice).unwrap_or_default();
                instances
                    .iter()
                    .enumerate()
                    .map(|(number, given)| instance(name, number + 1, given))
                    .collect()
            }
            Query::Services { .. } => {
                self.services.iter().map(|(name, instances)| summary(name, instances)).collect()
            }
            Query::Nodes { .. } => self.nodes.iter().map(node).collect(),
            Query::Node { name, .. } => {
                let found = self.nodes.iter().find(|node| node.get("name") == Some(&json!(name)));
                found.map_or(Json::Null, node)
            }
            Query::Key { path, .. } => self.keys.get(path).map_or(Json::Null, |value| json!(value)),
            Query::KeyPrefix { prefix, .. } => {
                let pairs = self.keys.iter().filter(|(path, _)| path.starts_with(prefix));
                pairs
                    .map(|(path, value)| json!({"path": path, "value": value, "flags": 0}))
                    .collect()
            }
            Query::Datacenters => json!(self.datacenters),
            Query::File { path } => self.files.get(path).map_or(Json::Null, |text| json!(text)),
        }
    }
}

/// An instance with all fields that a real one has; those that are given win.
fn instance(name: &str, number: usize, given: &Map<String, Json>) -> Json {
    let address = given.get("address").and_then(Json::as_str).unwrap_or("127.0.0.1");
    let port = given.get("port").and_then(Json::as_u64).unwrap_or(0);
    let mut full = json!({
        "id": format!("{name}-{number}"), "name": name, "address": address, "port": port,
        "addr": host_port(address, port), "tags": [], "meta": {}, "weights": {"passing": 1, "warning": 1},
        "weight": 1, "status": "passing", "checks": [], "tagged_addresses": {}, "node": "node", "node_id": "",
        "node_address": address, "node_meta": {}, "datacenter": "dc1",
    });
    full.as_object_mut().expect("an object").extend(given.clone());
    full
}

fn summary(name: &str, instances: &[Map<String, Json>]) -> Json {
    let tags = instances
        .iter()
        .flat_map(|one| one.get("tags").and_then(Json::as_array).into_iter().flatten());
    let tags: BTreeSet<_> = tags.filter_map(Json::as_str).collect();
    json!({"name": name, "tags": tags})
}

fn node(given: &Map<String, Json>) -> Json {
    let mut full = json!({
        "id": "", "name": "node", "address": "127.0.0.1", "datacenter": "dc1", "tagged_addresses": {}, "meta": {},
        "services": [],
    });
    full.as_object_mut().expect("an object").extend(given.clone());
    full
}
