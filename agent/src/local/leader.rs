//! The leader's duty towards members: their nodes are in the catalog, with their health, and servers
//! with the service `consul`.
//!
//! | a member is      | its node in the catalog                                    |
//! |------------------|------------------------------------------------------------|
//! | alive            | there, `serfHealth` passing; servers with service `consul` |
//! | failed           | `serfHealth` critical; the rest stays                      |
//! | left, forgotten  | gone, with all it had                                      |
//! | rebuilt          | what its name had under the old id is gone; then as alive  |
//! | a copy           | as it was: its id is that of a living member elsewhere     |
//!
//! Names of nodes know no case, those of members do. Of members with one name in the catalog a living
//! one judges the row, whatever id stands in it: an id of which no living member has the name is that
//! of an earlier life, however gossip heard of its end.
//!
//! Each turn is one write, and none is made while the catalog is as it should be. Nodes without
//! `serfHealth` are somebody else's and are not touched.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::diff::{LEADER_CHECK, LEADER_SERVICE};
use crate::checks::Status;
use crate::gossip::{self, Member, MemberList, NEW_NAMES_A_MINUTE, Newcomers, Pools, UserEvent};
use crate::raft::Consensus;
use crate::store::{
    CatalogVerb, Change, Check, Deregister, Node, Register, Reply, Service, Store, TxnOp, Weights,
};
use crate::telemetry::metrics::names;

/// The whole is compared at this interval, as the reference does.
const INTERVAL: Duration = Duration::from_mins(1);
/// Pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// New nodes that were too many are looked at again after.
const LATER: Duration = Duration::from_secs(10);
/// Writes under way at once: after an election all members may be news.
const WRITES_AT_ONCE: usize = 16;
/// A node of which the pool knows nothing has this long to turn up before it counts as failed: after
/// a restart of all servers, members find them again one by one.
const ABSENCE_MAX: Duration = Duration::from_mins(1);

/// Does the leader's duty whenever this server leads, until `shutdown`. A node that nobody in the
/// pool has heard of for `forget_after` is removed.
pub async fn lead(
    pools: Pools,
    forget_after: Duration,
    consensus: Consensus,
    shutdown: CancellationToken,
) {
    let mut member_list = pools.watch();
    let mut seen = None;
    let mut absent = BTreeMap::new();
    let mut led = false;
    let (began, mut newcomers) = (Instant::now(), Newcomers::default());
    loop {
        let mut pause = INTERVAL;
        let leads = consensus.is_leader();
        if leads && !led {
            let told = UserEvent::new_leader(uuid::Uuid::new_v4(), pools.name());
            // A pool that is shut down has nobody left to tell.
            let _ = pools.fire(told).await;
        }
        led = leads;
        if leads {
            if seen.is_none() {
                let begun = Instant::now();
                // What the last leader wrote must be seen before it is judged. Without it, the
                // writes below would only be repetitions.
                let _ = consensus.read_barrier().await;
                names::LEADER_BARRIER.took(begun.elapsed());
            }
            let begun = Instant::now();
            let now = member_list.borrow_and_update().clone();
            let store = consensus.store();
            let whole = seen.is_none();
            let changes = if let Some(before) = &seen {
                news(before, &now, pools.name(), &store)
            } else {
                let mut all = all(&now, pools.name(), &store);
                all.extend(absences(&mut absent, &now, &store, Instant::now(), forget_after));
                all
            };
            let wanted = changes.len();
            let changes = admitted(changes, pools.name(), &store, &mut newcomers, began.elapsed());
            let withheld = wanted - changes.len();
            if withheld > 0 {
                tracing::warn!(
                    withheld,
                    "members are not in the catalog yet: more than {NEW_NAMES_A_MINUTE} new nodes came within a minute"
                );
            }
            seen = if write(&consensus, changes).await {
                if withheld > 0 {
                    pause = LATER;
                    None
                } else {
                    Some(now)
                }
            } else {
                pause = RETRY;
                None
            };
            if whole {
                names::LEADER_RECONCILE.took(begun.elapsed());
            }
        } else {
            seen = None;
            absent.clear();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = consensus.leadership_changed(consensus.is_leader()) => seen = None,
            () = tokio::time::sleep(pause) => seen = None,
            changed = member_list.changed(), if seen.is_some() => if changed.is_err() { return },
        }
    }
}

