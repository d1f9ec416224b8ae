//! Messages as bytes.
//!
//! ```text
//! datagram    1 | message | message ...
//! question    2 | message         answer   3 | message
//! deflated    4 | deflated form of one of the above
//! sealed      5 | nonce | encrypted form of one of the above      (see keyring.rs)
//!
//! message     kind | length | body
//! ```
//!
//! Numbers are little-endian base 128. A kind that is not known is skipped, so that older members
//! understand the rest of what newer ones say; tags that every member has are one byte. Nothing here
//! trusts a length.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::keyring::{Order, Report};
use super::member::{Details, Name, State, Tags, UserEvent};
use super::message::{Answer, Claim, Knowledge, Known, Message, Request};
use super::vivaldi::{Coordinate, DIMENSIONS};

/// First bytes.
pub(super) const DATAGRAM: u8 = 1;
pub(super) const QUESTION: u8 = 2;
pub(super) const ANSWER: u8 = 3;
const DEFLATED: u8 = 4;
pub(super) const SEALED: u8 = 5;

/// Bytes of a question or an answer at most: the knowledge of about 100,000 members.
pub(super) const STREAM_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Questions and answers from this size on are deflated.
const DEFLATE_FROM: usize = 4096;

/// Keys of tags that have a number. The place is the number: only ever add at the end.
const TAG_KEYS: [&str; 20] = [
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
}

/// A datagram of these messages.
pub fn datagram(messages: &[Message]) -> Vec<u8> {
    let mut out = Writer(vec![DATAGRAM]);
    for message in messages {
        out.message(message);
    }
    out.0
}

/// The messages of a datagram.
pub fn read_datagram(bytes: &[u8]) -> Result<Vec<Message>> {
    let mut from = Reader(bytes);
    if from.byte()? != DATAGRAM {
        return Err(Malformed);
    }
    let mut messages = Vec::new();
    while !from.0.is_empty() {
        let (kind, mut body) = from.frame()?;
        messages.extend(body.message(kind)?);
    }
    Ok(messages)
}

/// A question as it goes over a connection.
pub fn question(request: &Request) -> Vec<u8> {
    let mut out = Writer(vec![QUESTION]);
    match request {
        Request::Exchange(knowledge) => out.frame(kind::EXCHANGE, |out| out.knowledge(knowledge)),
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
        kind::STREAM_PING => Ok(Request::Ping { target: body.name()? }),
        kind::KEYS => Ok(Request::Keys(body.order()?)),
        _ => Err(Malformed),
    }
}

/// An answer as it goes over a connection.
pub fn answer(answer: &Answer) -> Vec<u8> {
    let mut out = Writer(vec![ANSWER]);
    match answer {
        Answer::Exchange(knowledge) => out.frame(kind::EXCHANGE, |out| out.knowledge(knowledge)),
        Answer::Pong => out.frame(kind::PONG, |_| {}),
        Answer::Refused(reason) => out.frame(kind::REFUSED, |out| out.text(reason)),
        Answer::Keys(report) => out.frame(kind::KEYS, |out| out.report(report)),
    }
    deflated(out.0)
}

/// The answer of a connection.
pub fn read_answer(bytes: &[u8]) -> Result<Answer> {
    let inflated = inflated(bytes)?;
    let mut from = Reader(inflated.as_deref().unwrap_or(bytes));
    if from.byte()? != ANSWER {
        return Err(Malformed);
    }
    let (kind, mut body) = from.frame()?;
    match kind {
        kind::EXCHANGE => Ok(Answer::Exchange(Box::new(body.knowledge()?))),
        kind::PONG => Ok(Answer::Pong),
        kind::REFUSED => Ok(Answer::Refused(body.text()?)),
        kind::KEYS => Ok(Answer::Keys(body.report()?)),
        _ => Err(Malformed),
    }
}

fn deflated(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < DEFLATE_FROM {
        return bytes;
    }
    let mut out = flate2::write::DeflateEncoder::new(vec![DEFLATED], flate2::Compression::fast());
    let written = out.write_all(&bytes).and_then(|()| out.finish());
    written.unwrap_or(bytes)
}

/// What was deflated; nothing if it was not.
fn inflated(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(packed) = bytes.strip_prefix(&[DEFLATED]) else { return Ok(None) };
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(packed)
        .take(STREAM_BYTES_MAX as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| Malformed)?;
    if out.len() > STREAM_BYTES_MAX { Err(Malformed) } else { Ok(Some(out)) }
}

struct Writer(Vec<u8>);

