//! The leader's duty towards members: their nodes are in the catalog, with their health, and servers
//! with the service `consul`.
//!
//! | a member is      | its node in the catalog                                    |
//! |------------------|------------------------------------------------------------|
//! | alive            | there, `serfHealth` passing; servers with service `consul` |
//! | failed           | `serfHealth` critical; the rest stays                      |
//! | left, forgotten  | gone, with all it had                                      |
//!
//! Each turn is one write, and none is made while the catalog is as it should be. Nodes without
//! `serfHealth` are somebody else's and are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::diff::{LEADER_CHECK, LEADER_SERVICE};
use crate::checks::Status;
use crate::gossip::{self, Member, NEW_NAMES_A_MINUTE, Newcomers, Pools, Roll, UserEvent};
use crate::raft::Consensus;
use crate::store::{Change, Check, Deregister, Node, Register, Reply, Service, Store, Weights};
use crate::telemetry::figures::names;

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
    let mut roll = pools.watch();
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
            let now = roll.borrow_and_update().clone();
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
            changed = roll.changed(), if seen.is_some() => if changed.is_err() { return },
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

/// What all members together make necessary.
fn all(roll: &Roll, own: &str, store: &Store) -> Vec<Change> {
    roll.values().filter_map(|member| duty(member, own, store)).collect()
}

/// What the difference between two moments makes necessary.
fn news(before: &Roll, now: &Roll, own: &str, store: &Store) -> Vec<Change> {
    before
        .diff(now)
        .filter_map(|item| match item {
            DiffItem::Add(_, member) | DiffItem::Update { new: (_, member), .. } => {
                duty(member, own, store)
            }
            DiffItem::Remove(name, member) => {
                let node = known(store, &member.details)?;
                (**name != *own).then(|| remove(&node))
            }
        })
        .collect()
}

/// What one member makes necessary.
fn duty(member: &Member, own: &str, store: &Store) -> Option<Change> {
    match member.status {
        gossip::Status::Alive | gossip::Status::Leaving => alive(member, store),
        gossip::Status::Failed => fail(&known(store, &member.details)?, store),
        // Who leads does not remove itself: its successor does.
        gossip::Status::Left if *member.details.name == *own => None,
        gossip::Status::Left => known(store, &member.details).map(|node| remove(&node)),
    }
}

/// The member's node in the catalog, unless somebody else has its name now.
fn known(store: &Store, details: &gossip::Details) -> Option<Node> {
    let node = store.catalog().node_named(&details.name)?;
    let is_its = node.id.is_empty() || node.id == details.id.to_string();
    is_its.then(|| Node::clone(node))
}

fn remove(node: &Node) -> Change {
    Change::Deregister(Deregister { node: node.name.to_string(), service_id: None, check_id: None })
}

