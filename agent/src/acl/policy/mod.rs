//! Rules of access as text: what a policy grants and denies.
//!
//! ```text
//! key_prefix "app/" { policy = "write" }      a kind, a name, a level
//! service "web" { policy = "read" intentions = "deny" }
//! operator = "read"                           a kind without names
//! ```
//!
//! A rule of an unknown kind grants nothing and is no error, so that rules of newer versions can be
//! stored; [`Rules::unknown`] names them, for a warning. Every error begins with the reference's
//! text and names line and column.

mod decode;
#[cfg(test)]
mod tests;

use crate::hcl::Position;

/// Degree of access that a rule sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Nothing.
    Deny,
    /// Looking.
    Read,
    /// Looking, and listing all below (keys only).
    List,
    /// Changing, and all of the others.
    Write,
}

impl Level {
    /// The level that is spelt so, in any case.
    fn parse(text: &str) -> Option<Level> {
        [Level::Deny, Level::Read, Level::List, Level::Write]
            .into_iter()
            .find(|level| text.eq_ignore_ascii_case(level.name()))
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Level::Deny => "deny",
            Level::Read => "read",
            Level::List => "list",
            Level::Write => "write",
        }
    }

    /// Of two levels that meet on one name, the one that counts: deny before write, list, read.
    pub fn precedes(self, other: Level) -> bool {
        let rank = |level| match level {
            Level::Read => 0,
            Level::List => 1,
            Level::Write => 2,
            Level::Deny => 3,
        };
        rank(self) > rank(other)
    }
}

/// Kind of a rule that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An agent's own operation.
    Agent,
    /// User events.
    Event,
    /// Keys.
    Key,
    /// Nodes of the catalog.
    Node,
    /// Prepared queries.
    Query,
    /// Services.
    Service,
    /// Sessions, by their node.
    Session,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Agent => "agent",
            Kind::Event => "event",
            Kind::Key => "key",
            Kind::Node => "node",
            Kind::Query => "query",
            Kind::Service => "service",
            Kind::Session => "session",
        }
    }
}

/// One rule that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Kind of the things that it is about.
    pub kind: Kind,
    /// It is about all names that begin with its name.
    pub prefix: bool,
    /// The name.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// Level of intentions to a service, if it differs from what follows from `level`.
    pub intentions: Option<Level>,
}

/// All rules of one policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Level on tokens and policies themselves.
    pub acl: Option<Level>,
    /// Level on the keys that encrypt gossip.
    pub keyring: Option<Level>,
    /// Level on the operation of the cluster.
    pub operator: Option<Level>,
    /// The others, in the order of the text.
    pub named: Vec<Rule>,
    /// Kinds that this version does not know; they have no effect.
    pub unknown: Vec<Unknown>,
}

/// A rule that has no effect, since its kind is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The kind as written.
    pub kind: String,
    /// Line and column.
    pub place: String,
}

/// Rules that are none. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is in neither language, or has a value of the wrong type.
    #[error("Failed to parse ACL rules: {0}")]
    Syntax(String),
    /// A level that there is not.
    #[error("Invalid {subject} policy: {found}: at {place}")]
    Level {
        /// Kind of the rule, as written.
        subject: String,
        /// The rule as the reference prints it.
        found: String,
        /// Line and column.
        place: String,
    },
}

impl Rules {
    /// Parses rules in HCL or JSON.
    pub fn parse(text: &str) -> Result<Rules, Error> {
        decode::rules(text)
    }

    /// Parses rules as they were before version 1.4, where each name is a prefix.
    pub fn parse_legacy(text: &str) -> Result<Rules, Error> {
        decode::legacy_rules(text)
    }
}

fn place(at: Position) -> String {
    at.to_string()
}
