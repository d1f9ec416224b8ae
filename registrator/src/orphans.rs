//! Orphans: as the first process of a container the registrator inherits every process whose parent is gone, and must
//! collect the dead ones or they fill the process table. It starts none itself.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// Collects dead processes in the background if this is the first process.
///
/// # Errors
/// The system's, if it does not announce them.
pub fn collect() -> std::io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let mut ended = signal(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            reap();
            // Several at once may be announced together.
            if ended.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}

/// Collects all that are dead; says how many there were.
fn reap() -> usize {
    let mut reaped = 0;
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {
        reaped += 1;
    }
    reaped
}
