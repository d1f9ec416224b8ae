//! Segments as large as the load asks for, whatever a crash or an earlier version left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use muster_agent::raft::log::wal::Wal;
use muster_agent::raft::log::{DiskQuota, LogStore, Record, log_id};
use muster_agent::raft::{Consensus, Error, LogBackend};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::PATIENCE;
use crate::support::{entries, entry, get, ids, put, read_all, settings};

const MIB: u64 = 1 << 20;
/// What a segment takes at least.
const SMALLEST: u64 = 256 << 10;

fn open(folder: &Path) -> Wal {
    Wal::open(folder, &DiskQuota::default()).unwrap().0
}

/// The segments with their sizes, the oldest first. The writer's thread renames and removes files meanwhile: a file that
/// is gone between the listing and the look at its size is none.
fn segments(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .filter_map(|path| path.metadata().ok().map(|file| (path, file.len())))
        .collect();
    found.sort();
    found
}

fn bytes_in(folder: &Path) -> u64 {
    segments(folder).iter().map(|(_, bytes)| bytes).sum()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_log_takes_what_it_needs_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = open(folder.path());
    wal.write(&entries(1, 0, 99)).unwrap();
    until("the next segment is prepared", || segments(folder.path()).len() == 2);
    assert_eq!(bytes_in(folder.path()), 2 * SMALLEST);

    // As fast as it goes: each segment is larger than the one before, up to a limit.
    let mut next = 100;
    for _ in 0..1000 {
        let batch: Vec<Record> =
            (next..next + 50).map(|index| Record::Entry(entry(1, index, 1000))).collect();
        wal.write(&batch).unwrap();
        next += 50;
    }
    let largest = segments(folder.path()).iter().map(|(_, bytes)| *bytes).max().unwrap();
    assert!((MIB..=16 * MIB).contains(&largest), "{largest}");

    // Nobody writes any more: only what is written stays, and the smallest of what is prepared.
    wal.write(&[Record::Purged(log_id(1, next - 10))]).unwrap();
    until("it gives back what it does not need", || {
        let found = segments(folder.path());
        let [(current, bytes), (_, spare)] = found.as_slice() else { return false };
        let Ok(used) = fs::read(current) else { return false };
        let used = used.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        *spare == SMALLEST && *bytes <= used + 2 * SMALLEST + 16
    });
    wal.write(&entries(1, next, next + 5)).unwrap();
    drop(wal);
    let wal = open(folder.path());
    assert_eq!(read_all(&wal), ids(1, next - 9, next + 5));
}

#[test]
fn records_of_any_size_find_their_segment() {
    for seed in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut next = 0;
        let mut wal = open(folder.path());
        for _ in 0..25 {
            let sizes = [10, 1000, 100_000, 200_000, 261_000, 262_144, 300_000, 2_000_000];
            let batch: Vec<Record> = (next..next + rng.random_range(1..4))
                .map(|index| {
                    let large = rng.random_range(0..30) == 0;
                    let bytes =
                        if large { 8 << 20 } else { sizes[rng.random_range(0..sizes.len())] };
                    Record::Entry(entry(1, index, bytes))
                })
                .collect();
            wal.write(&batch).unwrap();
            next += batch.len() as u64;
            if rng.random_range(0..4) == 0 {
                drop(wal);
                wal = open(folder.path());
            }
        }
        assert_eq!(read_all(&wal), ids(1, 0, next - 1), "seed {seed}");
        let error = wal.write(&[Record::Entry(entry(1, next, 17 << 20))]).unwrap_err();
        assert!(error.to_string().contains("does not fit the log"), "{error}");
        drop(wal);
        assert_eq!(read_all(&open(folder.path())), ids(1, 0, next - 1), "seed {seed}");
    }
}

