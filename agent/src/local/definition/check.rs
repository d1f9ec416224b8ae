//! The check half: a check that stands alone, and those that come with a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_client::types::{CheckDefinition, Status as Written, parse_nanos};
use serde_json::Value;

use super::{Source, invalid};
use crate::checks::{self, Definition, Shared, Status};
use crate::json::{Malformed, Object, wrong_type};
use crate::local::Error;
use crate::store;

/// Reads and validates the definition of a check that stands alone.
pub(crate) fn check(
    value: Value,
    source: Source,
    shared: Shared,
) -> Result<CheckDefinition, Error> {
    let mut odd_status = false;
    let object = Object::from(value, "body")?;
    let definition = check_fields(object, DefinitionContext::Alone, source, &mut odd_status)?;
    if definition.name.is_empty() {
        return Err(invalid("Missing check name"));
    }
    if odd_status {
        return Err(invalid("Bad check status"));
    }
    Definition::new(&definition, shared).map_err(invalid_check)?;
    Ok(definition)
}

#[expect(clippy::needless_pass_by_value, reason = "the form of `map_err`")]
pub(super) fn invalid_check(error: checks::Invalid) -> Error {
    Error::Invalid(format!("Invalid check: {error}"))
}

/// Context of a check's definition: the name of its id field depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DefinitionContext {
    Alone,
    InService,
}

pub(super) fn check_fields(
    object: Object,
    place: DefinitionContext,
    source: Source,
    odd_status: &mut bool,
) -> Result<CheckDefinition, Error> {
    let mut object = object.snake_case();
    let mut id = None;
    if place == DefinitionContext::Alone || source == Source::Config {
        id = id.or(text(&mut object, "ID")?);
    }
    if place == DefinitionContext::InService || source == Source::Config {
        id = id.or(text(&mut object, "CheckID")?);
    }
    let status = object.string("Status")?;
    let parsed = status.parse::<Written>().ok();
    *odd_status |= !status.is_empty() && parsed.is_none();
    let mut args = object.strings("ScriptArgs")?;
    if args.is_empty() {
        args = object.strings("Args")?;
    }
    let output_max_size = object.integer("OutputMaxSize")?;
    let definition = CheckDefinition {
        id,
        name: object.string("Name")?,
        notes: object.string("Notes")?,
        status: parsed,
        service_id: text(&mut object, "ServiceID")?,
        args,
        http: text(&mut object, "HTTP")?,
        header: headers(&mut object)?,
        method: text(&mut object, "Method")?,
        body: text(&mut object, "Body")?,
        disable_redirects: object.flag("DisableRedirects")?,
        tcp: text(&mut object, "TCP")?,
        tcp_use_tls: object.flag("TCPUseTLS")?,
        udp: text(&mut object, "UDP")?,
        h2ping: text(&mut object, "H2PING")?,
        h2ping_use_tls: object
            .has("H2PingUseTLS")
            .then(|| object.flag("H2PingUseTLS"))
            .transpose()?,
        os_service: text(&mut object, "OSService")?,
        grpc: text(&mut object, "GRPC")?,
        grpc_use_tls: object.flag("GRPCUseTLS")?,
        ttl: duration_text(&mut object, "TTL")?,
        docker_container_id: text(&mut object, "DockerContainerID")?,
        shell: text(&mut object, "Shell")?,
        alias_node: text(&mut object, "AliasNode")?,
        alias_service: text(&mut object, "AliasService")?,
        interval: duration_text(&mut object, "Interval")?,
        timeout: duration_text(&mut object, "Timeout")?,
        tls_skip_verify: object.flag("TLSSkipVerify")?,
        tls_server_name: text(&mut object, "TLSServerName")?,
        success_before_passing: count(&mut object, "SuccessBeforePassing")?,
        failures_before_warning: object
            .has("FailuresBeforeWarning")
            .then(|| count(&mut object, "FailuresBeforeWarning"))
            .transpose()?,
        failures_before_critical: count(&mut object, "FailuresBeforeCritical")?,
        deregister_critical_service_after: duration_text(
            &mut object,
            "DeregisterCriticalServiceAfter",
        )?,
        output_max_size: u32::try_from(output_max_size.max(0)).unwrap_or(u32::MAX),
    };
    object.string("Token")?;
    object.finish()?;
    if output_max_size < 0 {
        return Err(invalid("Invalid check: MaxOutputMaxSize must be positive"));
    }
    Ok(definition)
}

fn text(object: &mut Object, name: &str) -> Result<Option<String>, Malformed> {
    Ok(Some(object.string(name)?).filter(|text| !text.is_empty()))
}

fn headers(object: &mut Object) -> Result<BTreeMap<String, Vec<String>>, Malformed> {
    let Some(headers) = object.object("Header")? else { return Ok(BTreeMap::new()) };
    let read = |value: Value| match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong_type("Header", &other, "string")),
            })
            .collect(),
        other => Err(wrong_type("Header", &other, "array")),
    };
    headers.rest().into_iter().map(|(name, value)| Ok((name, read(value)?))).collect()
}

