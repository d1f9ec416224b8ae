//! What every log store must do, with a new opening after each step.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use muster_agent::raft::LogBackend;
use muster_agent::raft::log::{Log, LogReader, LogStore, Record, Recovered, log_id};
use muster_agent::raft::types::{Entry, LogId, ServerId, Vote};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{BACKENDS, entries, entry, ids, open, read_all};

/// Runs a check on each store; a panic names the store.
fn on_each(check: impl Fn(LogBackend, &Path)) {
    for backend in BACKENDS {
        eprintln!("{backend:?}");
        let folder = tempfile::tempdir().unwrap();
        check(backend, &folder.path().join("log"));
    }
}

#[test]
fn an_empty_log_says_so() {
    on_each(|backend, folder| {
        for _ in 0..2 {
            let (store, recovered) = open(backend, folder).unwrap();
            assert_eq!(recovered, Recovered::default());
            assert_eq!(read_all(&*store), []);
        }
    });
}

#[test]
fn holds_what_was_written() {
    on_each(|backend, folder| {
        let vote = Vote::new_committed(3, ServerId::from(7));
        let (mut store, _) = open(backend, folder).unwrap();
        store.write(&entries(1, 0, 99)).unwrap();
        store.write(&[Record::Vote(vote), Record::Committed(log_id(1, 50))]).unwrap();
        store.write(&entries(3, 100, 130)).unwrap();
        store.write(&[]).unwrap();
        let expected: Vec<LogId> = [ids(1, 0, 99), ids(3, 100, 130)].concat();
        assert_eq!(read_all(&*store), expected);
        drop(store);
        let (store, recovered) = open(backend, folder).unwrap();
        assert_eq!(
            recovered,
            Recovered {
                vote: Some(vote),
                committed: Some(log_id(1, 50)),
                purged: None,
                first: Some(0),
                last: Some(log_id(3, 130)),
            }
        );
        assert_eq!(read_all(&*store), expected);
    });
}

#[test]
fn reads_a_part() {
    on_each(|backend, folder| {
        let (mut store, _) = open(backend, folder).unwrap();
        for first in (0..300).step_by(10) {
            store.write(&entries(1, first, first + 9)).unwrap();
        }
        let reader = store.reader();
        let table: [(u64, u64, usize, std::ops::Range<u64>); 6] = [
            (0, 0, usize::MAX, 0..1),
            (5, 17, usize::MAX, 5..18),
            (63, 64, usize::MAX, 63..65),
            (250, 400, usize::MAX, 250..300),
            (300, 400, usize::MAX, 300..300),
            (7, 200, 1, 7..8),
        ];
        for (first, last, bytes_max, expected) in table {
            let read = reader.read(first, last, bytes_max).unwrap();
            let read: Vec<u64> = read.iter().map(|entry| entry.log_id.index).collect();
            assert_eq!(read, expected.collect::<Vec<_>>(), "{first}..={last}");
        }
        let some = reader.read(0, 299, 2_000).unwrap().len();
        assert!((2..200).contains(&some), "{some} entries are about 2,000 bytes");
    });
}

#[test]
fn cuts_the_end() {
    on_each(|backend, folder| {
        let (mut store, _) = open(backend, folder).unwrap();
        store.write(&entries(1, 0, 200)).unwrap();
        store.write(&[Record::TruncatedAfter(Some(100))]).unwrap();
        assert_eq!(read_all(&*store), ids(1, 0, 100));
        store.write(&entries(2, 101, 110)).unwrap();
        let expected = [ids(1, 0, 100), ids(2, 101, 110)].concat();
        assert_eq!(read_all(&*store), expected);
        drop(store);
        let (mut store, recovered) = open(backend, folder).unwrap();
        assert_eq!(recovered.last, Some(log_id(2, 110)));
        assert_eq!(read_all(&*store), expected);
        // In one batch with what replaces it.
        let mut batch = vec![Record::TruncatedAfter(Some(105))];
        batch.extend(entries(3, 106, 107));
        store.write(&batch).unwrap();
        drop(store);
        let (mut store, _) = open(backend, folder).unwrap();
        let expected = [ids(1, 0, 100), ids(2, 101, 105), ids(3, 106, 107)].concat();
        assert_eq!(read_all(&*store), expected);
        store.write(&[Record::TruncatedAfter(None)]).unwrap();
        assert_eq!(read_all(&*store), []);
        store.write(&entries(4, 0, 3)).unwrap();
        drop(store);
        let (store, _) = open(backend, folder).unwrap();
        assert_eq!(read_all(&*store), ids(4, 0, 3));
    });
}

