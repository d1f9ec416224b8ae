//! Decisions: may the bearer of these rules do that? A pure value, shared by all who may the same.
//!
//! | question | answer |
//! |---|---|
//! | a rule for exactly this name | decides |
//! | else rules for prefixes of it | the longest decides |
//! | else | the default policy |
//! | several rules for one name | deny before write, list, read |
//! | a kind without names | deny before write, read; else the default policy |
//!
//! The default policy `allow` does not extend to tokens and policies and to snapshots.

mod names;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::policy::{Kind, Level, Rules};
use super::{Access, Authority, Resource};
use names::Names;

/// What counts where no rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DefaultPolicy {
    /// Everything is allowed that no rule denies.
    Allow,
    /// Nothing is allowed that no rule allows.
    #[default]
    Deny,
}

/// What the configuration says about decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// What counts where no rule decides.
    pub default_policy: DefaultPolicy,
    /// Listing keys needs the level `list`.
    pub enable_key_list_policy: bool,
}

/// Answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl Decision {
    /// It may.
    pub fn is_allowed(self) -> bool {
        self == Decision::Allow
    }

    fn from_bool(allowed: bool) -> Decision {
        if allowed { Decision::Allow } else { Decision::Deny }
    }
}

/// A policy's rules under the name that explanations show.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name of the policy or identity.
    pub name: Arc<str>,
    /// Its rules.
    pub rules: Arc<Rules>,
}

/// The level that counts for a name, and the policy that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    level: Level,
    source: Arc<str>,
}

/// Why a question was answered so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub decision: Decision,
    /// What decided.
    pub reason: Reason,
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Access control is off.
    Off,
    /// A rule of this policy.
    Rule {
        /// Name of the policy.
        policy: Arc<str>,
        /// The rule's kind and name as written, such as `key_prefix "app/"`.
        rule: String,
        /// Its level.
        level: Level,
    },
    /// No rule is about it: the default policy.
    Default,
}

/// All that the bearer of some policies may do.
#[derive(Debug)]
pub struct Authorizer {
    authority: Authority,
    options: Options,
    /// Access control is off: everything is allowed, and nothing is asked.
    off: bool,
    /// Every row of every kind can be read: lists need no filter.
    reads_everything: bool,
    acl: Option<Grant>,
    keyring: Option<Grant>,
    operator: Option<Grant>,
    agents: Names,
    events: Names,
    keys: Names,
    nodes: Names,
    queries: Names,
    services: Names,
    intentions: Names,
    sessions: Names,
}

/// Rows that may be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filtered<T> {
    /// What is left.
    pub rows: T,
    /// At least one row was left out.
    pub hidden: bool,
}

impl Authorizer {
    /// Everything is allowed: access control is off.
    pub fn off() -> Authorizer {
        Authorizer { off: true, reads_everything: true, ..Authorizer::empty(Options::default()) }
    }

    fn empty(options: Options) -> Authorizer {
        Authorizer {
            authority: Authority::OFF,
            options,
            off: false,
            reads_everything: false,
            acl: None,
            keyring: None,
            operator: None,
            agents: Names::default(),
            events: Names::default(),
            keys: Names::default(),
            nodes: Names::default(),
            queries: Names::default(),
            services: Names::default(),
            intentions: Names::default(),
            sessions: Names::default(),
        }
    }

