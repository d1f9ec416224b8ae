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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::container::{Container, NetworkMode, Run, short_id};
use crate::diff::{self, REASON, Seen, SeenCheck, Step, Target, Write};
use crate::event::News;
use crate::plan::{self, Deregister, Plan, Wanted};

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
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deregister: Deregister::Always,
            resync: Duration::from_secs(60),
            beat_every: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(300),
            retry_interval: Duration::from_millis(100),
        }
    }
}

/// Longest pause while engine or agent are out of reach.
const UNREACHABLE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longest pause after a refusal: the same call will most likely be refused again.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two readings that were not asked for by a failure.
const OBSERVE_GAP: Duration = Duration::from_secs(1);
/// Signals kept for a container that is still being looked at.
const SIGNALS_MAX: usize = 8;

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
    /// Services that are not (yet) as they should be.
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
    /// Ids whose plan must be made again.
    stale_plans: BTreeSet<String>,
    targets: BTreeMap<String, Target>,
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

/// One container.
#[derive(Default)]
struct Entry {
    state: State,
    plan: Plan,
    services: Vec<Arc<Wanted>>,
    looking: bool,
    failures: u32,
    not_before: Option<Instant>,
    drain: Option<Drain>,
    /// Signals that came before the container was known, with their times.
    signals: Vec<(u8, u64)>,
}

#[derive(Default)]
enum State {
    /// Not inspected yet.
    #[default]
    Unknown,
    Known(Box<Container>),
    /// It does not exist, or its services need not be kept; forgotten as soon as they are gone.
    Gone,
}

/// A container that was told to stop.
struct Drain {
    since: Instant,
    /// The run that will end: a later one is not concerned.
    run: u64,
    /// When its plan was last made: earlier deadlines are dealt with.
    handled: Instant,
}

#[derive(Default)]
struct Agent {
    /// Whether `seen` can be trusted; calls wait for it.
    fresh: bool,
    reading: bool,
    due: Option<Instant>,
    last: Option<Instant>,
    failures: u32,
}

/// What is going on with one service.
#[derive(Default)]
struct Track {
    in_flight: bool,
    failures: u32,
    not_before: Option<Instant>,
    /// Epoch of the last finished call.
    written: u64,
    /// When the registrator's own check is to be reported again; `None`: as soon as possible.
    beat_due: Option<Instant>,
    /// Whether it was said that the id is taken.
    taken: bool,
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
            stale_plans: BTreeSet::new(),
            targets: BTreeMap::new(),
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

    /// How things stand.
    pub fn status(&self) -> Status {
        let running = |entry: &&Entry| {
            matches!(&entry.state, State::Known(container)
                if !matches!(container.run, Run::Exited(_)))
        };
        Status {
            engine: self.engine_up,
            agent: self.agent.fresh,
            containers: self.containers.values().filter(running).count(),
            services: self.targets.len(),
            pending: self.dirty.len()
                + self
                    .tracks
                    .values()
                    .filter(|track| track.in_flight || track.not_before.is_some())
                    .count(),
        }
    }

    // --- The engine's side -------------------------------------------------------------------

