//! Records of the log stores, as bytes.
//!
//! A record is one step of the log's history: an entry, a vote, a commit position, a cut at either
//! end. Both stores keep entries in this form, so a format change happens in one place.
//!
//! ```text
//!   kind u8 │ body
//!   entry      index u64 │ term u64 │ content u8 (blank, command, membership) │ content's bytes
//!   vote       term u64 │ committed u8 │ server 16 bytes
//!   committed, purged       index u64 │ term u64
//!   truncated               index u64 + 1, 0: everything
//! ```
//!
//! Numbers are little-endian. A kind that this version does not know is an error, never skipped:
//! a server that forgets a vote or an entry breaks promises it made.

use std::io;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::vote::leader_id_std::CommittedLeaderId;
use uuid::Uuid;

use crate::raft::types::{Entry, LogId, Membership, Proposal, ServerId, Vote};

/// One step of the log's history.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The next entry.
    Entry(Entry),
    /// This server's voice.
    Vote(Vote),
    /// Entries up to here are committed.
    Committed(LogId),
    /// Entries after this index were given up (`None`: all of them).
    TruncatedAfter(Option<u64>),
    /// Entries up to here live on in a snapshot only.
    Purged(LogId),
}

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATED_AFTER: u8 = 4;
const PURGED: u8 = 5;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

impl Record {
    /// Appends this record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Record::Entry(entry) => {
                out.push(ENTRY);
                encode_entry(entry, out)?;
            }
            Record::Vote(vote) => {
                out.push(VOTE);
                put(out, vote.leader_id.term);
                out.push(u8::from(vote.committed));
                out.extend_from_slice(vote.leader_id.voted_for.0.as_bytes());
            }
            Record::Committed(id) => {
                out.push(COMMITTED);
                put(out, id.index);
                put(out, id.leader_id.term);
            }
            Record::TruncatedAfter(index) => {
                out.push(TRUNCATED_AFTER);
                put(out, index.map_or(0, |index| index + 1));
            }
            Record::Purged(id) => {
                out.push(PURGED);
                put(out, id.index);
                put(out, id.leader_id.term);
            }
        }
        Ok(())
    }

    /// Reads one record. Its checksum was right, so what is wrong here was written so.
    pub fn decode(bytes: &Bytes) -> io::Result<Record> {
        let mut cursor = Cursor { rest: bytes.clone() };
        let record = match cursor.byte()? {
            ENTRY => return decode_entry(cursor).map(Record::Entry),
            VOTE => {
                let term = cursor.number()?;
                let committed = cursor.byte()? != 0;
                let id = cursor.take(16)?;
                let id = Uuid::from_slice(&id).map_err(io::Error::other)?;
                let mut vote = Vote::new(term, ServerId(id));
                vote.committed = committed;
                Record::Vote(vote)
            }
            COMMITTED => Record::Committed(cursor.log_id()?),
            TRUNCATED_AFTER => Record::TruncatedAfter(cursor.number()?.checked_sub(1)),
            PURGED => Record::Purged(cursor.log_id()?),
            kind => {
                return Err(invalid(format!(
                    "record of kind {kind} is unknown; it was written by a newer version"
                )));
            }
        };
        Ok(record)
    }

    /// About how many bytes it takes in a log, with its header.
    pub fn bytes_about(&self) -> usize {
        match self {
            Record::Entry(Entry { payload: EntryPayload::Normal(proposal), .. }) => {
                48 + proposal.encoded().len()
            }
            Record::Entry(Entry { payload: EntryPayload::Membership(membership), .. }) => {
                48 + 512 * membership.nodes().count()
            }
            _ => 48,
        }
    }

    /// Index and term if these are the bytes of an entry, without decoding what it carries.
    pub fn peek_entry(bytes: &[u8]) -> Option<LogId> {
        if *bytes.first()? != ENTRY {
            return None;
        }
        let index = u64::from_le_bytes(bytes.get(1..9)?.try_into().ok()?);
        let term = u64::from_le_bytes(bytes.get(9..17)?.try_into().ok()?);
        Some(log_id(term, index))
    }
}

/// A log id from its numbers.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) -> io::Result<()> {
    put(out, entry.log_id.index);
    put(out, entry.log_id.leader_id.term);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(proposal) => {
            out.push(COMMAND);
            out.extend_from_slice(proposal.encoded());
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            rmp_serde::encode::write_named(out, membership).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

fn decode_entry(mut cursor: Cursor) -> io::Result<Entry> {
    let id = cursor.log_id()?;
    let content = cursor.byte()?;
    let payload = match content {
        BLANK => EntryPayload::Blank,
        COMMAND => {
            // The entry outlives the block it was read in, so it gets bytes of its own.
            let encoded = Bytes::copy_from_slice(&cursor.rest);
            EntryPayload::Normal(Proposal::decode(encoded).map_err(|error| {
                unreadable(id, &format!("cannot be applied: {}", chained(error)))
            })?)
        }
        MEMBERSHIP => {
            let membership: Membership = rmp_serde::from_slice(&cursor.rest).map_err(|error| {
                unreadable(id, &format!("has a list of servers that cannot be decoded: {error}"))
            })?;
            EntryPayload::Membership(membership)
        }
        other => {
            return Err(unreadable(
                id,
                &format!("has content of kind {other}, which is unknown; a newer version wrote it"),
            ));
        }
    };
    Ok(Entry::new(id, payload))
}

/// An entry that is whole, and means nothing to this version.
fn unreadable(id: LogId, what: &str) -> io::Error {
    let index = id.index;
    invalid(format!(
        "log entry {index} {what}; if a newer version wrote it, run that one; to give the entry up, run `muster operator recover -skip-entry={index}` while the server is stopped"
    ))
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// An error about bytes that are damaged or not understood.
pub(in crate::raft) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Such an error with the texts of its sources: the library keeps only the text of an error.
pub(in crate::raft) fn chained(error: impl std::error::Error) -> io::Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    invalid(text)
}

struct Cursor {
    rest: Bytes,
}

impl Cursor {
    fn take(&mut self, length: usize) -> io::Result<Bytes> {
        if self.rest.len() < length {
            return Err(invalid("log record is too short for its kind".to_owned()));
        }
        Ok(self.rest.split_to(length))
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes[..].try_into().map_err(io::Error::other)?))
    }

    fn log_id(&mut self) -> io::Result<LogId> {
        let index = self.number()?;
        Ok(log_id(self.number()?, index))
    }
}
