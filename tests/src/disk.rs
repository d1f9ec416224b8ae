//! A running program's disk made slow, or failing: a tracer stands between the program and the kernel and delays each
//! flush, or answers it with an error. The program is the one that users run.

use std::{env, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    process::{Process, output},
    wait::eventually,
};

const LIMIT: Duration = Duration::from_secs(30);

/// What becomes of each flush.
#[derive(Debug, Clone, Copy)]
pub enum Flush {
    /// It begins so much later.
    Late(Duration),
    /// It fails, and so does each after it.
    Fails,
    /// The first of each thread fails; those after it succeed, as they do when the kernel has given up what it could
    /// not write.
    FailsOnce,
}

impl Flush {
    fn injected(self) -> String {
        match self {
            Flush::Late(by) => format!("delay_enter={}ms", by.as_millis()),
            Flush::Fails => "error=EIO".to_owned(),
            Flush::FailsOnce => "error=EIO:when=1".to_owned(),
        }
    }
}

/// The fault of one program, for as long as this lives.
#[derive(Debug)]
pub struct Fault {
    tracer: Process,
}

impl Fault {
    /// Brings a fault about and waits until it holds for every thread, or has already ended the program.
    ///
    /// # Errors
    /// When the tracer is not installed, or may not trace.
    pub fn begin(program: &Process, flush: Flush, log: &Path) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
        command.args(["-e", &format!("inject=fdatasync:{}", flush.injected())]);
        command.args(["-p", &program.id().to_string()]);
        let mut tracer = Process::spawn(command, log)?;
        eventually(LIMIT, "all threads are traced", || {
            // The tracer goes with the last thread, not before.
            ensure!(tracer.has_succeeded()? || traced(program.id())?, "not all of them");
            Ok(())
        })?;
        Ok(Self { tracer })
    }

    /// Ends it; the program goes on without.
    ///
    /// # Errors
    /// When the tracer does not let go.
    pub fn end(mut self) -> Result<()> {
        self.tracer.signal(Signal::SIGTERM)?;
        self.tracer.wait(LIMIT).map(drop)
    }
}

fn traced(id: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.context("the kernel does not say who traces")?.trim() == "0" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A test that cannot be run must not look as if it had passed: this fails and says what is missing, unless whoever
/// runs the tests has said to do without. Returns whether to go on.
///
/// # Errors
/// When programs cannot be traced here.
#[expect(clippy::print_stdout, reason = "a test that was left out says so")]
pub fn can_fail() -> Result<bool> {
    let mut tried = Command::new("strace");
    tried.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "true"]);
    match output(&mut tried) {
        // To be traced by a program that is not one's parent takes more.
        Ok(_) if nix::unistd::geteuid().is_root() => Ok(true),
        tried if env::var_os("MUSTER_TESTS_WITHOUT_ROOT").is_some() => {
            println!("LEFT OUT: a failing disk needs root and strace: {tried:?}");
            Ok(false)
        }
        tried => {
            tried.context("a failing disk needs strace")?;
            anyhow::bail!(
                "a failing disk needs root; set MUSTER_TESTS_WITHOUT_ROOT=1 to go without it"
            )
        }
    }
}
