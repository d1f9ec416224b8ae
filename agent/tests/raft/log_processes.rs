//! What survives when the process does not: killed while writing, and a disk without room.
//!
//! Each test starts this very test program again as its child; told by the environment, the child
//! writes until it is killed or refused, and prints what was acknowledged.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_agent::raft::LogBackend;
use muster_agent::raft::log::{Record, Room};

use crate::support::{BACKENDS, entries, entry, open, open_with, read_all};

const CHILD: &str = "MUSTER_TEST_LOG_CHILD";

/// This test program again, with only the test of this name, under a shell's limits.
fn child(test: &str, backend: LogBackend, folder: &Path, limits: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new("sh")
        .arg("-c")
        .arg(format!("{limits} exec \"$0\" --exact \"$1\" --nocapture"))
        .arg(program)
        .arg(format!("log_processes::{test}"))
        .env(CHILD, format!("{backend:?}:{}", folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// In the child: which store, and where.
fn told() -> Option<(LogBackend, PathBuf)> {
    let told = std::env::var(CHILD).ok()?;
    let (backend, folder) = told.split_once(':')?;
    let backend = BACKENDS.into_iter().find(|known| format!("{known:?}") == backend)?;
    Some((backend, PathBuf::from(folder)))
}

#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn say(text: &str) {
    println!("{text}");
}

#[test]
fn killed_while_writing() {
    if let Some((backend, folder)) = told() {
        let (mut store, recovered) = open(backend, &folder).unwrap();
        let mut next = recovered.last.map_or(0, |last| last.index + 1);
        loop {
            let count = 1 + next % 40;
            store.write(&entries(1, next, next + count - 1)).unwrap();
            next += count;
            say(&format!("\nacknowledged {}", next - 1));
        }
    }
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..4_u64 {
            let mut child = child("killed_while_writing", backend, folder.path(), "");
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut acknowledged = None;
            let mut seen = 0;
            // Killed in the middle of things, at another moment each time.
            while seen < 50 + round * 37
                && let Some(Ok(line)) = lines.next()
            {
                if let Some(index) = line.strip_prefix("acknowledged ") {
                    acknowledged = Some(index.parse::<u64>().unwrap());
                    seen += 1;
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // What was still in the pipe had been acknowledged too.
            for line in lines.map_while(Result::ok) {
                if let Some(index) = line.strip_prefix("acknowledged ")
                    && let Ok(index) = index.parse::<u64>()
                {
                    acknowledged = acknowledged.max(Some(index));
                }
            }
            let acknowledged = acknowledged.unwrap();
            let (store, _) = open(backend, folder.path()).unwrap();
            let held = read_all(&*store);
            assert!(
                held.len() as u64 > acknowledged,
                "{backend:?}: {} held, {acknowledged} acknowledged",
                held.len()
            );
        }
    }
}

/// A file-size limit stands for a full disk: no privilege is needed for it, and to the program both
/// are a write that finds no room.
#[test]
fn no_room_on_the_disk() {
    if let Some((backend, folder)) = told() {
        let room = Room::default();
        let (mut store, _) = open_with(backend, &folder, room.clone()).unwrap();
        let mut next = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        // What the handle does: ask for room before each write.
        let refusal = loop {
            if let Some(error) = room.refusal() {
                break error;
            }
            assert!(Instant::now() < deadline, "nothing was refused");
            if let Err(error) = store.write(&[Record::Entry(entry(1, next, 1000))]) {
                break error;
            }
            next += 1;
            say(&format!("\nacknowledged {next}"));
        };
        say(&format!("\nrefused {refusal}"));
        return;
    }
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        // In blocks of 512 bytes: 12 MiB, less than a prepared segment.
        let limits = "trap '' XFSZ; ulimit -f 24576;";
        let mut child = child("no_room_on_the_disk", backend, folder.path(), limits);
        let (mut acknowledged, mut refused) = (0, None);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(index) = line.strip_prefix("acknowledged ") {
                acknowledged = index.parse().unwrap();
            } else if let Some(text) = line.strip_prefix("refused ") {
                refused = Some(text.to_owned());
            }
        }
        assert!(child.wait().unwrap().success(), "{backend:?}");
        let refused = refused.unwrap();
        assert!(refused.to_lowercase().contains("file too large"), "{backend:?}: {refused}");
        // With room again everything acknowledged is there and writing goes on.
        let (mut store, recovered) = open(backend, folder.path()).unwrap();
        let held = read_all(&*store);
        assert!(held.len() >= acknowledged, "{backend:?}: {} of {acknowledged}", held.len());
        let next = recovered.last.map_or(0, |last| last.index + 1);
        store.write(&entries(2, next, next + 9)).unwrap();
        assert_eq!(read_all(&*store).len(), held.len() + 10);
    }
}