/// Nodes that have a member's check, though the pool knows no such member.
fn absences(
    absent: &mut BTreeMap<String, Instant>,
    roll: &Roll,
    store: &Store,
    now: Instant,
    forget_after: Duration,
) -> Vec<Change> {
    let there: BTreeSet<String> = roll.keys().map(|name| name.to_lowercase()).collect();
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
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::store::{Command, Timestamp};

    fn apply(store: &mut Store, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let index = store.index() + 1;
            let applied = store.apply(index, &Command { at: Timestamp(0), change });
            assert!(!matches!(applied.reply, Reply::Refused(_)), "{:?}", applied.reply);
        }
    }

    fn member(name: &str, id: u128, role: &str, status: gossip::Status) -> Member {
        let tags = [
            ("role", role),
            ("dc", "dc1"),
            ("port", "8300"),
            ("raft_vsn", "3"),
            ("build", "1.8.7:"),
        ];
        let details = gossip::Details {
            name: name.into(),
            id: Uuid::from_u128(id),
            address: "127.0.0.1:8301".parse().unwrap(),
            incarnation: 1,
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        Member { details: Arc::new(details), status, conflict: None }
    }

    fn roll(members: &[Member]) -> Roll {
        let named = members.iter().map(|it| (it.details.name.clone(), Arc::new(it.clone())));
        named.collect()
    }

    fn health_of(store: &Store, node: &str) -> String {
        store.catalog().node_check(node, LEADER_CHECK).unwrap().status.clone()
    }

    #[test]
    fn members_are_registered_once_and_again_when_they_were_removed() {
        let server = member("n1", 1, "consul", gossip::Status::Alive);
        let client = member("n2", 2, "node", gossip::Status::Alive);
        let now = roll(&[server, client]);
        let mut store = Store::default();
        let changes = all(&now, "n1", &store);
        assert_eq!(changes.len(), 2, "one write each");
        apply(&mut store, changes);
        assert_eq!(all(&now, "n1", &store), []);
        let service = store.catalog().node_service("n1", "consul").unwrap();
        assert_eq!((service.port, service.meta["raft_version"].as_str()), (8300, "3"));
        assert!(store.catalog().node_service("n2", "consul").is_none());

        // What the agent says of its node survives the leader's next write.
        let mut own = Node::clone(store.catalog().node_named("n1").unwrap());
        own.meta.insert("k".into(), "v".into());
        let own = Register { node: own, skip_node_update: false, service: None, checks: vec![] };
        apply(&mut store, [Change::Register(Box::new(own))]);
        assert_eq!(all(&now, "n1", &store), []);
        let gone =
            Deregister { node: "n1".into(), service_id: None, check_id: Some(LEADER_CHECK.into()) };
        apply(&mut store, [Change::Deregister(gone)]);
        let changes = all(&now, "n1", &store);
        assert_eq!(changes.len(), 1);
        apply(&mut store, changes);
        assert_eq!(store.catalog().node_named("n1").unwrap().meta["k"], "v");
    }

    #[test]
    fn each_turn_of_a_member_is_one_write() {
        let own = member("n1", 1, "consul", gossip::Status::Alive);
        let turn = |status| roll(&[own.clone(), member("n2", 2, "node", status)]);
        let mut store = Store::default();
        let mut before = Roll::default();
        for (status, expected) in [
            (gossip::Status::Alive, Some("passing")),
            (gossip::Status::Failed, Some("critical")),
            (gossip::Status::Alive, Some("passing")),
            (gossip::Status::Left, None),
        ] {
            let now = turn(status);
            let changes = news(&before, &now, "n1", &store);
            assert_eq!(changes.len(), if before.is_empty() { 2 } else { 1 }, "{status:?}");
            apply(&mut store, changes);
            assert_eq!(news(&before, &now, "n1", &store), [], "{status:?}");
            match expected {
                Some(health) => assert_eq!(health_of(&store, "n2"), health),
                None => assert!(store.catalog().node_named("n2").is_none()),
            }
            before = now;
        }
        // One that is forgotten goes, the leader itself stays.
        let all_there = turn(gossip::Status::Alive);
        let changes = all(&all_there, "n1", &store);
        apply(&mut store, changes);
        let changes = news(&all_there, &Roll::default(), "n1", &store);
        assert_eq!(changes.len(), 1);
        apply(&mut store, changes);
        assert!(store.catalog().node_named("n2").is_none());
    }

    #[test]
    fn no_more_nodes_come_in_than_a_minute_may_bring() {
        let mut store = Store::default();
        let known = member("known", 1, "node", gossip::Status::Alive);
        let changes = all(&roll(&[known]), "n1", &store);
        apply(&mut store, changes);
        let named = |name: &str| {
            let node = Node { name: name.into(), ..Node::default() };
            let row = Register { node, skip_node_update: false, service: None, checks: vec![] };
            Change::Register(Box::new(row))
        };
        let many = || {
            let made_up = (0..100_000).map(|number| named(&format!("made-up-{number}")));
            made_up.chain([named("known"), named("n1"), remove(&Node::default())]).collect()
        };
        let (mut newcomers, most) = (Newcomers::default(), NEW_NAMES_A_MINUTE as usize);
        let minute = Duration::from_mins(1);
        let mut taken = |now| admitted(many(), "n1", &store, &mut newcomers, now).len();
        assert_eq!(taken(minute), most + 3, "what is known, its own and what goes, too");
        assert_eq!(taken(minute), 3);
        assert_eq!(taken(2 * minute), most + 3);
    }

    #[test]
    fn a_dead_member_does_not_speak_for_who_has_its_name_now() {
        let mut store = Store::default();
        let changes = all(&roll(&[member("n", 1, "node", gossip::Status::Alive)]), "", &store);
        apply(&mut store, changes);
        for status in [gossip::Status::Failed, gossip::Status::Left] {
            assert_eq!(duty(&member("n", 2, "node", status), "", &store), None);
        }
    }

    #[tokio::test]
    async fn nodes_that_the_pool_does_not_know_get_time() {
        let mut store = Store::default();
        let known = member("n", 1, "node", gossip::Status::Alive);
        let changes = all(&roll(&[known]), "", &store);
        apply(&mut store, changes);
        let node = Node { name: "external".into(), address: "10.0.0.1".into(), ..Node::default() };
        let external = Register { node, skip_node_update: false, service: None, checks: vec![] };
        apply(&mut store, [Change::Register(Box::new(external))]);
        let (mut absent, start) = (BTreeMap::new(), Instant::now());
        let hours = Duration::from_hours;
        let mut look = |store: &Store, later| {
            absences(&mut absent, &Roll::default(), store, start + later, hours(72))
        };
        assert_eq!(look(&store, Duration::ZERO), []);
        let changes = look(&store, ABSENCE_MAX);
        assert_eq!(changes.len(), 1);
        apply(&mut store, changes);
        assert_eq!(health_of(&store, "n"), "critical");
        assert_eq!(look(&store, hours(1)), []);
        let changes = look(&store, hours(72));
        apply(&mut store, changes);
        assert!(store.catalog().node_named("n").is_none());
        assert!(store.catalog().node_named("external").is_some());
    }
}
