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
//! prepared by a thread of its own as soon as one is begun; when the disk has no room for it, new
//! writes are refused while those under way still have the rest of the current segment.
//!
//! A cut at the end (`TruncatedAfter`) and at the beginning (`Purged`) are records like any other.
//! Each segment begins with vote, commit position and purge position, so files before it are not
//! needed for them and can go as soon as all their entries are purged.

mod ahead;
mod recovery;

pub(in crate::raft) use ahead::sync_directory;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use self::ahead::Ahead;
use super::frame::{self, FRAME_HEADER, Spot};
use super::{LogReader, LogStore, Record, Recovered, Room, lock, log_id};
use crate::raft::types::{Entry, LogId, Vote};

/// Version of the segment's format.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"MUSTRLOG";
/// Magic, version, number, checksum; the rest is reserved.
const SEGMENT_HEADER: usize = 64;

/// Small, so that a first start is quick.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// Four seconds of writing at full speed with small values; recovery reads one in a few ms.
const SEGMENT_BYTES: u64 = 16 << 20;
/// A batch, unless it is one large record; with the state that begins a segment it fits one.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// The log in segments.
pub struct Wal {
    directory: PathBuf,
    segments: VecDeque<Segment>,
    /// Where the next frame goes in the last segment.
    at: usize,
    batch: u64,
    state: State,
    map: Arc<Mutex<Map>>,
    ahead: Ahead,
    room: Room,
    buffer: Vec<u8>,
    spots: Vec<Spot>,
    /// After a failed write nobody knows what the file holds.
    broken: bool,
}

/// What a new segment has to begin with.
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
    bytes: u64,
    /// The highest entry that was ever written to it.
    highest: Option<u64>,
}

/// Where each entry lies.
#[derive(Default)]
struct Map {
    /// Index of the first place.
    first: u64,
    places: VecDeque<Place>,
}

#[derive(Clone)]
struct Place {
    file: Arc<File>,
    offset: u32,
    length: u32,
    term: u64,
}

impl Map {
    fn push(&mut self, index: u64, place: Place) {
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
    /// Opens or creates the log in `directory`. `room` is where a full disk is announced.
    ///
    /// A torn tail is cut off and named in a log line. Damage before the tail is an error that
    /// names file and offset.
    pub fn open(directory: &Path, room: Room) -> io::Result<(Wal, Recovered)> {
        fs::create_dir_all(directory)?;
        recovery::remove_leftovers(directory)?;
        let found = recovery::recover(directory)?;
        let fresh = found.segments.is_empty();
        let ahead = Ahead::start(directory.to_owned(), room.clone())?;
        let mut wal = Wal {
            directory: directory.to_owned(),
            segments: found.segments,
            at: found.at,
            batch: found.batch,
            state: found.state,
            map: Arc::new(Mutex::new(found.map)),
            ahead,
            room,
            buffer: Vec::new(),
            spots: Vec::new(),
            broken: false,
        };
        if fresh {
            let file = ahead::prepare(directory, 0, FIRST_SEGMENT_BYTES)?;
            wal.segments.push_back(Segment::new(0, file, FIRST_SEGMENT_BYTES));
            wal.at = SEGMENT_HEADER;
        }
        for spare in found.spares {
            wal.ahead.have(spare);
        }
        wal.ahead.want(wal.number() + 1);
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
        if !self.fits() {
            self.next_segment()?;
        }
        let mut preamble = 0;
        if self.at == SEGMENT_HEADER {
            let state: Vec<Record> = self.state.records().collect();
            preamble = state.len();
            let all = state.iter().chain(records);
            frame::encode(self.batch, all, &mut self.buffer, &mut self.spots)?;
        }
        if !self.fits() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a record of {} bytes does not fit the log", self.buffer.len()),
            ));
        }
        let at = self.at;
        let segment = self.segments.back_mut().expect("a log has a segment from its opening on");
        segment.file.write_all_at(&self.buffer, at as u64)?;
        segment.file.sync_data()?;
        self.at += self.buffer.len();
        self.batch += 1;

        let mut map = lock(&self.map);
        for (record, spot) in records.iter().zip(&self.spots[preamble..]) {
            self.state.note(record);
            match record {
                Record::Entry(entry) => {
                    let place = Place {
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

    fn fits(&self) -> bool {
        let bytes = self.segments.back().map_or(0, |segment| segment.bytes);
        (self.at + self.buffer.len()) as u64 <= bytes
    }

    fn next_segment(&mut self) -> io::Result<()> {
        let number = self.number() + 1;
        let file = self.ahead.take(number, &self.room)?;
        self.segments.push_back(Segment::new(number, file, SEGMENT_BYTES));
        self.at = SEGMENT_HEADER;
        self.ahead.want(number + 1);
        Ok(())
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
            let (frame, after) = rest.split_at(frame_records(rest));
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

/// How many of the records make one frame: as many as fit, at least one.
fn frame_records(records: &[Record]) -> usize {
    let mut bytes = FRAME_HEADER;
    for (count, record) in records.iter().enumerate() {
        bytes += record.bytes_about();
        if bytes > FRAME_BYTES_MAX && count > 0 {
            return count;
        }
    }
    records.len()
}

impl Segment {
    fn new(number: u64, file: Arc<File>, bytes: u64) -> Segment {
        Segment { number, file, bytes, highest: None }
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
            let places: Vec<Place> = map
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

/// How many places lie close together in one file, to be read at once.
fn run_length(places: &[Place]) -> usize {
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

fn read_run(places: &[Place], mut index: u64, entries: &mut Vec<Entry>) -> io::Result<()> {
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
