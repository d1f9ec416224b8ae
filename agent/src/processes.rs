//! The processes that this agent starts, and those that are left to it.
//!
//! As the first process of a container the agent inherits every orphan, and must collect the dead ones or they fill the
//! process table. Those that it started itself must not be collected here: their exit codes belong to who waits for
//! them. So every start goes through [`spawn`], which notes the process id under the lock that collecting holds, too.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use parking_lot::{Mutex, MutexGuard};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Interval of looking for dead processes without a signal: one that is hidden behind a process of ours is announced once.
const INTERVAL: Duration = Duration::from_secs(1);

/// The process ids that somebody in this agent waits for.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock()
}

/// Keeps a process for who waits for it; to be dropped after that.
#[derive(Debug)]
#[must_use = "without it the exit code may be lost"]
pub(crate) struct Awaited(i32);

impl Drop for Awaited {
    fn drop(&mut self) {
        own().remove(&self.0);
    }
}

/// Starts a program whose end somebody in this agent waits for.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Awaited)> {
    let mut own = own();
    let child = command.spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let id = id.ok_or_else(|| io::Error::other("the program ended at once"))?;
    own.insert(id);
    Ok((child, Awaited(id)))
}

/// Is this agent the first process, to which all orphans come?
pub(crate) fn is_first() -> bool {
    std::process::id() == 1
}

/// Collects orphans that are dead, until `stop`.
pub(crate) async fn collect_orphans(stop: CancellationToken) {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            tracing::warn!(%error, "orphans are not collected");
            return stop.cancelled().await;
        }
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ended.recv() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
        reap();
    }
}

/// Collects dead processes that nobody waits for; says how many there were.
fn reap() -> usize {
    let own = own();
    let mut reaped = 0;
    // To look does not take: a dead process of ours stays for who waits for it.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) =
        waitid(Id::All, look)
    {
        if own.contains(&pid.as_raw()) || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            break;
        }
        reaped += 1;
    }
    reaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orphans_are_collected_and_our_own_are_not() {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let run = |script: &str| spawn(Command::new("sh").args(["-c", script])).unwrap();
        let (mut own, _own) = run("exit 7");
        let (mut parent, _parent) = run("sleep 0.1 & exit 0");
        assert!(parent.wait().await.unwrap().success());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let (mut code, mut reaped) = (None, 0);
        while reaped == 0 || code.is_none() {
            assert!(std::time::Instant::now() < deadline, "reaped {reaped}, own {code:?}");
            reaped += reap();
            let moment = Duration::from_millis(20);
            if let Ok(ended) = tokio::time::timeout(moment, own.wait()).await {
                code = ended.unwrap().code();
            }
        }
        assert_eq!((reaped, code), (1, Some(7)));
    }
}
