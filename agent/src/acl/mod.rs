//! Access control: who asks, and may they?
//!
//! ```text
//! request ─ Token ─▶ Resolver ─▶ Caller ─ require(Resource, Access) ─▶ Denied, or nothing
//!                       │          └ Deref ▶ Authorizer: allows, filter, sees_…, authority
//!                       └ ResolveError: unknown token, access control off, servers out of reach
//! ```
//!
//! `policy` parses rules, `authorizer` decides by them; both are plain values. An interface resolves
//! the token once for each request, and once more whenever a waiting query wakes: rights that are
//! gone by then are gone.

pub mod authorizer;
pub mod caller;
pub mod method;
pub mod policy;

use std::fmt;

pub use authorizer::{Authorizer, Decision, DefaultPolicy, Filtered, Options};
pub use caller::{Caller, Denied};

/// The secret that a request carries, if any. Never printed, and compared in constant time.
#[derive(Clone, Default)]
pub struct Token(String);

impl Token {
    /// Takes the secret as the client sent it.
    pub fn new(secret: impl Into<String>) -> Self {
        Token(secret.into())
    }

    /// No secret: the anonymous token.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret, to look it up or to send it on. Not for logs and answers.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Everyone sees the same while access control is off.
    pub fn authority(&self) -> Authority {
        Authority::OFF
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        secrets_equal(&self.0, &other.0)
    }
}

impl Eq for Token {}

impl std::hash::Hash for Token {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Equal, found out in a time that does not depend on where they differ.
pub fn secrets_equal(a: &str, b: &str) -> bool {
    let differ = a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differ) == 0 && a.len() == b.len()
}

/// Authority of a caller, as far as answers can differ by it: readers of equal authority may share one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority(u128);

impl Authority {
    /// Of everyone while access control is off.
    pub const OFF: Authority = Authority(0);

    /// Of rights with this hash. Rules are written by users, so the hash is one that nobody can find collisions of.
    fn from_hash(hash: [u8; 32]) -> Authority {
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Authority(u128::from_be_bytes(half).max(1))
    }
}

/// Resource that a request touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// Tokens, policies, roles, methods of authentication.
    Acl,
    /// An agent's own state and operation, by node name.
    Agent(&'a str),
    /// User events by name.
    Event(&'a str),
    /// One key.
    Key(&'a str),
    /// Every key under a prefix. `Write` needs the right on the whole tree; `Read` and `List` are allowed unless
    /// `enable_key_list_policy` demands more: rows are filtered one by one.
    KeyPrefix(&'a str),
    /// The keys that encrypt gossip.
    Keyring,
    /// A node by name.
    Node(&'a str),
    /// The cluster's operation.
    Operator,
    /// A prepared query by name; a template by its prefix.
    Query(&'a str),
    /// A service by name.
    Service(&'a str),
    /// Intentions to a service, by its name.
    Intention(&'a str),
    /// Sessions of a node, by its name.
    Session(&'a str),
    /// The whole state as a file, in and out.
    Snapshot,
}

impl<'a> Resource<'a> {
    /// The kind of rule that is about it.
    pub fn rule_kind(&self) -> &'static str {
        match self {
            Resource::Acl | Resource::Snapshot => "acl",
            Resource::Agent(_) => "agent",
            Resource::Event(_) => "event",
            Resource::Key(_) | Resource::KeyPrefix(_) => "key",
            Resource::Keyring => "keyring",
            Resource::Node(_) => "node",
            Resource::Operator => "operator",
            Resource::Query(_) => "query",
            Resource::Service(_) => "service",
            Resource::Intention(_) => "intention",
            Resource::Session(_) => "session",
        }
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&'a str> {
        match self {
            Resource::Acl | Resource::Keyring | Resource::Operator | Resource::Snapshot => None,
            Resource::Agent(name)
            | Resource::Event(name)
            | Resource::Key(name)
            | Resource::KeyPrefix(name)
            | Resource::Node(name)
            | Resource::Query(name)
            | Resource::Service(name)
            | Resource::Intention(name)
            | Resource::Session(name) => Some(name),
        }
    }
}

/// Kind of access to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looks.
    Read,
    /// Looks at names only.
    List,
    /// Changes.
    Write,
}

impl Access {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::List => "list",
            Access::Write => "write",
        }
    }
}

/// May `token` do `access` on `resource`? For callers that have no [`Caller`] yet: access control is off for them.
pub fn authorize(token: &Token, resource: Resource<'_>, access: Access) -> Result<(), Denied> {
    let _ = (token, resource, access);
    Ok(())
}
