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

impl Configured {
    /// Reads the definitions of `settings`; `exists` knows services that others registered.
    pub fn read(
        settings: &Settings,
        services: &[Value],
        checks: &[Value],
        exists: impl Fn(&str) -> bool,
    ) -> Result<Configured, Error> {
        let wrong = |what: String| {
            move |source: Error| Error::Configured { what, source: Box::new(source) }
        };
        let shared = settings.shared();
        let mut configured = Configured::default();
        for (number, value) in services.iter().enumerate() {
            let read = || {
                let definition = definition::service(value.clone(), Source::Config, shared)?;
                let registration = registration(settings, &definition, Source::Config)?;
                Ok((definition, registration))
            };
            let what = format!("service definition {}", shown(value, number));
            let (definition, registration) = read().map_err(wrong(what))?;
            configured.service_ids.insert(registration.row.id);
            let ids = registration.checks.into_iter().map(|check| check.row.id);
            configured.check_ids.extend(ids);
            configured.services.push(definition);
        }
        for (number, value) in checks.iter().enumerate() {
            let read = || {
                let definition = definition::check(value.clone(), Source::Config, shared)?;
                scripts(settings, &definition, Source::Config)?;
                let service = definition.service_id.as_deref().filter(|id| !id.is_empty());
                if let Some(id) = service
                    && !configured.service_ids.contains(id)
                    && !exists(id)
                {
                    return Err(Error::Refused(format!("ServiceID {id:?} does not exist")));
                }
                Ok(definition)
            };
            let what = format!("check definition {}", shown(value, number));
            let definition = read().map_err(wrong(what))?;
            let id = definition.id.clone().filter(|id| !id.is_empty());
            configured.check_ids.insert(id.unwrap_or_else(|| definition.name.clone()).into());
            configured.checks.push(definition);
        }
        Ok(configured)
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

/// A definition as its writer knows it.
fn shown(value: &Value, number: usize) -> String {
    let name = ["name", "Name", "id", "ID"].iter().find_map(|key| value.get(*key)?.as_str());
    name.map_or_else(|| format!("number {}", number + 1), |name| format!("`{name}`"))
}
