//! Wanted against seen: the next call, if any, that brings one service closer. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_client::types::{ServiceDefinition, Status};

use crate::check::Beat;
use crate::plan::{META_CHECKS, META_CONTAINER, META_INSTANCE, Wanted};

/// A service as the agent shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Service name.
    pub name: String,
    /// Its tags, in order.
    pub tags: Vec<String>,
    /// Its own address; empty for the agent's.
    pub address: String,
    /// Its port, which may be none at all: others write what they like.
    pub port: i64,
    /// Its Meta.
    pub meta: BTreeMap<String, String>,
    /// Weights while passing and while warning.
    pub weights: (i64, i64),
    /// Addresses by name.
    pub tagged: BTreeMap<String, (String, i64)>,
    /// Whether the catalog may change its tags.
    pub enable_tag_override: bool,
    /// Its checks by id.
    pub checks: BTreeMap<String, SeenCheck>,
    /// Its row could not be read: it may be anybody's.
    pub unreadable: bool,
}

/// A check as the agent shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCheck {
    /// Current status.
    pub status: Status,
    /// For maintenance: the reason.
    pub notes: String,
}

impl Seen {
    /// A service of which nothing is known but that it is there.
    pub fn unreadable() -> Self {
        Self { unreadable: true, ..Self::default() }
    }

    /// The id of the container behind it, if a registrator wrote one.
    pub fn container(&self) -> Option<&str> {
        self.meta.get(META_CONTAINER).map(String::as_str)
    }

    /// Whether the registrator called `instance` owns it.
    pub fn belongs_to(&self, instance: &str) -> bool {
        self.meta.get(META_INSTANCE).is_some_and(|owner| owner == instance)
    }

    /// What the agent will show after it took this definition, where `before` is what it showed.
    pub fn after(definition: &ServiceDefinition, before: Option<&Self>, replace: bool) -> Self {
        let mut checks = match before {
            Some(before) if !replace => before.checks.clone(),
            _ => BTreeMap::new(),
        };
        for check in &definition.checks {
            let status = check.status.unwrap_or(Status::Critical);
            if let Some(id) = &check.id {
                let old = before.and_then(|before| before.checks.get(id));
                let fresh = SeenCheck { status, notes: String::new() };
                checks.insert(id.clone(), old.cloned().unwrap_or(fresh));
            }
        }
        Self {
            name: definition.name.clone(),
            tags: definition.tags.clone(),
            address: definition.address.clone(),
            port: definition.port,
            meta: definition.meta.clone(),
            weights: weights(definition),
            tagged: tagged(definition).collect(),
            enable_tag_override: definition.enable_tag_override,
            checks,
            unreadable: false,
        }
    }
}

fn weights(definition: &ServiceDefinition) -> (i64, i64) {
    definition.weights.as_ref().map_or((1, 1), |weights| (weights.passing, weights.warning))
}

fn tagged(definition: &ServiceDefinition) -> impl Iterator<Item = (String, (String, i64))> {
    definition
        .tagged_addresses
        .iter()
        .map(|(name, address)| (name.clone(), (address.address.clone(), address.port)))
}

/// One call to the agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Register, and drop checks that the definition does not name if asked to.
    Register {
        /// What to register.
        wanted: Arc<Wanted>,
        /// Whether other checks of the service are dropped.
        replace_checks: bool,
    },
    /// Deregister the service with this id.
    Deregister(String),
    /// Say what the registrator's own check should show, which also keeps it alive.
    Report {
        /// Id of the service.
        service: String,
        /// What to say.
        beat: Beat,
    },
    /// Put the service into maintenance for a reason, or take it out.
    Maintain {
        /// Id of the service.
        service: String,
        /// `None` ends the maintenance.
        reason: Option<String>,
    },
}

impl Write {
    /// The service it is about.
    pub fn service(&self) -> &str {
        match self {
            Self::Register { wanted, .. } => &wanted.id,
            Self::Deregister(service)
            | Self::Report { service, .. }
            | Self::Maintain { service, .. } => service,
        }
    }
}

/// How reasons of maintenance begin that the registrator may end again; a person's own
/// maintenance is never touched.
pub const REASON: &str = "muster-registrator:";

/// Id of the check that the agent shows for a service in maintenance.
pub fn maintenance_check(service: &str) -> String {
    format!("_service_maintenance:{service}")
}

/// What should be true of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What should be registered.
    pub wanted: Arc<Wanted>,
    /// The reason why it should be in maintenance, beginning with [`REASON`].
    pub maintenance: Option<String>,
}

/// What to do about one service.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: it is as it should be.
    Equal,
    /// This call.
    Write(Write),
    /// The id is taken by a service of somebody else.
    Taken,
}

/// The next step for a wanted service. `instance` is the name of this registrator.
pub fn step(target: &Target, seen: Option<&Seen>, instance: &str) -> Step {
    let Target { wanted, maintenance } = target;
    let register = |replace_checks| {
        Step::Write(Write::Register { wanted: Arc::clone(wanted), replace_checks })
    };
    let Some(seen) = seen else { return register(false) };
    if !may_take(wanted, seen, instance) {
        return Step::Taken;
    }
    let definition = &wanted.definition;
    let checks_differ = seen.meta.get(META_CHECKS) != definition.meta.get(META_CHECKS)
        || definition
            .checks
            .iter()
            .filter_map(|check| check.id.as_ref())
            .any(|id| !seen.checks.contains_key(id));
    if checks_differ || !same_service(definition, seen) {
        return register(checks_differ);
    }
    let service = || wanted.id.clone();
    let current = seen.checks.get(&maintenance_check(&wanted.id));
    match (maintenance, current) {
        (Some(reason), None) => {
            let reason = Some(reason.clone());
            return Step::Write(Write::Maintain { service: service(), reason });
        }
        (None, Some(check)) if check.notes.starts_with(REASON) => {
            return Step::Write(Write::Maintain { service: service(), reason: None });
        }
        _ => {}
    }
    if let Some(beat) = &wanted.beat
        && seen.checks.get(&beat.check_id).is_some_and(|check| check.status != beat.status)
    {
        return Step::Write(Write::Report { service: service(), beat: beat.clone() });
    }
    Step::Equal
}

/// An id that is already taken may be written over if the service is this registrator's own, if
/// it is the same container's (registered under another instance name), or if it carries no
/// owner and has the very id that was made for this container: the old registrator's work.
fn may_take(wanted: &Wanted, seen: &Seen, instance: &str) -> bool {
    if seen.belongs_to(instance) || seen.container() == Some(wanted.container.as_str()) {
        return true;
    }
    !seen.meta.contains_key(META_INSTANCE) && wanted.id.starts_with(&format!("{instance}:"))
}

fn same_service(definition: &ServiceDefinition, seen: &Seen) -> bool {
    definition.name == seen.name
        && definition.port == seen.port
        && definition.address == seen.address
        && definition.meta == seen.meta
        && definition.enable_tag_override == seen.enable_tag_override
        // With the override the catalog's tags win, and the agent shows those.
        && (definition.enable_tag_override || definition.tags == seen.tags)
        && weights(definition) == seen.weights
        // The agent adds tagged addresses of its own.
        && tagged(definition).all(|(name, address)| seen.tagged.get(&name) == Some(&address))
}
