//! From definitions to claims: what is registered, given up, read from configuration files and found
//! in the drawer.

use std::sync::Arc;

use muster_client::types::{CheckDefinition, ServiceDefinition};
use serde_json::Value;

use crate::checks::First;
use crate::local::configured::{self, Configured};
use crate::local::definition::{self, CheckRegistration, Registration, Source};
use crate::local::persistence::{Kind, PersistedCheck, PersistedService, PersistedState, Write};
use crate::local::state::Registrations;
use crate::local::{Error, Existing, Local, now_ms, read};
use crate::store::Service;

impl Local {
    /// Writes that persist a registration over the API.
    pub(super) fn service_writes(
        &self,
        definition: &ServiceDefinition,
        registration: &Registration,
        existing: Existing,
    ) -> Vec<Write> {
        let id = &registration.row.id;
        let bare = ServiceDefinition { check: None, checks: Vec::new(), ..definition.clone() };
        let mut writes =
            vec![Write::put(Kind::Services, id, &PersistedService { definition: bare })];
        writes.extend(registration.checks.iter().map(check_write));
        if existing == Existing::Replace {
            let dropped = self.not_mentioned(&self.registrations(), registration);
            writes.extend(dropped.iter().flat_map(|id| forget_check(id)));
        }
        writes
    }

    /// The checks that a service has and its new registration does not mention.
    #[expect(clippy::unused_self, reason = "reads like the others")]
    fn not_mentioned(
        &self,
        registrations: &Registrations,
        registration: &Registration,
    ) -> Vec<Arc<str>> {
        let mentioned = |id: &Arc<str>| registration.checks.iter().any(|it| it.row.id == *id);
        let ids =
            registrations.checks_of(&registration.row.id).map(|claim| Arc::clone(&claim.row.id));
        ids.filter(|id| !mentioned(id)).collect()
    }

    /// Claims a service with its checks.
    pub(super) fn claim_service(
        &self,
        registration: Registration,
        source: Source,
        existing: Existing,
        first: First,
    ) {
        if !is_dns_name(&registration.row.name) {
            tracing::warn!(
                service = %registration.row.name,
                "the service cannot be found by DNS: its name has characters that names there have not"
            );
        }
        let mut registrations = self.registrations();
        if existing == Existing::Replace {
            for id in self.not_mentioned(&registrations, &registration) {
                registrations.remove_check(&id);
                self.inner.runner.remove(&id);
            }
        }
        let Registration { row, checks } = registration;
        let id = Arc::clone(&row.id);
        registrations.put_service(row, source);
        self.settle_if_held(&mut registrations, &id);
        for check in checks {
            self.claim_check(&mut registrations, check, source, first);
        }
        self.changed_in(&mut registrations);
    }

    /// A check that stands alone, validated against the services that are claimed now.
    pub(super) fn validate_check(
        &self,
        definition: &CheckDefinition,
        source: Source,
    ) -> Result<CheckRegistration, Error> {
        self.validate_script(definition, source)?;
        let registrations = self.registrations();
        let service = match definition.service_id.as_deref().filter(|id| !id.is_empty()) {
            None => None,
            Some(id) => match registrations.services().get(id) {
                Some(claim) => Some(Arc::clone(&claim.row)),
                None => return Err(Error::Refused(format!("ServiceID {id:?} does not exist"))),
            },
        };
        let node = &self.inner.name;
        let mut check =
            CheckRegistration::new(definition.clone(), node, service.as_deref(), self.shared())
                .map_err(|error| Error::Invalid(format!("Invalid check: {error}")))?;
        if source == Source::Config {
            // The reference shows no kind for checks that stand alone in its files.
            check.row.kind.clear();
        }
        Ok(check)
    }

    /// Claims a check that stands alone.
    pub(super) fn claim_check_alone(&self, check: CheckRegistration, source: Source, first: First) {
        let mut registrations = self.registrations();
        self.claim_check(&mut registrations, check, source, first);
        self.changed_in(&mut registrations);
    }

