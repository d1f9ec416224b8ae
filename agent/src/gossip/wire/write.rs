//! Messages into bytes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{TAG_KEYS, is_id, kind};
use crate::gossip::keyring::{Order, Report};
use crate::gossip::member::{Details, State, UserEvent};
use crate::gossip::message::{Claim, Knowledge, Message, Summary};
use crate::gossip::vivaldi::Coordinate;

/// Bytes as they grow.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn frame(&mut self, kind: u8, body: impl FnOnce(&mut Writer)) {
        let mut inner = Writer(Vec::new());
        body(&mut inner);
        self.0.push(kind);
        self.bytes(&inner.0);
    }

    pub(super) fn message(&mut self, message: &Message) {
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

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
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

    fn events(&mut self, clock: u64, events: &[Arc<UserEvent>]) {
        self.number(clock);
        self.number(events.len() as u64);
        for event in events {
            self.event(event);
        }
    }

    pub(super) fn summary(&mut self, summary: &Summary) {
        for part in summary.digest {
            self.0.extend_from_slice(&part.to_le_bytes());
        }
        self.events(summary.event_clock, &summary.events);
    }

    pub(super) fn knowledge(&mut self, knowledge: &Knowledge) {
        self.0.push(u8::from(knowledge.join));
        self.details(&knowledge.from);
        self.events(knowledge.event_clock, &knowledge.events);
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

    pub(super) fn order(&mut self, order: &Order) {
        let (number, key) = match order {
            Order::List => (0, None),
            Order::Install(key) => (1, Some(key)),
            Order::Use(key) => (2, Some(key)),
            Order::Remove(key) => (3, Some(key)),
        };
        self.0.push(number);
        self.bytes(key.map_or(&[], |key| &key[..]));
    }

    pub(super) fn report(&mut self, report: &Report) {
        self.text(&report.error);
        self.number(report.keys.len() as u64);
        for key in &report.keys {
            self.bytes(key);
        }
    }
}
