//! The default log store: a row of files, each zero-filled before it is used.
//!
//! ```text
//!   raft/wal/0000000000000007.wal   full
//!   raft/wal/0000000000000008.wal   written to: header │ frame │ frame │ zeros…
//!   raft/wal/0000000000000009.wal   prepared: header │ zeros…
//! ```
//!
//! A batch is one write and one `fdatasync`. Since the bytes of a segment exist before they are
//! overwritten, that flush never has to wait for the file system's journal. The next segment is
//! prepared by a thread of its own as soon as one is begun. A new write is promised its place in what
//! is there ([`DiskQuota`]); when the disk has no room for more, it is refused, and all that are under way
//! still have theirs.
//!
//! Segments are as large as the load asks for: a busy log seldom begins one, a quiet one takes little
//! of the disk.
//!
//! A cut at the end (`TruncatedAfter`) and at the beginning (`Purged`) are records like any other.
//! Each segment begins with vote, commit position and purge position, so files before it are not
//! needed for them and can go as soon as all their entries are purged.

mod ahead;
mod recovery;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use self::ahead::{Ahead, Current};
use super::frame::{self, FRAME_HEADER, RecordLocation};
use super::{DiskQuota, LogReader, LogStore, Record, Recovered, lock, log_id};
use crate::disk;
use crate::raft::types::{Entry, LogId, Vote};

/// Version of the segment's format.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"MUSTRLOG";
/// Magic, version, number, checksum; the rest is reserved.
const SEGMENT_HEADER: usize = 64;

/// Of a log that is seldom written to, and of the first ones, so that a first start is quick.
const SEGMENT_BYTES_MIN: u64 = 256 << 10;
/// Recovery reads one in a few ms. Every change fits one, and so do all that are under way.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// A segment is to last so long at the pace of the one before …
const SEGMENT_LASTS: Duration = Duration::from_secs(4);
/// … but one short burst does not make a large one.
const SEGMENT_GROWTH_MAX: u64 = 4;
/// The records that begin a segment: vote, commit position and purge position.
const PREAMBLE_BYTES_MAX: usize = 256;
/// A batch, unless it is one large record; with the state that begins a segment it fits one.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// The log in segments.
pub struct Wal {
    directory: PathBuf,
    segments: VecDeque<Segment>,
    /// Offset of the next frame in the last segment.
    at: usize,
    batch: u64,
    state: State,
    map: Arc<Mutex<Map>>,
    ahead: Ahead,
    /// When the last segment was begun, and how large the one after it was meant to be.
    begun: Instant,
    next_bytes: u64,
    buffer: Vec<u8>,
    spots: Vec<RecordLocation>,
    /// After a failed write nobody knows what the file holds.
    broken: bool,
}

/// State that a new segment has to begin with.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl State {
    fn note(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(id) => self.committed = Some(*id),
            Record::Purged(id) => self.purged = self.purged.max(Some(*id)),
            Record::Entry(_) | Record::TruncatedAfter(_) => {}
        }
    }

    fn records(&self) -> impl Iterator<Item = Record> {
        let vote = self.vote.map(Record::Vote);
        let committed = self.committed.map(Record::Committed);
        vote.into_iter().chain(committed).chain(self.purged.map(Record::Purged))
    }
}

/// One file.
struct Segment {
    number: u64,
    file: Arc<File>,
    /// The highest entry that was ever written to it.
    highest: Option<u64>,
}

/// Locations of entries.
#[derive(Default)]
struct Map {
    /// Index of the first place.
    first: u64,
    places: VecDeque<EntryLocation>,
}

#[derive(Clone)]
struct EntryLocation {
    file: Arc<File>,
    offset: u32,
    length: u32,
    term: u64,
}

impl Map {
    fn push(&mut self, index: u64, place: EntryLocation) {
        if self.places.is_empty() {
            self.first = index;
        }
        self.places.push_back(place);
    }

    fn last(&self) -> Option<LogId> {
        let index = (self.first + self.places.len() as u64).checked_sub(1)?;
        self.places.back().map(|place| log_id(place.term, index))
    }

    fn next(&self) -> Option<u64> {
        (!self.places.is_empty()).then(|| self.first + self.places.len() as u64)
    }

    fn truncate_after(&mut self, index: Option<u64>) {
        let keep = index.map_or(0, |index| (index + 1).saturating_sub(self.first));
        self.places.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    fn purge(&mut self, upto: u64) {
        let gone = (upto + 1).saturating_sub(self.first);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.places.len());
        self.places.drain(..gone);
        self.first += gone as u64;
        // A drained map of many entries gives its memory back.
        self.places.shrink_to(self.places.len() * 2);
    }
}

