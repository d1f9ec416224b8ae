//! Derived rows: after a change of one row, the joined instances, the other maps that hold it, the counts of tags, and
//! the scopes that are touched.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::key::{Two, under, under_one};
use super::read::bare_id;
use super::{Catalog, Check, Node, Service, Tally};
use crate::store::Scope;
use crate::store::scope::{ApplyContext, fold, fold_shared};

impl Catalog {
    /// (service name, service id) of a node, in look-up form.
    pub(super) fn services_on(&self, node: &str) -> Vec<(Arc<str>, Arc<str>)> {
        under_one(&self.services, node)
            .map(|((_, id), service)| (fold_shared(&service.name), id.clone()))
            .collect()
    }

    /// The instances whose health a check of `service_id` is part of.
    pub(super) fn borne_by(&self, node: &str, service_id: &str) -> BTreeSet<(Arc<str>, Arc<str>)> {
        if service_id.is_empty() {
            return self.services_on(node).into_iter().collect();
        }
        self.services
            .get_key_value(&Two(node, &fold(service_id)))
            .map(|((_, id), service)| (fold_shared(&service.name), id.clone()))
            .into_iter()
            .collect()
    }

    pub(super) fn health_changed(
        &mut self,
        context: &mut ApplyContext,
        node: &Arc<str>,
        instances: BTreeSet<(Arc<str>, Arc<str>)>,
    ) {
        for (name, id) in instances {
            self.rejoin(&name, node, &id);
            self.service_indexes.insert(name.clone(), context.index);
            context.touch(Scope::Service(name));
        }
    }

    /// Joins an instance anew after a part of it changed.
    pub(super) fn rejoin(&mut self, name: &Arc<str>, node: &Arc<str>, id: &Arc<str>) {
        let joined = self.services.get(&Two(node, id)).and_then(|service| self.join(node, service));
        if let Some(instance) = joined {
            self.instances.insert((name.clone(), node.clone(), id.clone()), Arc::new(instance));
        }
    }

    /// After a name lost an instance: moves its index, or ends it with the last one.
    pub(super) fn renew_or_end(&mut self, context: &mut ApplyContext, name: &Arc<str>) {
        if under(&self.instances, name).next().is_some() {
            self.service_indexes.insert(name.clone(), context.index);
        } else {
            self.service_indexes.remove(name);
            self.indexes.service_extinction = context.index;
        }
        context.touch(Scope::ServiceNodes(name.clone()));
        context.touch(Scope::Service(name.clone()));
    }

    /// Counts an instance into the map of names and tags; is the map another one now?
    pub(super) fn count(&mut self, service: &Service) -> bool {
        let tally = self.names.entry(service.name.clone()).or_default();
        tally.instances += 1;
        let mut changed = tally.instances == 1;
        for tag in distinct_tags(service) {
            let carriers = tally.tags.entry(tag.clone()).or_insert(0);
            *carriers += 1;
            changed |= *carriers == 1;
        }
        changed
    }

    /// The reverse of [`Catalog::count`].
    pub(super) fn discount(&mut self, service: &Service) -> bool {
        let Some(tally) = self.names.get_mut(&*service.name) else { return false };
        tally.instances -= 1;
        if tally.instances == 0 {
            self.names.remove(&*service.name);
            return true;
        }
        discount_tags(tally, service)
    }

    pub(super) fn place_node(&mut self, key: Arc<str>, node: Arc<Node>) {
        if let Some(old) = self.nodes.get(&key).cloned() {
            self.forget_id(&key, &old);
        }
        if !node.id.is_empty() {
            self.ids.insert(bare_id(&node.id).into(), key.clone());
        }
        self.nodes.insert(key, node);
    }

    pub(super) fn forget_id(&mut self, key: &str, node: &Node) {
        let id = bare_id(&node.id);
        if self.ids.get(&*id).is_some_and(|holder| **holder == *key) {
            self.ids.remove(&*id);
        }
    }

    pub(super) fn place_check(&mut self, node: &Arc<str>, id: &Arc<str>, check: &Arc<Check>) {
        let at = |first: Arc<str>| (first, node.clone(), id.clone());
        let service = fold(&check.service_id).into();
        self.checks.insert((node.clone(), id.clone()), check.clone());
        self.checks_of.insert((node.clone(), service, id.clone()), check.clone());
        self.checks_by_status.insert(at(check.status.as_str().into()), check.clone());
        if !check.service_name.is_empty() {
            self.checks_by_service.insert(at(fold(&check.service_name).into()), check.clone());
        }
    }

    pub(super) fn unplace_check(&mut self, node: &Arc<str>, id: &Arc<str>, check: &Check) {
        let at = |first: Arc<str>| (first, node.clone(), id.clone());
        let service = fold(&check.service_id).into();
        self.checks.remove(&Two(node, id));
        self.checks_of.remove(&(node.clone(), service, id.clone()));
        self.checks_by_status.remove(&at(check.status.as_str().into()));
        self.checks_by_service.remove(&at(fold(&check.service_name).into()));
    }
}

fn distinct_tags(service: &Service) -> BTreeSet<&String> {
    service.tags.iter().collect()
}

fn discount_tags(tally: &mut Tally, service: &Service) -> bool {
    let mut changed = false;
    for tag in distinct_tags(service) {
        if let Some(carriers) = tally.tags.get_mut(tag) {
            *carriers -= 1;
            if *carriers == 0 {
                tally.tags.remove(tag);
                changed = true;
            }
        }
    }
    changed
}

pub(super) fn touch_service(context: &mut ApplyContext, node: &Arc<str>, name: &Arc<str>) {
    context.touch(Scope::Node(node.clone()));
    context.touch(Scope::ServiceNodes(name.clone()));
    context.touch(Scope::Service(name.clone()));
}

pub(super) fn touch_check(context: &mut ApplyContext, node: &Arc<str>, check: &Check) {
    context.touch(Scope::Checks);
    context.touch(Scope::ChecksInState(check.status.as_str().into()));
    context.touch(Scope::NodeChecks(node.clone()));
    if !check.service_name.is_empty() {
        context.touch(Scope::ServiceChecks(fold(&check.service_name).into()));
    }
}
