//! Changes of the catalog: registration and deregistration. What follows from them is `derived.rs`.
//!
//! Every change first asks whether the row differs at all: an agent repeats itself once a minute,
//! and a repetition must neither move an index nor wake anybody.

use std::sync::Arc;

use super::derived::{touch_check, touch_service};
use super::key::{Two, under_one, under_two};
use super::read::bare_id;
use super::validate::{validate_meta, validate_node_id, validate_service_name};
use super::{Catalog, Check, Indexes, Node, Service};
use crate::store::refusal::Refusal;
use crate::store::scope::{ApplyContext, fold, fold_shared};
use crate::store::{Index, Register, Scope};

/// Written by the leader from what gossip knows; while it is not critical, a node's name is its own.
const SERF_HEALTH: &str = "serfhealth";
/// Status of a check until a status is set.
const CRITICAL: &str = "critical";

impl Catalog {
    /// A node, and with it a service and checks. On a refusal the caller throws away what was
    /// done so far.
    pub(in crate::store) fn register(
        &mut self,
        context: &mut ApplyContext,
        register: &Register,
    ) -> Result<(), Refusal> {
        let node = &register.node;
        if node.name.is_empty() {
            return Err(Refusal::NodeNameMissing);
        }
        if node.address.is_empty() && !register.skip_node_update {
            return Err(Refusal::AddressMissing);
        }
        validate_node_id(&node.id)?;
        let changes_node = match self.node_named(&node.name) {
            None => true,
            Some(old) => !register.skip_node_update && !old.same(node),
        };
        if changes_node {
            self.ensure_node(context, node).map_err(|refusal| Refusal::Node(refusal.into()))?;
        }
        if let Some(service) = &register.service {
            validate_service_name(service)?;
            self.ensure_service(context, &node.name, service)
                .map_err(|refusal| Refusal::Service(refusal.into()))?;
        }
        for check in &register.checks {
            if !check.node.is_empty() && check.node != node.name {
                return Err(Refusal::CheckOfOtherNode {
                    check: check.node.to_string(),
                    node: node.name.to_string(),
                });
            }
            self.ensure_check(context, &node.name, check).map_err(|refusal| Refusal::Check {
                node: node.name.to_string(),
                refusal: refusal.into(),
            })?;
        }
        Ok(())
    }

    /// Puts a node's row. A known id under another name is a renaming: the old name goes with
    /// everything on it. A name belongs to the node that holds it while that one is healthy.
    pub(in crate::store) fn ensure_node(
        &mut self,
        context: &mut ApplyContext,
        node: &Node,
    ) -> Result<(), Refusal> {
        let mut old = None;
        if !node.id.is_empty() {
            let rename = |address: Option<&String>| {
                let (id, address) = (node.id.clone(), address.cloned());
                move |conflict: Refusal| Refusal::Rename { id, address, conflict: conflict.into() }
            };
            match self.node_with_id(&node.id).cloned() {
                Some(known) => {
                    if known.name != node.name {
                        self.validate_name_free(node, false)
                            .map_err(rename(Some(&node.address)))?;
                        self.remove_node(context, &known.name);
                    }
                    old = Some(known);
                }
                None => self.validate_name_free(node, true).map_err(rename(None))?,
            }
        }
        let key: Arc<str> = fold_shared(&node.name);
        let old = old.or_else(|| self.nodes.get(&key).cloned());
        if old.as_ref().is_some_and(|old| old.same(node)) {
            return Ok(());
        }
        let row = Arc::new(Node {
            create_index: old.as_ref().map_or(context.index, |old| old.create_index),
            modify_index: context.index,
            ..node.clone()
        });
        let replaced = self.nodes.get(&key).map(|replaced| bare_id(&replaced.id));
        if replaced.is_some_and(|id| !id.is_empty() && id != bare_id(&row.id)) {
            // An id went: who asks for the node by it finds nothing, at a newer index.
            self.indexes.node_extinction = context.index;
        }
        self.place_node(key.clone(), row);
        self.indexes.nodes = context.index;
        context.touch(Scope::Nodes);
        context.touch(Scope::Node(key.clone()));
        for (name, id) in self.services_on(&key) {
            self.rejoin(&name, &key, &id);
            self.service_indexes.insert(name.clone(), context.index);
            context.touch(Scope::ServiceNodes(name.clone()));
            context.touch(Scope::Service(name));
        }
        Ok(())
    }

