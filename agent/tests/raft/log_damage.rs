//! Torn tails are cut off, damage is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_agent::raft::LogBackend::{Sled, Wal};
use muster_agent::raft::log::Record;
use muster_agent::raft::log::log_id;

use crate::cluster::PATIENCE;
use crate::support::{BACKENDS, entries, ids, open, read_all};

/// The segment that was written to, and how many bytes of it are in use.
fn active(folder: &Path) -> (PathBuf, usize) {
    let mut used: Vec<(PathBuf, usize)> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            (path, used)
        })
        .filter(|(_, used)| *used > 64)
        .collect();
    used.sort();
    used.pop().unwrap()
}

/// Three batches: entries 0-9, 10-19, 20-29. Returns the segment and where each batch ends.
fn three_batches(folder: &Path) -> (PathBuf, [usize; 3]) {
    let (mut store, _) = open(Wal, folder).unwrap();
    let mut ends = [0; 3];
    let mut segment = PathBuf::new();
    for (batch, end) in (0_u64..).zip(&mut ends) {
        store.write(&entries(1, batch * 10, batch * 10 + 9)).unwrap();
        (segment, *end) = active(folder);
    }
    (segment, ends)
}

#[test]
fn a_batch_that_was_cut_short_is_as_if_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let (segment, [_, second, third]) = three_batches(folder.path());
    let whole = fs::read(&segment).unwrap();
    // As the machine can leave it: the last batch reached the disk up to a byte, or a page of it
    // did not, or it holds what was there before.
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for end in (second + 1..third).step_by(61).chain([third - 1]) {
        let mut bytes = whole.clone();
        bytes[end..third].fill(0);
        damages.push((format!("cut at {end}"), bytes));
        let mut bytes = whole.clone();
        bytes[second.next_multiple_of(8)..end.max(second + 8)].fill(0);
        damages.push((format!("hole up to {end}"), bytes));
        let mut bytes = whole.clone();
        bytes[end] ^= 0x40;
        damages.push((format!("bit at {end}"), bytes));
    }
    for (damage, bytes) in damages {
        fs::write(&segment, &bytes).unwrap();
        let (mut store, recovered) = open(Wal, folder.path()).unwrap();
        let last = recovered.last.unwrap();
        if last != log_id(1, 29) {
            // The padding behind the last record may be all that was hit.
            assert_eq!(last, log_id(1, 19), "{damage}");
            assert_eq!(read_all(&*store), ids(1, 0, 19), "{damage}");
        }
        let again = last.index + 1;
        store.write(&entries(2, again, again + 5)).unwrap();
        drop(store);
        let (store, _) = open(Wal, folder.path()).unwrap();
        let expected = [ids(1, 0, last.index), ids(2, again, again + 5)].concat();
        assert_eq!(read_all(&*store), expected, "{damage}");
    }
}

#[test]
fn damage_before_the_last_batch_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let (segment, [first, second, _]) = three_batches(folder.path());
    let whole = fs::read(&segment).unwrap();
    for at in (64..second).step_by(23) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&segment, &bytes).unwrap();
        match open(Wal, folder.path()) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(segment.to_str().unwrap()), "{text}");
                let named: usize = text
                    .split_once("offset ")
                    .and_then(|(_, rest)| rest.split_once(' '))
                    .and_then(|(number, _)| number.parse().ok())
                    .unwrap();
                let batch = if at < first { 64..first } else { first..second };
                assert!((batch.start - 8..batch.end).contains(&named), "{at}: {text}");
            }
            // Padding carries nothing.
            Ok((store, _)) => assert_eq!(read_all(&*store), ids(1, 0, 29), "byte {at}"),
        }
        assert_eq!(fs::read(&segment).unwrap(), bytes, "nothing was changed");
    }
    // A page that came back as zeros.
    let mut bytes = whole.clone();
    bytes[first..first + 64].fill(0);
    fs::write(&segment, &bytes).unwrap();
    assert!(open(Wal, folder.path()).is_err());
    fs::write(&segment, &whole).unwrap();
    let (store, _) = open(Wal, folder.path()).unwrap();
    assert_eq!(read_all(&*store), ids(1, 0, 29));
}

#[test]
fn damage_in_an_earlier_segment_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = open(Wal, folder.path()).unwrap();
    store.write(&entries(1, 0, 9)).unwrap();
    let (first_segment, end) = active(folder.path());
    let mut next = 10;
    while active(folder.path()).0 == first_segment {
        store.write(&entries(1, next, next + 999)).unwrap();
        next += 1000;
    }
    drop(store);
    let whole = fs::read(&first_segment).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [end - 5, used - 10] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&first_segment, &bytes).unwrap();
        let error = open(Wal, folder.path()).err().unwrap().to_string();
        assert!(error.contains(first_segment.to_str().unwrap()), "{error}");
    }
    fs::remove_file(&first_segment).unwrap();
    // Without its first file the log begins in the middle, and nothing says it was purged.
    let error = open(Wal, folder.path()).err().unwrap().to_string();
    assert!(error.contains("begins at entry"), "{error}");
}

#[test]
fn a_missing_or_foreign_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    three_batches(folder.path());
    let path = |number: u64| folder.path().join(format!("{number:016x}.wal"));
    fs::write(path(9), fs::read(path(0)).unwrap()).unwrap();
    let error = open(Wal, folder.path()).err().unwrap().to_string();
    assert!(error.contains("is missing"), "{error}");
    fs::remove_file(path(9)).unwrap();
    let mut bytes = fs::read(path(0)).unwrap();
    bytes[8] = 2;
    fs::write(path(0), &bytes).unwrap();
    let error = open(Wal, folder.path()).err().unwrap().to_string();
    assert!(error.contains("newer version"), "{error}");
}

/// A record of a kind that is not known yet must not be passed over.
#[test]
fn a_log_that_lost_committed_entries_is_an_error() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = open(backend, folder.path()).unwrap();
        store.write(&entries(1, 0, 9)).unwrap();
        store.write(&[Record::Committed(log_id(1, 12))]).unwrap();
        drop(store);
        let error = open(backend, folder.path()).err().unwrap().to_string();
        assert!(error.contains("committed up to 12"), "{backend:?}: {error}");
    }
}

#[test]
fn sled_names_a_damaged_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = open(Sled, folder.path()).unwrap();
    store.write(&entries(1, 0, 199)).unwrap();
    drop(store);
    let config = sled::Config::new().path(folder.path()).segment_size(8 << 20).flush_every_ms(None);
    // sled releases its lock a while after its last handle is dropped.
    let deadline = Instant::now() + PATIENCE;
    let database = loop {
        match config.open() {
            Ok(database) => break database,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    let key = [&b"e"[..], &64_u64.to_be_bytes()].concat();
    let mut chunk = database.get(&key).unwrap().unwrap().to_vec();
    chunk[40] ^= 1;
    database.insert(&key, chunk).unwrap();
    drop(database);
    let error = open(Sled, folder.path()).err().unwrap().to_string();
    assert!(error.contains("chunk of entry 64 is damaged at offset"), "{error}");
}
