//! The definitions of configuration files, read and validated before anything is changed.
//!
//! Nothing here needs a running agent: `muster validate` and `services register` judge files with the
//! same words as the agent that would load them.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_client::types::{CheckDefinition, ServiceDefinition};
use serde_json::Value;

use super::definition::{self, Registration, Source};
use super::{Error, Settings};

/// Definitions from files, validated.
#[derive(Debug, Default)]
pub struct Configured {
    /// In the order of the files.
    pub services: Vec<ServiceDefinition>,
    /// Those that stand alone.
    pub checks: Vec<CheckDefinition>,
    /// Ids of the services.
    pub(super) service_ids: BTreeSet<Arc<str>>,
    /// Ids of all checks, those that come with services included.
    pub(super) check_ids: BTreeSet<Arc<str>>,
}

/// A definition that is wrong.
#[derive(Debug)]
pub struct Misdefined {
    /// Is it that of a check that stands alone, or of a service?
    pub is_check: bool,
    /// Its place in the list of services, or of checks.
    pub position: usize,
    /// The reason.
    pub reason: Error,
}

impl Misdefined {
    /// The error of a reload or a start, which one is enough to refuse.
    pub(super) fn into_error(self, services: &[Value], checks: &[Value]) -> Error {
        let list = if self.is_check { checks } else { services };
        let what = described(&list[self.position], self.position, self.is_check);
        Error::Configured { what, source: Box::new(self.reason) }
    }
}

impl Configured {
    /// Reads the definitions of `settings`; `exists` knows services that others registered. The error names every
    /// definition that is wrong.
    pub fn read(
        settings: &Settings,
        services: &[Value],
        checks: &[Value],
        exists: impl Fn(&str) -> bool,
    ) -> Result<Configured, Vec<Misdefined>> {
        let mut configured = Configured::default();
        let mut wrong = Vec::new();
        for (position, value) in services.iter().enumerate() {
            if let Err(reason) = configured.add_service(settings, value) {
                // Its checks are not wrong because of it.
                configured.service_ids.extend(id_of(value).map(Arc::from));
                wrong.push(Misdefined { is_check: false, position, reason });
            }
        }
        for (position, value) in checks.iter().enumerate() {
            if let Err(reason) = configured.add_check(settings, value, &exists) {
                wrong.push(Misdefined { is_check: true, position, reason });
            }
        }
        if wrong.is_empty() { Ok(configured) } else { Err(wrong) }
    }

    fn add_service(&mut self, settings: &Settings, value: &Value) -> Result<(), Error> {
        let definition = definition::service(value.clone(), Source::Config, settings.shared())?;
        let registration = registration(settings, &definition, Source::Config)?;
        self.service_ids.insert(registration.row.id);
        let ids = registration.checks.into_iter().map(|check| check.row.id);
        self.check_ids.extend(ids);
        self.services.push(definition);
        Ok(())
    }

    fn add_check(
        &mut self,
        settings: &Settings,
        value: &Value,
        exists: &impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        let definition = definition::check(value.clone(), Source::Config, settings.shared())?;
        scripts(settings, &definition, Source::Config)?;
        let service = definition.service_id.as_deref().filter(|id| !id.is_empty());
        if let Some(id) = service
            && !self.service_ids.contains(id)
            && !exists(id)
        {
            return Err(Error::Refused(format!("ServiceID {id:?} does not exist")));
        }
        let id = definition.id.clone().filter(|id| !id.is_empty());
        self.check_ids.insert(id.unwrap_or_else(|| definition.name.clone()).into());
        self.checks.push(definition);
        Ok(())
    }
}

/// A service with its checks, validated.
pub(super) fn registration(
    settings: &Settings,
    definition: &ServiceDefinition,
    source: Source,
) -> Result<Registration, Error> {
    let registration = Registration::new(definition, &settings.node_name, settings.shared())?;
    definition::validate_families(&registration.row)?;
    for check in &registration.checks {
        scripts(settings, &check.definition, source)?;
    }
    Ok(registration)
}

/// May this check run a script?
pub(super) fn scripts(
    settings: &Settings,
    definition: &CheckDefinition,
    source: Source,
) -> Result<(), Error> {
    let text = match source {
        _ if definition.args.is_empty() || settings.enable_script_checks => return Ok(()),
        Source::Config if settings.enable_local_script_checks => return Ok(()),
        Source::Config => {
            "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true"
        }
        Source::Api => {
            "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true"
        }
    };
    Err(Error::Refused(text.to_owned()))
}

/// A definition as its writer knows it: by its name, or by its number among others, from 0.
pub fn described(value: &Value, number: usize, is_check: bool) -> String {
    let kind = if is_check { "check" } else { "service" };
    let name = field(value, "name").or_else(|| field(value, "id"));
    let name = name.map_or_else(|| format!("number {}", number + 1), |name| format!("`{name}`"));
    format!("{kind} definition {name}")
}

/// The id that a service would have.
fn id_of(value: &Value) -> Option<&str> {
    field(value, "id").or_else(|| field(value, "name"))
}

/// A text in a definition, whose names are not particular about case.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let (_, value) = value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    value.as_str().filter(|text| !text.is_empty())
}
