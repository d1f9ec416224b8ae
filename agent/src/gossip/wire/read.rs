//! Bytes into messages. Nothing here trusts a length.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    EVENT_BYTES_MIN, EVENTS_MAX, ID, MEMBER_BYTES_MIN, MEMBERS_MAX, Malformed, Result, TAG_KEYS,
    kind,
};
use crate::gossip::keyring::{Order, Report};
use crate::gossip::member::{Details, Name, State, Tags, UserEvent};
use crate::gossip::message::{Claim, Knowledge, KnownMember, Message, Summary};
use crate::gossip::vivaldi::{Coordinate, DIMENSIONS};

/// The bytes that are left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
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
        self.count_of(usize::MAX, 1)
    }

    /// A number of things, `max` of them at most, of which each takes at least `size_min` bytes.
    fn count_of(&mut self, max: usize, size_min: usize) -> Result<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        if count > max.min(self.0.len() / size_min) { Err(Malformed) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    pub(super) fn frame(&mut self) -> Result<(u8, Reader<'a>)> {
        let kind = self.byte()?;
        Ok((kind, Reader(self.bytes()?)))
    }

    fn str(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(super) fn text(&mut self) -> Result<String> {
        self.str().map(str::to_owned)
    }

    pub(super) fn name(&mut self) -> Result<Name> {
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

    /// The body of a message; `None` if its kind is not known.
    pub(super) fn message(&mut self, kind: u8) -> Result<Option<Message>> {
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

    fn events(&mut self) -> Result<(u64, Vec<Arc<UserEvent>>)> {
        let clock = self.number()?;
        let count = self.count_of(EVENTS_MAX, EVENT_BYTES_MIN)?;
        let events = (0..count).map(|_| self.event().map(Arc::new)).collect::<Result<_>>()?;
        Ok((clock, events))
    }

    pub(super) fn summary(&mut self) -> Result<Summary> {
        let digest = [u64::from_le_bytes(self.array()?), u64::from_le_bytes(self.array()?)];
        let (event_clock, events) = self.events()?;
        Ok(Summary { digest, events, event_clock })
    }

    pub(super) fn knowledge(&mut self) -> Result<Knowledge> {
        let join = self.byte()? != 0;
        let from = Arc::new(self.details()?);
        let (event_clock, events) = self.events()?;
        let members = (0..self.count_of(MEMBERS_MAX, MEMBER_BYTES_MIN)?)
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
                Ok(KnownMember { details: Arc::new(self.details()?), state, age })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Knowledge { join, from, members, events, event_clock })
    }

    pub(super) fn order(&mut self) -> Result<Order> {
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

    pub(super) fn report(&mut self) -> Result<Report> {
        let error = self.text()?;
        let keys = (0..self.count()?)
            .map(|_| self.bytes().map(<[u8]>::to_vec))
            .collect::<Result<Vec<_>>>()?;
        Ok(Report { error, keys })
    }
}
