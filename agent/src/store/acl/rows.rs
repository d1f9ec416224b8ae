//! Rows of access control.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::{Index, Timestamp};

/// A hash over what a row grants: equal for equal rows in every datacenter.
pub type Hash = [u8; 32];

/// Who may act as a service: a policy that is written nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceIdentity {
    /// Name of the service.
    pub service: String,
    /// Where it counts; everywhere if empty.
    pub datacenters: Vec<String>,
}

/// Who may act as a node: a policy that is written nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Name of the node.
    pub node: String,
    /// Where it counts.
    pub datacenter: String,
}

/// A policy made of one of the built-in templates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TemplatedPolicy {
    /// Name of the template.
    pub template: String,
    /// Its variable `name`, if it has one.
    pub name: Option<String>,
    /// Where it counts; everywhere if empty.
    pub datacenters: Vec<String>,
}

/// What a token or a role grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Ids of policies; one that was deleted grants nothing.
    pub policies: Vec<Arc<str>>,
    /// Services that it may act as.
    pub service_identities: Vec<ServiceIdentity>,
    /// Nodes that it may act as.
    pub node_identities: Vec<NodeIdentity>,
    /// Policies made of templates.
    pub templated_policies: Vec<TemplatedPolicy>,
}

/// What makes a token one of the old kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    /// `client` or `management`.
    pub kind: String,
    /// Rules in the old language.
    pub rules: String,
}

/// A token: a secret and what it grants.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public name, chosen by the proposer.
    pub accessor: Arc<str>,
    /// What its bearer shows. Never printed.
    pub secret: Arc<str>,
    /// For people.
    pub description: String,
    /// What it grants directly.
    pub grants: Grants,
    /// Ids of roles; one that was deleted grants nothing.
    pub roles: Vec<Arc<str>>,
    /// It is known in its own datacenter only.
    pub local: bool,
    /// The method that made it at a login.
    pub auth_method: Option<Arc<str>>,
    /// Until when it counts.
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// It is of the old kind.
    pub legacy: Option<Legacy>,
    /// Over what it grants.
    pub hash: Hash,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("accessor", &self.accessor).finish_non_exhaustive()
    }
}

/// Rules under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Chosen by the proposer.
    pub id: Arc<str>,
    /// Unique, whatever its case.
    pub name: Arc<str>,
    /// For people.
    pub description: String,
    /// As written.
    pub rules: Arc<str>,
    /// Where it counts; everywhere if empty.
    pub datacenters: Vec<String>,
    /// Over what it grants.
    pub hash: Hash,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// Grants under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Chosen by the proposer.
    pub id: Arc<str>,
    /// Unique, whatever its case.
    pub name: Arc<str>,
    /// For people.
    pub description: String,
    /// What it grants.
    pub grants: Grants,
    /// Over what it grants.
    pub hash: Hash,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// A way to log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthMethod {
    /// Unique, whatever its case.
    pub name: Arc<str>,
    /// Its kind: `jwt`, `kubernetes`, `oidc`.
    pub kind: String,
    /// For people.
    pub display_name: String,
    /// For people.
    pub description: String,
    /// Tokens that it makes count for so long; 0 is for ever.
    pub token_ttl_ns: u64,
    /// `local` or `global`; empty as `local`.
    pub token_locality: String,
    /// Its settings as JSON.
    pub config: Arc<str>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// What a login grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRule {
    /// Chosen by the proposer.
    pub id: Arc<str>,
    /// For people.
    pub description: String,
    /// The method whose logins it is about.
    pub auth_method: Arc<str>,
    /// Which of them; all if empty.
    pub selector: String,
    /// `service`, `node`, `role`, `policy` or `templated-policy`.
    pub bind_type: String,
    /// Name of what it grants, with variables.
    pub bind_name: String,
    /// The variable `name` of a templated policy, with variables.
    pub bind_variable: Option<String>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// What a hash is made of: lengths keep parts apart.
struct Hasher(Sha256);

impl Hasher {
    fn new(kind: &str) -> Hasher {
        let mut hasher = Hasher(Sha256::new());
        hasher.text(kind);
        hasher
    }

    fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn texts<T: AsRef<str>>(&mut self, texts: &[T]) {
        self.0.update((texts.len() as u64).to_be_bytes());
        for text in texts {
            self.text(text.as_ref());
        }
    }

    fn grants(&mut self, grants: &Grants) {
        self.texts(&grants.policies);
        for it in &grants.service_identities {
            self.text(&it.service);
            self.texts(&it.datacenters);
        }
        for it in &grants.node_identities {
            self.text(&it.node);
            self.text(&it.datacenter);
        }
        for it in &grants.templated_policies {
            self.text(&it.template);
            self.texts(it.name.as_slice());
            self.texts(&it.datacenters);
        }
    }

    fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

impl Token {
    /// Over description, kind, rules, locality, links and identities; not over names, secrets, expiry.
    #[must_use]
    pub fn hashed(mut self) -> Token {
        let mut hasher = Hasher::new("token");
        hasher.text(&self.description);
        hasher.text(if self.local { "local" } else { "global" });
        if let Some(legacy) = &self.legacy {
            hasher.text(&legacy.kind);
            hasher.text(&legacy.rules);
        }
        hasher.texts(&self.roles);
        hasher.grants(&self.grants);
        self.hash = hasher.finish();
        self
    }

    /// Has it expired?
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

impl Policy {
    /// Over name, description, rules and datacenters.
    #[must_use]
    pub fn hashed(mut self) -> Policy {
        let mut hasher = Hasher::new("policy");
        hasher.text(&self.name);
        hasher.text(&self.description);
        hasher.text(&self.rules);
        hasher.texts(&self.datacenters);
        self.hash = hasher.finish();
        self
    }
}

impl Role {
    /// Over name, description and what it grants.
    #[must_use]
    pub fn hashed(mut self) -> Role {
        let mut hasher = Hasher::new("role");
        hasher.text(&self.name);
        hasher.text(&self.description);
        hasher.grants(&self.grants);
        self.hash = hasher.finish();
        self
    }
}