    /// Puts an instance on a node that must exist.
    pub(in crate::store) fn ensure_service(
        &mut self,
        context: &mut ApplyContext,
        node: &str,
        service: &Service,
    ) -> Result<(), Refusal> {
        let (node, node_name) = match self.nodes.get_key_value(&*fold(node)) {
            None => return Err(Refusal::MissingNode),
            Some((key, row)) => (key.clone(), row.name.clone()),
        };
        let id = if service.id.is_empty() { &service.name } else { &service.id };
        validate_meta(&service.meta).map_err(|what| Refusal::ServiceMeta {
            node: node_name.to_string(),
            service: id.to_string(),
            what,
        })?;
        let mut row = Service { id: id.clone(), node: node_name, ..service.clone() };
        let id = fold_shared(id);
        let old = self.services.get(&Two(&node, &id)).cloned();
        if old.as_ref().is_some_and(|old| old.same(&row)) {
            return Ok(());
        }
        row.create_index = old.as_ref().map_or(context.index, |old| old.create_index);
        row.modify_index = context.index;
        let name = fold_shared(&row.name);
        let same_place = old.as_ref().is_some_and(|old| old.name == row.name);
        let retagged = !same_place || old.as_ref().is_some_and(|old| old.tags != row.tags);

        let mut union_changed = self.count(&row);
        if let Some(old) = &old {
            union_changed |= self.discount(old);
            let old_name = fold_shared(&old.name);
            if old_name != name {
                self.instances.remove(&(old_name.clone(), node.clone(), id.clone()));
                self.renew_or_end(context, &old_name);
            }
        }
        self.services.insert((node.clone(), id.clone()), Arc::new(row));
        self.rejoin(&name, &node, &id);
        self.service_indexes.insert(name.clone(), context.index);
        self.indexes.services = context.index;
        touch_service(context, &node, &name);
        if retagged {
            context.touch(Scope::ServicesByNode);
        }
        if union_changed {
            context.touch(Scope::Services);
        }
        Ok(())
    }

    /// Puts a check on a node that must exist, and on a service that must exist if it names one.
    pub(in crate::store) fn ensure_check(
        &mut self,
        context: &mut ApplyContext,
        node: &str,
        check: &Check,
    ) -> Result<(), Refusal> {
        let Some((node_key, node_row)) = self.nodes.get_key_value(&*fold(node)) else {
            return Err(Refusal::MissingNode);
        };
        let node_key = node_key.clone();
        // The spelling of whoever registered it; the row's own where it is the same.
        let node_name = if *node_row.name == *node { node_row.name.clone() } else { node.into() };
        let mut row = Check { node: node_name, ..check.clone() };
        if row.id.is_empty() {
            row.id = row.name.as_str().into();
        }
        if row.id.is_empty() {
            return Err(Refusal::CheckIdMissing);
        }
        if row.status.is_empty() {
            row.status = CRITICAL.into();
        }
        if !row.service_id.is_empty() {
            let Some(service) = self.services.get(&Two(&node_key, &fold(&row.service_id))) else {
                return Err(Refusal::MissingService);
            };
            row.service_name = service.name.to_string();
            row.service_tags.clone_from(&service.tags);
        }
        let id = fold_shared(&row.id);
        let old = self.checks.get(&Two(&node_key, &id)).cloned();
        if old.as_ref().is_some_and(|old| old.same(&row)) {
            return Ok(());
        }
        row.create_index = old.as_ref().map_or(context.index, |old| old.create_index);
        row.modify_index = context.index;
        let row = Arc::new(row);
        let mut bears_on = self.borne_by(&node_key, &row.service_id);
        if let Some(old) = &old {
            bears_on.extend(self.borne_by(&node_key, &old.service_id));
            self.unplace_check(&node_key, &id, old);
            touch_check(context, &node_key, old);
        }
        self.place_check(&node_key, &id, &row);
        touch_check(context, &node_key, &row);
        self.indexes.checks = context.index;
        self.health_changed(context, &node_key, bears_on);
        if row.status == CRITICAL {
            context.fallen_checks.push((node_key, id));
        }
        Ok(())
    }

