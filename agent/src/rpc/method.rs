//! Methods between agents, by number.

use std::fmt;

/// The kind of traffic of a connection; its first byte. Each has a connection of its own, so that
/// a large snapshot does not hold up a heart-beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Small and urgent: agreement.
    Raft,
    /// Whatever is asked on behalf of users.
    Forward,
    /// Large and patient.
    Snapshot,
}

impl Class {
    /// Letters, so that the number 0x03 stays free for "TLS follows, then the class again", and
    /// whatever an HTTP client or a TLS hello begins with (`G`, `P`, 0x16) is none of them.
    pub(super) fn byte(self) -> u8 {
        match self {
            Class::Raft => b'r',
            Class::Forward => b'f',
            Class::Snapshot => b's',
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Class> {
        [Class::Raft, Class::Forward, Class::Snapshot].into_iter().find(|it| it.byte() == byte)
    }
}

/// Everything that one agent can ask of another. Numbers are never used twice; 2 and 40 were given
/// away in early builds and stand for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Method {
    /// Are you there? Answered by every agent, without a handler.
    Ping = 1,
    /// Entries for the log; heart-beats.
    Append = 10,
    /// A voice in an election.
    Vote = 11,
    /// Would you give me your voice?
    PreVote = 12,
    /// A piece of a snapshot.
    Snapshot = 13,
    /// Take over from me.
    Transfer = 14,
    /// Forming a cluster: what do you know, and do you promise to join no other?
    Form = 15,
    /// A change for the leader to propose.
    Propose = 20,
    /// Index that a server must have applied to read what is acknowledged.
    ReadIndex = 21,
    /// A change of who takes part, for the leader.
    Reconfigure = 22,
    /// A whole HTTP request of an agent that is no server.
    Http = 30,
    /// Rows of the catalog for one node.
    NodeClaims = 31,
    /// A DNS look-up as a value.
    Lookup = 32,
    /// A change of what an agent claims, for any server.
    Claim = 33,
    /// Another lifetime for a session, from the leader.
    Renew = 34,
    /// A piece of the body of an HTTP request.
    Piece = 35,
}

impl Method {
    const ALL: [Method; 16] = [
        Method::Ping,
        Method::Append,
        Method::Vote,
        Method::PreVote,
        Method::Snapshot,
        Method::Transfer,
        Method::Form,
        Method::Propose,
        Method::ReadIndex,
        Method::Reconfigure,
        Method::Http,
        Method::NodeClaims,
        Method::Lookup,
        Method::Claim,
        Method::Renew,
        Method::Piece,
    ];

    pub(super) fn number(self) -> u16 {
        self as u16
    }

    pub(super) fn from_number(number: u16) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.number() == number)
    }

    /// Its name, for people.
    fn name(self) -> &'static str {
        match self {
            Method::Ping => "ping",
            Method::Append => "append",
            Method::Vote => "vote",
            Method::PreVote => "pre-vote",
            Method::Snapshot => "snapshot",
            Method::Transfer => "transfer",
            Method::Form => "form",
            Method::Propose => "propose",
            Method::ReadIndex => "read index",
            Method::Reconfigure => "reconfigure",
            Method::Http => "http",
            Method::NodeClaims => "node claims",
            Method::Lookup => "lookup",
            Method::Claim => "claim",
            Method::Renew => "renew",
            Method::Piece => "piece",
        }
    }

    /// The connection that calls of this method take.
    pub fn class(self) -> Class {
        match self {
            Method::Append | Method::Vote | Method::PreVote | Method::Transfer => Class::Raft,
            Method::Snapshot => Class::Snapshot,
            _ => Class::Forward,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_methods_apart() {
        for method in Method::ALL {
            assert_eq!(Method::from_number(method.number()), Some(method));
        }
        assert_eq!(Method::from_number(0), None);
        for byte in 0..=255 {
            if let Some(class) = Class::from_byte(byte) {
                assert_eq!(class.byte(), byte);
            }
        }
    }
}
