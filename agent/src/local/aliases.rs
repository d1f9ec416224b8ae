//! Checks that look at other checks: when they look, and at what.
//!
//! An alias of this agent's own looks at the claims, and again after every change of them. One of a
//! named node looks at the catalog, and again whenever the checks of that node change there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::catalog::Held;
use super::state::{Effect, Registrations};
use super::{Local, chance};
use crate::checks::{Probe, alias};

/// Aliases of aliases are followed so far.
const ALIAS_DEPTH_MAX: usize = 8;
/// Pause after a look at the catalog that failed, doubled up to half a minute and spread.
const LOOK_RETRY: Duration = Duration::from_millis(250);
const LOOK_RETRY_DOUBLINGS: u32 = 7;

impl Local {
    /// Aliases look at their targets until none changes any more.
    pub(super) fn settle_aliases(&self, registrations: &mut Registrations) {
        for _ in 0..ALIAS_DEPTH_MAX {
            if !self.refresh_aliases(registrations) {
                break;
            }
        }
    }

    /// One look of every alias at its target; did any change?
    pub(super) fn refresh_aliases(&self, registrations: &mut Registrations) -> bool {
        if registrations.aliases().is_empty() {
            return false;
        }
        let aliases: Vec<_> = registrations
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
                let others = registrations.checks().values().filter(|claim| claim.row.id != id);
                alias::judge(&node, &service, others.map(|claim| &*claim.row), || {
                    registrations.services().contains_key(&*service)
                })
            } else {
                // Until the catalog was read once, it is as it was registered.
                let Some(held) = registrations.target(&node) else { continue };
                let own = node.eq_ignore_ascii_case(&self.inner.name);
                let others = held.checks.iter().filter(|check| !own || check.id != id);
                alias::judge(&node, &service, others.map(|check| &**check), || {
                    held.services.iter().any(|row| row.id.eq_ignore_ascii_case(&service))
                })
            };
            let now = Instant::now();
            let outputs = self.outputs();
            let effect = registrations.set_status(
                &id,
                outcome.status,
                outcome.output,
                outputs,
                now,
                chance(),
            );
            changed |= effect != Effect::None;
        }
        changed
    }

    /// Keeps what the catalog holds of the nodes that aliases look at, until it is dropped.
    pub(super) async fn watch_alias_nodes(&self) {
        let mut changes = self.changes();
        let mut watched: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut looks = FuturesUnordered::new();
        loop {
            // What changes from here on is seen below.
            changes.mark_unchanged();
            let wanted = self.registrations().alias_nodes();
            for node in &wanted {
                if watched.insert(Arc::clone(node)) {
                    looks.push(self.look_at(Arc::clone(node), 0));
                }
            }
            tokio::select! {
                Some((node, held)) = looks.next(), if !looks.is_empty() => {
                    let mut registrations = self.registrations();
                    if !wanted.contains(&node) {
                        registrations.drop_target(&node);
                        drop(registrations);
                        watched.remove(&node);
                        continue;
                    }
                    looks.push(self.look_at(Arc::clone(&node), held.mark));
                    registrations.put_target(node, held);
                    if self.refresh_aliases(&mut registrations) {
                        self.changed_in(&mut registrations);
                    }
                }
                // The set of aliases may be another now.
                _ = changes.changed() => {}
            }
        }
    }

    /// Reads the catalog's rows of a node, as soon as they differ from those at `mark`. Asks until there is an answer.
    async fn look_at(&self, node: Arc<str>, mark: u64) -> (Arc<str>, Held) {
        let catalog = &self.inner.catalog;
        let mut failures = 0;
        loop {
            catalog.reachable().await;
            match catalog.held(Arc::clone(&node), mark).await {
                Ok(held) => return (node, held),
                Err(error) => {
                    tracing::debug!(%node, %error, "an alias could not look at its target");
                    failures += 1;
                    let pause = LOOK_RETRY * 2_u32.pow(failures.min(LOOK_RETRY_DOUBLINGS));
                    tokio::time::sleep(pause.mul_f64(0.5 + chance() / 2.0)).await;
                }
            }
        }
    }
}