/// A threshold; a negative one is none.
fn count(object: &mut Object, name: &str) -> Result<u32, Malformed> {
    Ok(u32::try_from(object.integer(name)?.max(0)).unwrap_or(u32::MAX))
}

/// A duration as text: texts as they are, numbers as nanoseconds. What is neither is no duration,
/// as in the reference.
fn duration_text(object: &mut Object, name: &str) -> Result<Option<String>, Malformed> {
    match object.take(name) {
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => match parse_nanos(&text) {
            Some(_) => Ok(Some(text)),
            None => Err(Malformed(format!("time: invalid duration {text}"))),
        },
        Some(Value::Number(number)) => {
            #[expect(clippy::cast_possible_truncation, reason = "fractions of a nanosecond go")]
            let nanos = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64));
            Ok(nanos.map(|nanos| format!("{nanos}ns")))
        }
        _ => Ok(None),
    }
}

/// A check, validated.
#[derive(Debug, Clone)]
pub(in crate::local) struct CheckRegistration {
    /// As written, with its id and service filled in: what is kept over a restart.
    pub(in crate::local) definition: CheckDefinition,
    /// For the catalog.
    pub(in crate::local) row: store::Check,
    /// The probe that runs.
    pub(in crate::local) run: Arc<Definition>,
}

/// A check that came with its service: its id and name are made up where it has none.
pub(super) fn of_service(
    written: &CheckDefinition,
    service: &store::Service,
    position: usize,
    count: usize,
    shared: Shared,
) -> Result<CheckRegistration, checks::Invalid> {
    let mut definition = written.clone();
    let id = definition.id.take().filter(|id| !id.is_empty());
    definition.id = Some(id.unwrap_or_else(|| {
        let base = format!("service:{}", service.id);
        if count > 1 { format!("{base}:{}", position + 1) } else { base }
    }));
    if definition.name.is_empty() {
        definition.name = format!("Service '{}' check", service.name);
    }
    CheckRegistration::new(definition, &service.node, Some(service), shared)
}

impl CheckRegistration {
    /// Validates a check of `node`, or of a service there.
    pub(in crate::local) fn new(
        mut definition: CheckDefinition,
        node: &str,
        service: Option<&store::Service>,
        shared: Shared,
    ) -> Result<CheckRegistration, checks::Invalid> {
        let run = Arc::new(Definition::new(&definition, shared)?);
        definition.service_id = service.map(|service| service.id.to_string());
        let id = definition.id.clone().filter(|id| !id.is_empty());
        let id = id.unwrap_or_else(|| definition.name.clone());
        let status = definition.status.unwrap_or(Written::Critical);
        let row = store::Check {
            node: node.into(),
            id: id.as_str().into(),
            name: definition.name.clone(),
            status: status.as_str().to_owned(),
            notes: definition.notes.clone(),
            output: String::new(),
            service_id: service.map(|service| service.id.to_string()).unwrap_or_default(),
            service_name: service.map(|service| service.name.to_string()).unwrap_or_default(),
            service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
            kind: checks::kind(&definition).to_owned(),
            definition: "".into(),
            create_index: 0,
            modify_index: 0,
        };
        definition.id = Some(id);
        Ok(CheckRegistration { definition, row, run })
    }
}

/// The check that marks a maintenance; it has no definition that could run.
pub(in crate::local) fn maintenance(
    node: &str,
    service: Option<&store::Service>,
    reason: &str,
) -> store::Check {
    let (id, name, what) = match service {
        None => (NODE_MAINTENANCE.to_owned(), "Node Maintenance Mode", "node"),
        Some(service) => (maintenance_id(&service.id), "Service Maintenance Mode", "service"),
    };
    let notes = if reason.is_empty() {
        format!(
            "Maintenance mode is enabled for this {what}, but no reason was provided. This is a default message."
        )
    } else {
        reason.to_owned()
    };
    store::Check {
        node: node.into(),
        id: id.into(),
        name: name.to_owned(),
        status: Status::Critical.as_str().to_owned(),
        notes,
        output: String::new(),
        service_id: service.map(|service| service.id.to_string()).unwrap_or_default(),
        service_name: service.map(|service| service.name.to_string()).unwrap_or_default(),
        service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
        kind: MAINTENANCE.to_owned(),
        definition: "".into(),
        create_index: 0,
        modify_index: 0,
    }
}

/// Id of the check that marks the node's maintenance.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Prefix of the ids of checks that mark a service's maintenance.
pub const SERVICE_MAINTENANCE: &str = "_service_maintenance";
/// The kind of both.
const MAINTENANCE: &str = "maintenance";

/// Id of the check that marks a service's maintenance.
pub(in crate::local) fn maintenance_id(service: &str) -> String {
    format!("{SERVICE_MAINTENANCE}:{service}")
}