    /// What the bearer of all these policies may do. Their order does not matter.
    pub fn new<'a>(sources: impl IntoIterator<Item = &'a Source>, options: Options) -> Authorizer {
        let mut made = Authorizer::empty(options);
        let mut builders: [names::Builder; 8] = Default::default();
        let [agents, events, keys, nodes, queries, services, intentions, sessions] = &mut builders;
        for source in sources {
            let grant = |level| Grant { level, source: source.name.clone() };
            merge(&mut made.acl, source.rules.acl.map(grant));
            merge(&mut made.keyring, source.rules.keyring.map(grant));
            merge(&mut made.operator, source.rules.operator.map(grant));
            for rule in &source.rules.named {
                let names = match rule.kind {
                    Kind::Agent => &mut *agents,
                    Kind::Event => &mut *events,
                    Kind::Key => &mut *keys,
                    Kind::Node => &mut *nodes,
                    Kind::Query => &mut *queries,
                    Kind::Service => &mut *services,
                    Kind::Session => &mut *sessions,
                };
                names.add(rule.prefix, &rule.name, grant(rule.level));
                if let Some(level) = rule.intentions {
                    intentions.add(rule.prefix, &rule.name, grant(level));
                }
            }
        }
        // Where no rule of a service says anything of intentions, its level does: never more than to read them.
        intentions.add_missing(services, |level| match level {
            Level::Deny => Level::Deny,
            Level::Read | Level::List | Level::Write => Level::Read,
        });
        [
            made.agents,
            made.events,
            made.keys,
            made.nodes,
            made.queries,
            made.services,
            made.intentions,
            made.sessions,
        ] = builders.map(names::Builder::build);
        made.reads_everything = made.can_read_everything();
        made.authority = made.hash();
        made
    }

    /// Rights that answers can differ by: readers of equal authority may share one answer.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// Access control is off.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Every node, service, key, session, event and query can be read: a list needs no filter.
    pub fn reads_everything(&self) -> bool {
        self.reads_everything
    }

    /// May it do `access` on `resource`?
    pub fn allows(&self, resource: Resource<'_>, access: Access) -> Decision {
        Decision::from_bool(self.off || self.decide(resource, access))
    }

    fn decide(&self, resource: Resource<'_>, access: Access) -> bool {
        let allow = self.options.default_policy == DefaultPolicy::Allow;
        let named = |names: &Names, name: &str| {
            names.get(name).map_or(allow, |grant| enforces(grant.level, access))
        };
        let plain = |grant: &Option<Grant>, default: bool| {
            grant.as_ref().map_or(default, |grant| enforces(grant.level, access))
        };
        match resource {
            Resource::Acl => plain(&self.acl, false),
            // A saved state holds every secret.
            Resource::Snapshot => {
                self.acl.as_ref().is_some_and(|grant| enforces(grant.level, Access::Write))
            }
            Resource::Keyring => plain(&self.keyring, allow),
            Resource::Operator => plain(&self.operator, allow),
            Resource::Agent(name) => named(&self.agents, name),
            Resource::Event(name) => named(&self.events, name),
            Resource::Key(name) => named(&self.keys, name),
            Resource::KeyPrefix(prefix) => match access {
                Access::Write => self.keys.all_below(prefix, allow, |it| it == Level::Write),
                Access::Read | Access::List if self.options.enable_key_list_policy => {
                    self.keys.get(prefix).map_or(allow, |grant| enforces(grant.level, Access::List))
                }
                // Rows are filtered one by one.
                Access::Read | Access::List => true,
            },
            Resource::Node(name) => named(&self.nodes, name),
            Resource::Query(name) => named(&self.queries, name),
            Resource::Service(name) => named(&self.services, name),
            Resource::Intention(name) => named(&self.intentions, name),
            Resource::Session(name) => named(&self.sessions, name),
        }
    }

    /// The decision and what made it.
    pub fn explain(&self, resource: Resource<'_>, access: Access) -> Explanation {
        let decision = self.allows(resource, access);
        let reason = if self.off {
            Reason::Off
        } else {
            let (names, name) = match resource {
                Resource::Acl | Resource::Snapshot => {
                    return Explanation::plain(decision, "acl", self.acl.as_ref());
                }
                Resource::Keyring => {
                    return Explanation::plain(decision, "keyring", self.keyring.as_ref());
                }
                Resource::Operator => {
                    return Explanation::plain(decision, "operator", self.operator.as_ref());
                }
                Resource::Agent(name) => (&self.agents, name),
                Resource::Event(name) => (&self.events, name),
                Resource::Key(name) | Resource::KeyPrefix(name) => (&self.keys, name),
                Resource::Node(name) => (&self.nodes, name),
                Resource::Query(name) => (&self.queries, name),
                Resource::Service(name) => (&self.services, name),
                Resource::Intention(name) => (&self.intentions, name),
                Resource::Session(name) => (&self.sessions, name),
            };
            let whole_tree = matches!(resource, Resource::KeyPrefix(_)) && access == Access::Write;
            let weaker =
                whole_tree.then(|| names.weaker_below(name, |it| it == Level::Write)).flatten();
            let found = if whole_tree { names.find_prefix(name) } else { names.find(name) };
            match weaker.or(found) {
                Some((prefix, rule, grant)) => Reason::Rule {
                    policy: grant.source.clone(),
                    rule: format!(
                        "{}{} \"{rule}\"",
                        resource.rule_kind(),
                        if prefix { "_prefix" } else { "" }
                    ),
                    level: grant.level,
                },
                None => Reason::Default,
            }
        };
        Explanation { decision, reason }
    }

    /// Leaves the rows that may be seen.
    pub fn filter<T>(
        &self,
        rows: Vec<T>,
        sees: impl Fn(&Authorizer, &T) -> bool,
    ) -> Filtered<Vec<T>> {
        if self.reads_everything {
            return Filtered { rows, hidden: false };
        }
        let before = rows.len();
        let mut rows = rows;
        rows.retain(|row| sees(self, row));
        let hidden = rows.len() < before;
        Filtered { rows, hidden }
    }

    fn reads(&self, resource: Resource<'_>) -> bool {
        self.reads_everything || self.allows(resource, Access::Read).is_allowed()
    }

    /// May a row of this node be seen?
    pub fn sees_node(&self, node: &str) -> bool {
        self.reads(Resource::Node(node))
    }

    /// May the name of this service be seen?
    pub fn sees_service(&self, service: &str) -> bool {
        self.reads(Resource::Service(service))
    }

    /// May an instance be seen? Needs the right on its node and on its service's name.
    pub fn sees_instance(&self, node: &str, service: &str) -> bool {
        self.sees_node(node) && self.sees_service(service)
    }

    /// May a check of the catalog be seen? `service` is the name of the service it belongs to, empty if it is the node's.
    pub fn sees_check(&self, node: &str, service: &str) -> bool {
        self.sees_node(node) && (service.is_empty() || self.sees_service(service))
    }

    /// May this key be seen?
    pub fn sees_key(&self, key: &str) -> bool {
        self.reads(Resource::Key(key))
    }

    /// May sessions of this node be seen?
    pub fn sees_session(&self, node: &str) -> bool {
        self.reads(Resource::Session(node))
    }

    /// May user events of this name be seen?
    pub fn sees_event(&self, name: &str) -> bool {
        self.reads(Resource::Event(name))
    }

    fn can_read_everything(&self) -> bool {
        let allow = self.options.default_policy == DefaultPolicy::Allow;
        let readable = |level| enforces(level, Access::Read);
        let all =
            [&self.nodes, &self.services, &self.keys, &self.sessions, &self.events, &self.queries];
        all.into_iter().all(|names| names.all_below("", allow, readable))
    }

    /// Equal for equal rights, whatever the policies are called.
    fn hash(&self) -> Authority {
        let mut hash = Sha256::new();
        hash.update([
            u8::from(self.options.default_policy == DefaultPolicy::Allow),
            u8::from(self.options.enable_key_list_policy),
        ]);
        for grant in [&self.acl, &self.keyring, &self.operator] {
            hash.update([grant.as_ref().map_or(0xff, |grant| grant.level as u8)]);
        }
        let all = [
            &self.agents,
            &self.events,
            &self.keys,
            &self.nodes,
            &self.queries,
            &self.services,
            &self.intentions,
            &self.sessions,
        ];
        for names in all {
            names.hash(&mut hash);
        }
        Authority::from_hash(hash.finalize().into())
    }
}

impl Explanation {
    fn plain(decision: Decision, kind: &str, grant: Option<&Grant>) -> Explanation {
        let reason = match grant {
            Some(grant) => Reason::Rule {
                policy: grant.source.clone(),
                rule: kind.to_owned(),
                level: grant.level,
            },
            None => Reason::Default,
        };
        Explanation { decision, reason }
    }
}

/// Does `level` grant `access`?
fn enforces(level: Level, access: Access) -> bool {
    match access {
        Access::Read => level != Level::Deny,
        Access::List => matches!(level, Level::List | Level::Write),
        Access::Write => level == Level::Write,
    }
}

fn merge(into: &mut Option<Grant>, grant: Option<Grant>) {
    if let Some(grant) = grant
        && into.as_ref().is_none_or(|old| grant.level.precedes(old.level))
    {
        *into = Some(grant);
    }
}
