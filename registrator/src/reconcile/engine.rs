//! The engine's side: what containers there are, as far as news and inspections tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, warn};

use super::pause::backoff;
use super::{Reconciler, UNREACHABLE_PAUSE_MAX};
use crate::container::{Container, Run, short_id};
use crate::event::News;
use crate::plan::{self, Deregister, Wanted};

/// Signals kept for a container that is still being looked at.
const SIGNALS_MAX: usize = 8;

/// One container.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) state: State,
    /// Remarks and warnings that were already said.
    pub(super) said: BTreeSet<String>,
    pub(super) services: Vec<Arc<Wanted>>,
    pub(super) looking: bool,
    pub(super) failures: u32,
    pub(super) not_before: Option<Instant>,
    pub(super) drain: Option<Drain>,
    /// Signals that came before the container was known, with their times.
    pub(super) signals: Vec<(u8, u64)>,
}

#[derive(Default)]
pub(super) enum State {
    /// Not inspected yet.
    #[default]
    Unknown,
    Known(Box<Container>),
    /// It has ended for good; forgotten as soon as no service refers to it.
    Gone {
        /// Whether its services go too.
        released: bool,
    },
}

/// A container that was told to stop.
pub(super) struct Drain {
    pub(super) since: Instant,
    /// The run that will end: a later one is not concerned.
    pub(super) run: u64,
    /// When its plan was last made: earlier deadlines are dealt with.
    pub(super) handled: Instant,
}

impl Reconciler {
    pub(super) fn heard(&mut self, now: Instant, news: News) {
        match news {
            News::Listed(ids) => self.list(ids),
            News::Changed(id) => self.look(id),
            News::Attached(id) => {
                if self.containers.contains_key(&id) {
                    self.look(id);
                }
            }
            News::Signalled { id, signal, at } => self.signalled(now, id, signal, at),
            News::Died { id, exit_code, at } => {
                let known = self.known_mut(&id).filter(|container| is_current(container, at));
                if let Some(container) = known {
                    container.run = Run::Exited(exit_code);
                    self.stale_plans.insert(id.clone());
                }
                // Under way is an answer from before the death.
                self.look_again(id);
            }
            News::Paused(id, paused) => {
                let run = if paused { Run::Paused } else { Run::Running };
                self.amend(id, |container| {
                    if !matches!(container.run, Run::Exited(_)) {
                        container.run = run;
                    }
                });
            }
            News::Health(id, health) => {
                self.amend(id, |container| container.health = Some(health));
            }
            News::Destroyed(id) => {
                let released = self.policy.deregister != Deregister::Never;
                if let Some(entry) = self.containers.get_mut(&id) {
                    entry.state = State::Gone { released };
                    self.stale_plans.insert(id.clone());
                }
                self.look_again(id);
            }
            News::Lost(reason) => {
                self.engine_up = false;
                if self.engine_lost.as_ref() != Some(&reason) {
                    warn!(reason, "Docker is out of reach; what is registered stays");
                    self.engine_lost = Some(reason);
                }
            }
        }
    }

    pub(super) fn list(&mut self, ids: Vec<String>) {
        // What runs is looked at every time: an event that was lost while the stream stayed up (a
        // restart, another address, name or network, a pause) leaves no other trace.
        let after_gap = !self.engine_up;
        self.engine_up = true;
        self.engine_lost = None;
        self.listed = true;
        let running: BTreeSet<String> = ids.into_iter().collect();
        let mut doubtful: Vec<String> = self
            .containers
            .iter()
            .filter(|(id, entry)| {
                // One that is known to have ended is here only because its services are kept. An
                // inspection under way may have been answered before this list was.
                after_gap || !matches!(entry.state, State::Gone { .. }) || running.contains(*id)
            })
            .map(|(id, _)| id.clone())
            .collect();
        let unknown = running.iter().filter(|id| !self.containers.contains_key(*id));
        doubtful.extend(unknown.cloned());
        for id in doubtful {
            let agrees = !after_gap
                && matches!(self.known(&id), Some(known)
                    if running.contains(&id) != matches!(known.run, Run::Exited(_)));
            if agrees && !self.looks.contains(&id) {
                self.routine.insert(id);
            } else {
                self.look(id);
            }
        }
        // Ghosts can be told from now on.
        self.dirty.extend(self.seen.keys().cloned());
    }

