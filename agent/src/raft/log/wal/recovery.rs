//! From the files of a log to what they say.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::super::WAY_OUT;
use super::super::frame::{self, End};
use super::super::record::invalid;
use super::ahead::Spare;
use super::{
    EntryLocation, MAGIC, Map, Record, SEGMENT_HEADER, Segment, State, VERSION, path, u32_of,
};

/// Content of the files.
pub(super) struct RecoveredSegments {
    pub(super) segments: VecDeque<Segment>,
    /// Bytes of the last of them.
    pub(super) bytes: u64,
    /// Its last frame, and where that is.
    last_frame: Option<(usize, Vec<u8>)>,
    /// Prepared, nothing written yet.
    pub(super) spares: Vec<Spare>,
    /// Offset of the next frame.
    pub(super) at: usize,
    /// Number of the next batch.
    pub(super) batch: u64,
    pub(super) state: State,
    pub(super) map: Map,
}

/// Removes segments whose preparation was interrupted.
pub(super) fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("tmp")) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension() != Some(OsStr::new("wal")) {
            continue;
        }
        let number = path.file_stem().and_then(OsStr::to_str);
        let number = number.and_then(|name| u64::from_str_radix(name, 16).ok());
        numbers.push(number.ok_or_else(|| {
            invalid(format!("{} is not the name of a log segment", path.display()))
        })?);
    }
    numbers.sort_unstable();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        let missing = path(directory, pair[0] + 1);
        return Err(invalid(format!("the log segment {} is missing", missing.display())));
    }
    Ok(numbers)
}

/// Reads every segment, cuts a torn tail off.
pub(super) fn recover(directory: &Path) -> io::Result<RecoveredSegments> {
    let mut found = RecoveredSegments {
        segments: VecDeque::new(),
        bytes: 0,
        last_frame: None,
        spares: Vec::new(),
        at: SEGMENT_HEADER,
        batch: 0,
        state: State::default(),
        map: Map::default(),
    };
    let numbers = numbers(directory)?;
    // The first batch of the oldest file tells where counting begins.
    let mut expected = None;
    let mut broken: Option<(u64, usize, usize)> = None;
    for number in numbers {
        let name = path(directory, number);
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&name)?);
        let bytes = fs::read(&name)?;
        check_header(&name, number, &bytes)?;
        let spare = Spare { number, file: Arc::clone(&file), bytes: bytes.len() as u64 };
        let mut segment = Segment::new(number, file);
        let begin = frame::Header::decode(bytes.get(SEGMENT_HEADER..).unwrap_or_default());
        let next = expected.get_or_insert_with(|| begin.map_or(0, |header| header.batch));
        if let Some((before, _, damage)) = broken {
            // A torn tail is where writing stopped: after it there can only be a prepared file.
            if frame::later_frame(&bytes, SEGMENT_HEADER, *next) {
                return Err(damaged(&path(directory, before), damage));
            }
            found.spares.push(spare);
            continue;
        }
        let before = *next;
        let end = frame::walk(&bytes, SEGMENT_HEADER, next, |offset, record| {
            found.note(&mut segment, offset, record)
        })
        .map_err(|error| {
            io::Error::new(error.kind(), format!("log segment {}: {error}", name.display()))
        })?;
        let used = *next > before;
        match end {
            // Nothing in it, and it is not the only one: prepared, not used yet.
            End::Clean(_) if !used && !found.segments.is_empty() => {
                found.spares.push(spare);
                continue;
            }
            End::Clean(_) if !found.spares.is_empty() => {
                let skipped = path(directory, number - 1);
                return Err(damaged(&skipped, SEGMENT_HEADER));
            }
            End::Clean(at) => found.at = at,
            End::Broken { damage, followed: true, .. } => return Err(damaged(&name, damage)),
            End::Broken { at, damage, followed: false } => {
                if !found.spares.is_empty() {
                    return Err(damaged(&path(directory, number - 1), SEGMENT_HEADER));
                }
                broken = Some((number, at, damage));
                found.at = at;
            }
        }
        found.segments.push_back(segment);
        found.bytes = spare.bytes;
        found.last_frame = frame::last(&bytes, SEGMENT_HEADER, found.at)
            .map(|at| (at, bytes[at..found.at].to_vec()));
    }
    found.batch = expected.unwrap_or(0);
    if let Some((number, at, damage)) = broken
        && let Some(segment) = found.segments.back()
    {
        cut_off(&path(directory, number), &segment.file, at, damage, found.bytes)?;
    }
    found.write_again(directory)?;
    found.check(directory)?;
    Ok(found)
}

