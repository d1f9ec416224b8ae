//! The processes this daemon starts, and those that are left to it.
//!
//! As the first process of a container the daemon inherits every orphan, and must collect the dead ones or they fill
//! the process table. Those it started itself must not be collected here: their exit codes belong to who waits for
//! them. So every start goes through [`spawn`], which notes the process id under the same lock that [`reap`] holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// The process ids that somebody in this daemon waits for.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn ours() -> MutexGuard<'static, BTreeSet<i32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process of ours, in a group of its own. Killed with its group when dropped before it ended.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: i32,
    ended: bool,
}

/// Starts a command in a process group of its own: a signal meant for us (Ctrl-C in a terminal) does not reach it,
/// and it can be killed together with what it started.
///
/// # Errors
/// The program cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Process> {
    command.process_group(0);
    let mut ours = ours();
    let child = command.spawn()?;
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .ok_or_else(|| io::Error::other("ended at once"))?;
    ours.insert(pid);
    Ok(Process { child, pid, ended: false })
}

impl Process {
    /// The process id, which is also its group's.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The output streams, if they are piped.
    pub fn streams(
        &mut self,
    ) -> (Option<tokio::process::ChildStdout>, Option<tokio::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for its end. Returns the exit code, 128 plus the signal's number if one ended it.
    ///
    /// # Errors
    /// The system's.
    pub async fn wait(&mut self) -> io::Result<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.child.wait().await?;
        self.ended = true;
        ours().remove(&self.pid);
        Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1))
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.ended {
            return Err(Errno::ESRCH.into());
        }
        kill(Pid::from_raw(self.pid), signal).map_err(Into::into)
    }

    /// Kills the process and all of its group.
    pub fn kill_group(&self) {
        // That there is nobody left to kill is what is wanted.
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
            // The runtime collects it in the background; until then nobody else may.
            ours().remove(&self.pid);
        }
    }
}

/// Collects dead processes that nobody waits for. Returns how many there were.
pub fn reap() -> usize {
    let ours = ours();
    let mut reaped = 0;
    // Looking does not take: a dead process of ours stays for who waits for it. It also hides those behind it, which
    // are found when it is gone.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) =
        waitid(Id::All, look)
    {
        if ours.contains(&pid.as_raw()) || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            break;
        }
        reaped += 1;
    }
    reaped
}

/// The direct children of a process.
pub fn children(parent: i32) -> BTreeSet<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == parent)).collect()
}

/// What `/proc/<pid>/stat` says of a process. Its name, in parentheses, may contain anything, so the fields are counted
/// from the end of it.
pub(crate) struct Stat {
    /// It has ended, and nobody has asked yet how.
    pub(crate) dead: bool,
    /// The process id of its parent.
    pub(crate) parent: i32,
    /// The process id of its group's leader, who may be gone.
    pub(crate) group: i32,
    /// When it was started, in ticks since the machine was.
    pub(crate) started: u64,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let dead = matches!(fields.next()?, "Z" | "X");
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let started = fields.nth(16)?.parse().ok()?;
        Some(Self { dead, parent, group, started })
    }
}

/// The processes of a group that have not ended, with the moment each was started.
pub fn group(leader: i32) -> BTreeMap<i32, u64> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let member = |pid: i32| {
        let stat = Stat::of(pid)?;
        (stat.group == leader && !stat.dead).then_some((pid, stat.started))
    };
    pids.filter_map(member).collect()
}

/// Ends what is left of a group whose leader is gone: by `signal`, and by KILL those that are still there after
/// `grace`. A master that was killed leaves workers behind that hold its ports, so that the next one cannot have them.
pub async fn end_group(leader: i32, signal: Signal, grace: Duration) {
    let left = group(leader);
    if left.is_empty() {
        return;
    }
    tracing::warn!(processes = ?left.keys().collect::<Vec<_>>(), "ending what the child left behind");
    let group_of = Pid::from_raw(leader);
    // That there is nobody left to end is what is wanted, here and below.
    let _ = killpg(group_of, signal);
    let deadline = Instant::now() + grace;
    while !group(leader).is_empty() {
        if Instant::now() >= deadline {
            let _ = killpg(group_of, Signal::SIGKILL);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A signal by its name (`HUP`, `SIGHUP`) or number.
///
/// # Errors
/// The text, if it names none.
pub fn parse_signal(text: &str) -> Result<Signal, String> {
    let unknown = || format!("`{text}` is not a signal");
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| unknown());
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse().map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, expected) in [
            ("HUP", Some(Signal::SIGHUP)),
            ("SIGQUIT", Some(Signal::SIGQUIT)),
            ("term", Some(Signal::SIGTERM)),
            ("15", Some(Signal::SIGTERM)),
            ("SIGNOPE", None),
            ("", None),
            ("0", None),
        ] {
            assert_eq!(parse_signal(text).ok(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn exit_codes() {
        for (script, expected) in [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)] {
            let mut process = spawn(Command::new("sh").args(["-c", script])).unwrap();
            assert_eq!(process.wait().await.unwrap(), expected, "{script}");
        }
    }

    /// As the first process of a container: who loses its parent becomes ours.
    #[tokio::test]
    async fn orphans_are_reaped_and_our_own_are_not() {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let mut own = spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        let mut parent = spawn(Command::new("sh").args(["-c", "sleep 0.1 & exit 0"])).unwrap();
        assert_eq!(parent.wait().await.unwrap(), 0);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut code = None;
        let mut reaped = 0;
        while reaped == 0 || code.is_none() {
            assert!(std::time::Instant::now() < deadline, "reaped {reaped}, own {code:?}");
            reaped += reap();
            let moment = std::time::Duration::from_millis(20);
            if let Ok(ended) = tokio::time::timeout(moment, own.wait()).await {
                code = Some(ended.unwrap());
            }
        }
        assert_eq!((reaped, code), (1, Some(7)));
    }

    #[tokio::test]
    async fn what_a_leader_left_behind_is_ended() {
        for (ignore, least) in [("", 0), ("trap '' TERM; ", 200)] {
            let script = format!("({ignore}sleep 60; sleep 60) & {ignore}sleep 60");
            let mut leader = spawn(Command::new("sh").args(["-c", &script])).unwrap();
            let pid = leader.pid();
            let deadline = Instant::now() + Duration::from_secs(10);
            while group(pid).len() < 4 {
                assert!(Instant::now() < deadline, "{:?}", group(pid));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            assert_eq!(leader.wait().await.unwrap(), 137);
            let started = Instant::now();
            end_group(pid, Signal::SIGTERM, Duration::from_millis(200)).await;
            assert!(started.elapsed().as_millis() >= least, "{ignore}");
            while !group(pid).is_empty() {
                assert!(Instant::now() < deadline, "{:?}", group(pid));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test]
    async fn children_are_found() {
        let mut process = spawn(Command::new("sleep").arg("60")).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        assert!(children(us).contains(&process.pid()));
        process.kill_group();
        assert_eq!(process.wait().await.unwrap(), 137);
        assert!(!children(us).contains(&process.pid()));
    }
}
