//! Tokens, policies, roles, ways to log in, and what a login grants.
//!
//! A token links to policies and roles by id. A link to a row that is gone grants nothing and is
//! shown to nobody, so deleting a policy changes no token. Secrets are found by their hash: how
//! long a look-up takes tells nothing about them.

mod change;
mod rows;
mod table;

pub use change::{AclChange, Expected};
pub use rows::{
    AuthMethod, BindingRule, Grants, Hash, Legacy, NodeIdentity, Policy, Role, ServiceIdentity,
    TemplatedPolicy, Token,
};

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Found, Index, Scope, Timestamp};
use table::Table;

/// Id of the policy that allows everything.
pub const GLOBAL_MANAGEMENT: &str = "00000000-0000-0000-0000-000000000001";
/// AccessorID of the token of requests that carry none.
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// The tables of access control.
#[derive(Debug, Clone, Default)]
pub struct Acl {
    tokens: Table<Token>,
    /// Hash of the secret to AccessorID in look-up form.
    secrets: OrdMap<Hash, Arc<str>>,
    /// Tokens that expire, by when.
    expirations: OrdSet<(Timestamp, Arc<str>)>,
    policies: Table<Policy>,
    roles: Table<Role>,
    methods: Table<AuthMethod>,
    rules: Table<BindingRule>,
    /// Index at which somebody made the first token of all rights; 0 if nobody did.
    bootstrapped: Index,
}

/// Indexes of the tables, for snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Indexes {
    tokens: Index,
    policies: Index,
    roles: Index,
    methods: Index,
    rules: Index,
    bootstrapped: Index,
}

fn hash_of(secret: &str) -> Hash {
    Sha256::digest(secret).into()
}

macro_rules! reads {
    ($one:ident, $all:ident, $table:ident, $row:ty, $scope:expr, $told:literal) => {
        #[doc = concat!($told, " by its key.")]
        pub fn $one(&self, key: &str) -> Found<Option<Arc<$row>>> {
            let rows = self.$table.get(key).cloned();
            Found { rows, index: self.$table.index, scopes: vec![$scope] }
        }

        #[doc = concat!($told, " and all others, by key.")]
        pub fn $all(&self) -> Found<Vec<Arc<$row>>> {
            let rows = self.$table.rows().cloned().collect();
            Found { rows, index: self.$table.index, scopes: vec![$scope] }
        }
    };
}

impl Acl {
    reads!(token, tokens, tokens, Token, Scope::AclTokens, "A token");
    reads!(policy, policies, policies, Policy, Scope::AclPolicies, "A policy");
    reads!(role, roles, roles, Role, Scope::AclRoles, "A role");
    reads!(
        auth_method,
        auth_methods,
        methods,
        AuthMethod,
        Scope::AclAuthMethods,
        "A way to log in"
    );
    reads!(
        binding_rule,
        binding_rules,
        rules,
        BindingRule,
        Scope::AclBindingRules,
        "What a login grants"
    );

    /// A policy by its name, in any case.
    pub fn policy_named(&self, name: &str) -> Found<Option<Arc<Policy>>> {
        let rows = self.policies.named(name).cloned();
        Found { rows, index: self.policies.index, scopes: vec![Scope::AclPolicies] }
    }

    /// A role by its name, in any case.
    pub fn role_named(&self, name: &str) -> Found<Option<Arc<Role>>> {
        let rows = self.roles.named(name).cloned();
        Found { rows, index: self.roles.index, scopes: vec![Scope::AclRoles] }
    }

    /// The token that has this secret, expired or not.
    pub fn token_with_secret(&self, secret: &str) -> Found<Option<Arc<Token>>> {
        let key = self.secrets.get(&hash_of(secret));
        let rows = key.and_then(|key| self.tokens.get(key)).cloned();
        Found { rows, index: self.tokens.index, scopes: vec![Scope::AclTokens] }
    }

    /// Up to `count_max` tokens that have expired by `now`, oldest first.
    pub fn expired(&self, now: Timestamp, count_max: usize) -> Vec<Arc<Token>> {
        let ended = self.expirations.iter().take_while(|(end, _)| *end <= now);
        ended.take(count_max).filter_map(|(_, key)| self.tokens.get(key).cloned()).collect()
    }

    /// When the next token expires.
    pub fn next_expiration(&self) -> Option<Timestamp> {
        self.expirations.get_min().map(|(end, _)| *end)
    }

    /// Index at which somebody made the first token of all rights; 0 if nobody did.
    pub fn bootstrapped(&self) -> Index {
        self.bootstrapped
    }

    /// Index of the last change of anything that rights follow from.
    pub fn index(&self) -> Index {
        self.tokens.index.max(self.policies.index).max(self.roles.index)
    }

    /// Number of tokens.
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Number of rows of all tables.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
            + self.policies.len()
            + self.roles.len()
            + self.methods.len()
            + self.rules.len()
    }

    pub(super) fn raise(&mut self, floor: Index) {
        for index in [
            &mut self.tokens.index,
            &mut self.policies.index,
            &mut self.roles.index,
            &mut self.methods.index,
            &mut self.rules.index,
        ] {
            *index = (*index).max(floor);
        }
    }

    /// The highest index of its tables and rows.
    pub(super) fn highest(&self) -> Index {
        self.tokens
            .highest()
            .max(self.policies.highest())
            .max(self.roles.highest())
            .max(self.methods.highest())
            .max(self.rules.highest())
            .max(self.bootstrapped)
    }
}

/// Rows for snapshots.
impl Acl {
    pub(super) fn indexes(&self) -> Indexes {
        Indexes {
            tokens: self.tokens.index,
            policies: self.policies.index,
            roles: self.roles.index,
            methods: self.methods.index,
            rules: self.rules.index,
            bootstrapped: self.bootstrapped,
        }
    }

    pub(super) fn restore_indexes(&mut self, indexes: &Indexes) {
        self.tokens.index = indexes.tokens;
        self.policies.index = indexes.policies;
        self.roles.index = indexes.roles;
        self.methods.index = indexes.methods;
        self.rules.index = indexes.rules;
        self.bootstrapped = indexes.bootstrapped;
    }

    pub(super) fn token_rows(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.rows()
    }

    pub(super) fn policy_rows(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.rows()
    }

    pub(super) fn role_rows(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.rows()
    }

    pub(super) fn method_rows(&self) -> impl Iterator<Item = &Arc<AuthMethod>> {
        self.methods.rows()
    }

    pub(super) fn rule_rows(&self) -> impl Iterator<Item = &Arc<BindingRule>> {
        self.rules.rows()
    }

    pub(super) fn restore_token(&mut self, row: Token) {
        self.place_token(row);
    }

    pub(super) fn restore_policy(&mut self, row: Policy) {
        self.policies.place(row);
    }

    pub(super) fn restore_role(&mut self, row: Role) {
        self.roles.place(row);
    }

    pub(super) fn restore_method(&mut self, row: AuthMethod) {
        self.methods.place(row);
    }

    pub(super) fn restore_rule(&mut self, row: BindingRule) {
        self.rules.place(row);
    }
}
