//! What a server finds when it starts again.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_agent::raft::{Consensus, Error, LogBackend, Settings};
use muster_agent::store::snapshot;

use crate::support::{BACKENDS, NODE_ID, get, put, settings};

/// The whole state as bytes.
fn bytes_of(consensus: &Consensus) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(&consensus.store(), &mut bytes).unwrap();
    bytes
}

async fn start(folder: &Path, backend: LogBackend) -> Consensus {
    Consensus::start(settings(Some(folder), backend)).await.unwrap()
}

async fn refused(settings: Settings) -> String {
    match Consensus::start(settings).await {
        Ok(_) => panic!("it started"),
        Err(Error::Storage(source)) => format!("storage: {source}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn the_state_is_the_same_byte_for_byte() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let mut index = 0;
        let mut state = None;
        for round in 0..4 {
            let consensus = start(folder.path(), backend).await;
            let store = consensus.store();
            assert!(store.index() >= index, "the index never goes back");
            if let Some(state) = state {
                assert_eq!(bytes_of(&consensus), state, "{backend:?}, round {round}");
            }
            for key in 0..20 {
                let change = put(&format!("{round}/{key}"), vec![b'x'; 100]);
                index = consensus.propose(change).await.unwrap().1;
            }
            state = Some(bytes_of(&consensus));
            consensus.shutdown().await;
        }
    }
}

/// Dropped without a word, as a killed process does: the commit position on disk lags then.
#[tokio::test]
async fn acknowledged_changes_are_there_without_a_shutdown() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let consensus = start(folder.path(), backend).await;
        let mut index = 0;
        for key in 0..50 {
            index = consensus.propose(put(&format!("k{key}"), key.to_string())).await.unwrap().1;
        }
        // What the disk holds at this moment.
        copy_folder(folder.path(), copy.path());
        let again = start(copy.path(), backend).await;
        assert!(again.store().index() >= index);
        for key in 0..50 {
            assert_eq!(get(&again, &format!("k{key}")), Some(key.to_string()), "{backend:?}");
        }
        again.shutdown().await;
        consensus.shutdown().await;
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else if path.extension().is_none_or(|extension| extension != "tmp") {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_bound_the_disk_and_the_replay() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            snapshot_threshold: 200,
            trailing_logs: 50,
            autopilot: muster_agent::store::Autopilot::default(),
            ..settings(Some(folder.path()), backend)
        };
        let consensus = Consensus::start(settings.clone()).await.unwrap();
        // 60 MB in 3,000 changes of ten keys.
        let tasks: Vec<_> = (0..10)
            .map(|key| {
                let consensus = consensus.clone();
                tokio::spawn(async move {
                    for round in 0..300_u32 {
                        let value = format!("{round:05}").repeat(4_000);
                        consensus.propose(put(&format!("key {key}"), value)).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let last = consensus.store().index();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let snapshots = fs::read_dir(folder.path().join("raft/snapshots")).unwrap().count();
            let saved = consensus.stats();
            let saved = saved.iter().find(|(name, _)| *name == "last_snapshot_index").unwrap();
            if saved.1.parse::<u64>().unwrap() > last - 500 && snapshots == 2 {
                break;
            }
            assert!(Instant::now() < deadline, "{backend:?}: {saved:?}, {snapshots} snapshots");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let state = bytes_of(&consensus);
        consensus.shutdown().await;
        let log = folder.path().join("raft").join(format!("{backend:?}").to_lowercase());
        let bytes: u64 =
            fs::read_dir(log).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 56 << 20, "{backend:?}: {} MiB of log", bytes >> 20);
        let started = Instant::now();
        let consensus = Consensus::start(settings).await.unwrap();
        eprintln!("{backend:?}: {:?} to restart, {} MiB of log", started.elapsed(), bytes >> 20);
        assert_eq!(bytes_of(&consensus), state);
        consensus.shutdown().await;
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        snapshot_threshold: 20,
        trailing_logs: 1000,
        autopilot: muster_agent::store::Autopilot::default(),
        ..settings(Some(folder.path()), LogBackend::Wal)
    };
    let consensus = Consensus::start(settings.clone()).await.unwrap();
    let snapshots = || {
        let mut paths: Vec<_> = fs::read_dir(folder.path().join("raft/snapshots"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
            .collect();
        paths.sort();
        paths
    };
    let mut key = 0;
    while snapshots().len() < 2 {
        consensus.propose(put(&format!("k{key}"), vec![b'x'; 500])).await.unwrap();
        key += 1;
        assert!(key < 10_000, "no snapshot was taken");
    }
    consensus.shutdown().await;
    let newest = snapshots().pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let consensus = Consensus::start(settings.clone()).await.unwrap();
    for key in 0..key {
        assert!(get(&consensus, &format!("k{key}")).is_some(), "from the older one and the log");
    }
    consensus.shutdown().await;
    for path in snapshots() {
        fs::write(path, b"MUSTSNAP, or not").unwrap();
    }
    let text = refused(settings).await;
    assert!(text.contains("cannot read snapshot") && text.contains(".snap"), "{text}");
}

#[tokio::test]
async fn a_command_of_a_newer_version_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let consensus = start(folder.path(), LogBackend::Wal).await;
    let (_, index) = consensus.propose(put("the key", "the value")).await.unwrap();
    consensus.shutdown().await;
    let segment = folder.path().join("raft/wal/0000000000000000.wal");
    let mut bytes = fs::read(&segment).unwrap();
    let find = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).position(|part| part == text);
    // The change's name, and then the checksum of its record: 4 bytes after the length.
    let name = find(&bytes, b"\xa2Kv").unwrap();
    let record = (64..name)
        .rev()
        .find(|at| {
            let length = u32::from_le_bytes(bytes[*at..at + 4].try_into().unwrap()) as usize;
            let sum = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
            bytes.get(at + 8..at + 8 + length).is_some_and(|body| crc32fast::hash(body) == sum)
        })
        .unwrap();
    let length = u32::from_le_bytes(bytes[record..record + 4].try_into().unwrap()) as usize;
    bytes[name + 1..name + 3].copy_from_slice(b"Zz");
    let sum = crc32fast::hash(&bytes[record + 8..record + 8 + length]);
    bytes[record + 4..record + 8].copy_from_slice(&sum.to_le_bytes());
    fs::write(&segment, bytes).unwrap();
    let text = refused(settings(Some(folder.path()), LogBackend::Wal)).await;
    assert!(text.contains(&format!("log entry {index} cannot be applied")), "{text}");
    assert!(text.contains("`Zz`") && text.contains("newer"), "{text}");
}

#[tokio::test]
async fn a_folder_that_is_not_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = settings(Some(folder.path()), LogBackend::Wal);
    let consensus = Consensus::start(ours.clone()).await.unwrap();
    let text = refused(ours.clone()).await;
    assert!(text.contains("another server is using"), "{text}");
    consensus.shutdown().await;
    let text = refused(Settings { log_backend: LogBackend::Sled, ..ours.clone() }).await;
    assert!(text.contains("raft_logstore.backend is `sled`"), "{text}");
    let other = "6f9a3c1e-0000-4000-8000-000000000002";
    let text = refused(Settings { node_id: other.to_owned(), ..ours.clone() }).await;
    assert!(text.contains(other) && text.contains(NODE_ID), "{text}");
    let text = refused(Settings { node_id: "s1".to_owned(), ..ours.clone() }).await;
    assert!(text.contains("not a UUID"), "{text}");
    Consensus::start(ours).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_new_address_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path(), LogBackend::Wal).await.shutdown().await;
    let moved = Settings {
        address: "127.0.0.1:9300".to_owned(),
        ..settings(Some(folder.path()), LogBackend::Wal)
    };
    let consensus = Consensus::start(moved).await.unwrap();
    assert_eq!(consensus.leader().as_deref(), Some("127.0.0.1:9300"));
    assert_eq!(consensus.peers(), ["127.0.0.1:9300"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let figures = consensus.stats();
        let (_, servers) =
            figures.iter().find(|(name, _)| *name == "latest_configuration").unwrap();
        if servers.contains("Address:127.0.0.1:9300") {
            break;
        }
        assert!(Instant::now() < deadline, "{servers}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    consensus.shutdown().await;
}
