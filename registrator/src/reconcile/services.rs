//! The agent's side: what is registered, which calls are on their way, which one comes next.

use std::time::{Duration, Instant};

use muster_client::types::Status;
use tracing::{debug, info, warn};

use super::engine::State;
use super::pause::{backoff, jitter};
use super::{Failure, Observation, OnExit, Output, Reconciler, UNREACHABLE_PAUSE_MAX};
use crate::container::Run;
use crate::diff::{self, Seen, SeenCheck, Step, Write};
use crate::plan;

/// Longest pause after a refusal: the same call will most likely be refused again.
const REFUSED_PAUSE_MAX: Duration = Duration::from_mins(1);
/// Shortest time between two readings that were not asked for by a failure.
const OBSERVE_GAP: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Agent {
    /// Whether `seen` can be trusted; calls wait for it.
    pub(super) fresh: bool,
    pub(super) reading: bool,
    pub(super) due: Option<Instant>,
    pub(super) last: Option<Instant>,
    pub(super) failures: u32,
}

/// What is going on with one service.
#[derive(Default)]
pub(super) struct Track {
    pub(super) in_flight: bool,
    pub(super) failures: u32,
    pub(super) not_before: Option<Instant>,
    /// Epoch of the last finished call.
    pub(super) written: u64,
    /// When the registrator's own check is to be reported again; `None`: as soon as possible.
    pub(super) beat_due: Option<Instant>,
    /// Whether it was said that the id is taken.
    pub(super) taken: bool,
}

impl Reconciler {
    pub(super) fn observe_soon(&mut self, now: Instant) {
        let earliest = self.agent.last.map_or(now, |last| (last + OBSERVE_GAP).max(now));
        self.agent.due = Some(self.agent.due.map_or(earliest, |due| due.min(earliest)));
    }

    pub(super) fn observed(
        &mut self,
        now: Instant,
        epoch: u64,
        outcome: Result<Observation, String>,
    ) {
        self.agent.reading = false;
        self.agent.last = Some(now);
        match outcome {
            Ok(observation) => {
                if !self.agent.fresh {
                    info!(services = observation.services.len(), "read the agent's services");
                }
                self.agent.failures = 0;
                // A hint that came while the answer was under way still counts.
                let resync = now + jitter(self.policy.resync, "resync", epoch);
                self.agent.due = Some(self.agent.due.map_or(resync, |due| due.min(resync)));
                let changed_host = observation.agent_host.is_some()
                    && observation.agent_host != self.settings.agent_host;
                // An agent that was away may have come back with other settings.
                let scripts = !self.agent.fresh && !self.settings.scripts_allowed;
                self.agent.fresh = true;
                if changed_host || scripts {
                    if changed_host {
                        self.settings.agent_host = observation.agent_host;
                    }
                    self.settings.scripts_allowed = true;
                    self.stale_plans.extend(self.containers.keys().cloned());
                }
                let before = std::mem::replace(&mut self.seen, observation.services);
                for (id, _) in self.seen.iter().filter(|(_, seen)| seen.unreadable) {
                    if !before.get(id).is_some_and(|before| before.unreadable) {
                        warn!(service = id, "its row at the agent cannot be read: left alone");
                    }
                }
                // The answer may be older than a call that was made meanwhile.
                for (id, track) in &self.tracks {
                    if track.in_flight || track.written > epoch {
                        match before.get(id) {
                            Some(seen) => self.seen.insert(id.clone(), seen.clone()),
                            None => self.seen.remove(id),
                        };
                    }
                }
                self.dirty.extend(self.seen.keys().cloned());
                self.dirty.extend(self.targets.keys().cloned());
            }
            Err(reason) => self.unreachable(now, &reason),
        }
    }

    pub(super) fn unreachable(&mut self, now: Instant, reason: &str) {
        if self.agent.fresh || self.agent.failures == 0 {
            warn!(reason, "the agent is out of reach; trying for ever");
        } else {
            debug!(reason, failures = self.agent.failures, "the agent is still out of reach");
        }
        self.agent.fresh = false;
        self.agent.failures = self.agent.failures.saturating_add(1);
        let pause = backoff(
            self.policy.retry_interval,
            UNREACHABLE_PAUSE_MAX,
            self.agent.failures,
            &self.settings.instance,
        );
        self.agent.due = Some(now + pause);
    }

