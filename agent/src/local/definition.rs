//! From what a user wrote to what this agent keeps.
//!
//! `service` and `check` read JSON, from a request body or a configuration file, with the
//! reference's tolerance: names in any case and in snake case, durations as text or nanoseconds.
//! `Registration` and `CheckRegistration` are the same, validated in the reference's order and
//! words, and joined with the rows that go into the catalog.

mod check;

use std::collections::BTreeMap;
use std::net::IpAddr;

use muster_client::types::{CheckDefinition, ServiceAddress, ServiceDefinition, Weights};
use serde_json::Value;

use super::Error;
use crate::checks::{self, Shared};
use crate::json::{Malformed, Object};
use crate::store;
pub(crate) use check::check;
pub(super) use check::{CheckRegistration, maintenance, maintenance_id};
use check::{DefinitionContext, check_fields, invalid_check, of_service};
pub use check::{NODE_MAINTENANCE, SERVICE_MAINTENANCE};

/// Pairs of a service's or node's meta.
const META_PAIRS_MAX: usize = 64;
const META_KEY_CHARS_MAX: usize = 128;
const META_VALUE_CHARS_MAX: usize = 512;
/// The largest weight that DNS can carry.
const WEIGHT_MAX: i64 = 65_535;

/// Source of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A client of the API; kept over a restart.
    Api,
    /// A configuration file; read again at the next start.
    Config,
}

/// Reads and validates the definition of a service.
pub(crate) fn service(
    value: Value,
    source: Source,
    shared: Shared,
) -> Result<ServiceDefinition, Error> {
    let mut odd_status = false;
    let definition = service_fields(Object::from(value, "body")?, source, &mut odd_status)?;
    Registration::new(&definition, "", shared)?;
    if odd_status {
        return Err(invalid("Status for checks must 'passing', 'warning', 'critical'"));
    }
    Ok(definition)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

fn service_fields(
    object: Object,
    source: Source,
    odd_status: &mut bool,
) -> Result<ServiceDefinition, Error> {
    let mut object = object.snake_case();
    let id = object.string("ID")?;
    let mut definition = ServiceDefinition {
        id: Some(id).filter(|id| !id.is_empty()),
        name: object.string("Name")?,
        tags: object.strings("Tags")?,
        address: object.string("Address")?,
        tagged_addresses: tagged_addresses(&mut object)?,
        meta: object.pairs("Meta")?.into_iter().collect(),
        port: object.integer("Port")?,
        weights: weights(&mut object)?,
        enable_tag_override: object.flag("EnableTagOverride")?,
        check: None,
        checks: Vec::new(),
    };
    // The service's token takes effect with access control.
    object.string("Token")?;
    if let Some(field) = mesh(&mut object)? {
        return Err(invalid(format!(
            "{field} belongs to the service mesh, which is not supported"
        )));
    }
    if let Some(check) = object.object("Check")? {
        definition.check =
            Some(check_fields(check, DefinitionContext::InService, source, odd_status)?);
    }
    for check in object.list("Checks")? {
        let check = Object::from(check, "Checks")?;
        definition.checks.push(check_fields(
            check,
            DefinitionContext::InService,
            source,
            odd_status,
        )?);
    }
    object.finish()?;
    Ok(definition)
}

/// The first field that asks for something only the mesh can do. What plain clients send along, and
/// what says nothing without a kind, is read and dropped.
fn mesh(object: &mut Object) -> Result<Option<&'static str>, Malformed> {
    const PROXY: [&str; 9] = [
        "DestinationServiceName",
        "DestinationServiceID",
        "LocalServiceAddress",
        "LocalServicePort",
        "Config",
        "Upstreams",
        "MeshGateway",
        "Expose",
        "Mode",
    ];
    let kind = object.string("Kind")?;
    if let Some(proxy) = object.object("Proxy")? {
        let mut proxy = proxy.snake_case();
        for field in PROXY {
            proxy.take(field);
        }
        proxy.finish()?;
    }
    let sidecar = match object.object("Connect")? {
        None => false,
        Some(connect) => connect.snake_case().has("SidecarService"),
    };
    Ok((!kind.is_empty()).then_some("Kind").or(sidecar.then_some("Connect.SidecarService")))
}

fn tagged_addresses(object: &mut Object) -> Result<BTreeMap<String, ServiceAddress>, Malformed> {
    let Some(addresses) = object.object("TaggedAddresses")? else { return Ok(BTreeMap::new()) };
    addresses
        .rest()
        .into_iter()
        .map(|(name, value)| {
            let mut object = Object::from(value, "TaggedAddresses")?;
            let address = ServiceAddress {
                address: object.string("Address")?,
                port: object.integer("Port")?,
            };
            object.finish()?;
            Ok((name, address))
        })
        .collect()
}

fn weights(object: &mut Object) -> Result<Option<Weights>, Malformed> {
    let Some(mut weights) = object.object("Weights")? else { return Ok(None) };
    let read =
        Weights { passing: weights.integer("Passing")?, warning: weights.integer("Warning")? };
    weights.finish()?;
    Ok(Some(read))
}

