//! Messages between members.
//!
//! Datagrams carry several messages each: the one that is meant and, as far as there is room, news
//! that spread with it. Connections carry one question and one answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::member::{Details, Incarnation, Name, State, UserEvent};
use super::vivaldi::Coordinate;

/// One message of a datagram.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Are you there, `target`? Answers go to `reply_to`, not to the packet's source, which
    /// translation on the way may have changed.
    Ping {
        /// Comes back in the answer.
        seq: u32,
        /// Name of the target: another member at that address keeps silent.
        target: Name,
        /// Destination of the answer.
        reply_to: SocketAddr,
    },
    /// Yes.
    Ack {
        /// From the question.
        seq: u32,
        /// Digest of the answering member's list; 0 says nothing.
        digest: u64,
        /// Coordinate of the answering member.
        coordinate: Option<Box<Coordinate>>,
    },
    /// Ask `target` for me.
    PingReq {
        /// Comes back in the answer.
        seq: u32,
        /// Name of the target.
        target: Name,
        /// Address of the target.
        address: SocketAddr,
        /// Destination of the answer.
        reply_to: SocketAddr,
    },
    /// I asked in vain: tells apart a dead target from an asker whom nobody hears.
    Nack {
        /// From the request.
        seq: u32,
    },
    /// A member's own statement.
    Alive(Arc<Details>),
    /// Somebody had no answer.
    Suspect(Arc<Claim>),
    /// It stayed silent for too long.
    Failed(Arc<Claim>),
    /// It said good-bye, or an operator did for it.
    Left {
        /// The member, and the source of the claim.
        claim: Arc<Claim>,
        /// Forget it at once.
        prune: bool,
    },
    /// Something users tell each other.
    Event(Arc<UserEvent>),
}

/// Claim of one member about another's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Of whom.
    pub name: Name,
    /// Id of the member, as far as the speaker knows.
    pub id: Uuid,
    /// The last statement that the speaker knows of.
    pub incarnation: Incarnation,
    /// The speaker.
    pub from: Name,
}

impl Message {
    /// Room that kind and length take.
    pub(super) const FRAME: usize = 3;

    /// Room that the message takes in a datagram at most.
    pub fn size(&self) -> usize {
        /// An address of either family, with its port.
        const ADDRESS: usize = 19;
        let text = |text: &str| 2 + text.len();
        Message::FRAME
            + match self {
                Message::Ping { target, .. } => 5 + text(target) + ADDRESS,
                Message::Ack { coordinate, .. } => {
                    14 + if coordinate.is_some() { Coordinate::SIZE } else { 0 }
                }
                Message::PingReq { target, .. } => 5 + text(target) + 2 * ADDRESS,
                Message::Nack { .. } => 5,
                Message::Alive(details) => details.size(),
                Message::Suspect(claim) | Message::Failed(claim) => claim.size(),
                Message::Left { claim, .. } => 1 + claim.size(),
                Message::Event(event) => event.size(),
            }
    }
}

impl Details {
    /// Room that it takes at most.
    pub(super) fn size(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(k, v)| super::wire::tag_size(k, v)).sum();
        let address = if self.address.is_ipv4() { 7 } else { 19 };
        2 + self.name.len() + 16 + address + 8 + 2 + tags
    }
}

impl UserEvent {
    /// Room that it takes at most.
    pub(super) fn size(&self) -> usize {
        let texts = self.filters.iter().chain([&self.name]).map(|text| 2 + text.len());
        16 + 10 + 3 + self.payload.len() + texts.sum::<usize>()
    }
}

impl Claim {
    fn size(&self) -> usize {
        2 + self.name.len() + 16 + 10 + 2 + self.from.len()
    }
}

/// A question over a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Here is all I know; tell me what you know.
    Exchange(Box<Knowledge>),
    /// Here is what I know as two numbers; tell me what you know if yours are others.
    Compare(Box<Summary>),
    /// Are you there? For networks that lose datagrams.
    Ping {
        /// Name of the target.
        target: Name,
    },
    /// Change or list keys. The core does not see it.
    Keys(super::keyring::Order),
}

/// The answer to a question over a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// All I know.
    Exchange(Box<Knowledge>),
    /// I know the same.
    Same(Box<Summary>),
    /// I am here.
    Pong,
    /// No, and why.
    Refused(String),
    /// Result of an order to the keyring.
    Keys(super::keyring::Report),
}

/// All that a member knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Knowledge {
    /// Somebody asked for this meeting, it is none of the periodical ones: the whole is refused if
    /// a part of it cannot be.
    pub join: bool,
    /// The speaker itself.
    pub from: Arc<Details>,
    /// Everybody else.
    pub members: Vec<KnownMember>,
    /// Events of late.
    pub events: Vec<Arc<UserEvent>>,
    /// The speaker's place in the order of events.
    pub event_clock: u64,
}

/// All that a member knows, as numbers: two that know the same have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Of those who are there; of those who are gone.
    pub digest: [u64; 2],
    /// Events of late.
    pub events: Vec<Arc<UserEvent>>,
    /// The speaker's place in the order of events.
    pub event_clock: u64,
}

/// Knowledge about one member.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownMember {
    /// The details it announced last.
    pub details: Arc<Details>,
    /// Its state.
    pub state: State,
    /// For how long it has been so, in whole seconds.
    pub age: Duration,
}
