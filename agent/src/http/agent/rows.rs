//! Services and checks as the agent's own end points show them: shorter than the catalog's rows.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::{Check, Service};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Address<'a> {
    address: &'a str,
    port: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

/// A service of this agent.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceRow<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    port: i64,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: BTreeMap<&'a str, Address<'a>>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
}

impl<'a> From<&'a Service> for ServiceRow<'a> {
    fn from(service: &'a Service) -> Self {
        ServiceRow {
            kind: &service.kind,
            id: &service.id,
            service: &service.name,
            tags: &service.tags,
            meta: &service.meta,
            port: service.port,
            address: &service.address,
            tagged_addresses: service
                .tagged_addresses
                .iter()
                .map(|(name, at)| (name.as_str(), Address { address: &at.address, port: at.port }))
                .collect(),
            weights: Weights { passing: service.weights.passing, warning: service.weights.warning },
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
        }
    }
}

impl ServiceRow<'_> {
    /// With the hash of all the rest, by which clients wait for a change.
    pub(super) fn hashed(mut self) -> Self {
        self.content_hash = None;
        let text = serde_json::to_vec(&self).expect("rows have text keys");
        self.content_hash = Some(format!("{:016x}", fnv1a(&text)));
        self
    }

    /// The hash, if it was made.
    pub(super) fn hash(&self) -> &str {
        self.content_hash.as_deref().unwrap_or_default()
    }
}

/// 64 bits of a well-known hash: equal on every machine and in every build.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A check in the answers of `/v1/agent/health/`. The reference fills this type only in part, and
/// shows the rest of its fields empty.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HealthRow<'a> {
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
    service_tags: Option<()>,
    r#type: &'static str,
    definition: EmptyDefinition,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
struct EmptyDefinition {
    #[serde(rename = "Interval")]
    interval: &'static str,
    #[serde(rename = "Timeout")]
    timeout: &'static str,
    #[serde(rename = "DeregisterCriticalServiceAfter")]
    deregister: &'static str,
    #[serde(rename = "HTTP")]
    http: &'static str,
    #[serde(rename = "Header")]
    header: Option<()>,
    #[serde(rename = "Method")]
    method: &'static str,
    #[serde(rename = "Body")]
    body: &'static str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: &'static str,
}

impl<'a> From<&'a Check> for HealthRow<'a> {
    fn from(check: &'a Check) -> Self {
        HealthRow {
            node: &check.node,
            id: &check.id,
            name: &check.name,
            status: &check.status,
            notes: &check.notes,
            output: &check.output,
            service_id: &check.service_id,
            service_name: &check.service_name,
            service_tags: None,
            r#type: "",
            definition: EmptyDefinition {
                interval: "0s",
                timeout: "0s",
                deregister: "0s",
                http: "",
                header: None,
                method: "",
                body: "",
                tls_skip_verify: false,
                tcp: "",
            },
            create_index: 0,
            modify_index: 0,
        }
    }
}
