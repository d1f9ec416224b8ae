//! The child that runs while the lock is held: in a process group of its own, which is ended as a whole.
//!
//! - At a terminal the child's group stands in front as soon as it reads there; when it stops (Ctrl-Z) this process
//!   stops, too, so that the shell has its terminal again, and both go on together.
//! - Signals to this process that are not its own are the child's.
//! - A second process of ours ends the child when this one is killed: nothing may run without the lock.

use std::fs::File;
use std::io::{self, Read as _};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, getppid, getsid};
use rustix::termios;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::{GRACE, end};

/// The argument that starts the process that ends the child if this one is killed.
pub(in crate::cli) const GUARD: &str = "-end-with-lock";
/// Message that there is no child to end any more.
const DONE: &str = "done";

/// Signals that are passed on, with their streams.
type Passed = [(Signal, Stream); 4];

/// A child under way.
pub(super) struct Running {
    child: Child,
    group: Pid,
    /// The terminal, if there is one.
    terminal: Option<File>,
    passed: Passed,
    changes: Stream,
    guard: ChildStdin,
}

impl Running {
    /// Starts it. `reads`: it is to have the terminal from its start.
    pub(super) async fn start(command: &mut Command, reads: bool) -> io::Result<Running> {
        let stream = |kind| signal(kind);
        let passed = [
            (Signal::SIGHUP, stream(SignalKind::hangup())?),
            (Signal::SIGQUIT, stream(SignalKind::quit())?),
            (Signal::SIGUSR1, stream(SignalKind::user_defined1())?),
            (Signal::SIGUSR2, stream(SignalKind::user_defined2())?),
        ];
        let changes = signal(SignalKind::child())?;
        // Before the child: from its first moment on somebody has to see to its end.
        let mut guard = guard()?;
        let child = command.spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Pid::from_raw(id.ok_or_else(|| io::Error::other("the child ended at once"))?);
        // A guard that is gone cannot be told; the lock is held all the same.
        let _ = guard.write_all(format!("{group}\n").as_bytes()).await;
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        let running = Running { child, group, terminal, passed, changes, guard };
        if reads {
            running.put_in_front();
        }
        Ok(running)
    }

    /// Waits for its end, and passes signals on meanwhile.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            let [(hup, a), (quit, b), (usr1, c), (usr2, d)] = &mut self.passed;
            let signal = tokio::select! {
                status = self.child.wait() => {
                    self.take_back();
                    return status;
                }
                _ = a.recv() => *hup,
                _ = b.recv() => *quit,
                _ = c.recv() => *usr1,
                _ = d.recv() => *usr2,
                _ = self.changes.recv() => {
                    self.look_for_stop();
                    continue;
                }
            };
            // An error means that nobody of the group is left; then its end is about to be known.
            let _ = killpg(self.group, signal);
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) async fn end(&mut self, tell: impl Fn(String)) {
        end(&mut self.child, tell).await;
        self.take_back();
    }

    /// The child is gone: nothing is left to end.
    pub(super) async fn conclude(mut self) {
        // A guard that is gone needs not be told.
        let _ = self.guard.write_all(format!("{DONE}\n").as_bytes()).await;
        let _ = self.guard.shutdown().await;
    }

    /// Gives the child the terminal, if this process has it.
    fn put_in_front(&self) -> bool {
        let Some(terminal) = &self.terminal else { return false };
        if in_front(terminal) != Some(getpgrp()) || !put_in_front(terminal, self.group) {
            return false;
        }
        // It may have asked for the terminal before it had it, which stopped it.
        let _ = killpg(self.group, Signal::SIGCONT);
        true
    }

    /// Takes the terminal back from the child.
    fn take_back(&self) {
        let Some(terminal) = &self.terminal else { return };
        if in_front(terminal) != Some(self.group) {
            return;
        }
        // Who is not in front and asks for it is stopped, unless the signal is blocked.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        if let Ok(before) = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
            // Without a terminal there is nothing to take back.
            let _ = put_in_front(terminal, getpgrp());
            let _ = before.thread_set_mask();
        }
    }

    /// The child may have stopped: because it wanted the terminal, or because its user wants to do something else.
    fn look_for_stop(&self) {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        let Ok(WaitStatus::Stopped(_, why)) = waitid(Id::Pid(self.group), flags) else { return };
        let wants_terminal = matches!(why, Signal::SIGTTIN | Signal::SIGTTOU);
        if (wants_terminal && self.put_in_front()) || self.terminal.is_none() {
            return;
        }
        if why == Signal::SIGTSTP || wants_terminal {
            self.take_back();
            if is_continued_by_somebody() {
                // Here this process stands still until somebody continues it.
                let _ = kill(Pid::this(), Signal::SIGSTOP);
            }
            if !self.put_in_front() {
                let _ = killpg(self.group, Signal::SIGCONT);
            }
        }
    }
}

/// The group that may read from a terminal.
fn in_front(terminal: &File) -> Option<Pid> {
    let group = termios::tcgetpgrp(terminal).ok()?;
    Some(Pid::from_raw(group.as_raw_nonzero().get()))
}

fn put_in_front(terminal: &File, group: Pid) -> bool {
    let group = termios::Pid::from_raw(group.as_raw());
    group.is_some_and(|group| termios::tcsetpgrp(terminal, group).is_ok())
}

/// Is there a shell in this session that could continue a stopped process?
fn is_continued_by_somebody() -> bool {
    let parent = getsid(Some(getppid()));
    parent.is_ok() && parent == getsid(None) && getsid(None) != Ok(Pid::this())
}

/// Starts the process that ends the child if this one is killed.
fn guard() -> io::Result<ChildStdin> {
    let mut guard = Command::new(std::env::current_exe()?)
        .arg(GUARD)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A signal to the group of this process, as from Ctrl-C, is none for it.
        .process_group(0)
        .spawn()?;
    guard.stdin.take().ok_or_else(|| io::Error::other("a pipe was asked for"))
}

/// The guard itself: reads which group to end, and ends it if the other side goes without a word.
pub(in crate::cli) fn run_guard() -> ExitCode {
    let mut told = String::new();
    // A broken pipe is an end as well.
    let _ = io::stdin().read_to_string(&mut told);
    let mut lines = told.lines();
    let group = lines.next().and_then(|line| line.parse().ok()).filter(|group| *group > 1);
    if let Some(group) = group.map(Pid::from_raw)
        && lines.next() != Some(DONE)
    {
        let _ = killpg(group, Signal::SIGTERM);
        // One that is stopped hears nothing until it goes on.
        let _ = killpg(group, Signal::SIGCONT);
        let begun = Instant::now();
        while begun.elapsed() < GRACE && killpg(group, None).is_ok() {
            pause();
        }
        let _ = killpg(group, Signal::SIGKILL);
    }
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "a process of its own, with nothing else to do")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
