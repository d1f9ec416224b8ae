//! What is known so far: one answer per distinct question.
//!
//! A template asks questions ([`Query`]); the daemon keeps one watch per distinct question, however many templates ask
//! it, and stores the latest answer here as a template value. This module is plain data: it knows no network and no
//! clock. [`crate::watches`] fills it, [`crate::render`] reads it.
//!
//! ```text
//! templates ──ask──▶ Query ──watched by──▶ watches ──answer──▶ Facts ──read──▶ templates
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tera::Value;

/// One question about the outside world. Two calls in two templates that mean the same are equal here and so share
/// one watch; filters on tags or status are applied afterwards and are deliberately not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Query {
    /// All instances of a service with their checks, whatever their health.
    Service {
        /// The service's name.
        name: String,
        /// Where to ask.
        #[serde(flatten)]
        scope: Scope,
    },
    /// The names and tags of all services.
    Services {
        /// Where to ask.
        #[serde(flatten)]
        scope: Scope,
    },
    /// All nodes.
    Nodes {
        /// Where to ask.
        #[serde(flatten)]
        scope: Scope,
    },
    /// One node with its services.
    Node {
        /// The node's name.
        name: String,
        /// Where to ask.
        #[serde(flatten)]
        scope: Scope,
    },
    /// The value of one key.
    Key {
        /// The full path of the key.
        path: String,
        /// Where to ask.
        #[serde(flatten)]
        scope: Scope,
    },
    /// All pairs below a prefix.
    KeyPrefix {
        /// The prefix, as it is matched: plain text, not path segments.
        prefix: String,
        /// Where to ask.
        #[serde(flatten)]
        scope: Scope,
    },
    /// The names of all datacenters.
    Datacenters,
    /// The content of a file on this machine.
    File {
        /// The file's path, as written in the template.
        path: String,
    },
}

/// Where a question is asked: datacenter, distance, filter. Empty means the agent's own choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Scope {
    /// The datacenter, when not the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dc: Option<String>,
    /// Sort by distance from this node (`_agent` for the one asked).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<String>,
    /// A filter expression, evaluated by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self {
            Self::Service { name, scope } => {
                write!(f, "service({name})")?;
                scope
            }
            Self::Services { scope } => {
                f.write_str("services")?;
                scope
            }
            Self::Nodes { scope } => {
                f.write_str("nodes")?;
                scope
            }
            Self::Node { name, scope } => {
                write!(f, "node({name})")?;
                scope
            }
            Self::Key { path, scope } => {
                write!(f, "key({path})")?;
                scope
            }
            Self::KeyPrefix { prefix, scope } => {
                write!(f, "kv_list({prefix})")?;
                scope
            }
            Self::Datacenters => return f.write_str("datacenters"),
            Self::File { path } => return write!(f, "file({path})"),
        };
        for (mark, part) in [('@', &scope.dc), ('~', &scope.near), ('|', &scope.filter)] {
            if let Some(part) = part {
                write!(f, "{mark}{part}")?;
            }
        }
        Ok(())
    }
}

/// The latest answers. Cloning shares them, so that a render works on a state that does not move under it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    answers: Arc<BTreeMap<Query, Value>>,
    /// The questions that the catalog calls wrong, and in which words.
    refusals: Arc<BTreeMap<Query, String>>,
}

impl Facts {
    /// The answer to `query`; `None` while nothing is known. A key or node known to be absent answers with Tera's
    /// `none`, which is not the same.
    pub fn get(&self, query: &Query) -> Option<&Value> {
        self.answers.get(query)
    }

    /// Stores an answer. Returns whether it differs from the one before: only then is there a reason to render.
    pub fn set(&mut self, query: Query, answer: Value) -> bool {
        if self.answers.get(&query) == Some(&answer) {
            return false;
        }
        Arc::make_mut(&mut self.answers).insert(query, answer);
        true
    }

    /// Why `query` is refused, if it is.
    pub fn refusal(&self, query: &Query) -> Option<&str> {
        self.refusals.get(query).map(String::as_str)
    }

    /// Notes that `query` is refused, or no longer is. Returns whether that is another state than before.
    pub fn refuse(&mut self, query: &Query, why: Option<String>) -> bool {
        if self.refusals.get(query) == why.as_ref() {
            return false;
        }
        let refusals = Arc::make_mut(&mut self.refusals);
        match why {
            Some(why) => drop(refusals.insert(query.clone(), why)),
            None => drop(refusals.remove(query)),
        }
        true
    }

    /// Forgets the answers nobody asks for any more; `wanted` decides.
    pub fn retain(&mut self, wanted: impl Fn(&Query) -> bool) {
        if self.refusals.keys().any(|query| !wanted(query)) {
            Arc::make_mut(&mut self.refusals).retain(|query, _| wanted(query));
        }
        if self.answers.keys().any(|query| !wanted(query)) {
            Arc::make_mut(&mut self.answers).retain(|query, _| wanted(query));
        }
    }

    /// The questions that have an answer, in order.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        self.answers.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_are_no_change() {
        let query = Query::Key { path: "a".into(), scope: Scope::default() };
        let mut facts = Facts::default();
        assert!(facts.set(query.clone(), Value::from("1")));
        assert!(!facts.set(query.clone(), Value::from("1")));
        assert!(facts.set(query.clone(), Value::from("2")));
        let before = facts.clone();
        facts.retain(|_| false);
        assert!(facts.get(&query).is_none());
        assert_eq!(before.get(&query), Some(&Value::from("2")), "a clone keeps what it saw");
    }

    #[test]
    fn queries_read_like_the_calls_that_made_them() {
        let scope = Scope { dc: Some("dc2".into()), near: Some("_agent".into()), filter: None };
        let query = Query::Service { name: "web".into(), scope };
        assert_eq!(query.to_string(), "service(web)@dc2~_agent");
        assert_eq!(Query::Datacenters.to_string(), "datacenters");
    }
}