    /// Asks for an inspection that begins after this moment.
    pub(super) fn look(&mut self, id: String) {
        self.containers.entry(id.clone()).or_default();
        self.routine.remove(&id);
        self.looks.insert(id);
    }

    /// If an inspection is under way, its answer will be too old: asks for another one.
    pub(super) fn look_again(&mut self, id: String) {
        if self.containers.get(&id).is_some_and(|entry| entry.looking) {
            self.looks.insert(id);
        }
    }

    /// Uses a fact at once if the container is known; otherwise, it is looked at.
    pub(super) fn amend(&mut self, id: String, change: impl FnOnce(&mut Container)) {
        match self.known_mut(&id) {
            Some(container) => {
                change(container);
                self.stale_plans.insert(id.clone());
                self.look_again(id);
            }
            None => self.look(id),
        }
    }

    fn known(&self, id: &str) -> Option<&Container> {
        match &self.containers.get(id)?.state {
            State::Known(container) => Some(container),
            _ => None,
        }
    }

    pub(super) fn known_mut(&mut self, id: &str) -> Option<&mut Container> {
        match &mut self.containers.get_mut(id)?.state {
            State::Known(container) => Some(container),
            _ => None,
        }
    }

    pub(super) fn signalled(&mut self, now: Instant, id: String, signal: u8, at: u64) {
        if self.known_mut(&id).is_none() {
            self.look(id.clone());
            if let Some(entry) = self.containers.get_mut(&id)
                && entry.signals.len() < SIGNALS_MAX
            {
                entry.signals.push((signal, at));
            }
        } else if self.drain(now, &id, signal, at) {
            self.stale_plans.insert(id);
        }
    }

    /// Begins to drain a known container if the signal means its end; says whether it does.
    pub(super) fn drain(&mut self, now: Instant, id: &str, signal: u8, at: u64) -> bool {
        let default = self.policy.deregister;
        let Some(entry) = self.containers.get_mut(id) else { return false };
        let State::Known(container) = &entry.state else { return false };
        let ends = container.stops_on(signal)
            && is_current(container, at)
            && !matches!(container.run, Run::Exited(_))
            && plan::deregister_policy(container, default) != Deregister::Never;
        if ends && entry.drain.is_none() {
            debug!(container = container.name, signal, "the container is told to stop");
            entry.drain = Some(Drain { since: now, run: container.started_at, handled: now });
        }
        ends
    }

    pub(super) fn inspected(
        &mut self,
        now: Instant,
        id: &str,
        outcome: Result<Option<Container>, String>,
    ) {
        let retry_interval = self.policy.retry_interval;
        let released = self.policy.deregister != Deregister::Never;
        let again = self.looks.contains(id);
        let Some(entry) = self.containers.get_mut(id) else { return };
        entry.looking = false;
        match outcome {
            // Something happened while the answer was under way; the next one will know.
            Ok(_) if again => return,
            Ok(Some(container)) => {
                entry.failures = 0;
                entry.not_before = None;
                if entry.drain.as_ref().is_some_and(|drain| drain.run != container.started_at) {
                    entry.drain = None;
                }
                let signals = std::mem::take(&mut entry.signals);
                if entry.drain.is_none()
                    && signals.is_empty()
                    && matches!(&entry.state, State::Known(known) if **known == container)
                {
                    // Its plan is what it was.
                    return;
                }
                entry.state = State::Known(Box::new(container));
                for (signal, at) in signals {
                    self.drain(now, id, signal, at);
                }
            }
            Ok(None) => {
                entry.failures = 0;
                entry.not_before = None;
                entry.drain = None;
                entry.state = State::Gone { released };
            }
            Err(reason) => {
                entry.failures += 1;
                let pause = backoff(retry_interval, UNREACHABLE_PAUSE_MAX, entry.failures, id);
                entry.not_before = Some(now + pause);
                self.looks.insert(id.to_owned());
                if entry.failures == 1 {
                    warn!(container = short_id(id), reason, "cannot inspect it; trying for ever");
                } else {
                    debug!(container = short_id(id), reason, "still cannot inspect it");
                }
                return;
            }
        }
        self.stale_plans.insert(id.to_owned());
    }
}

/// Whether something that happened at `at` concerns the container's current run.
fn is_current(container: &Container, at: u64) -> bool {
    at == 0 || at >= container.started_at
}