    fn claim_check(
        &self,
        registrations: &mut Registrations,
        check: CheckRegistration,
        source: Source,
        first: First,
    ) {
        let CheckRegistration { row, run, .. } = check;
        let id = Arc::clone(&row.id);
        // Who registers a TTL check anew gives its owner the whole time again. A reload does not: nobody meant this
        // check, and one whose owner is silent would be well for longer each time.
        let goes_on = run.ttl().is_none() || source == Source::Config;
        let same = registrations
            .checks()
            .get(&id)
            .filter(|old| goes_on && old.run.as_deref() == Some(&*run));
        let registration = match same {
            // Nothing new to find out: its next run comes when it would have come.
            Some(old) => old.registration,
            None => self.inner.runner.add(&id, Arc::clone(&run), first),
        };
        registrations.put_check(row, Some(run), registration, source);
        self.settle_check_if_held(registrations, &id);
    }

    pub(super) fn validate_service(
        &self,
        definition: &ServiceDefinition,
        source: Source,
    ) -> Result<Registration, Error> {
        configured::registration(&self.inner.settings, definition, source)
    }

    /// Gives a check up.
    pub(super) fn release_check(&self, id: &str) {
        let mut registrations = self.registrations();
        if registrations.remove_check(id) {
            self.inner.runner.remove(id);
            self.changed_in(&mut registrations);
        }
    }

    /// Writes that forget a service; `None` if there is none.
    pub(super) fn release_service_writes(&self, id: &str) -> Option<Vec<Write>> {
        let registrations = self.registrations();
        registrations.services().get(id)?;
        let mut writes = vec![Write::remove(Kind::Services, id)];
        writes.extend(registrations.checks_of(id).flat_map(|claim| forget_check(&claim.row.id)));
        Some(writes)
    }

    /// Gives a service up, with its checks.
    pub(super) fn release_service(&self, id: &str) {
        let mut registrations = self.registrations();
        if let Some(checks) = registrations.remove_service(id) {
            for check in &checks {
                self.inner.runner.remove(check);
            }
            self.changed_in(&mut registrations);
        }
    }

    pub(super) fn validate_script(
        &self,
        definition: &CheckDefinition,
        source: Source,
    ) -> Result<(), Error> {
        configured::scripts(&self.inner.settings, definition, source)
    }

    /// A registration that says what the catalog is known to hold already is no work.
    pub(super) fn settle_if_held(&self, registrations: &mut Registrations, id: &str) {
        let row = registrations.services().get(id).map(|claim| Arc::clone(&claim.row));
        if row.is_some_and(|row| self.inner.catalog.holds_service(&self.inner.name, &row)) {
            registrations.mark_service(id, true);
        }
    }

    pub(super) fn settle_check_if_held(&self, registrations: &mut Registrations, id: &str) {
        let row = registrations.checks().get(id).map(|claim| Arc::clone(&claim.row));
        if row.is_some_and(|row| self.inner.catalog.holds_check(&self.inner.name, &row)) {
            registrations.mark_check(id, true);
        }
    }

    /// Reads and validates what configuration files define.
    pub(super) fn read_configured(
        &self,
        services: &[Value],
        checks: &[Value],
    ) -> Result<Configured, Error> {
        let read = Configured::read(&self.inner.settings, services, checks, |id| {
            self.has_service_of_api(id)
        });
        read.map_err(|wrong| {
            let mut wrong = wrong.into_iter();
            let first = wrong.next().expect("an error holds at least one wrong definition");
            first.into_error(services, checks)
        })
    }

    /// Is a service of this id registered by the API?
    pub fn has_service_of_api(&self, id: &str) -> bool {
        let registrations = self.registrations();
        registrations.services().get(id).is_some_and(|claim| claim.source == Source::Api)
    }

    /// Writes that forget definitions which files no longer hold.
    pub(super) fn configured_writes(&self, configured: &Configured) -> Vec<Write> {
        let (services, checks) = self.no_longer_configured(configured);
        let of_services = services.iter().filter_map(|id| self.release_service_writes(id));
        of_services.flatten().chain(checks.iter().flat_map(|id| forget_check(id))).collect()
    }

    /// Claims what configuration files define, and gives up what they defined before and no longer
    /// do.
    pub(super) fn take_configured(
        &self,
        configured: &Configured,
        first: First,
    ) -> Result<(), Error> {
        let (services, checks) = self.no_longer_configured(configured);
        for id in &services {
            self.release_service(id);
        }
        for id in &checks {
            self.release_check(id);
        }
        for definition in &configured.services {
            let registration = self.validate_service(definition, Source::Config)?;
            self.claim_service(registration, Source::Config, Existing::Keep, first);
        }
        for definition in &configured.checks {
            let check = self.validate_check(definition, Source::Config)?;
            self.claim_check_alone(check, Source::Config, first);
        }
        Ok(())
    }

