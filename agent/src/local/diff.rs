//! Differences between what this agent has registered and the catalog, as writes. Pure.
//!
//! [`audit`] compares everything, at intervals: the catalog may have been changed by others.
//! [`steps`] turns what is not settled into writes, each with what it settles:
//!
//! ```text
//!   node's row differs     one registration of the node, first
//!   service not settled    one registration of the service with its unsettled checks
//!   check not settled      one registration of all such checks of a service, or of the node
//!   given up, or unknown   one deregistration (a service takes its checks along)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::catalog::Held;
use super::state::{Registrations, Subject, Version};
use crate::store::{Change, Check, Deregister, Node, Register, Service};

/// Kept in the catalog by the cluster's leader, not by the agent.
pub const LEADER_SERVICE: &str = "consul";
/// The leader's too: whether the agent's machine is there at all.
pub const LEADER_CHECK: &str = "serfHealth";

/// One write, and what the catalog then holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CatalogWrite {
    /// To be proposed.
    pub(super) change: Change,
    /// Settled when it is done.
    pub(super) settles: Vec<(Subject, Version)>,
}

/// Compares all claims with the catalog: settles what is equal, unsettles what is not, marks what
/// nobody claims as gone, and takes the tags of services over whose owner lets the catalog have them.
///
/// `read_at` is the version of the claims when the catalog was read: what was given up later may have been written
/// between, and has to be forgotten although it was not seen.
pub(super) fn audit(registrations: &mut Registrations, node: &Node, held: &Held, read_at: Version) {
    registrations.mark_node(held.node.as_ref().is_some_and(|held| held.same(node)));

    let mut unknown: BTreeSet<Subject> = BTreeSet::new();
    for service in &held.services {
        match registrations.services().get(&service.id).map(|claim| Arc::clone(&claim.row)) {
            None if &*service.id == LEADER_SERVICE => {}
            None => {
                unknown.insert(Subject::Service(Arc::clone(&service.id)));
            }
            Some(row) => {
                if row.enable_tag_override && row.tags != service.tags {
                    registrations.adopt_tags(&service.id, &service.tags);
                }
                let same = registrations.services()[&service.id].row.same(service);
                registrations.mark_service(&service.id, same);
            }
        }
    }
    let found: BTreeSet<&str> = held.services.iter().map(|service| &*service.id).collect();
    let missing: Vec<_> =
        registrations.services().keys().filter(|id| !found.contains(&***id)).cloned().collect();
    for id in missing {
        registrations.mark_service(&id, false);
    }

    for check in &held.checks {
        if registrations.checks().get(&check.id).is_some_and(|claim| claim.recalled) {
            registrations.adopt_status(check);
        }
        match registrations.checks().get(&check.id) {
            None if &*check.id == LEADER_CHECK => {}
            // The leader's service may have checks one day; they are the leader's as well.
            None if check.service_id == LEADER_SERVICE => {}
            None => {
                unknown.insert(Subject::Check(Arc::clone(&check.id)));
            }
            Some(claim) => {
                // An output whose time has not come is no difference.
                let mut theirs = Check::clone(check);
                if claim.output_due.is_some() {
                    theirs.output.clone_from(&claim.row.output);
                }
                let same = claim.row.same(&theirs);
                registrations.mark_check(&check.id, same);
            }
        }
    }
    let found: BTreeSet<&str> = held.checks.iter().map(|check| &*check.id).collect();
    let missing: Vec<_> =
        registrations.checks().keys().filter(|id| !found.contains(&***id)).cloned().collect();
    for id in missing {
        registrations.mark_check(&id, false);
    }

    let stale: Vec<_> = registrations
        .gone()
        .iter()
        .filter(|(subject, version)| **version <= read_at && !unknown.contains(subject))
        .map(|(subject, _)| subject.clone())
        .collect();
    for subject in stale {
        registrations.forget_gone(&subject);
    }
    for subject in unknown {
        registrations.mark_gone(subject);
    }
}

/// The writes for everything that is not settled. Only the first may depend on order: the node's.
pub(super) fn steps(registrations: &Registrations, node: &Node) -> Vec<CatalogWrite> {
    let mut steps = Vec::new();
    if !registrations.node_settled() {
        let change = register(node, false, None, Vec::new());
        steps.push(CatalogWrite {
            change,
            settles: vec![(Subject::Node, registrations.node_version())],
        });
    }
    for (subject, version) in registrations.gone() {
        let (service_id, check_id) = match subject {
            Subject::Service(id) => (Some(id.to_string()), None),
            Subject::Check(id) => (None, Some(id.to_string())),
            Subject::Node => continue,
        };
        let change =
            Change::Deregister(Deregister { node: node.name.to_string(), service_id, check_id });
        steps.push(CatalogWrite { change, settles: vec![(subject.clone(), *version)] });
    }
    let mut checks: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for claim in registrations.checks().values().filter(|claim| !claim.settled) {
        checks.entry(&claim.row.service_id).or_default().push(claim);
    }
    for (id, claim) in registrations.services() {
        let checks = checks.remove(&**id).unwrap_or_default();
        if claim.settled && checks.is_empty() {
            continue;
        }
        // The service goes with its checks even when it is settled: somebody may have removed it.
        // Not when the catalog may change its tags; they would be overwritten.
        let with_service = !claim.settled || !claim.row.enable_tag_override;
        let mut settles = Vec::new();
        if !claim.settled {
            settles.push((Subject::Service(Arc::clone(id)), claim.version));
        }
        settles.extend(checks.iter().map(|c| (Subject::Check(Arc::clone(&c.row.id)), c.version)));
        let rows = checks.iter().map(|claim| Check::clone(&claim.row)).collect();
        let service = with_service.then(|| Service::clone(&claim.row));
        steps.push(CatalogWrite { change: register(node, true, service, rows), settles });
    }
    // What is left are checks of the node.
    for checks in checks.into_values() {
        let settles =
            checks.iter().map(|c| (Subject::Check(Arc::clone(&c.row.id)), c.version)).collect();
        let rows = checks.iter().map(|claim| Check::clone(&claim.row)).collect();
        steps.push(CatalogWrite { change: register(node, true, None, rows), settles });
    }
    steps
}

fn register(
    node: &Node,
    skip_node_update: bool,
    service: Option<Service>,
    checks: Vec<Check>,
) -> Change {
    Change::Register(Box::new(Register { node: node.clone(), skip_node_update, service, checks }))
}

#[cfg(test)]
mod tests;
