//! Messages as bytes.
//!
//! ```text
//! datagram    1 | message | message ...
//! question    2 | message         answer   3 | message
//! deflated    4 | deflated form of one of the above
//! sealed      5 | nonce | encrypted form of one of the above      (see keyring.rs)
//! datagram    6 | segment | message | message ...     in the pool of a segment that has a name
//!
//! message     kind | length | body
//! ```
//!
//! Numbers are little-endian base 128. A kind that is not known is skipped, so that older members
//! understand the rest of what newer ones say; tags that every member has are one byte. Nothing here
//! trusts a length.

mod read;
mod write;

use std::io::{Read, Write};

use uuid::Uuid;

use self::read::Reader;
use self::write::Writer;
use super::member::RECONNECT_TIMEOUT;
use super::message::{Message, Request, Response};

/// First bytes.
pub(super) const DATAGRAM: u8 = 1;
pub(super) const QUESTION: u8 = 2;
pub(super) const ANSWER: u8 = 3;
const DEFLATED: u8 = 4;
pub(super) const SEALED: u8 = 5;
const OF_SEGMENT: u8 = 6;

/// Bytes of a question or an answer at most: the knowledge of about 100,000 members.
pub(super) const STREAM_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Questions and answers from this size on are deflated.
pub(super) const DEFLATE_FROM: usize = 4096;
/// Bytes that come of one deflated byte at most. What members say of themselves gives four to eight.
const INFLATION_MAX: usize = 100;
/// Members of a question or an answer, as many as a pool may have.
pub(super) const MEMBERS_MAX: usize = 128 * 1024;
/// Bytes of a member in a question or an answer at least: its id alone takes 16.
const MEMBER_BYTES_MIN: usize = 28;
/// Events of a question or an answer. Those of late are 64.
const EVENTS_MAX: usize = 1024;
/// Bytes of an event at least.
const EVENT_BYTES_MIN: usize = 22;

/// Keys of tags that have a number. The place is the number: only ever add at the end.
const TAG_KEYS: [&str; 21] = [
    "acls",
    "bootstrap",
    "build",
    "dc",
    "expect",
    "ft_fs",
    "ft_si",
    "id",
    "port",
    "raft_vsn",
    "role",
    "segment",
    "vsn",
    "vsn_max",
    "vsn_min",
    "wan_join_port",
    "nonvoter",
    "read_replica",
    "use_tls",
    "grpc_port",
    RECONNECT_TIMEOUT,
];

/// The tag that repeats a member's id.
const ID: &str = "id";

fn is_id(key: &str, value: &str, id: Uuid) -> bool {
    key == ID && value.parse() == Ok(id)
}