    /// Services and checks of configuration files that are not among these.
    fn no_longer_configured(&self, now: &Configured) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let (services, checks) = (&now.service_ids, &now.check_ids);
        let registrations = self.registrations();
        let gone = registrations
            .services()
            .iter()
            .filter(|(id, claim)| claim.source == Source::Config && !services.contains(*id));
        let gone = gone.map(|(id, _)| Arc::clone(id)).collect();
        let gone_checks = registrations
            .checks()
            .iter()
            .filter(|(id, claim)| claim.source == Source::Config && !checks.contains(*id));
        (gone, gone_checks.map(|(id, _)| Arc::clone(id)).collect())
    }

    /// Claims what was kept. What cannot be claimed any more (a script, now that scripts are off;
    /// a check of a service that is gone) is left out with a warning.
    pub(super) fn take_kept(&self, kept: PersistedState) {
        let mut forget = Vec::new();
        for (id, service) in kept.services {
            if self.registrations().services().contains_key(&*id) {
                forget.push(Write::remove(Kind::Services, &id));
            } else if let Err(error) = self.claim_kept_service(&service.definition) {
                tracing::warn!(service = id, %error, "a kept service was left out");
            }
        }
        for (id, check) in kept.checks {
            if self.registrations().checks().contains_key(&*id) {
                forget.push(Write::remove(Kind::Checks, &id));
            } else if let Err(error) = self.claim_kept_check(&check) {
                tracing::warn!(check = id, %error, "a kept check was left out");
            }
        }
        let now = now_ms();
        for (id, report) in kept.reports {
            let known = self
                .registrations()
                .checks()
                .get(&*id)
                .is_some_and(|claim| claim.run.as_ref().is_some_and(|run| run.ttl().is_some()));
            if !known || report.expires_ms <= now {
                forget.push(Write::remove(Kind::Ttl, &id));
                continue;
            }
            self.inner.runner.renew(&id, report.output.clone());
            self.registrations().restore(&id, read(report.status), report.output);
        }
        // If it stays it is forgotten next time.
        drop(self.inner.persistence.write(forget, || ()));
    }

    pub(super) fn claim_kept_service(&self, definition: &ServiceDefinition) -> Result<(), Error> {
        let read = Registration::new(definition, &self.inner.name, self.shared())?;
        self.registrations().put_service(read.row, Source::Api);
        Ok(())
    }

    pub(super) fn claim_kept_check(&self, kept: &PersistedCheck) -> Result<(), Error> {
        match kept {
            PersistedCheck::Defined(definition) => {
                self.validate_script(definition, Source::Api)?;
                let mut registrations = self.registrations();
                let service =
                    self.kept_service_of(&registrations, definition.service_id.as_deref())?;
                let node = &self.inner.name;
                let check = CheckRegistration::new(
                    CheckDefinition::clone(definition),
                    node,
                    service.as_deref(),
                    self.shared(),
                )
                .map_err(|error| Error::Invalid(error.to_string()))?;
                self.claim_check(&mut registrations, check, Source::Api, First::Spread);
            }
            PersistedCheck::Maintenance { service_id, reason } => {
                let mut registrations = self.registrations();
                let service = self.kept_service_of(&registrations, service_id.as_deref())?;
                let row = definition::maintenance(&self.inner.name, service.as_deref(), reason);
                registrations.put_check(row, None, 0, Source::Api);
            }
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "reads like the others")]
    pub(super) fn kept_service_of(
        &self,
        registrations: &Registrations,
        id: Option<&str>,
    ) -> Result<Option<Arc<Service>>, Error> {
        let Some(id) = id else { return Ok(None) };
        let claim = registrations.services().get(id);
        let claim = claim.ok_or_else(|| Error::UnknownService(id.to_owned()))?;
        Ok(Some(Arc::clone(&claim.row)))
    }
}

/// Write that persists a check.
pub(super) fn check_write(check: &CheckRegistration) -> Write {
    let kept = PersistedCheck::Defined(Box::new(check.definition.clone()));
    Write::put(Kind::Checks, &check.row.id, &kept)
}

pub(super) fn forget_check(id: &str) -> Vec<Write> {
    vec![Write::remove(Kind::Checks, id), Write::remove(Kind::Ttl, id)]
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}
