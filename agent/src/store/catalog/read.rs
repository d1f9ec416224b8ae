//! Reads of the catalog. Names are looked up without regard to case.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::key::{Two, under, under_one, under_two};
use super::{Catalog, Check, Instance, Node, Service};
use crate::store::scope::fold;
use crate::store::{Found, Index, Scope, Scopes};

/// Shorter texts are never taken for the beginning of a node's id.
const ID_PREFIX_MIN: usize = 2;

/// Reads. Names are looked up without regard to case.
impl Catalog {
    /// All nodes, by name.
    pub fn nodes(&self) -> Found<Vec<Arc<Node>>> {
        let rows = self.nodes.values().cloned().collect();
        Found { rows, index: self.nodes_index(), scopes: vec![Scope::Nodes] }
    }

    /// One node by name, or by a unique prefix of its id.
    pub fn node(&self, name_or_id: &str) -> Found<Option<Arc<Node>>> {
        let Resolved { node, absent, scopes } = self.resolve(name_or_id);
        let index = node.map_or(absent, |_| self.nodes_index());
        Found { rows: node.cloned(), index, scopes }
    }

    /// Service names with the union of their tags, on all nodes.
    pub fn all_services(&self) -> Found<BTreeMap<Arc<str>, Vec<String>>> {
        let rows = self
            .names
            .iter()
            .map(|(name, tally)| (name.clone(), tally.tags.keys().cloned().collect()))
            .collect();
        Found { rows, index: self.services_index(), scopes: vec![Scope::Services] }
    }

    /// Service names with the union of their tags; only those on nodes that `keep` (node-meta).
    /// Dearer than [`Catalog::all_services`], and touched by more.
    pub fn services(&self, keep: &dyn Fn(&Node) -> bool) -> Found<BTreeMap<Arc<str>, Vec<String>>> {
        let mut tags: BTreeMap<Arc<str>, BTreeSet<&String>> = BTreeMap::new();
        for (name, node) in &self.nodes {
            if keep(node) {
                for (_, service) in under_one(&self.services, name) {
                    tags.entry(service.name.clone()).or_default().extend(&service.tags);
                }
            }
        }
        let rows = tags
            .into_iter()
            .map(|(name, tags)| (name, tags.into_iter().cloned().collect()))
            .collect();
        let index = self.services_by_node_index();
        Found { rows, index, scopes: vec![Scope::ServicesByNode, Scope::Nodes] }
    }

    /// A node and the services on it, by id.
    #[expect(clippy::type_complexity, reason = "a node with its services, named nowhere else")]
    pub fn node_services(&self, name_or_id: &str) -> Found<Option<(Arc<Node>, Vec<Arc<Service>>)>> {
        let Resolved { node, absent, scopes } = self.resolve(name_or_id);
        let rows = node.map(|node| {
            let name = fold(&node.name);
            (node.clone(), under_one(&self.services, &name).map(|(_, s)| s.clone()).collect())
        });
        let index = node.map_or(absent, |_| self.services_by_node_index());
        Found { rows, index, scopes }
    }

    /// Instances of a service with their nodes, whatever their health, by node and id.
    pub fn service(&self, name: &str) -> Found<Vec<(Arc<Node>, Arc<Service>)>> {
        let name = fold(name);
        let rows: Vec<_> = under(&self.instances, &name)
            .map(|(_, i)| (i.node.clone(), i.service.clone()))
            .collect();
        let index = self.service_nodes_index(&name);
        Found { rows, index, scopes: vec![Scope::ServiceNodes((&*name).into())] }
    }

    /// Instances of a service with nodes and checks, by node and id. One walk over rows that are
    /// kept joined.
    pub fn instances(&self, name: &str) -> Found<Vec<Arc<Instance>>> {
        let name = fold(name);
        let rows: Vec<_> = under(&self.instances, &name).map(|(_, i)| i.clone()).collect();
        let index = self.service_index(&name);
        Found { rows, index, scopes: vec![Scope::Service((&*name).into())] }
    }