impl Writer {
    fn frame(&mut self, kind: u8, body: impl FnOnce(&mut Writer)) {
        let mut inner = Writer(Vec::new());
        body(&mut inner);
        self.0.push(kind);
        self.bytes(&inner.0);
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::Ping { seq, target, reply_to } => self.frame(kind::PING, |out| {
                out.number(u64::from(*seq));
                out.text(target);
                out.address(*reply_to);
            }),
            Message::Ack { seq, digest, coordinate } => self.frame(kind::ACK, |out| {
                out.number(u64::from(*seq));
                out.0.extend_from_slice(&digest.to_le_bytes());
                if let Some(coordinate) = coordinate {
                    out.coordinate(coordinate);
                }
            }),
            Message::PingReq { seq, target, address, reply_to } => {
                self.frame(kind::PING_REQ, |out| {
                    out.number(u64::from(*seq));
                    out.text(target);
                    out.address(*address);
                    out.address(*reply_to);
                });
            }
            Message::Nack { seq } => self.frame(kind::NACK, |out| out.number(u64::from(*seq))),
            Message::Alive(details) => self.frame(kind::ALIVE, |out| out.details(details)),
            Message::Suspect(claim) => self.frame(kind::SUSPECT, |out| out.claim(claim)),
            Message::Failed(claim) => self.frame(kind::FAILED, |out| out.claim(claim)),
            Message::Left { claim, prune } => self.frame(kind::LEFT, |out| {
                out.0.push(u8::from(*prune));
                out.claim(claim);
            }),
            Message::Event(event) => self.frame(kind::EVENT, |out| out.event(event)),
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is below 0x80")]
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => {
                self.0.push(4);
                self.0.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.0.push(6);
                self.0.extend_from_slice(&ip.octets());
            }
        }
        self.0.extend_from_slice(&address.port().to_be_bytes());
    }

    fn coordinate(&mut self, coordinate: &Coordinate) {
        let rest = [coordinate.error, coordinate.adjustment, coordinate.height];
        for number in coordinate.vec.iter().chain(&rest) {
            #[expect(clippy::cast_possible_truncation, reason = "round trips are not that exact")]
            self.0.extend_from_slice(&(*number as f32).to_le_bytes());
        }
    }

    fn details(&mut self, details: &Details) {
        self.text(&details.name);
        self.0.extend_from_slice(details.id.as_bytes());
        self.address(details.address);
        self.number(details.incarnation);
        self.number(details.tags.len() as u64);
        for (key, value) in &details.tags {
            // The id is there already; what repeats it is said in two bytes.
            let value = if is_id(key, value, details.id) { "" } else { value };
            if let Some(place) = TAG_KEYS.iter().position(|known| known == key) {
                self.number(place as u64 + 1);
            } else {
                self.number(0);
                self.text(key);
            }
            self.text(value);
        }
    }

    fn claim(&mut self, claim: &Claim) {
        self.text(&claim.name);
        self.0.extend_from_slice(claim.id.as_bytes());
        self.number(claim.incarnation);
        self.text(&claim.from);
    }

    fn event(&mut self, event: &UserEvent) {
        self.0.extend_from_slice(event.id.as_bytes());
        self.number(event.ltime);
        self.text(&event.name);
        self.bytes(&event.payload);
        for filter in &event.filters {
            self.text(filter);
        }
    }

    fn knowledge(&mut self, knowledge: &Knowledge) {
        self.0.push(u8::from(knowledge.join));
        self.details(&knowledge.from);
        self.number(knowledge.event_clock);
        self.number(knowledge.events.len() as u64);
        for event in &knowledge.events {
            self.event(event);
        }
        self.number(knowledge.members.len() as u64);
        for known in &knowledge.members {
            self.0.push(match known.state {
                State::Alive => 0,
                State::Suspect => 1,
                State::Failed => 2,
                State::Left => 3,
            });
            self.number(known.age.as_secs());
            self.details(&known.details);
        }
    }

    fn order(&mut self, order: &Order) {
        let (number, key) = match order {
            Order::List => (0, None),
            Order::Install(key) => (1, Some(key)),
            Order::Use(key) => (2, Some(key)),
            Order::Remove(key) => (3, Some(key)),
        };
        self.0.push(number);
        self.bytes(key.map_or(&[], |key| &key[..]));
    }

    fn report(&mut self, report: &Report) {
        self.text(&report.error);
        self.number(report.keys.len() as u64);
        for key in &report.keys {
            self.bytes(key);
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return Err(Malformed);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    /// A number of things of which each takes at least a byte.
    fn count(&mut self) -> Result<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        if count > self.0.len() { Err(Malformed) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    fn frame(&mut self) -> Result<(u8, Reader<'a>)> {
        let kind = self.byte()?;
        Ok((kind, Reader(self.bytes()?)))
    }

    fn str(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn text(&mut self) -> Result<String> {
        self.str().map(str::to_owned)
    }

    fn name(&mut self) -> Result<Name> {
        self.str().map(Name::from)
    }

    fn seq(&mut self) -> Result<u32> {
        self.number()?.try_into().map_err(|_| Malformed)
    }

    fn id(&mut self) -> Result<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    fn address(&mut self) -> Result<SocketAddr> {
        let ip: IpAddr = match self.byte()? {
            4 => self.array::<4>()?.into(),
            6 => self.array::<16>()?.into(),
            _ => return Err(Malformed),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(self.array()?)))
    }

    /// Nothing unknown is in it: an unknown kind is `None`.
    fn message(&mut self, kind: u8) -> Result<Option<Message>> {
        Ok(Some(match kind {
            kind::PING => {
                Message::Ping { seq: self.seq()?, target: self.name()?, reply_to: self.address()? }
            }
            kind::ACK => {
                let seq = self.seq()?;
                let digest = u64::from_le_bytes(self.array()?);
                let coordinate =
                    if self.0.is_empty() { None } else { Some(Box::new(self.coordinate()?)) };
                Message::Ack { seq, digest, coordinate }
            }
            kind::PING_REQ => Message::PingReq {
                seq: self.seq()?,
                target: self.name()?,
                address: self.address()?,
                reply_to: self.address()?,
            },
            kind::NACK => Message::Nack { seq: self.seq()? },
            kind::ALIVE => Message::Alive(Arc::new(self.details()?)),
            kind::SUSPECT => Message::Suspect(Arc::new(self.claim()?)),
            kind::FAILED => Message::Failed(Arc::new(self.claim()?)),
            kind::LEFT => {
                let prune = self.byte()? != 0;
                Message::Left { claim: Arc::new(self.claim()?), prune }
            }
            kind::EVENT => Message::Event(Arc::new(self.event()?)),
            _ => return Ok(None),
        }))
    }

    fn coordinate(&mut self) -> Result<Coordinate> {
        let mut next = || Ok::<_, Malformed>(f64::from(f32::from_le_bytes(self.array()?)));
        let mut vec = [0.0; DIMENSIONS];
        for axis in &mut vec {
            *axis = next()?;
        }
        Ok(Coordinate { vec, error: next()?, adjustment: next()?, height: next()? })
    }

    fn details(&mut self) -> Result<Details> {
        let (name, id, address) = (self.name()?, self.id()?, self.address()?);
        let incarnation = self.number()?;
        let mut tags = Tags::new();
        for _ in 0..self.count()? {
            let key = match usize::try_from(self.number()?).map_err(|_| Malformed)? {
                0 => Some(self.text()?),
                // A newer member may have more numbers.
                number => TAG_KEYS.get(number - 1).map(|key| (*key).to_owned()),
            };
            let value = self.text()?;
            let repeats = value.is_empty() && key.as_deref() == Some(ID);
            let value = if repeats { id.to_string() } else { value };
            tags.extend(key.map(|key| (key, value)));
        }
        if name.is_empty() {
            return Err(Malformed);
        }
        Ok(Details { name, id, address, incarnation, tags })
    }

    fn claim(&mut self) -> Result<Claim> {
        Ok(Claim {
            name: self.name()?,
            id: self.id()?,
            incarnation: self.number()?,
            from: self.name()?,
        })
    }

    fn event(&mut self) -> Result<UserEvent> {
        Ok(UserEvent {
            id: self.id()?,
            ltime: self.number()?,
            name: self.text()?,
            payload: Bytes::copy_from_slice(self.bytes()?),
            filters: [self.text()?, self.text()?, self.text()?],
        })
    }

    fn knowledge(&mut self) -> Result<Knowledge> {
        let join = self.byte()? != 0;
        let from = Arc::new(self.details()?);
        let event_clock = self.number()?;
        let events =
            (0..self.count()?).map(|_| self.event().map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let members = (0..self.count()?)
            .map(|_| {
                let state = match self.byte()? {
                    0 => State::Alive,
                    1 => State::Suspect,
                    2 => State::Failed,
                    3 => State::Left,
                    _ => return Err(Malformed),
                };
                // No age is beyond what clocks can subtract.
                let age = Duration::from_secs(self.number()?.min(u64::from(u32::MAX)));
                Ok(Known { details: Arc::new(self.details()?), state, age })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Knowledge { join, from, members, events, event_clock })
    }

    fn order(&mut self) -> Result<Order> {
        let number = self.byte()?;
        let key = self.bytes()?.to_vec();
        match number {
            0 => Ok(Order::List),
            1 => Ok(Order::Install(key)),
            2 => Ok(Order::Use(key)),
            3 => Ok(Order::Remove(key)),
            _ => Err(Malformed),
        }
    }

    fn report(&mut self) -> Result<Report> {
        let error = self.text()?;
        let keys = (0..self.count()?)
            .map(|_| self.bytes().map(<[u8]>::to_vec))
            .collect::<Result<Vec<_>>>()?;
        Ok(Report { error, keys })
    }
}

#[cfg(test)]
mod tests;
