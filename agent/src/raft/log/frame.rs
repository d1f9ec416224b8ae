//! A batch as bytes in a segment, and how to tell a torn tail from damage.
//!
//! ```text
//!   frame   magic u32 │ length u32 │ batch u64 │ records u32 │ crc u32 │ records… │ zeros to 8
//!   record  length u32 │ crc u32 │ bytes
//! ```
//!
//! The checksum of a frame covers its first 20 bytes, that of a record its bytes. Batches are
//! numbered through all segments without a gap. The writer starts a batch only when the one before
//! is durable. So if a damaged frame is followed by a sound one anywhere, the damaged one had been
//! acknowledged: that is corruption, and the server must not start. If nothing follows, the batch
//! was being written when the machine stopped: nobody was told of it, and it is cut off.

use std::io;

use super::record::Record;

/// Bytes before a frame's records.
pub(super) const FRAME_HEADER: usize = 24;
/// Bytes before a record's own.
pub(super) const RECORD_HEADER: usize = 8;
/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"MFRM");

/// Position of an entry's record in the frame under construction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RecordLocation {
    /// Of the record's header, from the frame's start.
    pub(super) offset: usize,
    /// Header and bytes.
    pub(super) length: usize,
}

/// Writes a frame into `out` (cleared first), notes where each record lies.
pub(super) fn encode<'a>(
    batch: u64,
    records: impl IntoIterator<Item = &'a Record>,
    out: &mut Vec<u8>,
    spots: &mut Vec<RecordLocation>,
) -> io::Result<()> {
    out.clear();
    spots.clear();
    out.resize(FRAME_HEADER, 0);
    for record in records {
        let offset = out.len();
        append_record(record, out)?;
        spots.push(RecordLocation { offset, length: out.len() - offset });
    }
    let length = length_u32(out.len() - FRAME_HEADER)?;
    let count = length_u32(spots.len())?;
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out[8..16].copy_from_slice(&batch.to_le_bytes());
    out[16..20].copy_from_slice(&count.to_le_bytes());
    let crc = crc32fast::hash(&out[0..20]);
    out[20..24].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Ok(())
}

/// Appends one record with its header.
pub(super) fn append_record(record: &Record, out: &mut Vec<u8>) -> io::Result<()> {
    let offset = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    record.encode(out)?;
    let bytes = &out[offset + RECORD_HEADER..];
    let length = length_u32(bytes.len())?;
    let crc = crc32fast::hash(bytes);
    out[offset..offset + 4].copy_from_slice(&length.to_le_bytes());
    out[offset + 4..offset + 8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

fn length_u32(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "a batch of the log exceeds 4 GiB")
    })
}

/// The first record's bytes and what follows it. `None`: the checksum or the length is wrong.
pub(super) fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let crc = number(bytes, 4)?;
    let rest = &bytes[RECORD_HEADER..];
    if rest.len() < length {
        return None;
    }
    let (record, rest) = rest.split_at(length);
    (length > 0 && crc32fast::hash(record) == crc).then_some((record, rest))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A sound frame header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Header {
    pub(super) batch: u64,
    /// Bytes of its records.
    pub(super) length: usize,
    pub(super) count: u32,
}

impl Header {
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        if number(bytes, 0)? != MAGIC || number(bytes, 20)? != crc32fast::hash(&bytes[..20]) {
            return None;
        }
        Some(Header {
            batch: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            length: usize::try_from(number(bytes, 4)?).ok()?,
            count: number(bytes, 16)?,
        })
    }

    /// Header, records and padding.
    pub(super) fn frame_length(self) -> usize {
        (FRAME_HEADER + self.length).next_multiple_of(ALIGNMENT)
    }
}

/// End of the frames of a segment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    /// Nothing but zeros from here on.
    Clean(usize),
    /// The frame that begins here is not sound. `followed`: another batch was written after it.
    Broken { at: usize, damage: usize, followed: bool },
}

/// Walks over the frames of a segment from offset `at`; `expected` is the number of the next
/// batch. Calls `found` with the offset of each record and its bytes.
pub(super) fn walk(
    segment: &[u8],
    mut at: usize,
    expected: &mut u64,
    mut found: impl FnMut(usize, &[u8]) -> io::Result<()>,
) -> io::Result<End> {
    loop {
        let Some(rest) = segment.get(at..).filter(|rest| rest.len() >= FRAME_HEADER) else {
            return Ok(end(segment, at, *expected, at));
        };
        let Some(header) = Header::decode(rest).filter(|header| header.batch == *expected) else {
            return Ok(end(segment, at, *expected, at));
        };
        let Some(records) = rest.get(FRAME_HEADER..FRAME_HEADER + header.length) else {
            return Ok(broken(segment, at, at, *expected));
        };
        // All of a frame or nothing: look at every checksum before anything counts.
        let mut rest = records;
        let mut damage = None;
        for _ in 0..header.count {
            if let Some((_, after)) = split_record(rest) {
                rest = after;
            } else {
                damage = Some(at + FRAME_HEADER + records.len() - rest.len());
                break;
            }
        }
        if let Some(damage) = damage {
            return Ok(broken(segment, at, damage, *expected));
        }
        let mut rest = records;
        for _ in 0..header.count {
            let offset = at + FRAME_HEADER + records.len() - rest.len();
            if let Some((record, after)) = split_record(rest) {
                found(offset, record)?;
                rest = after;
            }
        }
        *expected += 1;
        at += header.frame_length();
    }
}

/// Start of the last sound frame between `at` and `end`.
pub(super) fn last(segment: &[u8], mut at: usize, end: usize) -> Option<usize> {
    let mut last = None;
    while at < end
        && let Some(header) = segment.get(at..).and_then(Header::decode)
    {
        last = Some(at);
        at += header.frame_length();
    }
    last
}

fn end(segment: &[u8], at: usize, expected: u64, damage: usize) -> End {
    let rest = segment.get(at..).unwrap_or_default();
    if rest.chunks(PIECE).all(is_zero) {
        End::Clean(at.min(segment.len()))
    } else {
        broken(segment, at, damage, expected)
    }
}

fn broken(segment: &[u8], at: usize, damage: usize, expected: u64) -> End {
    End::Broken { at, damage, followed: later_frame(segment, at, expected) }
}

/// Is there a frame of a batch after `batch` anywhere from `at` on?
pub(super) fn later_frame(segment: &[u8], at: usize, batch: u64) -> bool {
    let magic = MAGIC.to_le_bytes();
    (at..segment.len()).step_by(PIECE).any(|piece| {
        let end = segment.len().min(piece + PIECE);
        // Most of a segment is not written yet.
        !is_zero(&segment[piece..end])
            && (piece..end).step_by(ALIGNMENT).any(|offset| {
                segment[offset..].starts_with(&magic)
                    && Header::decode(&segment[offset..]).is_some_and(|header| header.batch > batch)
            })
    })
}

/// Bytes that are scanned at once.
const PIECE: usize = 4096;

/// A comparison of memory, many times quicker than a look at each byte.
fn is_zero(piece: &[u8]) -> bool {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    piece == &ZEROS[..piece.len()]
}
