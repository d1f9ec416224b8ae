//! `lock` and its child: the terminal, signals, and the child's end with the lock whatever happens.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Agent, until};

/// Starts a line of a shell that has a terminal of its own, and jobs; `$0` in it is the program.
fn at_terminal(agent: &Agent, line: &str) -> (File, Child) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let no_control = nix::fcntl::OFlag::O_NOCTTY.bits();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(no_control);
    let theirs = options.open(name.to_str().unwrap()).unwrap();
    let stream = || Stdio::from(theirs.try_clone().unwrap());
    let child = Command::new("setsid")
        .args(["--ctty", "/bin/sh", "-c", line, env!("CARGO_BIN_EXE_muster")])
        .env("MUSTER_HTTP_ADDR", agent.address())
        .env("SHELL", "/bin/sh")
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    (File::from(ours), child)
}

/// Reads from a terminal until something is shown.
fn shows(terminal: &mut File, wanted: &str) -> String {
    let (mut shown, mut buffer) = (String::new(), [0; 1024]);
    while !shown.contains(wanted) {
        // The end of the other side is an error here.
        let count = terminal.read(&mut buffer).unwrap_or(0);
        assert!(count > 0, "not {wanted:?}: {shown:?}");
        shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    shown
}

/// Does a process run? One that is dead and not yet collected does not.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// The process id that a script wrote down.
fn written(path: &Path) -> i32 {
    let read = || fs::read_to_string(path).ok()?.trim().parse().ok();
    until("a script wrote its id", || read().is_some());
    read().unwrap()
}

fn is_free(agent: &Agent) {
    agent.expect(&["lock", "-timeout=20s", "job", "true"], 0, "", "");
}

#[test]
fn a_lock_whose_key_was_deleted_is_cleaned_up() {
    let agent = Agent::start();
    for limit in ["-n=1", "-n=2"] {
        let line =
            format!("exec \"$0\" lock -verbose {limit} job \"$0 kv delete job/.lock; sleep 20\"");
        let (_, out, err) = agent.run_shell(&line);
        assert!(out.ends_with("Cleanup succeeded\n"), "{out}{err}");
    }
}

#[test]
fn a_child_reads_from_the_terminal() {
    let agent = Agent::start();
    for line in [
        // From a shell with jobs, and as the first process of the terminal.
        "set -m; \"$0\" lock -pass-stdin job 'echo ask; read a; echo got $a'; echo code $?",
        "exec \"$0\" lock -pass-stdin job 'echo ask; read a; echo got $a; echo code 0'",
    ] {
        let (mut terminal, mut child) = at_terminal(&agent, line);
        shows(&mut terminal, "ask");
        terminal.write_all(b"hello\n").unwrap();
        shows(&mut terminal, "got hello\r\ncode 0");
        until("it ends", || child.try_wait().unwrap().is_some());
    }
    is_free(&agent);
}

#[test]
fn a_stopped_child_goes_on_with_its_job() {
    let agent = Agent::start();
    let line = "set -m; \"$0\" lock -pass-stdin job 'echo ask; read a; echo got $a'; echo stopped; fg; echo code $?";
    let (mut terminal, mut child) = at_terminal(&agent, line);
    shows(&mut terminal, "ask");
    terminal.write_all(b"\x1a").unwrap();
    shows(&mut terminal, "stopped");
    terminal.write_all(b"hello\n").unwrap();
    shows(&mut terminal, "got hello\r\ncode 0");
    until("it ends", || child.try_wait().unwrap().is_some());
    is_free(&agent);
}

#[test]
fn a_closed_terminal_ends_the_child_and_frees_the_lock() {
    let agent = Agent::start();
    for passes in ["-pass-stdin", "-verbose"] {
        let file = agent.folder().join(format!("pid{passes}"));
        let line = format!(
            "set -m; \"$0\" lock {passes} job 'echo $$ > {}; sleep 300; true'",
            file.display()
        );
        let (terminal, mut child) = at_terminal(&agent, &line);
        let pid = written(&file);
        drop(terminal);
        until("the child is gone", || !runs(pid));
        until("the shell is gone", || child.try_wait().unwrap().is_some());
        is_free(&agent);
    }
}

#[test]
fn signals_are_passed_on_and_the_lock_is_kept() {
    let agent = Agent::start();
    let [heard, file] = ["heard", "pid"].map(|name| agent.folder().join(name));
    let names = ["HUP", "QUIT", "USR1", "USR2"];
    let traps: String =
        names.map(|name| format!("trap 'echo {name} >> {}' {name}; ", heard.display())).concat();
    let script = format!("{traps} echo $$ > {}; while :; do sleep 0.05; done", file.display());
    let mut lock = agent.spawn(&["lock", "job", &script]);
    let pid = written(&file);
    let to = Pid::from_raw(i32::try_from(lock.id()).unwrap());
    for name in names {
        kill(to, format!("SIG{name}").parse::<Signal>().unwrap()).unwrap();
        until(name, || fs::read_to_string(&heard).is_ok_and(|text| text.contains(name)));
    }
    let late = "Shutdown triggered or timeout during lock acquisition\n";
    agent.expect(&["lock", "-timeout=200ms", "job", "true"], 1, "", late);
    kill(to, Signal::SIGTERM).unwrap();
    until("it ends", || lock.try_wait().unwrap().is_some());
    assert!(!runs(pid));
    is_free(&agent);
}

#[test]
fn the_child_and_what_it_started_end_when_the_lock_is_killed() {
    let agent = Agent::start();
    let [own, other] = ["own", "other"].map(|name| agent.folder().join(name));
    let script =
        format!("sleep 300 & echo $! > {}; echo $$ > {}; wait", other.display(), own.display());
    let mut lock = agent.spawn(&["lock", "job", &script]);
    let pids = [&own, &other].map(|path| written(path));
    assert!(pids.iter().all(|pid| runs(*pid)));
    lock.kill().unwrap();
    lock.wait().unwrap();
    until("all are gone", || !pids.iter().any(|pid| runs(*pid)));
}