    /// Checks of one node by name, its services' included, by id.
    pub fn node_checks(&self, node: &str) -> Found<Vec<Arc<Check>>> {
        let node = fold(node);
        let rows = under_one(&self.checks, &node).map(|(_, check)| check.clone()).collect();
        let scopes = vec![Scope::NodeChecks((&*node).into())];
        Found { rows, index: self.checks_index(), scopes }
    }

    /// Checks of the instances of one service, by node and id.
    pub fn service_checks(&self, name: &str) -> Found<Vec<Arc<Check>>> {
        let name = fold(name);
        let rows = under(&self.checks_by_service, &name).map(|(_, check)| check.clone()).collect();
        let scopes = vec![Scope::ServiceChecks((&*name).into())];
        Found { rows, index: self.checks_index(), scopes }
    }

    /// Checks in a state, by node and id; `any` for all. A state is spelt exactly.
    pub fn checks_in_state(&self, state: &str) -> Found<Vec<Arc<Check>>> {
        let (rows, scope) = if state == "any" {
            (self.checks.values().cloned().collect(), Scope::Checks)
        } else {
            let rows = under(&self.checks_by_status, state).map(|(_, check)| check.clone());
            (rows.collect(), Scope::ChecksInState(state.into()))
        };
        Found { rows, index: self.checks_index(), scopes: vec![scope] }
    }

    /// The worst of what bears on an instance, its own checks and its node's; without an instance, of the
    /// node's alone. Of what nobody checks: passing.
    pub fn effective_status(&self, node: &str, service_id: &str) -> &'static str {
        let (node, id) = (fold(node), fold(service_id));
        let of_node = under_two(&self.checks_of, &node, "");
        let own = (!id.is_empty()).then(|| under_two(&self.checks_of, &node, &id));
        worst(of_node.chain(own.into_iter().flatten()).map(|(_, check)| check))
    }

    /// One instance by node and service id, without its index: what other commands look at.
    pub fn node_service(&self, node: &str, id: &str) -> Option<&Arc<Service>> {
        self.services.get(&Two(&fold(node), &fold(id)))
    }

    /// One check by node and id, without its index.
    pub fn node_check(&self, node: &str, id: &str) -> Option<&Arc<Check>> {
        self.checks.get(&Two(&fold(node), &fold(id)))
    }

    /// One node by name, without its index.
    pub fn node_named(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&*fold(name))
    }

    /// The first node whose address is wanted, without its index. Looks at every node, and makes
    /// nothing.
    pub fn node_at(&self, wanted: impl Fn(&str) -> bool) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| wanted(&node.address))
    }

    /// The first instance whose own address is wanted, by service name; without its index.
    pub fn service_at(&self, wanted: impl Fn(&str) -> bool) -> Option<&Arc<Service>> {
        self.instances.values().map(|it| &it.service).find(|service| wanted(&service.address))
    }

    /// One node by its whole id, without its index.
    pub fn node_with_id(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.get(self.ids.get(&*bare_id(id))?)
    }
}

impl Instance {
    /// The worst of what bears on it: see [`Catalog::effective_status`].
    pub fn effective_status(&self) -> &'static str {
        worst(self.checks.iter())
    }
}

fn worst<'a>(checks: impl Iterator<Item = &'a Arc<Check>>) -> &'static str {
    let badness = |check: &Arc<Check>| match &*check.status {
        "critical" => 2,
        "warning" => 1,
        _ => 0,
    };
    ["passing", "warning", "critical"][checks.map(badness).max().unwrap_or(0)]
}

/// Indexes without their rows: what a cached answer is compared with.
impl Catalog {
    /// Of [`Catalog::nodes`].
    pub fn nodes_index(&self) -> Index {
        self.indexes.nodes
    }

    /// Of [`Catalog::all_services`].
    pub fn services_index(&self) -> Index {
        self.indexes.services
    }

    /// Of [`Catalog::services`], and of [`Catalog::node_services`] for a node that exists.
    pub fn services_by_node_index(&self) -> Index {
        self.indexes.nodes.max(self.indexes.services)
    }

