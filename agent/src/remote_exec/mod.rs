//! Commands that operators have agents run: `muster exec`. Off unless `disable_remote_exec` is false,
//! for whoever may write keys and fire events then runs programs with the agent's rights.
//!
//! ```text
//! exec ──▶ session, <prefix>/<session>/job ──▶ event `_rexec` {Prefix, Session}
//!                                                  │ every agent whom its filters include
//!      <prefix>/<session>/<node>/ack  ◀────────────┤
//!      <prefix>/<session>/<node>/out/00000 ...  ◀──┤ output as it comes; an empty piece: still at it
//!      <prefix>/<session>/<node>/exit ◀────────────┘
//! ```
//!
//! All keys are held by the session: when whoever asked goes away they go with it, and later writes are
//! refused. An agent reads and writes them by its own HTTP interface, as any client would.
//!
//! | file | owns |
//! |---|---|
//! | `job` | what is asked for and where it is answered, as both sides write it |
//! | `output` | what a program prints, in pieces |

mod job;
mod output;

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use muster_client::{Client, Consistency, Error, PutOptions, ReadOptions};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use job::{AnswerPaths, EVENT, Job, Kind, Summons};

use crate::gossip::{Pools, UserEvent};
use crate::local::{EventFilter, Local};
use crate::processes::{self, Awaited};
use crate::watches::program;
use output::{Output, Piece};

/// Jobs at a time. One more is answered with [`FAILED`] at once: whoever asked learns of it.
const JOBS_MAX: usize = 16;
/// The exit code of what could not be run.
const FAILED: i32 = 255;
/// A shorter pause between signs of life would be noise.
const HEARTBEAT_MIN: Duration = Duration::from_millis(250);
/// A longer one is as good as none.
const HEARTBEAT_MAX: Duration = Duration::from_hours(1);

/// Follows the events of all pools and runs what they ask for, until `stop`. Without a way to the agent's own
/// interface nothing is run, and the log says so.
pub async fn run(pools: Pools, local: Local, agent: Option<Client>, stop: CancellationToken) {
    let mut events = pools.events();
    let seats = Arc::new(Semaphore::new(JOBS_MAX));
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        let event = match event {
            Ok(event) if event.name == EVENT => event,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if !concerns(&event, &local) {
            continue;
        }
        let Some(agent) = &agent else {
            info!(id = %event.id, "ignored a remote execution: `disable_remote_exec` is not false here");
            continue;
        };
        let Ok(summons) = serde_json::from_slice::<Summons>(&event.payload) else {
            warn!(id = %event.id, "the event of a remote execution is unreadable");
            continue;
        };
        let place = summons.place(local.node_name());
        let seat = Arc::clone(&seats).try_acquire_owned();
        let answers = AnswerWriter { agent: agent.clone(), place, session: summons.session };
        // It outlives a stop of the agent: a job may well be what restarts it.
        tokio::spawn(async move {
            if let Err(why) = take(&answers, seat.is_ok()).await {
                warn!(job = answers.place.job(), why, "a remote execution went wrong");
            }
            drop(seat);
        });
    }
}

fn concerns(event: &UserEvent, local: &Local) -> bool {
    let [node, service, tag] = &event.filters;
    EventFilter::of([node, service, tag]).is_ok_and(|event_filter| event_filter.includes(local))
}

/// Writes the answers to one job.
struct AnswerWriter {
    agent: Client,
    place: AnswerPaths,
    session: String,
}

impl AnswerWriter {
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), String> {
        let held = PutOptions { acquire: Some(self.session.clone()), ..PutOptions::default() };
        match self.agent.kv().put(key, value, &held).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{key} is held by somebody else")),
            Err(error) => Err(format!("cannot write {key}: {error}")),
        }
    }

    /// The job, from any server if that has it already.
    async fn job(&self) -> Result<Job, String> {
        let key = self.place.job();
        for consistency in [Consistency::Stale, Consistency::Consistent] {
            let options = ReadOptions { consistency, ..ReadOptions::default() };
            let found = self.agent.kv().get(&key, &options).await;
            let found = found.map_err(|error: Error| format!("cannot read the job: {error}"))?;
            if let Some(pair) = found.value {
                return Job::read(&pair.value).map_err(|why| format!("unreadable job: {why}"));
            }
        }
        Err("the job is not there".to_owned())
    }
}

async fn take(answers: &AnswerWriter, seated: bool) -> Result<(), String> {
    let job = answers.job().await?;
    answers.put(&answers.place.ack(), Vec::new()).await?;
    let (code, told) = if seated {
        perform(answers, &job).await
    } else {
        let why = format!("this agent runs {JOBS_MAX} remote executions already");
        (FAILED, answers.put(&answers.place.output(0), why.into_bytes()).await)
    };
    answers.put(&answers.place.exit(), code.to_string().into_bytes()).await?;
    told
}

/// Runs a job to its end: its exit code, and whether its output reached whoever asked.
async fn perform(answers: &AnswerWriter, job: &Job) -> (i32, Result<(), String>) {
    let started = match job.kind() {
        Kind::Command(line) => start(&[line.to_owned()], true).map(|started| (started, None)),
        Kind::Words(words) => start(words, false).map(|started| (started, None)),
        Kind::Script(text) => job::Script::write(&text).and_then(|script| {
            let started = start(&[script.path().display().to_string()], true)?;
            Ok((started, Some(script)))
        }),
        Kind::Nothing => Err(io::Error::other("the job holds no command")),
    };
    let ((mut child, _awaited, mut output), _script) = match started {
        Ok(started) => started,
        Err(error) => {
            // The reference says nothing but the code; a reason helps.
            let why = format!("cannot be run: {error}").into_bytes();
            return (FAILED, answers.put(&answers.place.output(0), why).await);
        }
    };
    info!(job = answers.place.job(), "runs a remote execution");
    let heartbeat = job.wait().clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
    let mut told = Ok(());
    for number in 0.. {
        let bytes = match output.next(&mut child, heartbeat).await {
            Piece::Bytes(bytes) => bytes,
            Piece::Silence => Vec::new(),
            Piece::End => break,
        };
        // Nobody listens any more; the program goes on all the same, and must not block.
        if told.is_ok() {
            told = answers.put(&answers.place.output(number), bytes).await;
        }
    }
    let code = match child.wait().await {
        // Ended by a signal: what the reference writes then.
        Ok(status) => status.code().unwrap_or(-1),
        Err(_) => 1,
    };
    debug!(job = answers.place.job(), code, "a remote execution ended");
    (code, told)
}

/// Starts a program with one pipe for all that it prints, so that its order stays.
fn start(words: &[String], shell: bool) -> io::Result<(Child, Awaited, Output)> {
    let (reader, writer) = io::pipe()?;
    let mut command: Command = program(words, shell);
    command.kill_on_drop(false);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let (child, awaited) = processes::spawn(&mut command)?;
    // The command holds the writing ends: they must go, or the pipe would never end.
    drop(command);
    Ok((child, awaited, Output::new(reader)?))
}