/// Room that a tag takes at most.
pub(super) fn tag_size(key: &str, value: &str) -> usize {
    // A longer value's length takes two bytes; the id repeats what is said already.
    let value = if key == ID && value.len() == 36 { 1 } else { 2 + value.len() };
    if TAG_KEYS.contains(&key) { 1 + value } else { 3 + key.len() + value }
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

mod kind {
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const NACK: u8 = 4;
    pub(super) const ALIVE: u8 = 5;
    pub(super) const SUSPECT: u8 = 6;
    pub(super) const FAILED: u8 = 7;
    pub(super) const LEFT: u8 = 8;
    pub(super) const EVENT: u8 = 9;
    pub(super) const EXCHANGE: u8 = 32;
    pub(super) const STREAM_PING: u8 = 33;
    pub(super) const PONG: u8 = 34;
    pub(super) const REFUSED: u8 = 35;
    pub(super) const KEYS: u8 = 36;
    pub(super) const COMPARE: u8 = 37;
}

/// A datagram of these messages in the pool of a segment. An agent that moved to another segment and kept
/// its address must neither answer for who it was, nor take over what is said there.
pub fn datagram(segment: &str, messages: &[Message]) -> Vec<u8> {
    let mut out = Writer(vec![DATAGRAM]);
    if !segment.is_empty() {
        out = Writer(vec![OF_SEGMENT]);
        out.text(segment);
    }
    for message in messages {
        out.message(message);
    }
    out.0
}

/// The messages of a datagram in the pool of a segment.
pub fn read_datagram(segment: &str, bytes: &[u8]) -> Result<Vec<Message>> {
    let mut from = Reader(bytes);
    match from.byte()? {
        DATAGRAM if segment.is_empty() => {}
        OF_SEGMENT if !segment.is_empty() && *from.name()? == *segment => {}
        _ => return Err(Malformed),
    }
    let mut messages = Vec::new();
    while !from.0.is_empty() {
        let (kind, mut body) = from.frame()?;
        // A message that makes no sense costs itself alone.
        messages.extend(body.message(kind).ok().flatten());
    }
    Ok(messages)
}

/// A question as it goes over a connection.
pub fn question(request: &Request) -> Vec<u8> {
    let mut out = Writer(vec![QUESTION]);
    match request {
        Request::Exchange(knowledge) => out.frame(kind::EXCHANGE, |out| out.knowledge(knowledge)),
        Request::Compare(summary) => out.frame(kind::COMPARE, |out| out.summary(summary)),
        Request::Ping { target } => out.frame(kind::STREAM_PING, |out| out.text(target)),
        Request::Keys(order) => out.frame(kind::KEYS, |out| out.order(order)),
    }
    deflated(out.0)
}

/// The question of a connection.
pub fn read_question(bytes: &[u8]) -> Result<Request> {
    let inflated = inflated(bytes)?;
    let mut from = Reader(inflated.as_deref().unwrap_or(bytes));
    if from.byte()? != QUESTION {
        return Err(Malformed);
    }
    let (kind, mut body) = from.frame()?;
    match kind {
        kind::EXCHANGE => Ok(Request::Exchange(Box::new(body.knowledge()?))),
        kind::COMPARE => Ok(Request::Compare(Box::new(body.summary()?))),
        kind::STREAM_PING => Ok(Request::Ping { target: body.name()? }),
        kind::KEYS => Ok(Request::Keys(body.order()?)),
        _ => Err(Malformed),
    }
}

/// An answer as it goes over a connection.
pub fn answer(answer: &Response) -> Vec<u8> {
    let mut out = Writer(vec![ANSWER]);
    match answer {
        Response::Exchange(knowledge) => out.frame(kind::EXCHANGE, |out| out.knowledge(knowledge)),
        Response::Same(summary) => out.frame(kind::COMPARE, |out| out.summary(summary)),
        Response::Pong => out.frame(kind::PONG, |_| {}),
        Response::Refused(reason) => out.frame(kind::REFUSED, |out| out.text(reason)),
        Response::Keys(report) => out.frame(kind::KEYS, |out| out.report(report)),
    }
    deflated(out.0)
}

/// The answer of a connection.
pub fn read_answer(bytes: &[u8]) -> Result<Response> {
    let inflated = inflated(bytes)?;
    let mut from = Reader(inflated.as_deref().unwrap_or(bytes));
    if from.byte()? != ANSWER {
        return Err(Malformed);
    }
    let (kind, mut body) = from.frame()?;
    match kind {
        kind::EXCHANGE => Ok(Response::Exchange(Box::new(body.knowledge()?))),
        kind::COMPARE => Ok(Response::Same(Box::new(body.summary()?))),
        kind::PONG => Ok(Response::Pong),
        kind::REFUSED => Ok(Response::Refused(body.text()?)),
        kind::KEYS => Ok(Response::Keys(body.report()?)),
        _ => Err(Malformed),
    }
}

/// Does reading it take much more memory than it has bytes?
pub(super) fn is_heavy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DEFLATED) || bytes.len() > DEFLATE_FROM
}

fn deflated(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < DEFLATE_FROM {
        return bytes;
    }
    let mut out = flate2::write::DeflateEncoder::new(vec![DEFLATED], flate2::Compression::fast());
    let written = out.write_all(&bytes).and_then(|()| out.finish());
    // What no reader would inflate goes as it is.
    let fits = |packed: &Vec<u8>| bytes.len() <= (packed.len() - 1).saturating_mul(INFLATION_MAX);
    written.ok().filter(fits).unwrap_or(bytes)
}

/// Inflates a deflated body; nothing if it was not deflated.
fn inflated(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(packed) = bytes.strip_prefix(&[DEFLATED]) else { return Ok(None) };
    let limit = STREAM_BYTES_MAX.min(packed.len().saturating_mul(INFLATION_MAX));
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(packed)
        .take(limit as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| Malformed)?;
    if out.len() > limit { Err(Malformed) } else { Ok(Some(out)) }
}

#[cfg(test)]
mod tests;