impl Wal {
    /// Opens or creates the log in `directory`. `quota` is where a full disk is announced.
    ///
    /// A torn tail is cut off and named in a log line. Damage before the tail is an error that
    /// names file and offset.
    pub fn open(directory: &Path, quota: &DiskQuota) -> io::Result<(Wal, Recovered)> {
        disk::folder(directory)?;
        recovery::remove_leftovers(directory)?;
        let mut found = recovery::recover(directory)?;
        if found.segments.is_empty() {
            let file = ahead::prepare(directory, 0, SEGMENT_BYTES_MIN)?;
            found.segments.push_back(Segment::new(0, file));
            found.bytes = SEGMENT_BYTES_MIN;
        }
        // Behind the next one there may be another, if the next one was begun and not written to.
        for needless in found.spares.drain(1.min(found.spares.len())..) {
            fs::remove_file(path(directory, needless.number))?;
        }
        let last = found.segments.back().expect("there is one by now");
        let current = Current {
            number: last.number,
            file: Arc::clone(&last.file),
            bytes: found.bytes,
            used: Some(found.at as u64),
        };
        let ahead = Ahead::start(directory.to_owned(), quota, current, found.spares.pop())?;
        let wal = Wal {
            directory: directory.to_owned(),
            segments: found.segments,
            at: found.at,
            batch: found.batch,
            state: found.state,
            map: Arc::new(Mutex::new(found.map)),
            ahead,
            begun: Instant::now(),
            next_bytes: SEGMENT_BYTES_MIN,
            buffer: Vec::new(),
            spots: Vec::new(),
            broken: false,
        };
        wal.ahead.want(wal.number() + 1, wal.next_bytes);
        let (first, last) = {
            let map = lock(&wal.map);
            (map.last().map(|_| map.first), map.last())
        };
        let recovered = Recovered {
            vote: wal.state.vote,
            committed: wal.state.committed,
            purged: wal.state.purged,
            first,
            last,
        };
        recovered.check(directory)?;
        Ok((wal, recovered))
    }

    fn number(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.number)
    }

    fn write_frame(&mut self, records: &[Record]) -> io::Result<()> {
        frame::encode(self.batch, records, &mut self.buffer, &mut self.spots)?;
        if self.buffer.len() as u64 > self.ahead.left(self.at).0 {
            let bytes = (SEGMENT_HEADER + PREAMBLE_BYTES_MAX + self.buffer.len()) as u64;
            if bytes > SEGMENT_BYTES_MAX {
                return Err(self.too_large());
            }
            if self.at == SEGMENT_HEADER {
                // Without a frame it would look like a prepared one that was passed over.
                self.write_encoded(&[])?;
            }
            self.next_segment(bytes)?;
            frame::encode(self.batch, records, &mut self.buffer, &mut self.spots)?;
        }
        self.write_encoded(records)
    }

    fn too_large(&self) -> io::Error {
        let text = format!("a record of {} bytes does not fit the log", self.buffer.len());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    }

    /// Writes a frame of these records, which the buffer holds, where there is room for it.
    fn write_encoded(&mut self, records: &[Record]) -> io::Result<()> {
        let mut preamble = 0;
        if self.at == SEGMENT_HEADER {
            let state: Vec<Record> = self.state.records().collect();
            preamble = state.len();
            let all = state.iter().chain(records);
            frame::encode(self.batch, all, &mut self.buffer, &mut self.spots)?;
        }
        let at = self.at;
        if !self.ahead.begin(at, self.buffer.len()) {
            return Err(self.too_large());
        }
        let segment = self.segments.back_mut().expect("a log has a segment from its opening on");
        let name = path(&self.directory, segment.number);
        let named = |what: &str, error: io::Error| {
            let text = format!("cannot {what} log segment {}: {error}", name.display());
            io::Error::new(error.kind(), text)
        };
        let written = segment.file.write_all_at(&self.buffer, at as u64);
        written.map_err(|error| named("write to", error))?;
        // After this failed once, trying again could succeed and yet have lost what was to be flushed.
        segment.file.sync_data().map_err(|error| named("flush", error))?;
        self.at += self.buffer.len();
        self.batch += 1;
        self.ahead.done(self.at);

        let mut map = lock(&self.map);
        for (record, spot) in records.iter().zip(&self.spots[preamble..]) {
            self.state.note(record);
            match record {
                Record::Entry(entry) => {
                    let place = EntryLocation {
                        file: Arc::clone(&segment.file),
                        offset: u32_of(at + spot.offset)?,
                        length: u32_of(spot.length)?,
                        term: entry.log_id.leader_id.term,
                    };
                    segment.highest = segment.highest.max(Some(entry.log_id.index));
                    map.push(entry.log_id.index, place);
                }
                Record::TruncatedAfter(index) => map.truncate_after(*index),
                Record::Purged(id) => map.purge(id.index),
                Record::Vote(_) | Record::Committed(_) => {}
            }
        }
        Ok(())
    }

    /// Begins a segment of at least so many bytes.
    fn next_segment(&mut self, bytes: u64) -> io::Result<()> {
        let number = self.number() + 1;
        let file = self.ahead.advance(number, bytes)?;
        self.next_bytes = next_bytes(self.next_bytes, self.at as u64, self.begun.elapsed());
        self.begun = Instant::now();
        self.segments.push_back(Segment::new(number, file));
        self.at = SEGMENT_HEADER;
        self.ahead.want(number + 1, self.next_bytes);
        Ok(())
    }

    /// Number of records that make one frame: as many as fit, at least one.
    fn frame_records(&self, records: &[Record]) -> usize {
        const AROUND: usize = FRAME_HEADER + frame::ALIGNMENT;
        let (rest, next) = self.ahead.left(self.at);
        let first = records.first().map_or(0, |record| AROUND + record.bytes_about());
        let limit = if first as u64 <= rest { rest } else { next };
        let limit = usize::try_from(limit).map_or(FRAME_BYTES_MAX, |it| it.min(FRAME_BYTES_MAX));
        let mut bytes = AROUND;
        for (count, record) in records.iter().enumerate() {
            bytes += record.bytes_about();
            if bytes > limit && count > 0 {
                return count;
            }
        }
        records.len()
    }

    /// Removes the files before the first that is still needed.
    fn drop_purged(&mut self) {
        let Some(purged) = self.state.purged else {
            return;
        };
        // The last one is written to. A file without entries only holds what its successor repeats.
        while self.segments.len() > 1
            && let Some(segment) = self.segments.front()
            && segment.highest.is_none_or(|highest| highest <= purged.index)
        {
            self.ahead.remove(path(&self.directory, segment.number));
            self.segments.pop_front();
        }
    }
}

