//! From containers to targets: plans made again where something changed, drains, contested ids.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, warn};

use super::engine::{Entry, State};
use super::presence::Presence;
use super::{OnExit, Reconciler};
use crate::container::{Container, NetworkMode, Run, short_id};
use crate::diff::{REASON, Target};
use crate::plan::{self, Plan};

impl Reconciler {
    /// Makes stale plans again, and with them the plans of containers that share their network.
    pub(super) fn replan(&mut self, now: Instant) {
        if self.stale_plans.is_empty() {
            return;
        }
        let mut stale = std::mem::take(&mut self.stale_plans);
        let guests = self.containers.iter().filter(|(_, entry)| {
            matches!(&entry.state, State::Known(container) if matches!(&container.network_mode,
                NetworkMode::Container(owner) if stale.contains(owner)))
        });
        let guests: Vec<String> = guests.map(|(id, _)| id.clone()).collect();
        stale.extend(guests);

        // What is registered for them may go, or may be taken over, now that more is known.
        let registered = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.container().is_some_and(|id| stale.contains(id)));
        self.dirty.extend(registered.map(|(id, _)| id.clone()));

        for id in stale {
            let Some(entry) = self.containers.get(&id) else { continue };
            let plan = match &entry.state {
                State::Known(container) => {
                    let joined = match &container.network_mode {
                        NetworkMode::Container(owner) => self.running(owner),
                        _ => None,
                    };
                    plan::plan(container, joined, &self.settings)
                }
                _ => Plan::default(),
            };
            let default = self.policy.deregister;
            let drain_timeout = self.policy.drain_timeout;
            let Some(entry) = self.containers.get_mut(&id) else { continue };
            if let Some(drain) = &mut entry.drain {
                drain.handled = now;
            }
            if let State::Known(container) = &entry.state {
                report(container, &plan, &mut entry.said);
                if let Run::Exited(code) = container.run {
                    entry.drain = None;
                    if !plan::deregister_policy(container, default).keeps(code) {
                        entry.state = State::Gone { released: true };
                    }
                } else if entry.drain.as_ref().is_some_and(|d| now >= d.since + drain_timeout) {
                    warn!(
                        container = container.name,
                        "it runs long after its stop signal: it is registered again"
                    );
                    entry.drain = None;
                }
            }
            entry.services = plan.services.into_iter().map(Arc::new).collect();
        }
        self.targets_at(now);
    }

    pub(super) fn running(&self, id: &str) -> Option<&Container> {
        match &self.containers.get(id)?.state {
            State::Known(container) if !matches!(container.run, Run::Exited(_)) => Some(container),
            _ => None,
        }
    }

    /// Works out the targets and marks what became different.
    pub(super) fn targets_at(&mut self, now: Instant) {
        let before = std::mem::take(&mut self.targets);
        let mut contested = BTreeSet::new();
        // The newest run wins an id that several containers want: in a rolling replacement that
        // is the one that stays.
        let mut entries: Vec<(u64, &String, &Entry)> = self
            .containers
            .iter()
            .filter_map(|(id, entry)| match &entry.state {
                State::Known(container) => Some((container.started_at, id, entry)),
                _ => None,
            })
            .collect();
        entries.sort_by_key(|(started_at, id, _)| (*started_at, *id));
        for (_, _, entry) in entries {
            for wanted in &entry.services {
                let maintenance = match (&entry.drain, wanted.drain) {
                    (None, _) => None,
                    (Some(drain), Some(time)) if now < drain.since + time => {
                        Some(format!("{REASON} the container is stopping"))
                    }
                    (Some(_), _) => continue,
                };
                let target = Target { wanted: Arc::clone(wanted), maintenance };
                if let Some(loser) = self.targets.insert(wanted.id.clone(), target) {
                    if !self.contested.contains(&wanted.id) {
                        warn!(
                            service = wanted.id,
                            used = short_id(&wanted.container),
                            ignored = short_id(&loser.wanted.container),
                            "two containers want the same service id: the newer one has it"
                        );
                    }
                    contested.insert(wanted.id.clone());
                }
            }
        }
        self.contested = contested;
        self.note_presence(now, &before);
        self.merge();
        for id in before.keys().chain(self.targets.keys()) {
            if before.get(id) != self.targets.get(id) {
                self.dirty.insert(id.clone());
            }
        }
    }

    fn note_presence(&mut self, now: Instant, before: &BTreeMap<String, Target>) {
        for id in before.keys().filter(|id| !self.targets.contains_key(*id)) {
            if let Some(presence) = self.presence.get_mut(id) {
                presence.leave(now);
            }
        }
        let hold_max = self.policy.hold_max;
        for id in self.targets.keys().filter(|id| !before.contains_key(*id)) {
            let Some(presence) = self.presence.get_mut(id) else {
                self.presence.insert(id.clone(), Presence::first(now));
                continue;
            };
            if presence.arrive(now) && !presence.hold(hold_max).is_zero() {
                let (hold, returns) = (presence.hold(hold_max), presence.quick());
                if hold < hold_max {
                    warn!(
                        service = id,
                        returns,
                        hold_s = hold.as_secs(),
                        "it comes and goes: it is held back until it has lived for a while"
                    );
                } else {
                    debug!(service = id, returns, "it still comes and goes");
                }
            }
        }
    }

    /// Bends the targets to the registrator's own end.
    pub(super) fn merge(&mut self) {
        match self.stopping {
            None | Some(OnExit::Keep) => {}
            Some(OnExit::Deregister) => self.targets.clear(),
            Some(OnExit::Maintenance) => {
                for target in self.targets.values_mut() {
                    target.maintenance = Some(format!("{REASON} the registrator is stopped"));
                }
            }
        }
    }

    pub(super) fn drain_deadline(&self, entry: &Entry) -> Option<Instant> {
        let drain = entry.drain.as_ref()?;
        let shown = entry.services.iter().filter_map(|wanted| wanted.drain);
        shown
            .chain([self.policy.drain_timeout])
            .map(|time| drain.since + time)
            .filter(|at| *at > drain.handled)
            .min()
    }
}

/// Says what is odd about a container, once.
fn report(container: &Container, plan: &Plan, said: &mut BTreeSet<String>) {
    for text in &plan.warnings {
        if said.insert(text.clone()) {
            warn!(container = container.name, "{text}");
        }
    }
    if plan.services.is_empty() && !matches!(container.run, Run::Exited(_)) {
        for text in &plan.remarks {
            if said.insert(text.clone()) {
                debug!(container = container.name, "not registered: {text}");
            }
        }
    }
}