    fn heard(&mut self, now: Instant, news: News) {
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
                if let Some(entry) = self.containers.get_mut(&id) {
                    entry.state = State::Gone;
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

    fn list(&mut self, ids: Vec<String>) {
        // After a gap everything may be different; otherwise events have told about it.
        let after_gap = !self.engine_up;
        self.engine_up = true;
        self.engine_lost = None;
        self.listed = true;
        let running: BTreeSet<String> = ids.into_iter().collect();
        let mut doubtful: Vec<String> = self
            .containers
            .iter()
            .filter(|(id, entry)| {
                let believed_running = match &entry.state {
                    State::Known(container) => !matches!(container.run, Run::Exited(_)),
                    State::Gone => false,
                    // An inspection under way knows no less than this list.
                    State::Unknown => return after_gap || !entry.looking,
                };
                after_gap || believed_running != running.contains(*id)
            })
            .map(|(id, _)| id.clone())
            .collect();
        doubtful.extend(running.into_iter().filter(|id| !self.containers.contains_key(id)));
        for id in doubtful {
            self.look(id);
        }
        // Ghosts can be told from now on.
        self.dirty.extend(self.seen.keys().cloned());
    }

    /// Asks for an inspection that begins after this moment.
    fn look(&mut self, id: String) {
        self.containers.entry(id.clone()).or_default();
        self.looks.insert(id);
    }

    /// If an inspection is under way, its answer will be too old: asks for another one.
    fn look_again(&mut self, id: String) {
        if self.containers.get(&id).is_some_and(|entry| entry.looking) {
            self.looks.insert(id);
        }
    }

    /// Uses a fact at once if the container is known; otherwise, it is looked at.
    fn amend(&mut self, id: String, change: impl FnOnce(&mut Container)) {
        match self.known_mut(&id) {
            Some(container) => {
                change(container);
                self.stale_plans.insert(id.clone());
                self.look_again(id);
            }
            None => self.look(id),
        }
    }

    fn known_mut(&mut self, id: &str) -> Option<&mut Container> {
        match &mut self.containers.get_mut(id)?.state {
            State::Known(container) => Some(container),
            _ => None,
        }
    }

    fn signalled(&mut self, now: Instant, id: String, signal: u8, at: u64) {
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
    fn drain(&mut self, now: Instant, id: &str, signal: u8, at: u64) -> bool {
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

    fn inspected(&mut self, now: Instant, id: &str, outcome: Result<Option<Container>, String>) {
        let retry_interval = self.policy.retry_interval;
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
                entry.state = State::Known(Box::new(container));
                for (signal, at) in std::mem::take(&mut entry.signals) {
                    self.drain(now, id, signal, at);
                }
            }
            Ok(None) => {
                entry.failures = 0;
                entry.not_before = None;
                entry.drain = None;
                entry.state = State::Gone;
            }
            Err(reason) => {
                entry.failures += 1;
                let pause = backoff(retry_interval, UNREACHABLE_PAUSE_MAX, entry.failures, id);
                entry.not_before = Some(now + pause);
                self.looks.insert(id.to_owned());
                warn!(container = short_id(id), reason, "cannot inspect the container yet");
                return;
            }
        }
        self.stale_plans.insert(id.to_owned());
    }

    // --- Plans and targets -------------------------------------------------------------------

    /// Makes stale plans again, and with them the plans of containers that share their network.
    fn replan(&mut self, now: Instant) {
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
                report(container, &plan, &entry.plan);
                if let Run::Exited(code) = container.run {
                    entry.drain = None;
                    if !plan::deregister_policy(container, default).keeps(code) {
                        entry.state = State::Gone;
                    }
                } else if entry.drain.as_ref().is_some_and(|d| now >= d.since + drain_timeout) {
                    warn!(
                        container = container.name,
                        "it runs long after its stop signal: it is registered again"
                    );
                    entry.drain = None;
                }
            }
            entry.services = plan.services.iter().cloned().map(Arc::new).collect();
            entry.plan = plan;
        }
        self.targets_at(now);
    }

    fn running(&self, id: &str) -> Option<&Container> {
        match &self.containers.get(id)?.state {
            State::Known(container) if !matches!(container.run, Run::Exited(_)) => Some(container),
            _ => None,
        }
    }

    /// Works out the targets and marks what became different.
    fn targets_at(&mut self, now: Instant) {
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
        self.merge();
        for id in before.keys().chain(self.targets.keys()) {
            if before.get(id) != self.targets.get(id) {
                self.dirty.insert(id.clone());
            }
        }
        // A container that has just turned out to be gone may have services without a target.
        let gone = self.containers.iter().filter(|(_, entry)| matches!(entry.state, State::Gone));
        let gone: BTreeSet<&str> = gone.map(|(id, _)| id.as_str()).collect();
        if !gone.is_empty() {
            let ghosts = self
                .seen
                .iter()
                .filter(|(_, seen)| seen.container().is_some_and(|id| gone.contains(id)));
            self.dirty.extend(ghosts.map(|(id, _)| id.clone()));
        }
    }

