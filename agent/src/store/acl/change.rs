//! Changes of access control. Whoever proposes them has validated them against the state of that moment; here is
//! validated again what may have changed since.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::refusal::{Quoted, Refusal};
use super::super::scope::{ApplyContext, Scope, fold};
use super::table::{Row, Table};
use super::{Acl, AuthMethod, BindingRule, Policy, Role, Token, hash_of};
use crate::store::Index;

/// Which row a change of one row expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// None: the row is new.
    Absent,
    /// One that is to be replaced: the row may not come back after somebody deleted it.
    Present,
    /// Any or none.
    Any,
}

/// A change of access control. The indexes of its rows are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AclChange {
    /// Puts a token.
    Token(Expected, Box<Token>),
    /// Puts the first token of all rights. `reset` is the index of the earlier time that this one comes after, 0 if none.
    Bootstrap {
        /// The token.
        token: Box<Token>,
        /// Index of the earlier bootstrap.
        reset: Index,
    },
    /// Removes tokens by AccessorID.
    TokensDelete(Vec<Arc<str>>),
    /// Removes those of these tokens that have expired by the time of the command.
    TokensExpire(Vec<Arc<str>>),
    /// Puts a policy.
    Policy(Expected, Box<Policy>),
    /// Removes policies by id.
    PoliciesDelete(Vec<Arc<str>>),
    /// Puts a role.
    Role(Expected, Box<Role>),
    /// Removes roles by id.
    RolesDelete(Vec<Arc<str>>),
    /// Puts a way to log in.
    AuthMethod(Expected, Box<AuthMethod>),
    /// Removes ways to log in by name, with their binding rules and the tokens that they made.
    AuthMethodsDelete(Vec<Arc<str>>),
    /// Puts a binding rule.
    BindingRule(Expected, Box<BindingRule>),
    /// Removes binding rules by id.
    BindingRulesDelete(Vec<Arc<str>>),
}

fn refused<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Text(text.into()))
}

impl Acl {
    pub(in crate::store) fn change(
        &mut self,
        context: &mut ApplyContext,
        change: &AclChange,
    ) -> Result<(), Refusal> {
        match change {
            AclChange::Token(expected, row) => self.set_token(context, *expected, row)?,
            AclChange::Bootstrap { token, reset } => {
                if self.bootstrapped != *reset {
                    let now = self.bootstrapped;
                    return refused(format!(
                        "Permission denied: ACL bootstrap no longer allowed (reset index: {now})"
                    ));
                }
                self.set_token(context, Expected::Absent, token)?;
                self.bootstrapped = context.index;
            }
            AclChange::TokensDelete(accessors) => {
                for accessor in accessors {
                    self.remove_token(context, accessor);
                }
            }
            AclChange::TokensExpire(accessors) => {
                for accessor in accessors {
                    if self.tokens.get(accessor).is_some_and(|row| row.is_expired(context.at)) {
                        self.remove_token(context, accessor);
                    }
                }
            }
            AclChange::Policy(expected, row) => {
                let place = |held: &str| {
                    format!("Invalid Policy: A Policy with Name {held} already exists")
                };
                set(context, &mut self.policies, *expected, row, "policy", place)?;
                context.touch(Scope::AclPolicies);
            }
            AclChange::PoliciesDelete(ids) => {
                remove(context, &mut self.policies, ids, &Scope::AclPolicies);
            }
            AclChange::Role(expected, row) => {
                let place =
                    |held: &str| format!("Invalid Role: A Role with Name {held} already exists");
                set(context, &mut self.roles, *expected, row, "role", place)?;
                context.touch(Scope::AclRoles);
            }
            AclChange::RolesDelete(ids) => remove(context, &mut self.roles, ids, &Scope::AclRoles),
            AclChange::AuthMethod(expected, row) => self.set_method(context, *expected, row)?,
            AclChange::AuthMethodsDelete(names) => {
                for name in names {
                    self.remove_method(context, name);
                }
            }
            AclChange::BindingRule(expected, row) => {
                if self.methods.get(&row.auth_method).is_none() {
                    let name = Quoted(&row.auth_method);
                    return refused(format!("cannot find auth method with name {name}"));
                }
                set(context, &mut self.rules, *expected, row, "binding rule", str::to_owned)?;
                context.touch(Scope::AclBindingRules);
            }
            AclChange::BindingRulesDelete(ids) => {
                remove(context, &mut self.rules, ids, &Scope::AclBindingRules);
            }
        }
        Ok(())
    }