/// The previous version knew one size: 1 MiB for the first segment, 16 MiB for each after it.
#[test]
fn a_folder_of_the_previous_version_is_read_and_becomes_small() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = open(folder.path());
    let mut next = 0;
    while segments(folder.path()).len() < 4 {
        wal.write(&entries(1, next, next + 999)).unwrap();
        next += 1000;
    }
    drop(wal);
    for (number, (path, _)) in segments(folder.path()).iter().enumerate() {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(if number == 0 { MIB } else { 16 * MIB }).unwrap();
    }
    let mut wal = open(folder.path());
    assert_eq!(read_all(&wal), ids(1, 0, next - 1));
    let sizes: Vec<u64> = segments(folder.path()).iter().map(|(_, bytes)| *bytes).collect();
    let (spare, used) = sizes.split_last().unwrap();
    assert!(*spare == SMALLEST && *used.last().unwrap() < MIB, "{sizes:?}");
    wal.write(&entries(1, next, next + 20_000)).unwrap();
    drop(wal);
    assert_eq!(read_all(&open(folder.path())), ids(1, 0, next + 20_000));
}

/// What a kill leaves behind in the middle of making room: a segment that is prepared has zeros of
/// any number, one that is being made has another name.
#[test]
fn whatever_a_crash_leaves_of_a_prepared_segment_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = open(folder.path());
    wal.write(&entries(1, 0, 99)).unwrap();
    until("the next segment is prepared", || segments(folder.path()).len() == 2);
    drop(wal);
    let mut next = 100;
    for bytes in [64, 65, 4096, SMALLEST - 1, SMALLEST + 1, 3 * MIB + 12345, 16 * MIB] {
        let (spare, _) = segments(folder.path()).pop().unwrap();
        File::options().write(true).open(&spare).unwrap().set_len(bytes).unwrap();
        fs::write(spare.with_extension("tmp"), vec![0; 5000]).unwrap();
        // A crash between the beginning of a segment and its first frame: two are prepared.
        let name = spare.file_stem().unwrap().to_str().unwrap();
        let number = u64::from_str_radix(name, 16).unwrap() + 1;
        let mut header = fs::read(&spare).unwrap();
        header[12..20].copy_from_slice(&number.to_le_bytes());
        let sum = crc32fast::hash(&header[..20]);
        header[20..24].copy_from_slice(&sum.to_le_bytes());
        fs::write(folder.path().join(format!("{number:016x}.wal")), &header).unwrap();

        let mut wal = open(folder.path());
        assert!(!spare.with_extension("tmp").exists());
        assert_eq!(read_all(&wal), ids(1, 0, next - 1), "{bytes}");
        // Over its end, whatever its size.
        wal.write(&entries(1, next, next + 9999)).unwrap();
        next += 10_000;
        drop(wal);
        assert_eq!(read_all(&open(folder.path())), ids(1, 0, next - 1), "{bytes}");
    }
}

/// The first batch of a segment was being written when the machine stopped; what comes next does not
/// fit what is left of it.
#[test]
fn a_segment_whose_only_batch_was_torn_is_not_taken_for_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = open(folder.path());
    let mut next = 0;
    while segments(folder.path()).len() < 3 {
        wal.write(&entries(1, next, next + 99)).unwrap();
        next += 100;
    }
    drop(wal);
    let (second, _) = segments(folder.path()).remove(1);
    let mut bytes = fs::read(&second).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used - 4] ^= 1;
    fs::write(&second, bytes).unwrap();
    let mut wal = open(folder.path());
    let held = read_all(&wal).len() as u64;
    assert!(held < next, "{held} of {next}");
    wal.write(&[Record::Entry(entry(2, held, 1 << 20))]).unwrap();
    wal.write(&entries(2, held + 1, held + 50)).unwrap();
    drop(wal);
    let expected = [ids(1, 0, held - 1), ids(2, held, held + 50)].concat();
    assert_eq!(read_all(&open(folder.path())), expected);
}

/// A flush that failed may have left the last batch in memory only, where it is read from.
#[test]
fn the_last_batch_is_written_once_more_at_the_opening() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = open(folder.path());
    wal.write(&entries(1, 0, 99)).unwrap();
    wal.write(&entries(1, 100, 199)).unwrap();
    until("the next segment is prepared", || segments(folder.path()).len() == 2);
    drop(wal);
    let (segment, _) = segments(folder.path()).remove(0);
    let before = fs::read(&segment).unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    File::options().write(true).open(&segment).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(read_all(&open(folder.path())), ids(1, 0, 199));
    assert!(segment.metadata().unwrap().modified().unwrap() > long_ago);
    assert!(fs::read(&segment).unwrap() == before, "the same bytes");
}