#[test]
fn cuts_the_beginning() {
    on_each(|backend, folder| {
        let (mut store, _) = open(backend, folder).unwrap();
        store.write(&entries(1, 0, 300)).unwrap();
        store.write(&[Record::Purged(log_id(1, 250))]).unwrap();
        let left = read_all(&*store);
        assert_eq!(left.last(), Some(&log_id(1, 300)));
        assert!(left.contains(&log_id(1, 251)) && !left.contains(&log_id(1, 100)));
        drop(store);
        let (mut store, recovered) = open(backend, folder).unwrap();
        assert_eq!((recovered.purged, recovered.first), (Some(log_id(1, 250)), Some(251)));
        // Beyond the end, as after a snapshot from the leader; the log goes on from there.
        store.write(&[Record::Purged(log_id(2, 1000))]).unwrap();
        assert_eq!(read_all(&*store), []);
        store.write(&entries(2, 1001, 1010)).unwrap();
        drop(store);
        let (store, recovered) = open(backend, folder).unwrap();
        assert_eq!(
            (recovered.purged, recovered.first, recovered.last),
            (Some(log_id(2, 1000)), Some(1001), Some(log_id(2, 1010)))
        );
        assert_eq!(read_all(&*store), ids(2, 1001, 1010));
    });
}

#[test]
fn large_entries_and_many_batches() {
    on_each(|backend, folder| {
        let (mut store, _) = open(backend, folder).unwrap();
        let mut index = 0;
        for round in 0..30 {
            let bytes = if round % 3 == 0 { 900_000 } else { 10 };
            let batch: Vec<Record> =
                (index..index + 3).map(|index| Record::Entry(entry(1, index, bytes))).collect();
            store.write(&batch).unwrap();
            index += 3;
        }
        // More than a batch can hold at once.
        let batch: Vec<Record> =
            (index..index + 12).map(|index| Record::Entry(entry(1, index, 1_000_000))).collect();
        store.write(&batch).unwrap();
        index += 12;
        assert_eq!(read_all(&*store), ids(1, 0, index - 1));
        drop(store);
        let (store, _) = open(backend, folder).unwrap();
        assert_eq!(read_all(&*store), ids(1, 0, index - 1));
    });
}

#[test]
fn disk_use_follows_the_purge() {
    on_each(|backend, folder| {
        let (mut store, _) = open(backend, folder).unwrap();
        let mut next = 0;
        let mut largest = 0;
        // 100 MB of entries of which 2 MB are kept.
        for _ in 0..50 {
            for _ in 0..8 {
                let batch: Vec<Record> =
                    (next..next + 25).map(|index| Record::Entry(entry(1, index, 10_000))).collect();
                store.write(&batch).unwrap();
                next += 25;
            }
            store.write(&[Record::Purged(log_id(1, next - 200))]).unwrap();
            largest = largest.max(bytes_in(folder));
        }
        drop(store);
        let limit = match backend {
            // The segment that is written to, the one before it, the next one.
            LogBackend::Wal => 50 << 20,
            LogBackend::Sled => 120 << 20,
        };
        eprintln!("{} MiB at most", largest >> 20);
        assert!(largest < limit, "{} MiB", largest >> 20);
        let (store, _) = open(backend, folder).unwrap();
        let left = read_all(&*store);
        assert_eq!(left.last(), Some(&log_id(1, next - 1)));
        assert!(left.len() < 300, "{}", left.len());
    });
}

/// What the disk holds after a failed write is unknown: nothing may be acknowledged on top of it.
#[tokio::test]
async fn a_failed_write_is_final() {
    struct Failing {
        writes_left: usize,
    }
    impl LogStore for Failing {
        fn write(&mut self, _: &[Record]) -> io::Result<()> {
            if self.writes_left == 0 {
                // Only this once: the next would work again.
                self.writes_left = usize::MAX;
                return Err(io::Error::other("the cable came off"));
            }
            self.writes_left -= 1;
            Ok(())
        }
        fn reader(&self) -> Arc<dyn LogReader> {
            struct Nothing;
            impl LogReader for Nothing {
                fn read(&self, _: u64, _: u64, _: usize) -> io::Result<Vec<Entry>> {
                    Ok(Vec::new())
                }
            }
            Arc::new(Nothing)
        }
    }
    let mut log = Log::over(Failing { writes_left: 1 }, &Recovered::default()).unwrap();
    log.blocking_append([entry(1, 0, 10)]).await.unwrap();
    for index in 1..3 {
        let error = log.blocking_append([entry(1, index, 10)]).await.unwrap_err();
        assert!(error.to_string().contains("the cable came off"), "{error}");
    }
    let vote = Vote::new(1, ServerId::from(1));
    assert!(log.save_vote(&vote).await.is_err());
}

