//! Services and checks as the agent's own end points show them: shorter than the catalog's rows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::content_hash::Hash;
use crate::store::Service;

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
        self.content_hash = Some(self.hash_of_content().shown());
        self
    }

    /// Every field that the reference's row has, those that only a mesh fills included.
    fn hash_of_content(&self) -> Hash {
        let tagged = self.tagged_addresses.iter().map(|(name, at)| {
            let fields = [("Address", Hash::text(at.address)), ("Port", Hash::number(at.port))];
            (*name, Hash::record("ServiceAddress", fields))
        });
        let weights = [
            ("Passing", Hash::number(self.weights.passing)),
            ("Warning", Hash::number(self.weights.warning)),
        ];
        let fields = [
            ("Kind", Hash::text(self.kind)),
            ("ID", Hash::text(self.id)),
            ("Service", Hash::text(self.service)),
            ("Tags", Hash::list(self.tags.iter().map(|tag| Hash::text(tag)))),
            ("Meta", Hash::map(self.meta.iter().map(|(key, text)| (&**key, Hash::text(text))))),
            ("Port", Hash::number(self.port)),
            ("Address", Hash::text(self.address)),
            ("TaggedAddresses", Hash::map(tagged)),
            ("Weights", Hash::record("AgentWeights", weights)),
            ("EnableTagOverride", Hash::flag(self.enable_tag_override)),
            ("CreateIndex", Hash::number(0)),
            ("ModifyIndex", Hash::number(0)),
            ("ContentHash", Hash::text("")),
            ("Proxy", Hash::number(0)),
            ("Connect", Hash::number(0)),
        ];
        Hash::record("AgentService", fields)
    }

    /// The hash, if it was made.
    pub(super) fn hash(&self) -> &str {
        self.content_hash.as_deref().unwrap_or_default()
    }
}