impl LogStore for Wal {
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the log failed"));
        }
        let mut rest = records;
        while !rest.is_empty() {
            let (frame, after) = rest.split_at(self.frame_records(rest));
            if let Err(error) = self.write_frame(frame) {
                self.broken = true;
                return Err(error);
            }
            rest = after;
        }
        if records.iter().any(|record| matches!(record, Record::Purged(_))) {
            self.drop_purged();
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Segments { map: Arc::clone(&self.map) })
    }
}

/// Size of the next segment, after one of which `written` bytes were used `within` this time.
fn next_bytes(before: u64, written: u64, within: Duration) -> u64 {
    let within = within.as_millis().max(1);
    let wanted = u128::from(written) * SEGMENT_LASTS.as_millis() / within;
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let wanted = wanted.min(before * SEGMENT_GROWTH_MAX).min(SEGMENT_BYTES_MAX);
    wanted.next_power_of_two().clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

impl Segment {
    fn new(number: u64, file: Arc<File>) -> Segment {
        Segment { number, file, highest: None }
    }
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.wal"))
}

fn header(number: u64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[0..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    header
}

fn u32_of(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::other("a segment of the log exceeds 4 GiB"))
}

/// Reads entries where the map says they are.
struct Segments {
    map: Arc<Mutex<Map>>,
}

impl LogReader for Segments {
    fn read(&self, first: u64, last: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (first, places) = {
            let map = lock(&self.map);
            let first = first.max(map.first);
            let from = usize::try_from(first - map.first).unwrap_or(usize::MAX);
            let count = usize::try_from((last + 1).saturating_sub(first)).unwrap_or(usize::MAX);
            let mut bytes = 0;
            let places: Vec<EntryLocation> = map
                .places
                .iter()
                .skip(from)
                .take(count)
                .take_while(|place| {
                    let more = bytes < bytes_max;
                    bytes = bytes.saturating_add(place.length as usize);
                    more
                })
                .cloned()
                .collect();
            (first, places)
        };
        let mut entries = Vec::with_capacity(places.len());
        let mut rest = places.as_slice();
        while !rest.is_empty() {
            let (run, after) = rest.split_at(run_length(rest));
            read_run(run, first + entries.len() as u64, &mut entries)?;
            rest = after;
        }
        Ok(entries)
    }
}

/// Number of entries that lie close together in one file, to be read at once.
fn run_length(places: &[EntryLocation]) -> usize {
    const RUN_BYTES_MAX: u32 = 1 << 20;
    let first = &places[0];
    places
        .iter()
        .take_while(|place| {
            Arc::ptr_eq(&place.file, &first.file)
                && place.offset >= first.offset
                && (place.offset - first.offset).saturating_add(place.length) <= RUN_BYTES_MAX
        })
        .count()
        .max(1)
}

fn read_run(places: &[EntryLocation], mut index: u64, entries: &mut Vec<Entry>) -> io::Result<()> {
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return Ok(());
    };
    let mut bytes = vec![0; (last.offset - first.offset + last.length) as usize];
    first.file.read_exact_at(&mut bytes, u64::from(first.offset))?;
    for place in places {
        let from = (place.offset - first.offset) as usize;
        let Some((record, _)) = frame::split_record(&bytes[from..from + place.length as usize])
        else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("log entry {index} is damaged at offset {}", place.offset),
            ));
        };
        match Record::decode(&Bytes::copy_from_slice(record))? {
            Record::Entry(entry) => entries.push(entry),
            _ => return Err(io::Error::other(format!("log entry {index} is not where it was"))),
        }
        index += 1;
    }
    Ok(())
}
