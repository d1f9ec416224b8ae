//! Registrations of this agent: its services and checks, and which of them the catalog is known to hold.
//!
//! A value without locks, clocks or I/O. Every claim has a version; a claim whose version the catalog
//! took over is *settled*, all others are work for [`super::diff`]. A push that was overtaken by a
//! newer change settles nothing: versions, not flags, are compared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;

use super::catalog::Held;
use super::definition::Source;
use super::times::Times;
use crate::checks::{CheckResult, Definition, History, Probe, Status, Streak};
use crate::store::{Check, Service};

/// Counts changes of claims; never reused.
pub(super) type Version = u64;

/// One service of this agent.
#[derive(Debug, Clone)]
pub(super) struct RegisteredService {
    /// As the catalog is to hold it.
    pub(super) row: Arc<Service>,
    /// Its source.
    pub(super) source: Source,
    /// Of its last change.
    pub(super) version: Version,
    /// The catalog holds this version.
    pub(super) settled: bool,
}

/// One check of this agent.
#[derive(Debug, Clone)]
pub(super) struct RegisteredCheck {
    /// As the catalog is to hold it.
    pub(super) row: Arc<Check>,
    /// The probe that runs; a maintenance has none.
    pub(super) run: Option<Arc<Definition>>,
    /// Its number at the runner: results of an earlier registration do not count.
    pub(super) registration: u64,
    /// Results in a row.
    pub(super) streak: Streak,
    /// Changes of its status, if what flaps is held back.
    history: History,
    /// Its source.
    pub(super) source: Source,
    /// Of its last change.
    pub(super) version: Version,
    /// The catalog holds this version, but for an output whose time has not come.
    pub(super) settled: bool,
    /// When an output that alone changed is to be sent.
    pub(super) output_due: Option<Instant>,
    /// Since when it has been found critical without a break.
    pub(super) critical_since: Option<Instant>,
    /// Known from before the agent started, and not run since: how it is, the catalog remembers best.
    pub(super) recalled: bool,
    /// When it was last heard of.
    pub(super) times: Times<Instant>,
}

impl RegisteredCheck {
    /// As it stands; a word that is none of the three counts as critical.
    fn status(&self) -> Status {
        Status::parse(&self.row.status).unwrap_or(Status::Critical)
    }
}

/// Something of this agent that the catalog may have to learn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The node's own row.
    Node,
    /// A service, held or gone.
    Service(Arc<str>),
    /// A check, held or gone.
    Check(Arc<str>),
}

/// All claims of this agent. Cloning costs a few pointers.
#[derive(Debug, Clone, Default)]
pub(super) struct Registrations {
    services: OrdMap<Arc<str>, RegisteredService>,
    checks: OrdMap<Arc<str>, RegisteredCheck>,
    /// Those of the checks that look at other checks.
    aliases: OrdMap<Arc<str>, Arc<Definition>>,
    /// Rows of the catalog for nodes that aliases follow, by their names in lower case.
    targets: OrdMap<Arc<str>, Arc<Held>>,
    /// Rows that the catalog must delete.
    gone: OrdMap<Subject, Version>,
    /// The catalog holds the node's row.
    node_settled: bool,
    /// Of the node's own row.
    node_version: Version,
    versions: Version,
}

/// Effect of a result on its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that anybody would see.
    None,
    /// Its output changed; the catalog learns of it when it learns of an earlier one.
    Output,
    /// Its output changed, and the time at which the catalog learns of it was set.
    Deferred,
    /// Its status changed, or its output and that is to be sent at once.
    Status,
}

/// Rules for sending outputs to the catalog.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outputs {
    /// Keep none.
    pub(super) discard: bool,
    /// Longest delay of a change of the output alone; zero: none.
    pub(super) delay: Duration,
}

impl Registrations {
    /// Services by id.
    pub(super) fn services(&self) -> &OrdMap<Arc<str>, RegisteredService> {
        &self.services
    }

    /// Checks by id.
    pub(super) fn checks(&self) -> &OrdMap<Arc<str>, RegisteredCheck> {
        &self.checks
    }

