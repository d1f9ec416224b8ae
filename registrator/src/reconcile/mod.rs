//! The reconciler: what should be registered, what is, and which calls close the gap.
//!
//! A value without sockets, clock or tasks: [`Reconciler::step`] takes one [`Input`] and the time,
//! and returns what is to be done; the answers come back as further inputs. The same inputs give
//! the same outputs, so whole histories are tested without an engine or an agent.
//!
//! ```text
//!  engine news ──▶ containers ──plan──▶ targets ─┐
//!                                                ├─diff─▶ one call per service at a time
//!  agent's answer ────────────────────▶ seen ────┘         │ done: `seen` is brought up to date
//!                                                          └ failed: again, later
//! ```
//!
//! What it promises:
//! - Level-triggered: an event only says "look again". Lost, doubled and reordered events are
//!   repaired by the next list.
//! - Where wanted and seen are equal, nothing is written.
//! - Only services that carry its own mark are changed or removed, and never because the engine
//!   or the agent is out of reach, nor before the engine has said what runs.
//! - A container that is told to stop is out (or in maintenance) before it is dead.
//! - A container in a crash loop costs few writes, see `presence`.

mod engine;
mod pause;
mod presence;
mod services;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::container::{Container, Run};
use crate::diff::{Seen, Target, Write};
use crate::event::News;
use crate::plan::{self, Deregister};

use engine::{Entry, State};
use presence::{FORGOTTEN_AFTER, Presence};
use services::{Agent, Track};

/// When and how hard to try. All pauses get a jitter of up to a quarter.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What a container's end means for its services.
    pub deregister: Deregister,
    /// How often the agent's services are read though nothing hints at a change.
    pub resync: Duration,
    /// How often the registrator's own checks are reported. Well under their TTL.
    pub beat_every: Duration,
    /// How long a container may live on after its stop signal before it counts as running again.
    pub drain_timeout: Duration,
    /// First pause after a failure; doubles up to a bound.
    pub retry_interval: Duration,
    /// How long at most a service that comes and goes is held back; 0: not at all.
    pub hold_max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deregister: Deregister::Always,
            resync: Duration::from_mins(1),
            beat_every: Duration::from_secs(20),
            drain_timeout: Duration::from_mins(5),
            retry_interval: Duration::from_millis(100),
            hold_max: Duration::from_secs(30),
        }
    }
}

/// Inspections under way beyond which no routine one begins: a container that has just started must
/// not wait behind hundreds of others.
const ROUTINE_MAX: usize = 4;
/// Longest pause while engine or agent are out of reach.
const UNREACHABLE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// What is left behind when the registrator is told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// Everything: the containers live on.
    #[default]
    Keep,
    /// Nothing.
    Deregister,
    /// Everything, in maintenance until the registrator is back.
    Maintenance,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The engine said something.
    Engine(News),
    /// An inspection is done; `None`: there is no such container.
    Inspected {
        /// The id that was asked for.
        id: String,
        /// The container, or why there is no answer.
        outcome: Result<Option<Container>, String>,
    },
    /// The agent's services were read.
    Observed {
        /// As in [`Output::Observe`].
        epoch: u64,
        /// The answer, or why there is none.
        outcome: Result<Observation, String>,
    },
    /// A call is done.
    Written {
        /// The call.
        write: Write,
        /// Whether the agent took it.
        outcome: Result<(), Failure>,
    },
    /// Something in the catalog's picture of the agent changed, or the agent was out of reach for
    /// a moment: its services should be read again.
    AgentChanged,
    /// The moment of [`Reconciler::deadline`] has come.
    Timer,
}

/// The agent's services.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// By id.
    pub services: BTreeMap<String, Seen>,
    /// The agent's own address.
    pub agent_host: Option<String>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered; nothing is known about the effect.
    Unreachable(String),
    /// The agent said no.
    Refused(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Inspect the container with this id.
    Inspect(String),
    /// Read the agent's services.
    Observe(u64),
    /// Make this call.
    Write(Write),
}

