//! The second log store: packed chunks in sled.
//!
//! ```text
//!   'e' + first index, big-endian   up to 64 entries, 64 KiB, one record after the other
//!   'v'  'c'  'p'                   vote, commit position, purge position
//!   'f'                             version of this format
//! ```
//!
//! A key per entry would cost gigabytes of memory for a few thousand of them, and so would removing
//! entries one by one; chunks keep the number of keys and of removals small. sled's own `flush`
//! writes with `sync_file_range`, which does not survive power loss: a `fdatasync` of its file
//! after every flush does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use sled::{Batch, Db};

use super::frame::{append_record, split_record};
use super::record::invalid;
use super::{DiskQuota, LogReader, LogStore, Record, Recovered, WAY_OUT, lock, log_id};
use crate::disk;
use crate::raft::types::{Entry, LogId};

/// Version of the keys and chunks.
const VERSION: u8 = 1;

/// Entries in a chunk, at most.
const CHUNK_ENTRIES_MAX: usize = 64;
/// A chunk is rewritten while it grows: large entries get one of their own.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// sled's unit on disk; larger values than this would go to files of their own, unsynced.
const SEGMENT_BYTES: usize = 8 << 20;
/// Pages that sled keeps in memory; recent entries are kept by the log itself.
const CACHE_BYTES: u64 = 16 << 20;
/// Time for sled to close a database that was dropped.
const CLOSING_MAX: Duration = Duration::from_secs(10);
/// Below this much free space new writes are refused: sled cannot be told to use no more.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// The log in sled.
pub struct Sled {
    database: Db,
    /// sled's file, for the flush that counts.
    file: File,
    path: PathBuf,
    chunks: Arc<Mutex<Chunks>>,
    /// Bytes and number of entries of the last chunk, which still grows.
    open: Option<Chunk>,
    quota: DiskQuota,
}

/// Number of entries and last term in each chunk, by the index of its first.
type Chunks = BTreeMap<u64, Extent>;

#[derive(Debug, Clone, Copy)]
struct Extent {
    count: u64,
    last_term: u64,
}

struct Chunk {
    first: u64,
    count: usize,
    last_term: u64,
    bytes: Vec<u8>,
}

impl Sled {
    /// Opens or creates the log in `directory`. `quota` is where a full disk is announced.
    pub fn open(directory: &Path, quota: DiskQuota) -> io::Result<(Sled, Recovered)> {
        disk::folder(directory)?;
        let database = open_database(directory)?;
        // Its library makes files as everybody may read them.
        disk::tighten_below(directory)?;
        let path = directory.join("db");
        let file = File::open(&path)?;
        let located = |error: io::Error| {
            io::Error::new(error.kind(), format!("log in {}: {error}", directory.display()))
        };
        match database.get(b"f").map_err(|error| io_error(directory, error))? {
            Some(version) if version.as_ref() != [VERSION] => {
                return Err(located(invalid(format!(
                    "its format {version:?} is unknown; it was written by a newer version"
                ))));
            }
            Some(_) => {}
            None => {
                let version: &[u8] = &[VERSION];
                database.insert(b"f", version).map_err(|error| io_error(directory, error))?;
            }
        }
        let (chunks, recovered) = recover(&database).map_err(located)?;
        recovered.check(directory)?;
        let mut store =
            Sled { database, file, path, chunks: Arc::new(Mutex::new(chunks)), open: None, quota };
        store.look_at_free_space();
        Ok((store, recovered))
    }

    fn push(&mut self, entry: &Entry, record: &Record, batch: &mut Batch) -> io::Result<()> {
        let index = entry.log_id.index;
        let full = self.open.as_ref().is_none_or(|chunk| {
            chunk.count >= CHUNK_ENTRIES_MAX || chunk.bytes.len() >= CHUNK_BYTES_MAX
        });
        if full {
            self.close(batch);
            let (count, last_term) = (0, 0);
            self.open = Some(Chunk { first: index, count, last_term, bytes: Vec::new() });
        }
        if let Some(chunk) = &mut self.open {
            append_record(record, &mut chunk.bytes)?;
            chunk.count += 1;
            chunk.last_term = entry.log_id.leader_id.term;
        }
        Ok(())
    }