    /// The checks that look at other checks, with their definitions.
    pub(super) fn aliases(&self) -> &OrdMap<Arc<str>, Arc<Definition>> {
        &self.aliases
    }

    /// The nodes that aliases look at in the catalog, in lower case.
    pub(super) fn alias_nodes(&self) -> BTreeSet<Arc<str>> {
        let nodes = self.aliases.values().filter_map(|run| match &run.probe {
            Probe::Alias { node, .. } if !node.is_empty() => Some(node.to_lowercase().into()),
            _ => None,
        });
        nodes.collect()
    }

    /// Rows of the catalog for a node that aliases follow, if known.
    pub(super) fn target(&self, node: &str) -> Option<Arc<Held>> {
        self.targets.get(&*node.to_lowercase()).cloned()
    }

    /// The catalog was read.
    pub(super) fn put_target(&mut self, node: Arc<str>, held: Held) {
        self.targets.insert(node, Arc::new(held));
    }

    /// No alias looks there any more.
    pub(super) fn drop_target(&mut self, node: &str) {
        self.targets.remove(node);
    }

    /// Rows that the catalog must delete.
    pub(super) fn gone(&self) -> &OrdMap<Subject, Version> {
        &self.gone
    }

    /// Does the catalog hold the node's row?
    pub(super) fn node_settled(&self) -> bool {
        self.node_settled
    }

    /// Which row of the node the catalog is to hold.
    pub(super) fn node_version(&self) -> Version {
        self.node_version
    }

    /// The node's row is another one from now on.
    pub(super) fn change_node(&mut self) {
        self.versions += 1;
        self.node_version = self.versions;
        self.node_settled = false;
    }

