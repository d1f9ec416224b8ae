//! What any earlier version left on a server's disk is read by this one.
//!
//! `tests/fixtures` keeps a segment of the log and a snapshot in every format that a version ever
//! wrote. A new format writes its fixture here once, and fails until that is committed.

use std::fs;
use std::path::{Path, PathBuf};

use muster_agent::raft::snapshot::files::Snapshots;
use muster_agent::raft::{Consensus, Error, LogBackend, Settings};

use crate::support::{get, put, settings};

const ALIGNMENT: usize = 4096;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Of one kind, oldest format first.
fn kept(prefix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(fixtures()).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<PathBuf> = all
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    found.sort();
    found
}

/// The format that a file says it has: both kinds begin with a word of eight bytes and a number.
fn format(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[8..12].try_into().unwrap())
}

/// Keeps what this version writes, if it is of a format that is not kept yet.
fn keep_new(prefix: &str, bytes: &[u8]) {
    let path = fixtures().join(format!("{prefix}{}.bin", format(bytes)));
    if !path.exists() {
        fs::write(&path, bytes).unwrap();
        panic!("{} is new: look at it and commit it", path.display());
    }
}

fn snapshot_in(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder.join("raft/snapshots")).ok()?;
    let mut files = files.map(|file| file.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "snap"))
}

#[tokio::test]
async fn segments_of_every_format_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let ours = settings(Some(folder.path()), LogBackend::Wal);
    let consensus = Consensus::start(ours.clone()).await.unwrap();
    for key in 0..5 {
        consensus.propose(put(&format!("k{key}"), format!("value {key}"))).await.unwrap();
    }
    consensus.shutdown().await;
    let mut bytes = fs::read(folder.path().join("raft/wal/0000000000000000.wal")).unwrap();
    // The zeros at its end are of no interest.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.truncate(used.next_multiple_of(ALIGNMENT));
    keep_new("segment-", &bytes);

    let all = kept("segment-");
    assert!(!all.is_empty());
    for path in all {
        let folder = tempfile::tempdir().unwrap();
        let wal = folder.path().join("raft/wal");
        fs::create_dir_all(&wal).unwrap();
        fs::copy(&path, wal.join("0000000000000000.wal")).unwrap();
        let ours = settings(Some(folder.path()), LogBackend::Wal);
        let consensus = Consensus::start(ours).await.unwrap();
        for key in 0..5 {
            let found = get(&consensus, &format!("k{key}"));
            assert_eq!(found, Some(format!("value {key}")), "{}", path.display());
        }
        // And it goes on from there.
        consensus.propose(put("more", "x")).await.unwrap();
        consensus.shutdown().await;
    }
}

#[tokio::test]
async fn snapshots_of_every_format_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let eager = |folder: &Path| Settings {
        snapshot_threshold: 100,
        trailing_logs: 0,
        ..settings(Some(folder), LogBackend::Wal)
    };
    let consensus = Consensus::start(eager(folder.path())).await.unwrap();
    // By the time that a snapshot is due all keys are in it.
    let mut key = 0;
    let path = loop {
        let number = key % 5;
        let change = put(&format!("k{number}"), format!("value {number}"));
        consensus.propose(change).await.unwrap();
        key += 1;
        if let Some(path) = snapshot_in(folder.path()) {
            break path;
        }
        assert!(key < 10_000, "no snapshot was taken");
    };
    let bytes = fs::read(&path).unwrap();
    consensus.shutdown().await;
    keep_new("snapshot-", &bytes);

    let all = kept("snapshot-");
    assert!(!all.is_empty());
    for path in all {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = folder.path().join("raft/snapshots");
        fs::create_dir_all(&snapshots).unwrap();
        fs::copy(&path, snapshots.join("0000000000000001-0000000000000007.snap")).unwrap();
        let (coverage, _, store) =
            Snapshots::open(&snapshots).unwrap().newest(None).unwrap().unwrap();
        assert!(coverage.last.is_some_and(|last| last.index >= 5), "{}", path.display());
        assert_eq!(coverage.membership.membership().voter_ids().count(), 1);
        for key in 0..5 {
            let found = store.kv().get(&format!("k{key}")).rows.map(|entry| entry.value.clone());
            let expected = format!("value {key}").into_bytes();
            assert_eq!(found.as_deref(), Some(&expected[..]), "{}", path.display());
        }
        // A server must not begin with it alone.
        let text = match Consensus::start(eager(folder.path())).await {
            Err(Error::Storage(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(text.contains("the log in ") && text.contains(" is empty"), "{text}");
    }
}
