//! Checks that run a program: its exit code is the status.
//!
//! 0 is passing, 1 is warning, everything else critical (the plug-in convention of Nagios). The
//! program gets a process group of its own; when its time is up, or the check goes away, the whole
//! group is killed, so that no grandchild outlives it.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::child::{self, Group, drain};
use super::{CheckResult, Status, Tail};

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Time to wait for the output of a killed group: a process that left the group may hold it.
const DRAIN: Duration = Duration::from_millis(500);

/// Command of the script.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The program, looked up in `PATH`, and its arguments.
    pub args: Vec<String>,
    /// Time for a run.
    pub timeout: Duration,
    /// Bytes of output that are kept, from its end.
    pub output_bytes_max: usize,
}

/// One run.
pub async fn probe(command: &Command) -> CheckResult {
    let (mut group, mut output) = match start(&command.args) {
        Ok(started) => started,
        Err(error) => return CheckResult::critical(error),
    };
    let mut tail = Tail::new(command.output_bytes_max);
    let run = async {
        // As in the reference the run ends when the output does: a background process belongs to it.
        drain(&mut output, &mut tail).await;
        group.child.wait().await
    };
    match tokio::time::timeout(command.timeout, run).await {
        Ok(Ok(exit)) => {
            group.finished = true;
            let status = match exit.code() {
                Some(0) => Status::Passing,
                Some(1) => Status::Warning,
                _ => Status::Critical,
            };
            CheckResult::new(status, tail.captured())
        }
        Ok(Err(error)) => CheckResult::critical(error.to_string()),
        Err(_) => {
            group.kill();
            let _ = tokio::time::timeout(DRAIN, drain(&mut output, &mut tail)).await;
            // Never start another instance before this one is gone.
            let _ = group.child.wait().await;
            CheckResult::critical(super::timed_out(command.timeout, &tail)).decisive()
        }
    }
}

/// Starts the check's program. The error is ready for people.
fn start(args: &[String]) -> Result<(Group, pipe::Receiver), String> {
    let Some((program, rest)) = args.split_first() else { return Err("no command".into()) };
    let mut command = tokio::process::Command::new(program);
    command.args(rest).stdin(Stdio::null());
    child::start(command).map_err(|error| refusal(program, &error))
}

/// Text for a program that did not start, in the reference's words.
pub(crate) fn refusal(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        io::ErrorKind::NotFound => format!("fork/exec {program}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("fork/exec {program}: permission denied"),
        _ => format!("fork/exec {program}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(args: &[&str], timeout: Duration) -> CheckResult {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        probe(&Command { args, timeout, output_bytes_max: 4096 }).await
    }

    #[tokio::test]
    async fn exit_codes_and_output() {
        let big = format!("Captured 4096 of 9004 bytes\n...\n{}end\n", "x".repeat(4092));
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        let denied = format!("fork/exec {here}: permission denied");
        let rows: [(&[&str], Status, &str); 9] = [
            (&["/bin/sh", "-c", "echo out; echo err >&2"], Status::Passing, "out\nerr\n"),
            (&["/bin/sh", "-c", "echo warn; exit 1"], Status::Warning, "warn\n"),
            (&["/bin/sh", "-c", "exit 2"], Status::Critical, ""),
            (&["/bin/sh", "-c", "kill -9 $$"], Status::Critical, ""),
            (&["/bin/sh", "-c", "sleep 0.2 & echo x"], Status::Passing, "x\n"),
            (
                &["/bin/sh", "-c", "head -c 9000 /dev/zero | tr '\\0' x; echo end"],
                Status::Passing,
                &big,
            ),
            (
                &["/nonexistent"],
                Status::Critical,
                "fork/exec /nonexistent: no such file or directory",
            ),
            (
                &["nosuchcommandx"],
                Status::Critical,
                "exec: \"nosuchcommandx\": executable file not found in $PATH",
            ),
            (&[here], Status::Critical, &denied),
        ];
        for (args, status, output) in rows {
            let outcome = run(args, TIMEOUT).await;
            assert_eq!(outcome, CheckResult::new(status, output), "{args:?}");
        }
    }

    #[tokio::test]
    async fn a_hanging_script_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; echo before; wait", file.display());
        let outcome = run(&["/bin/sh", "-c", &script], Duration::from_millis(500)).await;
        assert_eq!(
            outcome,
            CheckResult::critical("Timed out (500ms) running check\n\nbefore\n").decisive()
        );
        let grandchild: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        gone(grandchild).await;
    }

    #[tokio::test]
    async fn a_dropped_run_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 60", file.display());
        let args = vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
        let command = Command { args, timeout: TIMEOUT, output_bytes_max: 4096 };
        let running = tokio::spawn(async move { probe(&command).await });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !file.exists() {
            assert!(tokio::time::Instant::now() < deadline, "the script never started");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.abort();
        gone(std::fs::read_to_string(file).unwrap().trim().parse().unwrap()).await;
    }

    /// Waits until a process is dead (gone, or a zombie that waits for its reaper).
    async fn gone(pid: i32) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "process {pid} still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