    /// Removes a node with all that is on it; the sessions on it are the caller's business.
    pub(in crate::store) fn remove_node(&mut self, context: &mut ApplyContext, name: &str) -> bool {
        let Some((key, node)) = self.nodes.get_key_value(&*fold(name)) else { return false };
        let (key, node) = (key.clone(), node.clone());
        for (_, id) in self.services_on(&key) {
            self.remove_service(context, &key, &id);
        }
        let checks: Vec<_> = under_one(&self.checks, &key).map(|((_, id), _)| id.clone()).collect();
        for id in checks {
            self.remove_check(context, &key, &id);
        }
        self.nodes.remove(&key);
        self.forget_id(&key, &node);
        self.indexes.nodes = context.index;
        self.indexes.node_extinction = context.index;
        context.touch(Scope::Nodes);
        context.touch(Scope::Node(key.clone()));
        context.gone_nodes.push(key);
        true
    }

    /// Removes an instance and its checks.
    pub(in crate::store) fn remove_service(
        &mut self,
        context: &mut ApplyContext,
        node: &str,
        id: &str,
    ) -> bool {
        let Some(((node, id), old)) = self.services.get_key_value(&Two(&fold(node), &fold(id)))
        else {
            return false;
        };
        let (node, id, old) = (node.clone(), id.clone(), old.clone());
        let checks: Vec<_> =
            under_two(&self.checks_of, &node, &id).map(|((_, _, id), _)| id.clone()).collect();
        for check in checks {
            self.remove_check(context, &node, &check);
        }
        // As in the reference, whether it had checks or not.
        self.indexes.checks = context.index;
        let name = fold_shared(&old.name);
        self.services.remove(&Two(&node, &id));
        self.instances.remove(&(name.clone(), node.clone(), id));
        let union_changed = self.discount(&old);
        self.indexes.services = context.index;
        self.renew_or_end(context, &name);
        touch_service(context, &node, &name);
        context.touch(Scope::ServicesByNode);
        if union_changed {
            context.touch(Scope::Services);
        }
        true
    }

    /// Removes a check.
    pub(in crate::store) fn remove_check(
        &mut self,
        context: &mut ApplyContext,
        node: &str,
        id: &str,
    ) -> bool {
        let Some(((node, id), old)) = self.checks.get_key_value(&Two(&fold(node), &fold(id)))
        else {
            return false;
        };
        let (node, id, old) = (node.clone(), id.clone(), old.clone());
        let bears_on = self.borne_by(&node, &old.service_id);
        self.unplace_check(&node, &id, &old);
        touch_check(context, &node, &old);
        self.indexes.checks = context.index;
        if old.service_id.is_empty() {
            // As in the reference: the end of a node's check moves the table of services.
            self.indexes.services = context.index;
        }
        self.health_changed(context, &node, bears_on);
        context.fallen_checks.push((node, id));
        true
    }

    pub(in crate::store) fn raise(&mut self, floor: Index) {
        let Indexes { nodes, services, checks, service_extinction, node_extinction } =
            &mut self.indexes;
        for index in [nodes, services, checks, service_extinction, node_extinction] {
            *index = floor.max(*index);
        }
        let names: Vec<_> = self.service_indexes.keys().cloned().collect();
        for name in names {
            if let Some(index) = self.service_indexes.get_mut(&name) {
                *index = floor.max(*index);
            }
        }
    }

    /// May `node` have its name? Not if a healthy node with another id has it. A node without
    /// `serfHealth` was registered by hand and cannot be told from a dead one.
    fn validate_name_free(&self, node: &Node, may_adopt: bool) -> Result<(), Refusal> {
        let Some(holder) = self.node_named(&node.name) else { return Ok(()) };
        let same = bare_id(&holder.id) == bare_id(&node.id);
        if same || (may_adopt && holder.id.is_empty()) {
            return Ok(());
        }
        let healthy = self
            .checks
            .get(&Two(&fold(&holder.name), SERF_HEALTH))
            .is_some_and(|check| check.status != CRITICAL);
        if !healthy {
            return Ok(());
        }
        Err(Refusal::NameReserved {
            wanted: node.name.to_string(),
            id: holder.id.clone(),
            name: holder.name.to_string(),
            address: holder.address.clone(),
        })
    }
}