    pub(super) fn written(&mut self, now: Instant, write: Write, outcome: Result<(), Failure>) {
        self.epoch += 1;
        let id = write.service().to_owned();
        let beat_every = self.policy.beat_every;
        let retry_interval = self.policy.retry_interval;
        let epoch = self.epoch;
        let track = self.tracks.entry(id.clone()).or_default();
        track.in_flight = false;
        track.written = epoch;
        match outcome {
            Ok(()) => {
                track.failures = 0;
                track.not_before = None;
                track.beat_due = match &write {
                    Write::Report { .. } => Some(now + jitter(beat_every, &id, epoch)),
                    Write::Register { wanted, .. } if wanted.beat.is_some() => {
                        Some(now + jitter(beat_every, &id, epoch))
                    }
                    Write::Register { .. } | Write::Deregister(_) => None,
                    Write::Maintain { .. } => track.beat_due,
                };
                self.apply(write);
            }
            Err(Failure::Unreachable(reason)) => {
                if self.agent.fresh {
                    self.unreachable(now, &reason);
                }
            }
            Err(Failure::Refused(reason)) => {
                track.failures = track.failures.saturating_add(1);
                let pause = backoff(retry_interval, REFUSED_PAUSE_MAX, track.failures, &id);
                track.not_before = Some(now + pause);
                track.beat_due = None;
                let first = track.failures == 1;
                if self.settings.scripts_allowed && reason.contains("Scripts are disabled") {
                    warn!("the agent refuses to run commands: such checks are left out");
                    self.settings.scripts_allowed = false;
                    self.stale_plans.extend(self.containers.keys().cloned());
                    track.not_before = None;
                } else if first {
                    warn!(service = id, reason, "the agent refuses; trying again later");
                } else {
                    debug!(service = id, reason, pause_s = pause.as_secs(), "refused again");
                }
                // Perhaps it has lost what it knew.
                self.observe_soon(now);
            }
        }
        self.dirty.insert(id);
    }

    /// Brings the picture up to date after a call that worked.
    pub(super) fn apply(&mut self, write: Write) {
        match write {
            Write::Register { wanted, replace_checks } => {
                let before = self.seen.get(&wanted.id);
                let after = Seen::after(&wanted.definition, before, replace_checks);
                self.seen.insert(wanted.id.clone(), after);
            }
            Write::Deregister(service) => {
                self.seen.remove(&service);
            }
            Write::Report { service, beat } => {
                if let Some(check) =
                    self.seen.get_mut(&service).and_then(|seen| seen.checks.get_mut(&beat.check_id))
                {
                    check.status = beat.status;
                }
            }
            Write::Maintain { service, reason } => {
                if let Some(seen) = self.seen.get_mut(&service) {
                    let check = diff::maintenance_check(&service);
                    match reason {
                        Some(notes) => {
                            let status = Status::Critical;
                            seen.checks.insert(check, SeenCheck { status, notes });
                        }
                        None => {
                            seen.checks.remove(&check);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn compare(&mut self, now: Instant, id: String, out: &mut Vec<Output>) {
        if self.seen.get(&id).is_some_and(|seen| seen.unreadable) {
            return;
        }
        let track = self.tracks.entry(id.clone()).or_default();
        if track.in_flight || track.not_before.is_some_and(|at| at > now) {
            // It becomes dirty again when the call is done or the pause is over.
            return;
        }
        let seen = self.seen.get(&id);
        let Some(target) = self.targets.get(&id) else {
            if seen.is_some_and(|seen| seen.belongs_to(&self.settings.instance))
                && self.may_remove(&id)
                && let Some(track) = self.tracks.get_mut(&id)
            {
                track.in_flight = true;
                out.push(Output::Write(Write::Deregister(id)));
            }
            return;
        };
        if seen.is_none()
            && let Some(presence) = self.presence.get(&id)
            && let until = presence.held_until(self.policy.hold_max)
            && until > now
        {
            track.not_before = Some(until);
            return;
        }
        // Several containers want this id, and the one that has it is not inspected yet: after a
        // restart it would lose the service to an older one for a moment.
        if let Some(holder) = seen.and_then(Seen::container)
            && holder != target.wanted.container
            && match self.containers.get(holder) {
                None => !self.listed,
                Some(entry) => matches!(entry.state, State::Unknown),
            }
        {
            return;
        }
        let write = match diff::step(target, seen, &self.settings.instance) {
            Step::Equal => {
                track.taken = false;
                let beat = target.wanted.beat.as_ref();
                let due = track.beat_due.is_none();
                beat.filter(|_| due).map(|beat| Write::Report { service: id, beat: beat.clone() })
            }
            Step::Write(write) => Some(write),
            Step::Taken => {
                if !track.taken {
                    warn!(service = id, "the id belongs to a service of somebody else: left alone");
                    track.taken = true;
                }
                None
            }
        };
        if let Some(write) = write {
            track.in_flight = true;
            out.push(Output::Write(write));
        }
    }

    /// Whether a service of ours that nobody wants may go. Asks the engine about its container
    /// where that is not known yet.
    pub(super) fn may_remove(&mut self, id: &str) -> bool {
        if self.stopping == Some(OnExit::Deregister) {
            return true;
        }
        let Some(container) = self.seen.get(id).and_then(Seen::container).map(ToOwned::to_owned)
        else {
            return self.listed;
        };
        let default = self.policy.deregister;
        match self.containers.get(&container).map(|entry| &entry.state) {
            Some(State::Known(container)) => match container.run {
                Run::Exited(code) => !plan::deregister_policy(container, default).keeps(code),
                _ => true,
            },
            Some(State::Gone { released }) => *released,
            Some(State::Unknown) => false,
            None => {
                if self.listed && self.stopping.is_none() {
                    self.look(container);
                }
                false
            }
        }
    }
}