    /// Puts the growing chunk into the batch as it is now.
    fn save(&self, batch: &mut Batch) {
        if let Some(chunk) = &self.open {
            batch.insert(&key(chunk.first), chunk.bytes.as_slice());
            let extent = Extent { count: chunk.count as u64, last_term: chunk.last_term };
            lock(&self.chunks).insert(chunk.first, extent);
        }
    }

    fn close(&mut self, batch: &mut Batch) {
        self.save(batch);
        self.open = None;
    }

    fn truncate_after(&mut self, last: Option<u64>, batch: &mut Batch) -> io::Result<()> {
        self.close(batch);
        // What is pending must be readable for the chunk that is cut in two.
        self.commit(std::mem::take(batch))?;
        let keep = last.map_or(0, |last| last + 1);
        let cut = {
            let mut chunks = lock(&self.chunks);
            for first in chunks.split_off(&keep).into_keys() {
                batch.remove(&key(first));
            }
            let cut = chunks.last_key_value().map(|(first, extent)| (*first, *extent));
            cut.filter(|(first, extent)| first + extent.count > keep)
        };
        if let Some((first, _)) = cut {
            let mut kept = Vec::new();
            for record in read_chunk(&self.database, first)? {
                if let Record::Entry(entry) = &record
                    && entry.log_id.index < keep
                {
                    kept.push(record);
                }
            }
            for record in &kept {
                if let Record::Entry(entry) = record {
                    self.push(entry, record, batch)?;
                }
            }
            self.close(batch);
        }
        Ok(())
    }

    fn purge(&mut self, upto: LogId, batch: &mut Batch) {
        if self.open.as_ref().is_some_and(|chunk| chunk.first <= upto.index) {
            self.close(batch);
        }
        let mut chunks = lock(&self.chunks);
        while let Some((first, extent)) = chunks.first_key_value()
            && first + extent.count <= upto.index + 1
        {
            batch.remove(&key(*first));
            chunks.pop_first();
        }
    }

    fn commit(&self, batch: Batch) -> io::Result<()> {
        self.database.apply_batch(batch).map_err(io::Error::from)
    }

    /// Refuses or accepts new writes by the free space of the file system.
    fn look_at_free_space(&mut self) {
        use std::os::fd::AsFd;
        let Ok(figures) = nix::sys::statvfs::fstatvfs(self.file.as_fd()) else {
            return;
        };
        let free = figures.blocks_available() * figures.fragment_size();
        if free < FREE_BYTES_MIN {
            let error = io::Error::from(io::ErrorKind::StorageFull);
            let text = format!("only {} MiB are free for the log: {error}", free >> 20);
            self.quota.refuse(&error, text);
        } else {
            self.quota.accept();
        }
    }
}

impl LogStore for Sled {
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let mut batch = Batch::default();
        for record in records {
            match record {
                Record::Entry(entry) => self.push(entry, record, &mut batch)?,
                Record::Vote(_) => batch.insert(b"v", encoded(record)?),
                Record::Committed(_) => batch.insert(b"c", encoded(record)?),
                Record::TruncatedAfter(last) => self.truncate_after(*last, &mut batch)?,
                Record::Purged(upto) => {
                    batch.insert(b"p", encoded(record)?);
                    self.purge(*upto, &mut batch);
                }
            }
        }
        self.save(&mut batch);
        self.commit(batch)?;
        let flushed = self.database.flush().map_err(io::Error::from);
        flushed.and_then(|_| self.file.sync_data()).map_err(|error| {
            let text = format!("cannot flush log file {}: {error}", self.path.display());
            io::Error::new(error.kind(), text)
        })?;
        self.look_at_free_space();
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Reader { database: self.database.clone(), chunks: Arc::clone(&self.chunks) })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "called where blocking is allowed; sled has no event"
)]
fn open_database(directory: &Path) -> io::Result<Db> {
    let config = sled::Config::new()
        .path(directory)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let deadline = Instant::now() + CLOSING_MAX;
    loop {
        match config.open() {
            Ok(database) => return Ok(database),
            // The folder's own lock keeps other processes away, so this is sled itself, which
            // closes a database a while after it was dropped.
            Err(error) if Instant::now() < deadline && error.to_string().contains("lock") => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(io_error(directory, error)),
        }
    }
}

fn key(first: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

fn encoded(record: &Record) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    append_record(record, &mut bytes)?;
    Ok(bytes)
}

fn io_error(directory: &Path, error: sled::Error) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("log in {}: {error}", directory.display()))
}