impl RecoveredSegments {
    fn note(&mut self, segment: &mut Segment, offset: usize, record: &[u8]) -> io::Result<()> {
        // What an entry carries is decoded when it is read; here its place is enough.
        if let Some(id) = Record::peek_entry(record) {
            if self.map.next().is_some_and(|next| next != id.index) {
                return Err(invalid(format!(
                    "entry {} at offset {offset} does not follow the one before",
                    id.index
                )));
            }
            let place = EntryLocation {
                file: Arc::clone(&segment.file),
                offset: u32_of(offset)?,
                length: u32_of(frame::RECORD_HEADER + record.len())?,
                term: id.leader_id.term,
            };
            segment.highest = segment.highest.max(Some(id.index));
            self.map.push(id.index, place);
            return Ok(());
        }
        let record = Record::decode(&Bytes::copy_from_slice(record)).map_err(|error| {
            io::Error::new(error.kind(), format!("at offset {offset}: {error}"))
        })?;
        self.state.note(&record);
        match record {
            Record::TruncatedAfter(index) => self.map.truncate_after(index),
            Record::Purged(id) => self.map.purge(id.index),
            Record::Entry(_) | Record::Vote(_) | Record::Committed(_) => {}
        }
        Ok(())
    }

    /// A flush that fails leaves its bytes in memory, as if they were on the disk: they are read from
    /// there, the disk never gets them, and what is written behind them later would follow a hole. It
    /// can only have been the last batch, since nothing is written after such a failure. Written once
    /// more it is certain to be there.
    fn write_again(&self, directory: &Path) -> io::Result<()> {
        let (Some(segment), Some((at, frame))) = (self.segments.back(), &self.last_frame) else {
            return Ok(());
        };
        let written = segment.file.write_all_at(frame, *at as u64);
        written.and_then(|()| segment.file.sync_data()).map_err(|error| {
            let name = path(directory, segment.number);
            let text = format!("cannot flush log segment {}: {error}", name.display());
            io::Error::new(error.kind(), text)
        })
    }

    /// The entries must begin where the purge ended.
    fn check(&mut self, directory: &Path) -> io::Result<()> {
        let begin = self.state.purged.map_or(0, |purged| {
            self.map.purge(purged.index);
            purged.index + 1
        });
        if !self.map.places.is_empty() && self.map.first > begin {
            return Err(invalid(format!(
                "the log in {} begins at entry {}, but entries from {begin} on were not purged",
                directory.display(),
                self.map.first,
            )));
        }
        Ok(())
    }
}

fn check_header(name: &Path, number: u64, bytes: &[u8]) -> io::Result<()> {
    let expected = super::header(number);
    let Some(header) = bytes.get(..SEGMENT_HEADER) else {
        return Err(damaged(name, bytes.len()));
    };
    if header[..8] != MAGIC {
        return Err(damaged(name, 0));
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version > VERSION {
        return Err(invalid(format!(
            "log segment {} has format {version}, this version knows {VERSION}; it was written by a newer version",
            name.display()
        )));
    }
    if header[..24] != expected[..24] {
        return Err(damaged(name, 8));
    }
    Ok(())
}

fn damaged(name: &Path, offset: usize) -> io::Error {
    invalid(format!(
        "log segment {} is damaged at offset {offset} and acknowledged writes follow; {WAY_OUT}",
        name.display()
    ))
}

/// Overwrites what is left of a batch that was being written when the machine stopped.
fn cut_off(name: &Path, file: &File, at: usize, damage: usize, bytes: u64) -> io::Result<()> {
    tracing::warn!(
        "log segment {} has a torn tail: the batch at offset {at} is not whole (offset {damage}); nobody was told of it, it is cut off",
        name.display()
    );
    let zeros = vec![0; 1 << 20];
    let mut from = at as u64;
    while from < bytes {
        let piece = usize::try_from(bytes - from).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all_at(&zeros[..piece], from)?;
        from += piece as u64;
    }
    file.sync_data()
}
