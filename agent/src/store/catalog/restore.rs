//! Rows as snapshots need them: exactly as they are kept, with a way to put them back.

use std::sync::Arc;

use super::key::Two;
use super::{Catalog, Check, Indexes, Node, Service};
use crate::store::Index;
use crate::store::scope::{fold, fold_shared};

/// Rows come back in the order nodes, checks, services.
impl Catalog {
    pub(in crate::store) fn node_rows(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub(in crate::store) fn check_rows(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.values()
    }

    pub(in crate::store) fn service_rows(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub(in crate::store) fn service_indexes(&self) -> impl Iterator<Item = (&Arc<str>, &Index)> {
        self.service_indexes.iter()
    }

    pub(in crate::store) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    pub(in crate::store) fn restore_node(&mut self, node: Node) {
        self.place_node(fold_shared(&node.name), Arc::new(node));
    }

    /// `false` if its node is not there.
    pub(in crate::store) fn restore_check(&mut self, check: Check) -> bool {
        let Some((node, _)) = self.nodes.get_key_value(&*fold(&check.node)) else { return false };
        let (node, id) = (node.clone(), fold_shared(&check.id));
        if let Some(old) = self.checks.get(&Two(&node, &id)).cloned() {
            self.unplace_check(&node, &id, &old);
        }
        self.place_check(&node, &id, &Arc::new(check));
        true
    }

    /// `false` if its node is not there, or it is there twice.
    pub(in crate::store) fn restore_service(&mut self, service: Service) -> bool {
        let Some((node, _)) = self.nodes.get_key_value(&*fold(&service.node)) else { return false };
        let (node, id, name) = (node.clone(), fold_shared(&service.id), fold_shared(&service.name));
        if self.services.contains_key(&Two(&node, &id)) {
            return false;
        }
        self.count(&service);
        self.services.insert((node.clone(), id.clone()), Arc::new(service));
        self.rejoin(&name, &node, &id);
        true
    }

    pub(in crate::store) fn restore_service_index(&mut self, name: Arc<str>, index: Index) {
        self.service_indexes.insert(name, index);
    }

    pub(in crate::store) fn restore_indexes(&mut self, indexes: Indexes) {
        self.indexes = indexes;
    }
}