    /// Of every read of checks.
    pub fn checks_index(&self) -> Index {
        self.indexes.checks
    }

    /// Of [`Catalog::instances`].
    pub fn service_index(&self, name: &str) -> Index {
        self.index_of_service(name, self.indexes.checks)
    }

    /// Of [`Catalog::service`].
    pub fn service_nodes_index(&self, name: &str) -> Index {
        self.index_of_service(name, 0)
    }

    /// Of [`Catalog::node`]; and, if `with_services`, of [`Catalog::node_services`].
    pub fn node_index(&self, name_or_id: &str, with_services: bool) -> Index {
        let Resolved { node, absent, .. } = self.resolve(name_or_id);
        match node {
            None => absent,
            Some(_) if with_services => self.services_by_node_index(),
            Some(_) => self.nodes_index(),
        }
    }

    /// A name's own index; without instances, when any name went extinct; before there was such
    /// a time, the newest of the tables that the answer would be made of.
    fn index_of_service(&self, name: &str, checks: Index) -> Index {
        match self.service_indexes.get(&*fold(name)) {
            Some(index) => *index,
            None if self.indexes.service_extinction > 0 => self.indexes.service_extinction,
            None => self.services_by_node_index().max(checks),
        }
    }
}

/// Sizes, each known without counting.
impl Catalog {
    /// Nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Service names.
    pub fn service_count(&self) -> usize {
        self.service_indexes.len()
    }

    /// Instances of all services.
    pub fn instance_count(&self) -> usize {
        self.services.len()
    }

    /// Checks.
    pub fn check_count(&self) -> usize {
        self.checks.len()
    }
}

/// The node that a name or the beginning of an id stands for.
struct Resolved<'a> {
    node: Option<&'a Arc<Node>>,
    /// The answer's index if it means nobody.
    absent: Index,
    scopes: Scopes,
}

impl Catalog {
    /// A node by name or by a unique prefix of its id, and what the outcome depends on. As in the
    /// reference an odd last digit is left out.
    fn resolve(&self, name_or_id: &str) -> Resolved<'_> {
        let name = fold(name_or_id);
        let named = Scope::Node((&*name).into());
        // What a text that is nobody's name (any more) answers with: it moves when a name or an
        // id goes, so that it never slides back.
        let absent = self.indexes.node_extinction;
        if let Some(node) = self.nodes.get(&*name) {
            return Resolved { node: Some(node), absent, scopes: vec![named] };
        }
        let prefix = match name.len() {
            ID_PREFIX_MIN..=36 if name.is_ascii() => bare_id(&name[..name.len() & !1]),
            _ => String::new(),
        };
        if prefix.is_empty() || prefix.len() % 2 == 1 {
            return Resolved { node: None, absent, scopes: vec![named] };
        }
        let mut found = self
            .ids
            .range::<_, str>((Bound::Included(&*prefix), Bound::Unbounded))
            .take_while(|(id, _)| id.starts_with(&*prefix));
        let mut scopes = vec![named, Scope::Nodes];
        match (found.next(), found.next()) {
            (None, _) => Resolved { node: None, absent, scopes },
            (Some((_, key)), None) => {
                scopes.push(Scope::Node(key.clone()));
                Resolved { node: self.nodes.get(key), absent, scopes }
            }
            // Ambiguous: the node that made it so moved the table.
            (Some(_), Some(_)) => Resolved { node: None, absent: self.indexes.nodes, scopes },
        }
    }

    /// The instance as its parts stand now.
    pub(super) fn join(&self, node: &str, service: &Arc<Service>) -> Option<Instance> {
        let id = fold(&service.id);
        let of_node = under_two(&self.checks_of, node, "");
        let own = under_two(&self.checks_of, node, &id);
        Some(Instance {
            node: self.nodes.get(node)?.clone(),
            service: service.clone(),
            checks: of_node.chain(own).map(|(_, check)| check.clone()).collect(),
        })
    }
}

/// The form in which ids of nodes are compared: lower case, no hyphens.
pub(super) fn bare_id(id: &str) -> String {
    id.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect()
}