/// A folder that is gone stands for a disk on which nothing can be made: what is open is written to,
/// new files fail, and no privilege is needed for it.
struct Full {
    folder: PathBuf,
    away: PathBuf,
}

impl Full {
    fn fill(folder: &Path) -> Full {
        let away = folder.with_extension("away");
        fs::rename(folder, &away).unwrap();
        Full { folder: folder.to_owned(), away }
    }

    fn empty(self) {
        fs::rename(self.away, self.folder).unwrap();
    }
}

/// Many writers of all sizes find a full disk: each hears of it, none waits, and what was taken on
/// before is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_every_writer_and_keeps_none_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let consensus = Consensus::start(settings(Some(folder.path()), LogBackend::Wal)).await.unwrap();
    let log = folder.path().join("raft/wal");
    until("the next segment is prepared", || segments(&log).len() == 2);
    let full = Full::fill(&log);
    let writers: Vec<_> = (0..24)
        .map(|writer| {
            let consensus = consensus.clone();
            let bytes = [10, 1000, 60_000, 150_000, 600_000, 5_000_000][writer % 6];
            tokio::spawn(async move {
                let value = vec![b'v'; bytes];
                for number in 0.. {
                    let change = put(&format!("{writer}/{number}"), value.clone());
                    let written = tokio::time::timeout(PATIENCE, consensus.propose(change)).await;
                    match written.expect("a write does not wait") {
                        Ok(_) => {}
                        Err(Error::Storage(error)) => return (number, bytes, error),
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("a disk is not endless")
            })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        let (count, bytes, error) = writer.await.unwrap();
        assert!(error.to_string().contains("no room for the log's next segment"), "{error}");
        written.push((count, bytes));
    }
    assert!(written.iter().any(|(count, _)| *count > 0), "{written:?}");
    consensus.read_barrier().await.unwrap();
    assert!(consensus.is_leader());

    full.empty();
    let deadline = Instant::now() + PATIENCE;
    let large = vec![b'v'; 5_000_000];
    while let Err(error) = consensus.propose(put("again", large.clone())).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    consensus.shutdown().await;
    let consensus = Consensus::start(settings(Some(folder.path()), LogBackend::Wal)).await.unwrap();
    for (writer, (count, bytes)) in written.into_iter().enumerate() {
        for number in 0..count {
            let found = get(&consensus, &format!("{writer}/{number}"));
            assert_eq!(found.map(|it| it.len()), Some(bytes), "{number} of writer {writer}");
        }
    }
    assert_eq!(get(&consensus, "again").map(|it| it.len()), Some(large.len()));
    consensus.shutdown().await;
}

/// What a leader sends is not asked for: it waits for room, and for the end.
#[test]
fn what_a_leader_sends_waits_for_room_but_not_beyond_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("wal");
    let quota = DiskQuota::default();
    let mut wal = Wal::open(&log, &quota).unwrap().0;
    wal.write(&entries(1, 0, 9)).unwrap();
    until("the next segment is prepared", || segments(&log).len() == 2);
    let full = Full::fill(&log);
    let (tell, told) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        for next in 10.. {
            let written = wal.write(&[Record::Entry(entry(1, next, 50_000))]);
            tell.send((next, written.map_err(|error| error.to_string()))).unwrap();
            if next > 10_000 || wal.write(&[]).is_err() {
                break;
            }
        }
    });
    until("nothing can be prepared", || quota.refusal().is_some());
    let mut last = 9;
    while let Ok((index, written)) = told.recv_timeout(Duration::from_secs(2)) {
        written.unwrap();
        last = index;
    }
    assert!((10..20).contains(&last), "{last} in two small segments");
    full.empty();
    let (index, written) = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((index, written), (last + 1, Ok(())));
    assert!(quota.refusal().is_none());

    let full = Full::fill(&log);
    until("nothing can be prepared", || quota.refusal().is_some());
    quota.end();
    let error = told.iter().find_map(|(_, written)| written.err()).unwrap();
    assert!(error.contains("no room for the log's next segment"), "{error}");
    writer.join().unwrap();
    full.empty();
    let held = read_all(&open(&log));
    assert!(held.len() as u64 > last, "{} of {last}", held.len());
}