fn bytes_in(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        // A file may be removed while this looks.
        let Ok(found) = entry.metadata() else { continue };
        bytes += if found.is_dir() { bytes_in(&entry.path()) } else { found.len() };
    }
    bytes
}

/// A few hundred random steps with new openings, against a plain map.
#[test]
fn agrees_with_a_model() {
    on_each(|backend, folder| {
        for seed in 0..2 {
            let folder = folder.join(seed.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            against_model(backend, &folder, seed);
        }
    });
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, u64>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        let after_purge = self.purged.map_or(0, |id| id.index + 1);
        self.entries.keys().next_back().map_or(after_purge, |last| last + 1)
    }

    fn step(&mut self, rng: &mut SmallRng) -> Vec<Record> {
        match rng.random_range(0..10) {
            0 => {
                self.term += 1;
                let vote = Vote::new(self.term, ServerId::from(rng.random_range(1..4)));
                self.vote = Some(vote);
                vec![Record::Vote(vote)]
            }
            1 => {
                // Only what is not committed may be given up.
                let floor = self.committed.max(self.purged).map_or(0, |id| id.index + 1);
                let last = self.next().saturating_sub(1);
                if last < floor {
                    return Vec::new();
                }
                let keep = rng.random_range(floor..=last);
                self.entries.split_off(&(keep + 1));
                vec![Record::TruncatedAfter(Some(keep))]
            }
            2 => {
                let Some((last, term)) = self.entries.last_key_value() else {
                    return Vec::new();
                };
                let id = log_id(*term, *last);
                self.committed = Some(id);
                vec![Record::Committed(id)]
            }
            3 => {
                let Some(committed) = self.committed else { return Vec::new() };
                let held: Vec<_> = self.entries.range(..=committed.index).collect();
                if held.is_empty() {
                    return Vec::new();
                }
                let (index, term) = held[rng.random_range(0..held.len())];
                let id = log_id(*term, *index);
                self.purged = Some(id);
                self.entries = self.entries.split_off(&(id.index + 1));
                vec![Record::Purged(id)]
            }
            _ => {
                let bytes = if rng.random_range(0..20) == 0 { 400_000 } else { 50 };
                let first = self.next();
                let count = rng.random_range(1..90);
                let term = self.term.max(1);
                self.entries.extend((first..first + count).map(|index| (index, term)));
                let bytes = if count > 20 { 50 } else { bytes };
                (first..first + count)
                    .map(|index| Record::Entry(entry(term, index, bytes)))
                    .collect()
            }
        }
    }

    fn check(&self, store: &dyn LogStore, recovered: Option<&Recovered>) {
        let purged = self.purged.map_or(0, |id| id.index + 1);
        let read: Vec<LogId> =
            read_all(store).into_iter().filter(|id| id.index >= purged).collect();
        let expected: Vec<LogId> =
            self.entries.iter().map(|(index, term)| log_id(*term, *index)).collect();
        assert_eq!(read, expected);
        if let Some(recovered) = recovered {
            let expected = Recovered {
                vote: self.vote,
                committed: self.committed,
                purged: self.purged,
                first: expected.first().map(|id| id.index),
                last: expected.last().copied(),
            };
            assert_eq!(*recovered, expected);
        }
    }
}

fn against_model(backend: LogBackend, folder: &Path, seed: u64) {
    eprintln!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut model = Model::default();
    let (mut store, _) = open(backend, folder).unwrap();
    for _ in 0..100 {
        let mut batch = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            batch.extend(model.step(&mut rng));
        }
        store.write(&batch).unwrap();
        if rng.random_range(0..10) == 0 {
            drop(store);
            let (opened, recovered) = open(backend, folder).unwrap();
            store = opened;
            model.check(&*store, Some(&recovered));
        }
    }
    model.check(&*store, None);
}