    fn set_token(
        &mut self,
        context: &mut ApplyContext,
        expected: Expected,
        row: &Token,
    ) -> Result<(), Refusal> {
        let old = self.tokens.get(&row.accessor);
        match (expected, old) {
            (Expected::Absent, Some(_)) => {
                return refused("Invalid Token: AccessorID is already in use");
            }
            (Expected::Present, None) => {
                return refused(format!("Cannot find token {}", Quoted(&row.accessor)));
            }
            _ => {}
        }
        let holder = self.secrets.get(&hash_of(&row.secret));
        if holder.is_some_and(|key| **key != *fold(&row.accessor)) {
            return refused("Invalid Token: SecretID is already in use");
        }
        if let Some(method) = &row.auth_method
            && self.methods.get(method).is_none()
        {
            // It was deleted during the login, and its tokens with it.
            return refused(format!("cannot find auth method with name {}", Quoted(method)));
        }
        let created = old.map_or(context.index, |old| old.create_index);
        self.tokens.index = self.tokens.index.max(context.index);
        self.place_token(Token {
            create_index: created,
            modify_index: context.index,
            ..row.clone()
        });
        context.touch(Scope::AclTokens);
        Ok(())
    }

    pub(super) fn place_token(&mut self, row: Token) {
        if let Some(old) = self.tokens.get(&row.accessor).cloned() {
            self.forget(&old);
        }
        let key: Arc<str> = fold(&row.accessor).into();
        self.secrets.insert(hash_of(&row.secret), key.clone());
        if let Some(end) = row.expires {
            self.expirations.insert((end, key));
        }
        self.tokens.place(row);
    }

    fn remove_token(&mut self, context: &mut ApplyContext, accessor: &str) {
        if let Some(old) = self.tokens.remove(context.index, accessor) {
            self.forget(&old);
            context.touch(Scope::AclTokens);
        }
    }

    /// Takes a token out of the look-ups beside its table.
    fn forget(&mut self, token: &Token) {
        self.secrets.remove(&hash_of(&token.secret));
        if let Some(end) = token.expires {
            self.expirations.remove(&(end, fold(&token.accessor).into()));
        }
    }

    fn set_method(
        &mut self,
        context: &mut ApplyContext,
        expected: Expected,
        row: &AuthMethod,
    ) -> Result<(), Refusal> {
        if self.methods.get(&row.name).is_some_and(|old| old.kind != row.kind) {
            return refused("the Type field of an Auth Method is immutable");
        }
        set(context, &mut self.methods, expected, row, "auth method", str::to_owned)?;
        context.touch(Scope::AclAuthMethods);
        Ok(())
    }

    fn remove_method(&mut self, context: &mut ApplyContext, name: &str) {
        let Some(method) = self.methods.remove(context.index, name) else { return };
        context.touch(Scope::AclAuthMethods);
        let is_it = |other: &str| fold(other) == fold(&method.name);
        let rules = self.rules.rows().filter(|rule| is_it(&rule.auth_method));
        let rules: Vec<Arc<str>> = rules.map(|rule| rule.id.clone()).collect();
        remove(context, &mut self.rules, &rules, &Scope::AclBindingRules);
        let made = |token: &&Arc<Token>| token.auth_method.as_deref().is_some_and(is_it);
        let tokens = self.tokens.rows().filter(made);
        for accessor in tokens.map(|token| token.accessor.clone()).collect::<Vec<_>>() {
            self.remove_token(context, &accessor);
        }
    }
}

fn set<R: Row>(
    context: &mut ApplyContext,
    table: &mut Table<R>,
    expected: Expected,
    row: &R,
    kind: &str,
    name_taken: impl Fn(&str) -> String,
) -> Result<(), Refusal> {
    let there = table.get(row.key()).is_some();
    match expected {
        Expected::Absent if there => {
            return refused(format!("{kind} {} already exists", Quoted(row.key())));
        }
        Expected::Present if !there => return refused(format!("cannot find {kind} {}", row.key())),
        _ => {}
    }
    if let Some(name) = row.name()
        && table.named(name).is_some_and(|other| fold(other.key()) != fold(row.key()))
    {
        return refused(name_taken(&Quoted(name).to_string()));
    }
    table.set(context.index, row.clone());
    Ok(())
}

fn remove<R: Row>(
    context: &mut ApplyContext,
    table: &mut Table<R>,
    keys: &[Arc<str>],
    scope: &Scope,
) {
    for key in keys {
        if table.remove(context.index, key).is_some() {
            context.touch(scope.clone());
        }
    }
}
