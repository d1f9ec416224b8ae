//! The driver: owns sockets, clock and tasks, and feeds the [`Reconciler`].
//!
//! One loop takes every input; questions and calls run as tasks whose answers come back through
//! one channel. Nothing in the loop waits for the engine or the agent.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_client::chain;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::agent::Agent;
use crate::diff::Write;
use crate::docker::Engine;
use crate::plan;
use crate::reconcile::{Input, OnExit, Output, Policy, Reconciler, Status};

/// Inspections at the same time: enough to keep the engine busy, too few to slow it down.
const INSPECTIONS: usize = 16;
/// Calls to the agent at the same time.
const CALLS: usize = 16;
/// Answers and news that wait for the loop. When full, the senders wait: the engine keeps the
/// events in its own stream meanwhile.
const QUEUE: usize = 256;
/// How long the last calls may take after a stop signal.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the loop needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How containers become services.
    pub plan: plan::Settings,
    /// When and how hard to try.
    pub policy: Policy,
    /// What is left behind at the end.
    pub on_exit: OnExit,
    /// How many failed attempts to reach the agent are allowed at the start; `None`: any number.
    pub attempts_max: Option<u32>,
}

/// Why the loop ended unasked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent could not be reached at the start, and giving up was asked for.
    #[error("the agent cannot be reached after {0} attempts")]
    Agent(u32),
    /// The task that listens to the engine ended, which it must not.
    #[error("the task that listens to Docker ended: this is a bug")]
    Listener,
}

/// Runs until `stop` is cancelled. `status` is kept up to date.
pub async fn run(
    engine: Engine,
    agent: Agent,
    settings: Settings,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (news_to, mut news) = mpsc::channel(QUEUE);
    let (answers_to, mut answers) = mpsc::channel(QUEUE);
    let changed = Arc::new(Notify::new());
    let mut background = JoinSet::new();
    background.spawn(engine.clone().watch(settings.policy.resync, news_to));
    background.spawn(agent.clone().follow(Arc::clone(&changed)));

    let mut reconciler = Reconciler::new(settings.plan, settings.policy);
    let mut jobs = Jobs {
        engine,
        agent,
        answers: answers_to,
        inspections: Arc::new(Semaphore::new(INSPECTIONS)),
        calls: Arc::new(Semaphore::new(CALLS)),
        tasks: TaskTracker::new(),
    };
    let mut reached = false;
    let mut outputs = reconciler.step(Instant::now(), Input::Timer);
    loop {
        jobs.start(outputs);
        status.send_if_modified(|shown| {
            let now = reconciler.status();
            std::mem::replace(shown, now.clone()) != now
        });
        reached |= reconciler.status().agent;
        if let Some(max) = settings.attempts_max
            && !reached
            && reconciler.agent_failures() > max
        {
            return Err(Error::Agent(reconciler.agent_failures()));
        }
        let deadline = reconciler.deadline();
        let mut timer = pin!(sleep_until(deadline));
        let input = tokio::select! {
            // What happened comes before answers, which may be older.
            biased;
            () = stop.cancelled() => break,
            piece = news.recv() => Input::Engine(piece.ok_or(Error::Listener)?),
            Some(answer) = answers.recv() => answer,
            () = changed.notified() => Input::AgentChanged,
            () = &mut timer => Input::Timer,
        };
        outputs = reconciler.step(Instant::now(), input);
    }

    drop(background);
    info!(on_exit = ?settings.on_exit, "stopping");
    let end = Instant::now() + FAREWELL;
    let mut outputs = reconciler.stop(Instant::now(), settings.on_exit);
    loop {
        jobs.start(outputs);
        if reconciler.is_done() {
            return Ok(());
        }
        let mut timer = pin!(tokio::time::sleep_until(end.into()));
        tokio::select! {
            Some(answer) = answers.recv() => outputs = reconciler.step(Instant::now(), answer),
            () = &mut timer => {
                info!("not everything could be said to the agent in time");
                return Ok(());
            }
        }
    }
}

/// Questions and calls on their way.
struct Jobs {
    engine: Engine,
    agent: Agent,
    answers: mpsc::Sender<Input>,
    inspections: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Jobs {
    fn start(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let (engine, agent) = (self.engine.clone(), self.agent.clone());
            let answers = self.answers.clone();
            let lane = Arc::clone(match &output {
                Output::Inspect(_) => &self.inspections,
                Output::Observe(_) | Output::Write(_) => &self.calls,
            });
            self.tasks.spawn(async move {
                let Ok(_place) = lane.acquire().await else { return };
                let answer = match output {
                    Output::Inspect(id) => {
                        let outcome = engine.inspect(&id).await.map_err(|error| chain(&error));
                        Input::Inspected { id, outcome }
                    }
                    Output::Observe(epoch) => {
                        Input::Observed { epoch, outcome: agent.observe().await }
                    }
                    Output::Write(write) => {
                        let begin = Instant::now();
                        let outcome = agent.write(&write).await;
                        if outcome.is_ok() {
                            tell(&write, begin.elapsed());
                        }
                        Input::Written { write, outcome }
                    }
                };
                // Nobody listens any more: the loop has ended.
                let _ = answers.send(answer).await;
            });
        }
    }
}

/// One line for everything that changed in the catalog.
fn tell(write: &Write, took: Duration) {
    let ms = took.as_millis();
    match write {
        Write::Register { wanted, .. } => {
            let definition = &wanted.definition;
            let address = match definition.address.as_str() {
                "" => "(agent)",
                address => address,
            };
            let at = format!("{address}:{}", definition.port);
            info!(service = definition.name, id = wanted.id, at, ms, "registered");
        }
        Write::Deregister(id) => info!(id, ms, "deregistered"),
        Write::Maintain { service, reason: Some(reason) } => {
            info!(id = service, reason, ms, "in maintenance");
        }
        Write::Maintain { service, reason: None } => info!(id = service, ms, "out of maintenance"),
        Write::Report { service, beat } => {
            debug!(id = service, status = %beat.status, output = beat.output, ms, "reported");
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