/// A summary for people and probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Whether the engine answers.
    pub engine: bool,
    /// Whether the agent answers.
    pub agent: bool,
    /// Containers known to run.
    pub containers: usize,
    /// Services that should be registered.
    pub services: usize,
    /// Containers that are being looked at, and services that are not (yet) as they should be.
    pub pending: usize,
}

/// See the module documentation.
pub struct Reconciler {
    settings: plan::Settings,
    policy: Policy,
    containers: BTreeMap<String, Entry>,
    /// Whether the engine has said what runs.
    listed: bool,
    engine_up: bool,
    /// Why the engine is out of reach, as it was said last.
    engine_lost: Option<String>,
    /// Ids to inspect, as soon as their pause is over.
    looks: BTreeSet<String>,
    /// Ids to inspect though nothing hints at a change.
    routine: BTreeSet<String>,
    /// Ids whose plan must be made again.
    stale_plans: BTreeSet<String>,
    targets: BTreeMap<String, Target>,
    /// When services came and went.
    presence: BTreeMap<String, Presence>,
    /// Services that several containers want; only the newest gets them.
    contested: BTreeSet<String>,
    agent: Agent,
    seen: BTreeMap<String, Seen>,
    tracks: BTreeMap<String, Track>,
    /// Services to compare.
    dirty: BTreeSet<String>,
    /// Counts finished calls, to tell which readings are older than which calls.
    epoch: u64,
    stopping: Option<OnExit>,
}

impl Reconciler {
    /// Starts with nothing known; the first [`Reconciler::step`] asks for the agent's services.
    pub fn new(settings: plan::Settings, policy: Policy) -> Self {
        Self {
            settings,
            policy,
            containers: BTreeMap::new(),
            listed: false,
            engine_up: false,
            engine_lost: None,
            looks: BTreeSet::new(),
            routine: BTreeSet::new(),
            stale_plans: BTreeSet::new(),
            targets: BTreeMap::new(),
            presence: BTreeMap::new(),
            contested: BTreeSet::new(),
            agent: Agent::default(),
            seen: BTreeMap::new(),
            tracks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            epoch: 0,
            stopping: None,
        }
    }