/// Says whether all went well.
async fn write(consensus: &Consensus, changes: Vec<Change>) -> bool {
    let writes = changes.into_iter().map(async |change| {
        let begun = Instant::now();
        let written = consensus.propose(change).await;
        names::LEADER_RECONCILE_MEMBER.took(begun.elapsed());
        written
    });
    let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
    let mut well = true;
    while let Some(written) = writes.next().await {
        match written {
            // Trying again at once would not help.
            Ok((Reply::Refused(reason), _)) => {
                tracing::error!(reason, "a member could not be registered");
            }
            // The row was changed meanwhile: the next look judges the new one.
            Ok((Reply::Txn { errors, .. }, _)) if !errors.is_empty() => {
                let reason = errors[0].what.as_str();
                tracing::warn!(reason, "a rebuilt member could not be registered yet");
                well = false;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "members could not be registered");
                well = false;
            }
        }
    }
    well
}

/// Without those that would make more nodes than may come within a minute; the leader's own is never too many.
fn admitted(
    mut changes: Vec<Change>,
    own: &str,
    store: &Store,
    newcomers: &mut Newcomers,
    now: Duration,
) -> Vec<Change> {
    let catalog = store.catalog();
    changes.retain(|change| match change {
        Change::Register(row) if *row.node.name != *own => {
            catalog.node_named(&row.node.name).is_some() || newcomers.admit(now)
        }
        _ => true,
    });
    changes
}

/// Changes that the whole member list makes necessary.
fn all(member_list: &MemberList, own: &str, store: &Store) -> Vec<Change> {
    let mut names: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in member_list.values() {
        names.entry(member.details.name.to_lowercase()).or_default().push(member);
    }
    names
        .into_values()
        .filter_map(|rivals| duty(judge(&rivals, member_list, store)?, member_list, own, store))
        .collect()
}

/// Changes that the difference between two member lists makes necessary.
fn news(before: &MemberList, now: &MemberList, own: &str, store: &Store) -> Vec<Change> {
    let judged = |name: &str| judge_of(name, now, store);
    before
        .diff(now)
        .filter_map(|item| match item {
            DiffItem::Add(name, _) | DiffItem::Update { new: (name, _), .. } => {
                duty(judged(name)?, now, own, store)
            }
            DiffItem::Remove(name, member) => match judged(name) {
                Some(other) => duty(other, now, own, store),
                None if **name == *own => None,
                None => known(store, &member.details).map(|node| remove(&node)),
            },
        })
        .collect()
}

/// Are both the same name in the catalog?
fn is_same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
        || (!one.is_ascii() && one.to_lowercase() == other.to_lowercase())
}

fn is_living(member: &Member) -> bool {
    matches!(member.status, gossip::Status::Alive | gossip::Status::Leaving)
}

/// Of members with one name, the one that judges the name's row: of the living who may have a row and has it, or who came
/// first; of the dead the last that spoke.
fn judge<'a>(rivals: &[&'a Member], member_list: &MemberList, store: &Store) -> Option<&'a Member> {
    if let [only] = rivals {
        return Some(only);
    }
    let name = &rivals.first()?.details.name;
    let holder = store.catalog().node_named(name).map(|row| row.id.clone()).unwrap_or_default();
    let rank = |member: &&&'a Member| {
        let details = &member.details;
        let (is_living, has_it) = (is_living(member), details.id.to_string() == holder);
        let first = if is_living { u64::MAX - details.incarnation } else { details.incarnation };
        let may_have_it = is_living && may_have_a_row(member, member_list, store);
        (is_living, may_have_it, has_it && is_living, first)
    };
    rivals.iter().max_by_key(rank).copied()
}

/// Of all members, the one that judges the row of this name.
fn judge_of<'a>(name: &str, member_list: &'a MemberList, store: &Store) -> Option<&'a Member> {
    let members = member_list.values().map(|member| &**member);
    let rivals: Vec<_> = members.filter(|it| is_same_name(&it.details.name, name)).collect();
    judge(&rivals, member_list, store)
}

/// Who goes by another name now has its rows there, and a copy has none.
fn may_have_a_row(member: &Member, member_list: &MemberList, store: &Store) -> bool {
    !is_renamed(member, member_list) && !is_copy(member, member_list, store)
}

