//! What survives when the process does not: killed while writing, and a disk without room.
//!
//! Each test starts this very test program again as its child; told by the environment, the child
//! writes until it is killed or refused, and prints what was acknowledged.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_agent::raft::log::{DiskQuota, Record};
use muster_agent::raft::{Consensus, Error, LogBackend};

use crate::cluster::PATIENCE;
use crate::support::{BACKENDS, entries, entry, get, open, open_with, put, read_all, settings};

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

/// A write that is larger than what there is room for is refused with the reason; smaller ones and reads
/// go on.
#[test]
fn a_server_without_room_refuses_writes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some((backend, folder)) = told() {
        runtime.block_on(async {
            let settings = settings(Some(&folder), backend);
            let consensus = Consensus::start(settings).await.unwrap();
            for round in 0..3 {
                for key in 0..40 {
                    let value = format!("{key:05}").repeat(1000);
                    consensus.propose(put(&format!("k{round}/{key}"), value)).await.unwrap();
                }
                let large = consensus.propose(put("large", vec![b'v'; 5 << 20]));
                let refused = tokio::time::timeout(PATIENCE, large).await.expect("an answer");
                match refused {
                    Err(Error::Storage(error)) => say(&format!("\nrefused {error}")),
                    other => panic!("{other:?}"),
                }
                consensus.read_barrier().await.unwrap();
                assert!(consensus.is_leader() && get(&consensus, "large").is_none());
            }
            consensus.shutdown().await;
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes: 3 MiB a file.
    let limits = "trap '' XFSZ; ulimit -f 6144;";
    let test = "a_server_without_room_refuses_writes";
    let mut child = child(test, LogBackend::Wal, folder.path(), limits);
    let said: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    let refused: Vec<_> = said.iter().filter_map(|line| line.strip_prefix("refused ")).collect();
    assert_eq!(refused.len(), 3, "{said:?}");
    for text in refused {
        assert!(text.contains("no room for the log's next segment"), "{text}");
        assert!(text.contains("File too large"), "{text}");
    }
    runtime.block_on(async {
        let settings = settings(Some(folder.path()), LogBackend::Wal);
        let consensus = Consensus::start(settings).await.unwrap();
        for (round, key) in (0..3).flat_map(|round| (0..40).map(move |key| (round, key))) {
            let found = get(&consensus, &format!("k{round}/{key}"));
            assert_eq!(found, Some(format!("{key:05}").repeat(1000)));
        }
        consensus.propose(put("large", vec![b'v'; 5 << 20])).await.unwrap();
        consensus.shutdown().await;
    });
}

/// sled finds out while it writes. What the disk holds is unknown then: the server gives up and
/// says why, and everything acknowledged is there at the next start.
#[test]
fn a_server_whose_log_fails_gives_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some((backend, folder)) = told() {
        runtime.block_on(async {
            let consensus = Consensus::start(settings(Some(&folder), backend)).await.unwrap();
            let mut next = 0_u64;
            let value = vec![b'v'; 100_000];
            while consensus.propose(put(&format!("k{next}"), value.clone())).await.is_ok() {
                next += 1;
                assert!(next < 10_000, "nothing failed");
            }
            say(&format!("\nacknowledged {next}"));
            let failed = tokio::time::timeout(Duration::from_mins(1), consensus.failed()).await;
            say(&format!("\nfailed {}", failed.unwrap()));
            assert!(!consensus.is_leader() && consensus.leader().is_none());
            assert!(consensus.propose(put("more", "")).await.is_err());
            consensus.shutdown().await;
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let limits = "trap '' XFSZ; ulimit -f 24576;";
    let test = "a_server_whose_log_fails_gives_up";
    let mut child = child(test, LogBackend::Sled, folder.path(), limits);
    let said: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    let find = |prefix: &str| said.iter().find_map(|line| line.strip_prefix(prefix)).unwrap();
    assert!(find("failed ").to_lowercase().contains("file too large"), "{said:?}");
    let acknowledged: u64 = find("acknowledged ").parse().unwrap();
    assert!(acknowledged > 10, "{acknowledged}");
    runtime.block_on(async {
        let consensus =
            Consensus::start(settings(Some(folder.path()), LogBackend::Sled)).await.unwrap();
        for key in 0..acknowledged {
            assert!(get(&consensus, &format!("k{key}")).is_some(), "{key} of {acknowledged}");
        }
        consensus.shutdown().await;
    });
}

/// A file-size limit stands for a full disk: no privilege is needed for it, and to the program both
/// are a write that finds no room.
#[test]
fn no_room_on_the_disk() {
    if let Some((backend, folder)) = told() {
        let quota = DiskQuota::default();
        let (mut store, _) = open_with(backend, &folder, quota.clone()).unwrap();
        let mut next = 0;
        let deadline = Instant::now() + Duration::from_mins(1);
        // What the handle does: ask for room before each write.
        let refusal = loop {
            if let Some(error) = quota.refusal() {
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
    let backend = LogBackend::Sled;
    let folder = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes: 12 MiB.
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
    assert!(child.wait().unwrap().success());
    let refused = refused.unwrap();
    assert!(refused.to_lowercase().contains("file too large"), "{refused}");
    // With room again everything acknowledged is there and writing goes on.
    let (mut store, recovered) = open(backend, folder.path()).unwrap();
    let held = read_all(&*store);
    assert!(held.len() >= acknowledged, "{} of {acknowledged}", held.len());
    let next = recovered.last.map_or(0, |last| last.index + 1);
    store.write(&entries(2, next, next + 9)).unwrap();
    assert_eq!(read_all(&*store).len(), held.len() + 10);
}
