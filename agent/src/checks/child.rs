//! Children whose output is read: one pipe for all they say, of which the end is kept, and a group of their own that ends
//! with whoever started them.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::Tail;
use crate::processes::{self, Awaited};

/// Takes in what a child says until nobody can say more.
pub(crate) async fn drain(output: &mut pipe::Receiver, tail: &mut Tail) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        tail.push(&buffer[..count]);
    }
}

/// A child and the group it leads; killed on drop unless it has finished.
pub(crate) struct Group {
    pub(crate) child: Child,
    id: Option<Pid>,
    /// Nothing is left to be killed.
    pub(crate) finished: bool,
    _awaited: Awaited,
}

impl Group {
    /// Ends all of it.
    pub(crate) fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // Fails only if all of it is gone already.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.finished {
            self.kill();
        }
    }
}

/// Starts a program. Its standard input is the caller's business.
pub(crate) fn start(mut command: Command) -> io::Result<(Group, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let receiver = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    command.stdout(Stdio::from(writer.try_clone()?)).stderr(Stdio::from(writer));
    let (child, awaited) = processes::spawn(command.process_group(0).kill_on_drop(true))?;
    // The command holds ends of the pipe, too.
    drop(command);
    let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    Ok((Group { child, id, finished: false, _awaited: awaited }, receiver))
}