fn decode_all(what: &str, bytes: &[u8]) -> io::Result<Vec<Record>> {
    decode_where(what, bytes, |_| true)
}

fn decode_where(
    what: &str,
    bytes: &[u8],
    wanted: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let Some((record, after)) = split_record(rest) else {
            return Err(invalid(format!("{what} is damaged at offset {at}; {WAY_OUT}")));
        };
        if wanted(record) {
            records.push(Record::decode(&Bytes::copy_from_slice(record))?);
        }
        rest = after;
    }
    Ok(records)
}

fn read_chunk(database: &Db, first: u64) -> io::Result<Vec<Record>> {
    match database.get(key(first)).map_err(io::Error::from)? {
        Some(bytes) => decode_all(&format!("chunk of entry {first}"), &bytes),
        None => Ok(Vec::new()),
    }
}

/// Reads the few keys of state and the outlines of all chunks.
fn recover(database: &Db) -> io::Result<(Chunks, Recovered)> {
    let mut recovered = Recovered::default();
    for key in [b"v", b"c", b"p"] {
        let Some(bytes) = database.get(key).map_err(io::Error::from)? else {
            continue;
        };
        for record in decode_all(&String::from_utf8_lossy(key), &bytes)? {
            match record {
                Record::Vote(vote) => recovered.vote = Some(vote),
                Record::Committed(id) => recovered.committed = Some(id),
                Record::Purged(id) => recovered.purged = Some(id),
                Record::Entry(_) | Record::TruncatedAfter(_) => {}
            }
        }
    }
    let mut chunks = Chunks::new();
    let mut next: Option<u64> = None;
    for pair in database.scan_prefix(b"e") {
        let (key, bytes) = pair.map_err(io::Error::from)?;
        let first = key.get(1..9).and_then(|key| key.try_into().ok()).map(u64::from_be_bytes);
        let first = first.ok_or_else(|| invalid("a chunk's key is malformed".to_owned()))?;
        if next.is_some_and(|next| next != first) {
            return Err(invalid(format!("chunk of entry {first} does not follow the one before")));
        }
        let mut extent = Extent { count: 0, last_term: 0 };
        let mut rest: &[u8] = &bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let Some((record, after)) = split_record(rest) else {
                return Err(invalid(format!("chunk of entry {first} is damaged at offset {at}")));
            };
            let expected = first + extent.count;
            let Some(id) = Record::peek_entry(record).filter(|id| id.index == expected) else {
                return Err(invalid(format!("chunk of entry {first} lacks entry {expected}")));
            };
            extent = Extent { count: extent.count + 1, last_term: id.leader_id.term };
            rest = after;
        }
        next = Some(first + extent.count);
        chunks.insert(first, extent);
    }
    let purged = recovered.purged.map_or(0, |id| id.index + 1);
    if let Some((first, _)) = chunks.first_key_value()
        && *first > purged
    {
        return Err(invalid(format!("entries {purged} to {} are missing", first - 1)));
    }
    recovered.last = chunks
        .last_key_value()
        .map(|(first, extent)| log_id(extent.last_term, (first + extent.count).saturating_sub(1)))
        .filter(|last| last.index >= purged);
    recovered.first =
        recovered.last.and_then(|_| chunks.keys().next().map(|first| (*first).max(purged)));
    Ok((chunks, recovered))
}

struct Reader {
    database: Db,
    chunks: Arc<Mutex<Chunks>>,
}

impl LogReader for Reader {
    fn read(&self, first: u64, last: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let firsts: Vec<u64> = {
            let chunks = lock(&self.chunks);
            let begin = chunks.range(..=first).next_back().map_or(first, |(begin, _)| *begin);
            chunks.range(begin..=last).map(|(first, _)| *first).collect()
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for chunk in firsts {
            let Some(found) = self.database.get(key(chunk)).map_err(io::Error::from)? else {
                continue;
            };
            // Only what is asked for is decoded: another entry may be one that nobody can read.
            let wanted = |record: &[u8]| {
                Record::peek_entry(record).is_some_and(|id| (first..=last).contains(&id.index))
            };
            let what = format!("chunk of entry {chunk}");
            for record in decode_where(&what, &found, wanted)? {
                let size = record.bytes_about();
                if let Record::Entry(entry) = record
                    && bytes < bytes_max
                {
                    entries.push(entry);
                    bytes += size;
                }
            }
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }
}
