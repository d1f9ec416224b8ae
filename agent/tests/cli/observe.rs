//! What looks at an agent over time: `debug` and `top`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;

use crate::support::{Agent, until};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_archive_holds_what_an_agent_says_of_itself() {
    let agent = Agent::start();
    let output = agent.folder().join("looked");
    let flag = format!("-output={}", output.display());
    let (code, out, err) = agent.run(&["debug", "-duration=10s", "-interval=5s", &flag]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("Saved debug archive:") && !output.exists(), "{out}");
    assert!(err.contains("[WARN] Unable to capture pprof: the agent makes no profiles"), "{err}");
    // What others read as an archive is one.
    let archive = agent.folder().join("looked.tar.gz");
    let unpacked =
        Command::new("tar").arg("xzf").arg(&archive).current_dir(agent.folder()).status();
    assert!(unpacked.unwrap().success());
    let index = json(&output.join("index.json"));
    assert_eq!((&index["Interval"], &index["Duration"]), (&"5s".into(), &"10s".into()));
    assert!(index["NotCaptured"]["pprof"].is_string(), "{index}");
    assert_eq!(json(&output.join("agent.json"))["Config"]["NodeName"], agent.node());
    assert!(json(&output.join("cluster.json")).is_array());
    assert!(json(&output.join("host.json"))["Memory"].is_object());
    let intervals: Vec<_> = fs::read_dir(&output)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(intervals.len(), 2, "{intervals:?}");
    for interval in intervals {
        assert!(json(&interval.join("metrics.json"))["Gauges"].is_array());
        assert!(interval.join("consul.log").exists());
    }
    // Nothing is written over.
    let (code, _, err) = agent.run(&["debug", &flag]);
    assert_eq!(code, 1);
    assert!(err.contains("output directory already exists"), "{err}");
}

#[test]
fn a_capture_ends_early_when_it_is_interrupted() {
    let agent = Agent::start();
    let output = agent.folder().join("early");
    let flag = format!("-output={}", output.display());
    let mut debug =
        agent.spawn(&["debug", "-duration=10m", "-capture=agent,metrics", "-archive=false", &flag]);
    until("the first figures are there", || {
        fs::read_dir(&output).is_ok_and(|mut entries| {
            entries.any(|entry| entry.unwrap().path().join("metrics.json").exists())
        })
    });
    kill(Pid::from_raw(i32::try_from(debug.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(debug.wait().unwrap().code(), Some(0));
    assert!(json(&output.join("agent.json"))["Config"].is_object());
    assert_eq!(
        json(&output.join("index.json"))["Targets"],
        serde_json::json!(["agent", "metrics"])
    );
}

#[test]
fn a_wrong_capture_is_refused() {
    let agent = Agent::start();
    for (flags, why) in [
        (&["-duration=5s"][..], "duration must be longer than 10s"),
        (&["-interval=1s", "-duration=10s"], "interval must be longer than 5s"),
        (&["-interval=20s", "-duration=10s"], "duration (10s) must be longer than interval (20s)"),
        (&["-capture=foo"], "target not found: foo"),
    ] {
        let (code, _, err) = agent.run(&[&["debug"], flags].concat());
        let expected = format!("==> Capture validation failed: {why}\n");
        assert!(code == 1 && err.starts_with(&expected), "{err}");
    }
}

#[test]
fn a_pipe_gets_one_look() {
    let agent = Agent::start();
    agent.run(&["services", "register", "-name=web"]);
    until("the service is there", || {
        let (code, out, err) = agent.run(&["top"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(!out.contains('\x1b'), "{out}");
        out.lines().any(|line| line.starts_with("web "))
            && out.starts_with(&format!("muster top   {} (server)   dc1   leader ", agent.node()))
    });
}

/// A terminal of our own: one end for us, the other for a program.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NOCTTY.bits())
        .open(name.to_str().unwrap())
        .unwrap();
    (File::from(ours), theirs)
}

#[test]
fn a_terminal_is_given_back_as_it_was() {
    let agent = Agent::start();
    for key in [&b"q"[..], b"\x03"] {
        let (mut ours, theirs) = terminal();
        let before = tcgetattr(&theirs).unwrap();
        let mut top = Command::new(env!("CARGO_BIN_EXE_muster"))
            .args(["top", "-interval=200ms"])
            .env("MUSTER_HTTP_ADDR", agent.address())
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut shown = String::new();
        let mut buffer = [0; 4096];
        // Two frames: it goes on by itself.
        while shown.matches("muster top").count() < 2 {
            let count = ours.read(&mut buffer).unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        assert!(shown.starts_with("\x1b[?1049h") && shown.contains(agent.node()), "{shown:?}");
        let during = tcgetattr(&theirs).unwrap();
        assert!(!during.local_modes.contains(LocalModes::ICANON));
        ours.write_all(key).unwrap();
        let status = loop {
            // What it prints meanwhile has to go somewhere.
            if let Some(status) = top.try_wait().unwrap() {
                break status;
            }
            let count = ours.read(&mut buffer).unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
            if shown.contains("\x1b[?1049l") {
                break top.wait().unwrap();
            }
        };
        assert_eq!(status.code(), Some(0));
        let after = tcgetattr(&theirs).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
    }
}