    /// The checks of one service.
    pub(super) fn checks_of<'a>(
        &'a self,
        service: &'a str,
    ) -> impl Iterator<Item = &'a RegisteredCheck> {
        self.checks.values().filter(move |claim| claim.row.service_id == service)
    }

    /// Of the newest change.
    pub(super) fn version(&self) -> Version {
        self.versions
    }

    fn next_version(&mut self) -> Version {
        self.versions += 1;
        self.versions
    }

    /// Claims a service. Checks that it has stay as they are.
    pub(super) fn put_service(&mut self, row: Service, source: Source) {
        let version = self.next_version();
        self.gone.remove(&Subject::Service(Arc::clone(&row.id)));
        let id = Arc::clone(&row.id);
        self.services
            .insert(id, RegisteredService { row: Arc::new(row), source, version, settled: false });
    }

    /// Claims a check. One with the same id hands its status and output down: a check does not
    /// flap because it was registered again.
    pub(super) fn put_check(
        &mut self,
        mut row: Check,
        run: Option<Arc<Definition>>,
        registration: u64,
        source: Source,
    ) {
        let version = self.next_version();
        let old = self.checks.get(&row.id);
        if let Some(old) = old {
            row.status.clone_from(&old.row.status);
            row.output.clone_from(&old.row.output);
        }
        let claim = RegisteredCheck {
            run,
            registration,
            // The same schedule goes on: so does what it has counted.
            streak: old
                .filter(|old| old.registration == registration)
                .map_or_else(Streak::default, |old| old.streak),
            // A check does not stop flapping because it was registered again.
            history: old.map_or_else(History::default, |old| old.history.clone()),
            source,
            version,
            settled: false,
            output_due: None,
            critical_since: old.and_then(|old| old.critical_since),
            recalled: false,
            times: old.map_or_else(Times::default, |old| old.times),
            row: Arc::new(row),
        };
        let id = Arc::clone(&claim.row.id);
        self.gone.remove(&Subject::Check(Arc::clone(&id)));
        self.aliases.remove(&id);
        if let Some(run) = claim.run.as_ref().filter(|run| matches!(run.probe, Probe::Alias { .. }))
        {
            self.aliases.insert(Arc::clone(&id), Arc::clone(run));
        }
        self.checks.insert(id, claim);
    }

    /// Gives a check the status and output it had when the agent stopped.
    pub(super) fn restore(&mut self, id: &str, status: Status, output: String) {
        if let Some(claim) = self.checks.get_mut(id) {
            let row = Arc::make_mut(&mut claim.row);
            status.as_str().clone_into(&mut row.status);
            row.output = output;
        }
    }

    /// All that is claimed was known before the agent started: until a check has run again, it is as the catalog
    /// says. Else every service of an agent that restarts would fail at once, only to be found well a moment later.
    /// A TTL check is not among them: its owner's last report is kept with the time until which it counts.
    pub(super) fn recall(&mut self) {
        let ids: Vec<_> = self.checks.keys().cloned().collect();
        for id in ids {
            if let Some(claim) = self.checks.get_mut(&id) {
                claim.recalled = claim.run.as_ref().is_some_and(|run| run.ttl().is_none());
            }
        }
    }

    /// Gives a service up, with its checks; answers the ids of those. `None` if it is not claimed.
    pub(super) fn remove_service(&mut self, id: &str) -> Option<Vec<Arc<str>>> {
        let claim = self.services.remove(id)?;
        let checks: Vec<Arc<str>> =
            self.checks_of(id).map(|claim| Arc::clone(&claim.row.id)).collect();
        for check in &checks {
            // The catalog forgets them with the service.
            self.checks.remove(check);
            self.aliases.remove(check);
        }
        let version = self.next_version();
        self.gone.insert(Subject::Service(Arc::clone(&claim.row.id)), version);
        Some(checks)
    }

    /// Gives a check up. `false` if it is not claimed.
    pub(super) fn remove_check(&mut self, id: &str) -> bool {
        let Some(claim) = self.checks.remove(id) else { return false };
        self.aliases.remove(id);
        let version = self.next_version();
        self.gone.insert(Subject::Check(Arc::clone(&claim.row.id)), version);
        true
    }

    /// Takes in the result of a run, if it is of the present registration.
    pub(super) fn observe(
        &mut self,
        id: &str,
        registration: u64,
        outcome: CheckResult,
        outputs: Outputs,
        now: Instant,
        chance: f64,
    ) -> Effect {
        let Some(claim) = self.checks.get_mut(id) else { return Effect::None };
        let Some(run) = claim.run.as_ref().filter(|_| claim.registration == registration) else {
            return Effect::None;
        };
        claim.times.reported = Some(now);
        let current = claim.status();
        let counted = claim.streak.observe(run.thresholds, current, outcome.status);
        let decisive = outcome.decisive.then_some(outcome.status);
        let Some(status) = decisive.or(counted) else { return Effect::None };
        self.report(id, status, outcome.output, outputs, now, chance)
    }

    /// Takes in how a check is, from a run or from its owner, unless it flaps and is held back.
    pub(super) fn report(
        &mut self,
        id: &str,
        status: Status,
        output: String,
        outputs: Outputs,
        now: Instant,
        chance: f64,
    ) -> Effect {
        let Some(claim) = self.checks.get_mut(id) else { return Effect::None };
        let current = claim.status();
        let flap_limit = claim.run.as_ref().and_then(|run| run.flap_limit);
        match flap_limit {
            Some(flap_limit) if !claim.history.admits(flap_limit, now, current, status) => {
                let text = held_back(current, flap_limit.window, &output);
                self.set_status(id, current, text, outputs, now, chance)
            }
            _ => self.set_status(id, status, output, outputs, now, chance),
        }
    }

    /// Sets status and output of a check. `chance` in 0..1 spreads the outputs of many checks.
    pub(super) fn set_status(
        &mut self,
        id: &str,
        status: Status,
        output: String,
        outputs: Outputs,
        now: Instant,
        chance: f64,
    ) -> Effect {
        let version = self.versions + 1;
        let Some(claim) = self.checks.get_mut(id) else { return Effect::None };
        claim.recalled = false;
        claim.times.reported = Some(now);
        claim.critical_since = match status {
            Status::Critical => claim.critical_since.or(Some(now)),
            _ => None,
        };
        let output = if outputs.discard { String::new() } else { output };
        let same_status = claim.row.status == status.as_str();
        if same_status && claim.row.output == output {
            return Effect::None;
        }
        let row = Arc::make_mut(&mut claim.row);
        row.output = output;
        if same_status && !outputs.delay.is_zero() {
            if claim.settled && claim.output_due.is_none() {
                claim.output_due = Some(now + outputs.delay.mul_f64(0.5 + chance));
                return Effect::Deferred;
            }
            return Effect::Output;
        }
        if !same_status {
            claim.times.changed = Some(now);
        }
        status.as_str().clone_into(&mut row.status);
        claim.version = version;
        claim.settled = false;
        claim.output_due = None;
        self.versions = version;
        Effect::Status
    }

    /// Makes outputs whose time has come work to be done; answers when the next one's comes.
    pub(super) fn release_outputs(&mut self, now: Instant) -> Option<Instant> {
        let due = |claim: &RegisteredCheck| claim.output_due.is_some_and(|due| due <= now);
        let ids: Vec<_> = self
            .checks
            .iter()
            .filter(|(_, claim)| due(claim))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in ids {
            let version = self.next_version();
            if let Some(claim) = self.checks.get_mut(&id) {
                claim.output_due = None;
                claim.settled = false;
                claim.version = version;
            }
        }
        self.checks.values().filter_map(|claim| claim.output_due).min()
    }

    /// The catalog took over `subject` as it was at `version`.
    pub(super) fn settle(&mut self, subject: &Subject, version: Version) {
        if self.gone.get(subject) == Some(&version) {
            self.gone.remove(subject);
            return;
        }
        match subject {
            Subject::Node => self.node_settled |= version == self.node_version,
            Subject::Service(id) => {
                if let Some(claim) = self.services.get_mut(id)
                    && claim.version == version
                {
                    claim.settled = true;
                }
            }
            Subject::Check(id) => {
                if let Some(claim) = self.checks.get_mut(id)
                    && claim.version == version
                {
                    claim.settled = true;
                }
            }
        }
    }

    /// Marks the node's row after a comparison with the catalog.
    pub(super) fn mark_node(&mut self, settled: bool) {
        self.node_settled = settled;
    }

    /// Marks a service after a comparison with the catalog.
    pub(super) fn mark_service(&mut self, id: &str, settled: bool) {
        if let Some(claim) = self.services.get_mut(id) {
            claim.settled = settled;
        }
    }

    /// Marks a check after a comparison with the catalog.
    pub(super) fn mark_check(&mut self, id: &str, settled: bool) {
        if let Some(claim) = self.checks.get_mut(id) {
            claim.settled = settled;
            if !settled {
                claim.output_due = None;
            }
        }
    }

    /// Takes the catalog's tags over.
    pub(super) fn adopt_tags(&mut self, id: &str, tags: &[String]) {
        if let Some(claim) = self.services.get_mut(id) {
            Arc::make_mut(&mut claim.row).tags = tags.to_vec();
        }
    }

    /// Takes over how the catalog remembers a check.
    pub(super) fn adopt_status(&mut self, held: &Check) {
        if let Some(claim) = self.checks.get_mut(&held.id) {
            let row = Arc::make_mut(&mut claim.row);
            row.status.clone_from(&held.status);
            row.output.clone_from(&held.output);
        }
    }

    /// The catalog holds something that nobody here claims.
    pub(super) fn mark_gone(&mut self, subject: Subject) {
        if !self.gone.contains_key(&subject) {
            let version = self.next_version();
            self.gone.insert(subject, version);
        }
    }

    /// The catalog holds nothing of what was given up: there is nothing left to forget.
    pub(super) fn forget_gone(&mut self, subject: &Subject) {
        self.gone.remove(subject);
    }

    /// Is there anything the catalog does not know?
    pub(super) fn is_settled(&self) -> bool {
        self.node_settled
            && self.gone.is_empty()
            && self.services.values().all(|claim| claim.settled)
            && self.checks.values().all(|claim| claim.settled)
    }
}

/// Output that is shown while a check is held back.
fn held_back(status: Status, window: Duration, output: &str) -> String {
    let window = muster_client::types::format_duration(window);
    format!("Flapping: {} until it has been better for {window}.\n{output}", status.as_str())
}