    /// Takes one input and says what to do next.
    pub fn step(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Engine(news) => self.heard(now, news),
            Input::Inspected { id, outcome } => self.inspected(now, &id, outcome),
            Input::Observed { epoch, outcome } => self.observed(now, epoch, outcome),
            Input::Written { write, outcome } => self.written(now, write, outcome),
            Input::AgentChanged => self.observe_soon(now),
            Input::Timer => {}
        }
        self.settle(now)
    }

    /// Begins the end: from now on only what `on_exit` asks for is done. [`Reconciler::is_done`]
    /// tells when.
    pub fn stop(&mut self, now: Instant, on_exit: OnExit) -> Vec<Output> {
        self.stopping = Some(on_exit);
        self.looks.clear();
        self.routine.clear();
        self.merge();
        self.dirty.extend(self.seen.keys().cloned());
        self.settle(now)
    }

    /// Whether, after [`Reconciler::stop`], nothing is left to wait for.
    pub fn is_done(&self) -> bool {
        match self.stopping {
            None => false,
            Some(OnExit::Keep) => true,
            Some(_) => self.dirty.is_empty() && !self.tracks.values().any(|track| track.in_flight),
        }
    }

    /// When the next [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let tracks = self
            .tracks
            .values()
            .filter(|track| !track.in_flight)
            .flat_map(|track| [track.not_before, track.beat_due.filter(|_| self.agent.fresh)]);
        if self.stopping.is_some() {
            return None;
        }
        let entries = self
            .looks
            .iter()
            .filter_map(|id| self.containers.get(id))
            .filter(|entry| !entry.looking)
            .map(|entry| entry.not_before);
        let drains = self.containers.values().map(|entry| self.drain_deadline(entry));
        let observe = (!self.agent.reading).then_some(self.agent.due).flatten();
        tracks.chain(entries).chain(drains).chain([observe]).flatten().min()
    }

    /// How many readings of the agent's services in a row have failed.
    pub fn agent_failures(&self) -> u32 {
        self.agent.failures
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let running = |entry: &&Entry| {
            matches!(&entry.state, State::Known(container)
                if !matches!(container.run, Run::Exited(_)))
        };
        let looking = self.containers.values().filter(|entry| entry.looking).count()
            + self.looks.len()
            + self.routine.len();
        let waiting = self
            .tracks
            .values()
            .filter(|track| track.in_flight || track.not_before.is_some())
            .count();
        Status {
            engine: self.engine_up,
            agent: self.agent.fresh,
            containers: self.containers.values().filter(running).count(),
            services: self.targets.len(),
            pending: self.dirty.len() + looking + waiting,
        }
    }

    fn settle(&mut self, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        self.wake(now);
        self.replan(now);
        if self.stopping.is_none()
            && !self.agent.reading
            && self.agent.due.is_none_or(|due| due <= now)
        {
            self.agent.reading = true;
            self.agent.due = None;
            out.push(Output::Observe(self.epoch));
        }
        if self.agent.fresh {
            for id in std::mem::take(&mut self.dirty) {
                self.compare(now, id, &mut out);
            }
        }
        if self.stopping.is_none() {
            self.send_looks(now, &mut out);
        }
        self.forget(now);
        out
    }

    /// Turns deadlines that have come into things to do.
    fn wake(&mut self, now: Instant) {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for (id, track) in &mut self.tracks {
            if is_over(track.not_before) {
                track.not_before = None;
                self.dirty.insert(id.clone());
            }
            if is_over(track.beat_due) {
                track.beat_due = None;
                self.dirty.insert(id.clone());
            }
        }
        let drained = self
            .containers
            .iter()
            .filter(|(_, entry)| is_over(self.drain_deadline(entry)))
            .map(|(id, _)| id.clone());
        let drained: Vec<String> = drained.collect();
        self.stale_plans.extend(drained);
    }

    fn send_looks(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.looks.retain(|id| {
            let Some(entry) = self.containers.get_mut(id) else { return false };
            if entry.looking || entry.not_before.is_some_and(|at| at > now) {
                return true;
            }
            entry.looking = true;
            entry.not_before = None;
            out.push(Output::Inspect(id.clone()));
            false
        });
        if self.routine.is_empty() {
            return;
        }
        let under_way = self.containers.values().filter(|entry| entry.looking).count();
        let mut room = ROUTINE_MAX.saturating_sub(under_way);
        self.routine.retain(|id| {
            let Some(entry) = self.containers.get_mut(id) else { return false };
            if room == 0 || entry.looking || entry.not_before.is_some_and(|at| at > now) {
                return true;
            }
            room -= 1;
            entry.looking = true;
            out.push(Output::Inspect(id.clone()));
            false
        });
    }

    /// Drops what no service refers to any more, so that memory follows what exists.
    fn forget(&mut self, now: Instant) {
        let is_old = |gone: Instant| now.saturating_duration_since(gone) >= FORGOTTEN_AFTER;
        self.presence.retain(|_, presence| !presence.gone().is_some_and(is_old));
        let Self { containers, seen, tracks, targets, dirty, looks, .. } = self;
        let any_gone = containers.values().any(|entry| matches!(entry.state, State::Gone { .. }));
        if any_gone {
            let referenced: BTreeSet<&str> = seen.values().filter_map(Seen::container).collect();
            containers.retain(|id, entry| {
                !matches!(entry.state, State::Gone { .. })
                    || entry.looking
                    || looks.contains(id)
                    || referenced.contains(id.as_str())
            });
        }
        if tracks.len() > targets.len() + seen.len() {
            tracks.retain(|id, track| {
                track.in_flight
                    || targets.contains_key(id)
                    || seen.contains_key(id)
                    || dirty.contains(id)
            });
        }
    }
}
