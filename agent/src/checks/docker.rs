//! Checks that run a program in a container: its exit code is the status, as for scripts.
//!
//! The engine runs the program, so it cannot be killed from here when its time is up. It is remembered
//! instead, and as long as it runs no other instance is started: a program that hangs would else
//! fill its container. A container that stops ends the run; one that is gone or paused is critical.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{CheckResult, Status, Tail};

/// Time for a run when the definition says nothing. (The reference's waits without end.)
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Default address of the engine.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// Programs that ran out of time and are remembered.
const UNFINISHED_MAX: usize = 1024;

/// Longest name of a container that is taken.
const NAME_BYTES_MAX: usize = 255;

/// A container as the engine names them: letters and digits, then these and `_`, `.`, `-`. It becomes a part of a path that
/// the engine is asked for: nothing else may be in it. The slash that the engine itself puts before names may.
pub fn container(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(known);
    if is_name {
        return Ok(name.to_owned());
    }
    let shown: String = text.escape_debug().take(100).collect();
    Err(format!(
        "DockerContainerID: `{shown}` is neither an id nor a name of a container\n\
         hint: letters and digits, then also `_`, `.` and `-`"
    ))
}

/// A command and its container.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Name or id of the container.
    pub container: String,
    /// A shell in the container that runs it; empty: none does.
    pub shell: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Time for a run.
    pub timeout: Duration,
    /// Bytes of output that are kept, from its end.
    pub output_bytes_max: usize,
}

impl Command {
    /// Command line for the container. A single text is a shell's own line; several are one
    /// command whose words stay apart.
    fn line(&self) -> Vec<String> {
        if self.shell.is_empty() {
            return self.args.clone();
        }
        let script = match &*self.args {
            [line] => line.clone(),
            words => words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
                .collect::<Vec<_>>()
                .join(" "),
        };
        vec![self.shell.clone(), "-c".to_owned(), script]
    }
}

/// Handle on the container engine; connects for each question. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    host: String,
    /// Kept once the engine has said which version of its interface it speaks.
    docker: OnceCell<Docker>,
    /// Executions that ran out of time, by what they run.
    unfinished: Mutex<HashMap<Key, String>>,
}

/// A container and a command line.
type Key = (String, Vec<String>);

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

impl Default for Engine {
    /// The one that `$DOCKER_HOST` names.
    fn default() -> Engine {
        let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        Engine::new(host.as_deref().unwrap_or(DEFAULT_HOST))
    }
}

impl Engine {
    /// Takes `unix:///path`, `tcp://host:port` or `http://host:port`.
    pub fn new(host: &str) -> Engine {
        Engine {
            inner: Arc::new(Inner {
                host: host.to_owned(),
                docker: OnceCell::new(),
                unfinished: Mutex::default(),
            }),
        }
    }

    async fn docker(&self) -> Result<&Docker, String> {
        let connect =
            || async { Docker::connect_with_host(&self.inner.host)?.negotiate_version().await };
        self.inner
            .docker
            .get_or_try_init(connect)
            .await
            .map_err(|error| format!("cannot reach the engine at {}: {error}", self.inner.host))
    }

    fn unfinished(&self, key: &Key) -> Option<String> {
        let unfinished = self.inner.unfinished.lock();
        unfinished.get(key).cloned()
    }

    fn remember(&self, key: Key, execution: Option<String>) {
        let mut unfinished = self.inner.unfinished.lock();
        match execution {
            None => {
                unfinished.remove(&key);
            }
            Some(execution) => {
                if unfinished.len() >= UNFINISHED_MAX {
                    // Of checks long gone, most likely.
                    unfinished.clear();
                }
                unfinished.insert(key, execution);
            }
        }
    }
}

/// One run.
pub async fn probe(command: &Command, engine: &Engine) -> CheckResult {
    let key = (command.container.clone(), command.line());
    let mut tail = Tail::new(command.output_bytes_max);
    let mut execution = None;
    let run = run(command, &key, engine, &mut execution, &mut tail);
    let ended = tokio::time::timeout(command.timeout, run).await;
    match ended {
        Ok(Ok(code)) => {
            let status = match code {
                0 => Status::Passing,
                1 => Status::Warning,
                _ => Status::Critical,
            };
            CheckResult::new(status, tail.captured())
        }
        Ok(Err(error)) => CheckResult::critical(error),
        Err(_) => {
            if execution.is_some() {
                engine.remember(key, execution);
            }
            CheckResult::critical(super::timed_out(command.timeout, &tail)).decisive()
        }
    }
}

/// Runs it to its end; answers its exit code. The error is ready for people, in the reference's words.
async fn run(
    command: &Command,
    key: &Key,
    engine: &Engine,
    execution: &mut Option<String>,
    tail: &mut Tail,
) -> Result<i64, String> {
    let container = &command.container;
    let docker = engine
        .docker()
        .await
        .map_err(|error| format!("create exec failed for container {container}: {error}"))?;
    if let Some(earlier) = engine.unfinished(key) {
        let running =
            docker.inspect_exec(&earlier).await.is_ok_and(|exec| exec.running == Some(true));
        if running {
            return Err(format!(
                "the previous run in container {container} has not ended; no other is started"
            ));
        }
        engine.remember(key.clone(), None);
    }
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(key.1.clone()),
        ..CreateExecOptions::default()
    };
    let created = docker.create_exec(container, options).await.map_err(|error| match error {
        bollard::errors::Error::DockerResponseServerError { status_code: 404, .. } => {
            format!("create exec failed for unknown container {container}")
        }
        bollard::errors::Error::DockerResponseServerError { status_code: 409, .. } => {
            format!("create exec failed since container {container} is paused or stopped")
        }
        error => format!("create exec failed for container {container}{}", told(&error)),
    })?;
    let id = execution.insert(created.id).clone();
    let failed = |what: &str, error: &bollard::errors::Error| {
        format!("{what} exec failed for container {container}{}", told(error))
    };
    let started = docker
        .start_exec(&id, None::<StartExecOptions>)
        .await
        .map_err(|error| failed("start", &error))?;
    if let StartExecResults::Attached { mut output, .. } = started {
        while let Some(piece) = output.next().await {
            // A stream that breaks off ends the output; the exit code tells the rest.
            let Ok(piece) = piece else { break };
            tail.push(piece.as_ref());
        }
    }
    let ended = docker.inspect_exec(&id).await.map_err(|error| failed("inspect", &error))?;
    // Its output is closed, yet it runs: it went to the background. It is neither well nor ill.
    ended.exit_code.ok_or_else(|| format!("the program in container {container} has not ended"))
}

fn told(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, message } => {
            format!(" with status {status_code}: {message}")
        }
        error => format!(": {error}"),
    }
}

#[cfg(test)]
mod tests;
