//! All that the log can carry, and what each entry answers.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::acl::AclChange;
use super::{
    AutopilotChange, Check, Node, Restore, Service, Session, SessionId, TxnError, TxnOp, TxnResult,
    snapshot,
};

/// Milliseconds since the Unix epoch, stamped by the proposer: the store has no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// When the proposer made it; the only time that `apply` knows.
    pub at: Timestamp,
    /// The change to make.
    pub change: Change,
}

/// Every change of the truth. Adding a variant is compatible; changing one needs a new name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Does nothing; a leader's first entry and barriers.
    Noop,
    /// Puts a node, and with it a service and checks, into the catalog.
    Register(Box<Register>),
    /// Removes a node, one of its services or one of its checks.
    Deregister(Deregister),
    /// One write to the key-value table.
    Kv(KvChange),
    /// Creates a session; its id was chosen by the proposer.
    SessionCreate(Box<Session>),
    /// Ends a session: destroyed by its user, or expired by the leader.
    SessionDestroy {
        /// Which one; an unknown id changes nothing.
        id: SessionId,
    },
    /// All or nothing.
    Txn(Vec<TxnOp>),
    /// Forgets tombstones of deleted keys up to this index (the leader's housekeeping).
    TombstonesReap {
        /// Inclusive.
        up_to: u64,
    },
    /// Sets how the leader looks after the servers.
    Autopilot(AutopilotChange),
    /// Changes tokens, policies, roles or ways to log in.
    Acl(AclChange),
    /// A step of replacing the whole state.
    Restore(Restore),
}

/// As `PUT /v1/catalog/register` means it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// The node's row. Its indexes are ignored.
    pub node: Node,
    /// Leave an existing node row as it is.
    pub skip_node_update: bool,
    /// A service of that node.
    pub service: Option<Service>,
    /// Checks of that node or of that service.
    pub checks: Vec<Check>,
}

/// As `PUT /v1/catalog/deregister` means it. Unknown things change nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deregister {
    /// The node, or the owner of what goes.
    pub node: String,
    /// Only this service.
    pub service_id: Option<String>,
    /// Only this check.
    pub check_id: Option<String>,
}

/// One write to one key or prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvChange {
    /// The kind of change.
    pub verb: KvVerb,
    /// The key, or the prefix for a tree.
    pub key: String,
    /// New value (ignored by deletes).
    pub value: bytes::Bytes,
    /// Opaque to us.
    pub flags: u64,
}

/// The kind of a [`KvChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvVerb {
    /// Writes; a lock on the key stays with its holder.
    Set,
    /// Writes if the key's ModifyIndex is this; 0 means: must not exist.
    Cas(u64),
    /// Removes.
    Delete,
    /// Removes if the key's ModifyIndex is this.
    DeleteCas(u64),
    /// Removes every key under the prefix.
    DeleteTree,
    /// Writes and takes the lock for the session.
    Lock(SessionId),
    /// Writes and gives the lock back.
    Unlock(SessionId),
}

/// First byte of an encoded command: the version of its encoding.
const ENCODING: u8 = 1;

/// Names of all changes, as they are encoded.
const CHANGES: [&str; 11] = [
    "Noop",
    "Register",
    "Deregister",
    "Kv",
    "SessionCreate",
    "SessionDestroy",
    "Txn",
    "TombstonesReap",
    "Autopilot",
    "Acl",
    "Restore",
];

/// Bytes of the log are not a command. A server that meets them must stop: a server that skips a command
/// diverges from the others.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not even a version.
    #[error("an empty command")]
    Empty,
    /// Written by a newer program.
    #[error("a command in encoding {0}; this program knows encoding {ENCODING}")]
    Encoding(u8),
    /// A change that this program does not know: written by a newer one.
    #[error("the unknown change `{0}`; a newer program wrote it")]
    Unknown(String),
    /// Rows of a state in a newer format.
    #[error("rows of a restored state in format {0}; this program knows formats up to {known}", known = snapshot::FORMAT)]
    Format(u16),
    /// Damaged, or not one of ours.
    #[error("a malformed command")]
    Malformed(#[source] rmp_serde::decode::Error),
}

impl Command {
    /// The command's bytes for log and wire: a version and MessagePack with named fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![ENCODING];
        rmp_serde::encode::write_named(&mut bytes, self)
            .expect("writing to memory cannot fail, and every field of a command has an encoding");
        bytes
    }

    /// The reverse of [`Command::encode`]. Fields that this program does not know are ignored; a
    /// change that it does not know is an error that names it.
    pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
        let (encoding, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if *encoding != ENCODING {
            return Err(DecodeError::Encoding(*encoding));
        }
        let command: Command = rmp_serde::from_slice(body).map_err(|error| {
            match rmp_serde::from_slice::<Outline>(body) {
                Ok(Outline { change: Name(name) }) if !CHANGES.contains(&&*name) => {
                    DecodeError::Unknown(name)
                }
                _ => DecodeError::Malformed(error),
            }
        })?;
        match &command.change {
            Change::Restore(Restore::Rows { format, .. }) if *format > snapshot::FORMAT => {
                Err(DecodeError::Format(*format))
            }
            _ => Ok(command),
        }
    }
}

/// As much of a command as tells the name of its change.
#[derive(Deserialize)]
struct Outline {
    change: Name,
}

/// The variant's name of an enumeration, whatever it carries.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a change, with or without what it carries")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Name, A::Error> {
                let entry: Option<(String, IgnoredAny)> = map.next_entry()?;
                Ok(Name(entry.map(|(name, _)| name).unwrap_or_default()))
            }
        }
        deserializer.deserialize_any(NameVisitor)
    }
}

/// The answer to a proposer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done (or nothing to do).
    Done,
    /// A lost compare-and-set, a lock held by another: an answer, not an error.
    Decided(bool),
    /// A transaction's results, or all its errors (then nothing was applied).
    Txn {
        /// One for each operation that yields a row.
        results: Vec<TxnResult>,
        /// Empty on success.
        errors: Vec<TxnError>,
    },
    /// Refused; the text is the reference's, for the client's eyes.
    Refused(String),
}