/// A service with its checks, validated.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    /// For the catalog.
    pub(super) row: store::Service,
    /// Those that came with it.
    pub(super) checks: Vec<CheckRegistration>,
}

impl Registration {
    /// Validates a service of `node`.
    pub(super) fn new(
        definition: &ServiceDefinition,
        node: &str,
        shared: Shared,
    ) -> Result<Registration, Error> {
        if definition.name.is_empty() {
            return Err(invalid("Missing service name"));
        }
        if matches!(definition.address.as_str(), "0.0.0.0" | "::" | "[::]") {
            return Err(invalid("Invalid service address"));
        }
        let weights = definition.weights.unwrap_or_default();
        validate_weights(weights).map_err(|what| invalid(format!("Invalid Weights: {what}")))?;
        validate_meta(&definition.meta)
            .map_err(|what| invalid(format!("Invalid Service Meta: {what}")))?;
        let id = definition.id.clone().filter(|id| !id.is_empty());
        let row = store::Service {
            kind: String::new(),
            id: id.unwrap_or_else(|| definition.name.clone()).into(),
            name: definition.name.as_str().into(),
            tags: definition.tags.clone(),
            address: definition.address.clone(),
            tagged_addresses: filled_addresses(definition),
            meta: definition.meta.clone(),
            port: definition.port,
            weights: store::Weights { passing: weights.passing, warning: weights.warning },
            enable_tag_override: definition.enable_tag_override,
            node: node.into(),
            create_index: 0,
            modify_index: 0,
        };
        let written: Vec<&CheckDefinition> = definition
            .check
            .iter()
            .filter(|check| !checks::is_empty(check))
            .chain(&definition.checks)
            .collect();
        let checks = written
            .iter()
            .enumerate()
            .map(|(position, check)| of_service(check, &row, position, written.len(), shared))
            .collect::<Result<_, _>>()
            .map_err(invalid_check)?;
        Ok(Registration { row, checks })
    }
}

/// Tagged addresses, with those that follow from an IP address filled in.
fn filled_addresses(definition: &ServiceDefinition) -> BTreeMap<String, store::ServiceAddress> {
    let mut filled: BTreeMap<_, _> = definition
        .tagged_addresses
        .iter()
        .map(|(name, address)| (name.clone(), stored(&address.address, address.port)))
        .collect();
    if let Ok(ip) = definition.address.parse::<IpAddr>() {
        let names = if ip.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
        for name in names {
            filled
                .entry(name.to_owned())
                .or_insert_with(|| stored(&definition.address, definition.port));
        }
    }
    filled
}

fn stored(address: &str, port: i64) -> store::ServiceAddress {
    store::ServiceAddress { address: address.to_owned(), port }
}

/// Refuses tagged addresses of a family that are not of that family. The reference finds this out
/// later than the rest, and answers it differently.
pub(super) fn validate_families(service: &store::Service) -> Result<(), Error> {
    for (name, v4) in
        [("lan_ipv4", true), ("wan_ipv4", true), ("lan_ipv6", false), ("wan_ipv6", false)]
    {
        let Some(tagged) = service.tagged_addresses.get(name) else { continue };
        // The reference forgets to look at `wan_ipv6`; an empty one stays harmless.
        if name == "wan_ipv6" && tagged.address.is_empty() {
            continue;
        }
        let fits = tagged.address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == v4);
        if !fits {
            let family = if v4 { "ipv4" } else { "ipv6" };
            return Err(Error::Refused(format!(
                "Service tagged address {name:?} must be a valid {family} address"
            )));
        }
    }
    Ok(())
}

fn validate_weights(weights: Weights) -> Result<(), &'static str> {
    if weights.passing < 1 {
        Err("Passing must be greater than 0")
    } else if weights.warning < 0 {
        Err("Warning must be greater or equal than 0")
    } else if weights.passing > WEIGHT_MAX || weights.warning > WEIGHT_MAX {
        Err("DNS Weight must be between 0 and 65535")
    } else {
        Ok(())
    }
}

fn validate_meta(meta: &BTreeMap<String, String>) -> Result<(), String> {
    if meta.len() > META_PAIRS_MAX {
        // The reference says so of services too.
        return Err("Node metadata cannot contain more than 64 key/value pairs".to_owned());
    }
    for (key, value) in meta {
        validate_pair(key, value)
            .map_err(|what| format!("Couldn't load metadata pair ('{key}', '{value}'): {what}"))?;
    }
    Ok(())
}

fn validate_pair(key: &str, value: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if key.is_empty() {
        Err("Key cannot be blank".to_owned())
    } else if !key.chars().all(plain) {
        Err("Key contains invalid characters".to_owned())
    } else if key.len() > META_KEY_CHARS_MAX {
        Err(format!("Key is too long (limit: {META_KEY_CHARS_MAX} characters)"))
    } else if key.starts_with("consul-") {
        Err("Key prefix 'consul-' is reserved for internal use".to_owned())
    } else if value.len() > META_VALUE_CHARS_MAX {
        Err(format!("Value is too long (limit: {META_VALUE_CHARS_MAX} characters)"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