/// Change of the catalog that one member makes necessary; it decides about the row of its name.
fn duty(member: &Member, member_list: &MemberList, own: &str, store: &Store) -> Option<Change> {
    match member.status {
        gossip::Status::Alive | gossip::Status::Leaving => {
            alive(member, store).filter(|_| may_have_a_row(member, member_list, store))
        }
        // Who leads does not remove itself: its successor does.
        gossip::Status::Left if *member.details.name == *own => None,
        gossip::Status::Failed | gossip::Status::Left => {
            let node = known(store, &member.details)
                .filter(|node| !is_moving(node, member_list, store))?;
            match member.status {
                gossip::Status::Left => Some(remove(&node)),
                _ => fail(&node, store),
            }
        }
    }
}

/// Has a living member of another name at the same address the same id, and began later?
fn is_renamed(member: &Member, member_list: &MemberList) -> bool {
    let details = &member.details;
    member_list.values().any(|other| {
        other.details.id == details.id
            && other.details.name != details.name
            && other.details.address == details.address
            && is_living(other)
            && other.details.incarnation > details.incarnation
    })
}

/// Has a living member of another name elsewhere the same id, and the row with it, or came first? The
/// row of the living is not given away, nor is its id.
fn is_copy(member: &Member, member_list: &MemberList, store: &Store) -> bool {
    let details = &member.details;
    let mut twins = member_list
        .values()
        .filter(|other| {
            other.details.id == details.id
                && other.details.address != details.address
                && !is_same_name(&other.details.name, &details.name)
                && is_living(other)
        })
        .peekable();
    if twins.peek().is_none() {
        return false;
    }
    let row = store.catalog().node_with_id(&details.id.to_string());
    let rank = |member: &Member| {
        let details = &member.details;
        let has_it = row.is_some_and(|row| is_same_name(&row.name, &details.name));
        (has_it, Reverse(details.incarnation), Reverse(details.name.clone()))
    };
    twins.any(|twin| rank(twin) > rank(member))
}

/// Has a living member of another name the id of this row? Its registration takes the row along; what is
/// written of the old name meanwhile would take it back. One whose new name is another's is not registered.
fn is_moving(node: &Node, member_list: &MemberList, store: &Store) -> bool {
    let has_it = |member: &Member| {
        is_living(member)
            && !is_same_name(&member.details.name, &node.name)
            && member.details.id.to_string() == node.id
            && !is_copy(member, member_list, store)
    };
    member_list.values().filter(|member| has_it(member)).any(|member| {
        let judge = judge_of(&member.details.name, member_list, store);
        judge.is_some_and(|judge| judge.details.name == member.details.name)
    })
}

/// The row of a name, for a member of that name that is gone, if that is a member's row: its own, or
/// that of an earlier life. A living member of the name would judge it instead.
fn known(store: &Store, details: &gossip::Details) -> Option<Node> {
    let catalog = store.catalog();
    let node = catalog.node_named(&details.name)?;
    let is_its = node.id.is_empty() || node.id == details.id.to_string();
    let is_members = || catalog.node_check(&node.name, LEADER_CHECK).is_some();
    (is_its || is_members()).then(|| Node::clone(node))
}

fn remove(node: &Node) -> Change {
    Change::Deregister(Deregister { node: node.name.to_string(), service_id: None, check_id: None })
}

/// Nodes that have a member's check, though the pool knows no such member.
fn absences(
    absent: &mut BTreeMap<String, Instant>,
    member_list: &MemberList,
    store: &Store,
    now: Instant,
    forget_after: Duration,
) -> Vec<Change> {
    let there: BTreeSet<String> = member_list.keys().map(|name| name.to_lowercase()).collect();
    let catalog = store.catalog();
    let nodes = catalog.nodes();
    let missing: Vec<_> = nodes
        .rows
        .iter()
        .filter(|node| !there.contains(&node.name.to_lowercase()))
        .filter(|node| catalog.node_check(&node.name, LEADER_CHECK).is_some())
        .collect();
    absent.retain(|name, _| missing.iter().any(|node| *node.name == **name));
    missing
        .into_iter()
        .filter_map(|node| {
            let since = *absent.entry(node.name.to_string()).or_insert(now);
            match now.saturating_duration_since(since) {
                gone if gone >= forget_after => Some(remove(node)),
                gone if gone >= ABSENCE_MAX => fail(node, store),
                _ => None,
            }
        })
        .collect()
}