    /// Bends the targets to the registrator's own end.
    fn merge(&mut self) {
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

    fn drain_deadline(&self, entry: &Entry) -> Option<Instant> {
        let drain = entry.drain.as_ref()?;
        let shown = entry.services.iter().filter_map(|wanted| wanted.drain);
        shown
            .chain([self.policy.drain_timeout])
            .map(|time| drain.since + time)
            .filter(|at| *at > drain.handled)
            .min()
    }

    // --- The agent's side --------------------------------------------------------------------

    fn observe_soon(&mut self, now: Instant) {
        let earliest = self.agent.last.map_or(now, |last| (last + OBSERVE_GAP).max(now));
        self.agent.due = Some(self.agent.due.map_or(earliest, |due| due.min(earliest)));
    }

    fn observed(&mut self, now: Instant, epoch: u64, outcome: Result<Observation, String>) {
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

    fn unreachable(&mut self, now: Instant, reason: &str) {
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

    /// How many readings in a row have failed.
    pub fn agent_failures(&self) -> u32 {
        self.agent.failures
    }

    fn written(&mut self, now: Instant, write: Write, outcome: Result<(), Failure>) {
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
    fn apply(&mut self, write: Write) {
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
                            let status = muster_client::types::Status::Critical;
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

    // --- Closing the gap ---------------------------------------------------------------------

    fn settle(&mut self, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        self.wake(now);
        self.replan(now);
        if self.stopping.is_none() {
            if !self.agent.reading && self.agent.due.is_none_or(|due| due <= now) {
                self.agent.reading = true;
                self.agent.due = None;
                out.push(Output::Observe(self.epoch));
            }
        }
        if self.agent.fresh {
            for id in std::mem::take(&mut self.dirty) {
                self.compare(now, id, &mut out);
            }
        }
        if self.stopping.is_none() {
            self.send_looks(now, &mut out);
        }
        self.forget();
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
    }

    fn compare(&mut self, now: Instant, id: String, out: &mut Vec<Output>) {
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
    fn may_remove(&mut self, id: &str) -> bool {
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
            Some(State::Gone) => default != Deregister::Never,
            Some(State::Unknown) => false,
            None => {
                if self.listed && self.stopping.is_none() {
                    self.look(container);
                }
                false
            }
        }
    }

    /// Drops what no service refers to any more, so that memory follows what exists.
    fn forget(&mut self) {
        let Self { containers, seen, tracks, targets, dirty, looks, .. } = self;
        let any_gone = containers.values().any(|entry| matches!(entry.state, State::Gone));
        if any_gone {
            let referenced: BTreeSet<&str> = seen.values().filter_map(Seen::container).collect();
            containers.retain(|id, entry| {
                !matches!(entry.state, State::Gone)
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

/// Whether something that happened at `at` concerns the container's current run.
fn is_current(container: &Container, at: u64) -> bool {
    at == 0 || at >= container.started_at
}

/// Says what is odd about a container, once: not again while nothing about it changes.
fn report(container: &Container, plan: &Plan, before: &Plan) {
    for text in plan.warnings.iter().filter(|text| !before.warnings.contains(text)) {
        warn!(container = container.name, "{text}");
    }
    if plan.services.is_empty() && !matches!(container.run, Run::Exited(_)) {
        for text in plan.remarks.iter().filter(|text| !before.remarks.contains(text)) {
            debug!(container = container.name, "not registered: {text}");
        }
    }
}

/// `base` doubled with every failure up to `max`, with jitter.
fn backoff(base: Duration, max: Duration, failures: u32, salt: &str) -> Duration {
    let doubled = base.saturating_mul(1 << failures.saturating_sub(1).min(16));
    jitter(doubled.min(max), salt, failures.into())
}

/// Takes up to a quarter off, evenly spread over salts and rounds, and the same each time: the
/// reconciler knows no randomness.
fn jitter(duration: Duration, salt: &str, round: u64) -> Duration {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ round;
    for byte in salt.bytes().chain(round.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let share = u32::try_from(hash >> 40).unwrap_or_default() % 1_000;
    duration - duration / 4_000 * share
}
