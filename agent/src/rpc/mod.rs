//! Calls between agents: one port, few connections, many calls in flight on each.
//!
//! ```text
//!   Pool ──▶ one connection per peer and class ══frames══▶ serve ──▶ Handlers[method]
//!     call:   request ─▶ … ◀─ answer | refused
//!     stream: request ─▶ … ◀─ part, part, … end      (as many parts as the caller gives credit)
//! ```
//!
//! This module moves bytes and knows nothing of what they mean: `node` fills [`Handlers`], callers
//! bring their own types. Every call has a deadline that travels with it, and dropping a call
//! cancels it at the peer. Calls of one connection *begin* in the order in which they were sent;
//! they may end in any.
//!
//! What others can make this agent hold is bounded by bytes, for each address and in total (`quota`), and a peer that
//! does not read is given up.
//!
//! [`Error`] tells the meanings of a failed call apart: it never reached the peer, it may have
//! happened, or the peer refused it.

mod connection;
mod draining;
mod frame;
mod handlers;
mod method;
mod outbox;
mod pool;
mod quota;
mod serve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use connection::ReplyStream;
pub use frame::{FRAME_BYTES_MAX, PART_BYTES_MAX};
pub use handlers::{Caller, Gone, Handlers, Limits, Parts};
pub use method::{Class, Method};
pub use pool::{Dial, Ordered, Pool, Socket, Tcp};
pub use serve::{serve, serve_one};

/// A call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer has never seen the call: it is safe to try again, there or elsewhere.
    #[error("cannot reach {peer}: {why}")]
    Unreachable {
        /// Address of the peer.
        peer: SocketAddr,
        /// The reason.
        why: String,
    },
    /// The call was sent and no answer came. It may have happened, and it may happen yet.
    #[error("no answer from {peer}: {why}")]
    Lost {
        /// Address of the peer.
        peer: SocketAddr,
        /// The reason.
        why: String,
    },
    /// The peer has answered that it did not do it.
    #[error("{peer} refused: {refusal}")]
    Refused {
        /// Address of the peer.
        peer: SocketAddr,
        /// Its reason.
        refusal: Refusal,
    },
}

impl Error {
    /// Is it certain that the peer did nothing?
    pub fn is_safe_to_retry(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Lost { .. } => false,
            Error::Refused { refusal, .. } => refusal.reason != Reason::Failed,
        }
    }
}

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

/// Reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The handler could not do it; only its text says whether something happened.
    Failed,
    /// This agent does not offer that method (yet). Nothing happened.
    UnknownMethod,
    /// The request's bytes are not what the method takes. Nothing happened.
    Malformed,
    /// Too many calls are in flight, or the agent is going away. Nothing happened.
    Busy,
}

impl Reason {
    fn number(self) -> u8 {
        match self {
            Reason::Failed => 0,
            Reason::UnknownMethod => 1,
            Reason::Malformed => 2,
            Reason::Busy => 3,
        }
    }

    fn from_number(number: u8) -> Reason {
        match number {
            1 => Reason::UnknownMethod,
            2 => Reason::Malformed,
            3 => Reason::Busy,
            _ => Reason::Failed,
        }
    }
}

impl Refusal {
    /// The handler could not do it.
    pub fn failed(why: impl std::fmt::Display) -> Refusal {
        Refusal { reason: Reason::Failed, text: why.to_string() }
    }

    /// Refuses a request whose bytes are not what the method takes; nothing was done.
    pub fn malformed(why: impl std::fmt::Display) -> Refusal {
        Refusal { reason: Reason::Malformed, text: why.to_string() }
    }

    /// Nothing was done, since there is too much to do or the agent is going away.
    pub fn busy(why: impl std::fmt::Display) -> Refusal {
        Refusal { reason: Reason::Busy, text: why.to_string() }
    }
}

/// Reads bytes as a row of frames; for [`crate::fuzzing`].
pub(crate) fn read_anything(bytes: &[u8]) {
    use tokio_util::codec::Decoder;
    let (mut codec, mut rest) = (frame::codec(), bytes::BytesMut::from(bytes));
    while let Ok(Some(frame)) = codec.decode(&mut rest) {
        let _ = frame::Frame::parse(frame).is_some();
    }
}
