//! `lock`: runs a program while holding a lock; and what is needed to run programs.

mod child;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::num::NonZeroU32;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use muster_client::types::KvPair;
use muster_client::{
    Client, Held, LOCK_FLAGS, LockError, LockSettings, ReadOptions, SEMAPHORE_FLAGS,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use tokio::process::{Child, Command};

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::{kv, layout};
use crate::checks::script;
use crate::watches::program;
use child::Running;
pub(super) use child::{GUARD, run_guard};

/// Time for a child to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

pub(super) static LOCK: Spec = Spec {
    path: "lock",
    synopsis: "Runs a program while holding a lock",
    operands: "prefix child...",
    about: "Waits for the lock below a prefix, runs the child while holding it, and gives it back \
when the child ends. When the lock is lost (the agent cannot be reached, or an operator ended the \
session) the child gets SIGTERM, and SIGKILL 5 s later.

    $ muster lock jobs/backup ./backup.sh
    $ muster lock -timeout=10s jobs/backup ./backup.sh

The child finds CONSUL_LOCK_HELD=true in its environment. At a terminal it can read there with \
-pass-stdin. HUP, QUIT, USR1 and USR2 are passed on to it. It ends when this program is killed, too.",
    flags: &[
        Flag::switch("child-exit-code", "Exit with 2 if the child failed; without this, with 0."),
        Flag::number(
            "monitor-retry",
            "Kept for scripts: the lock is held through any trouble shorter than its session's life.",
        ),
        Flag::number("n", "How many may hold it at a time; all must say the same. 1 by default."),
        Flag::text("name", "text", "Name of the session, for people."),
        Flag::switch("pass-stdin", "Let the child read the standard input."),
        Flag::switch(
            "shell",
            "Run the child by a shell; on by default, -shell=false turns it off.",
        ),
        Flag::duration(
            "timeout",
            "Give up when the lock is not ours after this; 0: wait for ever.",
        ),
        Flag::duration("try", "Old name of -timeout."),
        Flag::switch("verbose", "Say what is being done."),
    ],
    common_flags: CommonFlags::Api,
    run: lock,
};

fn lock(call: &Call) -> Outcome {
    let values = &call.values;
    if call.operands.len() < 2 {
        return Err(Failure::new("Key prefix and child command must be specified"));
    }
    let limit = u32::try_from(values.number("n").unwrap_or(1)).unwrap_or(u32::MAX);
    let Some(limit) = NonZeroU32::new(limit) else {
        return Err(Failure::new("Lock holder limit must be positive"));
    };
    let prefix = call.operands[0].strip_prefix('/').unwrap_or(&call.operands[0]);
    let exclusive = limit == NonZeroU32::MIN;
    let folder = folder(prefix);
    let key = if folder.is_empty() { ".lock".to_owned() } else { format!("{folder}/.lock") };
    let patience = ["timeout", "try"].into_iter().find_map(|flag| values.duration(flag));
    let child = call.operands[1..].join(" ");
    let name = values.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let settings = LockSettings {
        session_name: name.unwrap_or_else(|| format!("Lock for '{child}' at '{prefix}'")),
        patience: patience.filter(|patience| !patience.is_zero()),
        ..LockSettings::new(if exclusive { &key } else { &folder })
    };
    let client = call.client()?;
    if exclusive {
        say(call, &format!("Setting up lock at path: {key}"));
    } else {
        say(call, &format!("Setting up semaphore (limit {limit}) at prefix: {prefix}"));
        if prefix.is_empty() {
            return Err(Failure::new("Lock setup failed: missing prefix"));
        }
    }
    say(call, "Attempting lock acquisition");
    let step = if exclusive { "acquire lock" } else { "make contender entry" };
    kv::no_leading_slash(&key, &format!("Lock acquisition failed: failed to {step}"))?;
    wait(async {
        let take = async {
            if exclusive {
                client.lock(settings).await
            } else {
                client.semaphore(settings, limit).await
            }
        };
        let taken = tokio::select! {
            taken = take => taken,
            // What was tried for ends with its session.
            () = interrupted() => Err(LockError::NotInTime { key: key.clone() }),
        };
        let held = taken.map_err(|error| match error {
            LockError::NotInTime { .. } => {
                Failure::new("Shutdown triggered or timeout during lock acquisition")
            }
            LockError::Api { source, .. } => call.failed("Lock acquisition failed", &source),
            error => Failure::new(format!("Lock acquisition failed: {}", layout::chain(&error))),
        })?;
        run(call, &client, held, &key).await
    })?
}

async fn run(call: &Call, client: &Client, mut held: Held, key: &str) -> Outcome {
    let mut command = command_after(call, 1);
    for name in ["CONSUL_LOCK_HELD", "MUSTER_LOCK_HELD"] {
        command.env(name, "true");
    }
    let passes = call.values.on("pass-stdin");
    command.stdin(if passes { Stdio::inherit() } else { Stdio::null() });
    let reads = passes && std::io::stdin().is_terminal();
    say(call, "Starting handler");
    if passes {
        say(call, "Stdin passed to handler process");
    }
    let mut failures = String::new();
    let ended = match Running::start(&mut command, reads).await {
        Err(error) => {
            let _ = writeln!(failures, "Error starting handler: {}", not_started(&command, &error));
            say(call, "Child terminated, releasing lock");
            None
        }
        Ok(mut child) => {
            let ended = tokio::select! {
                status = child.ended() => {
                    say(call, "Child terminated, releasing lock");
                    Ended::of(status)
                }
                () = held.lost() => {
                    failures.push_str("Lock lost, killing child\n");
                    child.end(|step| say(call, &step)).await;
                    Ended::Badly("the lock was lost".to_owned())
                }
                () = interrupted() => {
                    say(call, "Shutdown triggered, killing child");
                    child.end(|step| say(call, &step)).await;
                    Ended::Well
                }
            };
            child.conclude().await;
            Some(ended)
        }
    };
    let failed = match ended {
        Some(Ended::Well) => false,
        None => true,
        Some(Ended::Badly(what)) => {
            let _ = writeln!(failures, "Error running handler: {what}");
            true
        }
    };
    match held.release().await {
        Err(error) => {
            let _ = writeln!(failures, "Lock release failed: {}", layout::chain(&error));
        }
        Ok(()) => clean(call, client, key).await,
    }
    let code = if failed && call.values.on("child-exit-code") { 2 } else { 0 };
    Ok(Output { stderr: failures, code, ..Output::default() })
}

/// Folder that a prefix names, with a single slash between its parts.
fn folder(prefix: &str) -> String {
    let parts = prefix.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    if prefix.starts_with('/') { format!("/{parts}") } else { parts }
}

/// Reason why a program did not start, in the reference's words.
fn not_started(command: &Command, error: &std::io::Error) -> String {
    script::refusal(&command.as_std().get_program().to_string_lossy(), error)
}

/// Removes the key unless somebody else has it by now.
async fn clean(call: &Call, client: &Client, key: &str) {
    let free = |pair: &KvPair| match pair.flags {
        LOCK_FLAGS => pair.session.is_none(),
        SEMAPHORE_FLAGS => serde_json::from_slice::<Value>(&pair.value)
            .is_ok_and(|list| list["Holders"].as_object().is_none_or(Map::is_empty)),
        _ => false,
    };
    let current = client.kv().get(key, &ReadOptions::default()).await;
    let gone = match current.map(|found| found.value) {
        // Somebody has removed it already.
        Ok(None) => true,
        Ok(Some(pair)) if free(&pair) => {
            matches!(client.kv().delete(key, Some(pair.modify_index)).await, Ok(true))
        }
        Ok(Some(_)) | Err(_) => false,
    };
    say(call, if gone { "Cleanup succeeded" } else { "Cleanup aborted, lock in use" });
}

/// Says what is being done, if that is wanted. A terminal that is gone is no reason to stop.
fn say(call: &Call, text: &str) {
    if call.values.on("verbose") {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// The program that the operands name, in a process group of its own.
pub(super) fn command(call: &Call) -> Command {
    command_after(call, 0)
}

fn command_after(call: &Call, skipped: usize) -> Command {
    let shell = call.values.text("shell") != Some("false");
    program(&call.operands[skipped..], shell)
}

/// End of a child.
pub(super) enum Ended {
    Well,
    /// In words.
    Badly(String),
}

impl Ended {
    pub(super) fn of(status: std::io::Result<ExitStatus>) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        match status {
            Ok(status) if status.success() => Ended::Well,
            Ok(status) => Ended::Badly(match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("signal: {}", signal_name(signal)),
                (None, None) => status.to_string(),
            }),
            Err(error) => Ended::Badly(error.to_string()),
        }
    }
}

/// Name of a signal, in the words of the reference.
fn signal_name(number: i32) -> String {
    let name = match Signal::try_from(number) {
        Ok(Signal::SIGHUP) => "hangup",
        Ok(Signal::SIGINT) => "interrupt",
        Ok(Signal::SIGQUIT) => "quit",
        Ok(Signal::SIGILL) => "illegal instruction",
        Ok(Signal::SIGTRAP) => "trace/breakpoint trap",
        Ok(Signal::SIGABRT) => "aborted",
        Ok(Signal::SIGBUS) => "bus error",
        Ok(Signal::SIGFPE) => "floating point exception",
        Ok(Signal::SIGKILL) => "killed",
        Ok(Signal::SIGUSR1) => "user defined signal 1",
        Ok(Signal::SIGSEGV) => "segmentation fault",
        Ok(Signal::SIGUSR2) => "user defined signal 2",
        Ok(Signal::SIGPIPE) => "broken pipe",
        Ok(Signal::SIGALRM) => "alarm clock",
        Ok(Signal::SIGTERM) => "terminated",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// Asks a child's group to end, and ends it if it does not; tells each step.
pub(super) async fn end(child: &mut Child, tell: impl Fn(String)) {
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) else {
        return;
    };
    tell(format!("Terminating child pid {group}"));
    // An error means that nobody of the group is left.
    let _ = killpg(group, Signal::SIGTERM);
    // One that is stopped hears nothing until it goes on.
    let _ = killpg(group, Signal::SIGCONT);
    if tokio::time::timeout(GRACE, child.wait()).await.is_ok() {
        tell("Child terminated".to_owned());
        return;
    }
    tell(format!("Child did not exit after grace period of {GRACE:?}"));
    tell(format!("Killing child pid {group}"));
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait().await;
}

/// Returns when the process is asked to end.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the system's own does what is asked.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