/// A member that is there: its node, its health, and what servers have.
fn alive(member: &Member, store: &Store) -> Option<Change> {
    let details = &member.details;
    let node = Node {
        id: details.id.to_string(),
        name: details.name.clone(),
        address: details.address.ip().to_string(),
        datacenter: member.tag("dc").unwrap_or_default().to_owned(),
        ..Node::default()
    };
    let check = health(&node.name, Status::Passing, "Agent alive and reachable");
    let service = member.is_server().then(|| service(member));
    let catalog = store.catalog();
    let known = catalog.node_named(&node.name);
    if let Some(old) = known
        && !old.id.is_empty()
        && !old.id.eq_ignore_ascii_case(&node.id)
        && catalog.node_check(&old.name, LEADER_CHECK).is_some()
    {
        return Some(rebuilt(old, node, service, check));
    }
    let moved = known.is_some_and(|row| row.id != node.id || row.address != node.address);
    let is_known = known.is_some()
        && !moved
        && service.as_ref().is_none_or(|service| {
            let row = catalog.node_service(&node.name, LEADER_SERVICE);
            row.is_some_and(|row| row.same(service))
        })
        && catalog.node_check(&node.name, LEADER_CHECK).is_some_and(|row| row.same(&check));
    if is_known {
        return None;
    }
    // Tagged addresses and meta are the agent's to say: what it said stays.
    let row = Node {
        tagged_addresses: known.map(|row| row.tagged_addresses.clone()).unwrap_or_default(),
        meta: known.map(|row| row.meta.clone()).unwrap_or_default(),
        ..node
    };
    Some(Change::Register(Box::new(Register {
        node: row,
        // A row that comes into being while this is on its way is the agent's own, and says more.
        skip_node_update: !moved,
        service,
        checks: vec![check],
    })))
}

/// A member that has the name of one that is gone: all that the old one had goes, unless its row has
/// been changed meanwhile. Services of a machine that was built anew are not the ones it had.
fn rebuilt(old: &Node, node: Node, service: Option<Service>, check: Check) -> Change {
    let name = node.name.to_string();
    let verb = CatalogVerb::Set;
    let mut ops = vec![
        TxnOp::Node(CatalogVerb::DeleteCas, Box::new(old.clone())),
        TxnOp::Node(verb, Box::new(node)),
    ];
    ops.extend(service.map(|service| TxnOp::Service(verb, name, Box::new(service))));
    ops.push(TxnOp::Check(verb, Box::new(check)));
    Change::Txn(ops)
}

/// A member that is gone without a word: only its health says so.
fn fail(node: &Node, store: &Store) -> Option<Change> {
    let check = health(&node.name, Status::Critical, "Agent not live or unreachable");
    if store.catalog().node_check(&node.name, LEADER_CHECK).is_some_and(|row| row.same(&check)) {
        return None;
    }
    Some(Change::Register(Box::new(Register {
        node: node.clone(),
        skip_node_update: true,
        service: None,
        checks: vec![check],
    })))
}

fn service(member: &Member) -> Service {
    let tag = |name: &str| member.tag(name).unwrap_or_default().to_owned();
    let build = tag("build");
    let meta = [
        ("non_voter", "false".to_owned()),
        ("raft_version", tag("raft_vsn")),
        ("serf_protocol_current", "2".to_owned()),
        ("serf_protocol_max", "5".to_owned()),
        ("serf_protocol_min", "1".to_owned()),
        // A build is `1.2.3:revision`.
        ("version", build.split(':').next().unwrap_or_default().to_owned()),
    ];
    Service {
        kind: String::new(),
        id: LEADER_SERVICE.into(),
        name: LEADER_SERVICE.into(),
        tags: Vec::new(),
        address: String::new(),
        tagged_addresses: BTreeMap::new(),
        meta: meta.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        port: tag("port").parse().unwrap_or(0),
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
        node: member.details.name.clone(),
        create_index: 0,
        modify_index: 0,
    }
}

fn health(node: &str, status: Status, output: &str) -> Check {
    Check {
        node: node.into(),
        id: LEADER_CHECK.into(),
        name: "Serf Health Status".into(),
        status: status.as_str().to_owned(),
        notes: String::new(),
        output: output.into(),
        service_id: String::new(),
        service_name: String::new(),
        service_tags: Vec::new(),
        kind: String::new(),
        definition: "".into(),
        create_index: 0,
        modify_index: 0,
    }
}

#[cfg(test)]
mod tests;
