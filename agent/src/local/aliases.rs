//! Checks that look at other checks: when they look, and at what.
//!
//! An alias of this agent's own looks at the claims, and again after every change of them. One of a
//! named node looks at the catalog, and again whenever the checks of that node change there.

use std::sync::Arc;
use std::time::Instant;

use super::state::{Claims, Effect};
use super::{Local, chance};
use crate::checks::{Probe, alias};
use crate::store::Scope;

/// Aliases of aliases are followed so far.
const ALIAS_DEPTH_MAX: usize = 8;

impl Local {
    /// Aliases look at their targets until none changes any more.
    pub(super) fn settle_aliases(&self, claims: &mut Claims) {
        for _ in 0..ALIAS_DEPTH_MAX {
            if !self.refresh_aliases(claims) {
                break;
            }
        }
    }

    pub(super) fn changed(&self) {
        let mut claims = self.claims();
        self.changed_in(&mut claims);
    }

    /// One look of every alias at its target; did any change?
    pub(super) fn refresh_aliases(&self, claims: &mut Claims) -> bool {
        if claims.aliases().is_empty() {
            return false;
        }
        let aliases: Vec<_> = claims
            .aliases()
            .iter()
            .filter_map(|(id, run)| match &run.probe {
                Probe::Alias { node, service } => {
                    Some((Arc::clone(id), node.clone(), service.clone()))
                }
                _ => None,
            })
            .collect();
        let mut changed = false;
        for (id, node, service) in aliases {
            let outcome = if node.is_empty() {
                let others = claims.checks().values().filter(|claim| claim.row.id != id);
                alias::judge(&node, &service, others.map(|claim| &*claim.row), || {
                    claims.services().contains_key(&*service)
                })
            } else {
                let own = node.eq_ignore_ascii_case(&self.inner.node.name);
                let store = self.inner.consensus.store();
                let checks = store.catalog().node_checks(&node).rows;
                let others = checks.iter().filter(|check| !own || check.id != id);
                alias::judge(&node, &service, others.map(|check| &**check), || {
                    store.catalog().node_service(&node, &service).is_some()
                })
            };
            let now = Instant::now();
            let outputs = self.outputs();
            let effect =
                claims.set_status(&id, outcome.status, outcome.output, outputs, now, chance());
            changed |= effect != Effect::None;
        }
        changed
    }

    /// Resolves when the checks of a node changed that an alias looks at in the catalog.
    pub(super) async fn watch_alias_targets(&self) {
        let mut changes = self.changes();
        loop {
            let nodes: Vec<Scope> = {
                let claims = self.claims();
                claims
                    .aliases()
                    .values()
                    .filter_map(|run| match &run.probe {
                        Probe::Alias { node, .. } if !node.is_empty() => {
                            let node: Arc<str> = node.to_lowercase().into();
                            Some([Scope::Node(Arc::clone(&node)), Scope::NodeChecks(node)])
                        }
                        _ => None,
                    })
                    .flatten()
                    .collect()
            };
            if nodes.is_empty() {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            }
            let mut waiter = self.inner.consensus.watches().register(&nodes);
            // What changed before the registration would wake nobody.
            if self.refresh_aliases(&mut self.claims()) {
                return;
            }
            tokio::select! {
                () = waiter.woken() => return,
                // The set of aliases may be another now.
                _ = changes.changed() => {}
            }
        }
    }
}
