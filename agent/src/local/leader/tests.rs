use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
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
    let tags =
        [("role", role), ("dc", "dc1"), ("port", "8300"), ("raft_vsn", "3"), ("build", "1.8.7:")];
    let details = gossip::Details {
        name: name.into(),
        id: Uuid::from_u128(id),
        address: "127.0.0.1:8301".parse().unwrap(),
        incarnation: 1,
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    };
    Member { details: Arc::new(details), status, conflict: None }
}

fn member_list(members: &[Member]) -> MemberList {
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
    let now = member_list(&[server, client]);
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
    let turn = |status| member_list(&[own.clone(), member("n2", 2, "node", status)]);
    let mut store = Store::default();
    let mut before = MemberList::default();
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
    let changes = news(&all_there, &MemberList::default(), "n1", &store);
    assert_eq!(changes.len(), 1);
    apply(&mut store, changes);
    assert!(store.catalog().node_named("n2").is_none());
}

fn at(mut member: Member, incarnation: u64) -> Member {
    let details = gossip::Details { incarnation, ..gossip::Details::clone(&member.details) };
    member.details = Arc::new(details);
    member
}

fn living_at(mut member: Member, address: &str) -> Member {
    let address = address.parse().unwrap();
    let details = gossip::Details { address, ..gossip::Details::clone(&member.details) };
    member.details = Arc::new(details);
    member
}

/// Name and id of each node, and the services there.
fn rows(store: &Store) -> Vec<(String, String, usize)> {
    let catalog = store.catalog();
    let nodes = catalog.nodes();
    let services = |name: &str| catalog.node_services(name).rows.map_or(0, |(_, all)| all.len());
    nodes
        .rows
        .iter()
        .map(|node| (node.name.to_string(), node.id.clone(), services(&node.name)))
        .collect()
}

#[test]
fn the_row_of_a_living_member_is_not_given_to_a_copy_of_its_id() {
    use gossip::Status::{Alive, Failed};
    let first = at(member("first", 1, "node", Alive), 5);
    let second = living_at(at(member("second", 2, "node", Alive), 4), "127.0.0.2:8301");
    let before = member_list(&[first.clone(), second.clone()]);
    // Under a name that has a row, and under a new one; with a clock that is ahead, or behind.
    for (name, incarnation) in [("second", 9), ("second", 1), ("third", 9), ("third", 1)] {
        let mut store = Store::default();
        let changes = all(&before, "leader", &store);
        apply(&mut store, changes);
        with_service(&mut store, "first", "web");
        with_service(&mut store, "second", "db");
        let was = rows(&store);
        let copy = living_at(at(member(name, 1, "node", Alive), incarnation), "127.0.0.2:8301");
        let now = member_list(&[first.clone(), second.clone(), copy.clone()]);
        assert_eq!(news(&before, &now, "leader", &store), [], "{name} {incarnation}");
        assert_eq!(all(&now, "leader", &store), [], "{name} {incarnation}");
        assert_eq!(rows(&store), was);
        // The id is free once its holder is gone.
        let gone = Member { status: Failed, ..first.clone() };
        let later = member_list(&[gone, second.clone(), copy]);
        for _ in 0..2 {
            let changes = all(&later, "leader", &store);
            apply(&mut store, changes);
        }
        assert_eq!(all(&later, "leader", &store), [], "{name} {incarnation} settles");
        let id = Uuid::from_u128(1).to_string();
        assert_eq!(store.catalog().node_named(name).map(|row| row.id.clone()), Some(id));
    }
}

fn with_service(store: &mut Store, node: &str, id: &str) {
    let row = Node::clone(store.catalog().node_named(node).unwrap());
    let service = Service {
        name: id.into(),
        id: id.into(),
        ..service(&member(node, 0, "node", gossip::Status::Alive))
    };
    let register =
        Register { node: row, skip_node_update: true, service: Some(service), checks: vec![] };
    apply(store, [Change::Register(Box::new(register))]);
}

#[test]
fn the_row_of_a_name_is_judged_by_the_living_member_of_that_name() {
    use gossip::Status::{Alive, Failed, Left};
    // The row is of node 1, passing, with a service; then the pool knows these members of its name.
    // Expected: the id in the row, its health, and whether the service is there.
    type Row = Option<(u128, &'static str, bool)>;
    type Known = &'static [(&'static str, u128, gossip::Status)];
    let rows: [(Known, Row); 12] = [
        (&[("n", 2, Alive)], Some((2, "passing", false))),
        (&[("n", 2, Failed)], Some((1, "critical", true))),
        (&[("n", 2, Left)], None),
        (&[("n", 1, Failed)], Some((1, "critical", true))),
        (&[("n", 1, Left)], None),
        (&[], None),
        // Names that differ in case are one in the catalog: the living one has it.
        (&[("n", 2, Failed), ("N", 1, Alive)], Some((1, "passing", true))),
        (&[("n", 2, Left), ("N", 1, Alive)], Some((1, "passing", true))),
        (&[("n", 2, Alive), ("N", 1, Alive)], Some((1, "passing", true))),
        (&[("n", 1, Failed), ("N", 2, Alive)], Some((2, "passing", false))),
        // The same agent under another name: its rows are there.
        (&[("n", 1, Failed), ("m", 1, Alive)], None),
        (&[("n", 1, Alive), ("m", 1, Alive)], None),
    ];
    for (members, expected) in rows {
        for whole in [true, false] {
            let before = member_list(&[at(member("n", 1, "node", Alive), 1)]);
            let mut store = Store::default();
            let changes = all(&before, "leader", &store);
            apply(&mut store, changes);
            with_service(&mut store, "n", "web");
            let members: Vec<Member> = members
                .iter()
                .map(|(name, id, status)| {
                    let later = u64::from(*id != 1 || *name == "m") + 1;
                    at(member(name, *id, "node", *status), later)
                })
                .collect();
            let now = member_list(&members);
            if whole && members.is_empty() {
                // Whom nobody has heard of gets time; see below.
                continue;
            }
            let changes = if whole {
                all(&now, "leader", &store)
            } else {
                news(&before, &now, "leader", &store)
            };
            apply(&mut store, changes);
            let found = store.catalog().node_named("n").cloned().map(|row| {
                let id: Uuid = row.id.parse().unwrap();
                let has_service = store.catalog().node_service("n", "web").is_some();
                (id.as_u128(), health_of(&store, "n"), has_service)
            });
            let expected = expected.map(|(id, health, has)| (id, health.to_owned(), has));
            assert_eq!(found, expected, "{members:?}, whole {whole}");
            assert_eq!(all(&now, "leader", &store), [], "{members:?} settles");
        }
    }
}

#[test]
fn of_members_with_one_name_one_that_may_have_no_row_does_not_keep_it_from_another() {
    use gossip::Status::Alive;
    let holder = at(member("holder", 1, "node", Alive), 1);
    // Came before `N`, and can have no row: a copy of the holder, or the holder itself under its old name.
    let copy = living_at(at(member("n", 1, "node", Alive), 2), "127.0.0.2:8301");
    let renamed = at(member("n", 1, "node", Alive), 0);
    let other = at(member("N", 2, "node", Alive), 3);
    for first in [copy, renamed] {
        let mut store = Store::default();
        let now = member_list(&[holder.clone(), first.clone(), other.clone()]);
        for _ in 0..2 {
            let changes = all(&now, "leader", &store);
            apply(&mut store, changes);
        }
        assert_eq!(all(&now, "leader", &store), [], "{first:?}");
        let row = store.catalog().node_named("N").map(|row| row.id.clone());
        assert_eq!(row, Some(Uuid::from_u128(2).to_string()), "{first:?}");
        let row = store.catalog().node_named("holder").map(|row| row.id.clone());
        assert_eq!(row, Some(Uuid::from_u128(1).to_string()), "{first:?}");
    }
}

#[test]
fn rows_that_are_no_members_are_left_alone() {
    let mut store = Store::default();
    let id = Uuid::from_u128(7).to_string();
    let node = Node { id, name: "n".into(), address: "10.0.0.1".into(), ..Node::default() };
    let external = Register { node, skip_node_update: false, service: None, checks: vec![] };
    apply(&mut store, [Change::Register(Box::new(external))]);
    for status in [gossip::Status::Failed, gossip::Status::Left] {
        let now = member_list(&[member("n", 2, "node", status)]);
        assert_eq!(all(&now, "", &store), [], "{status:?}");
    }
}

#[test]
fn a_row_that_was_taken_meanwhile_is_not_removed() {
    let mut store = Store::default();
    let changes = all(&member_list(&[member("n", 1, "node", gossip::Status::Alive)]), "", &store);
    apply(&mut store, changes);
    let now = member_list(&[member("n", 2, "node", gossip::Status::Alive)]);
    let late = all(&now, "", &store);
    // The agent itself was faster, and has a service there.
    let changes = all(&now, "", &store);
    apply(&mut store, changes);
    with_service(&mut store, "n", "web");
    let index = store.index() + 1;
    for change in late {
        let applied = store.apply(index, &Command { at: Timestamp(0), change });
        assert!(matches!(applied.reply, Reply::Txn { errors, .. } if !errors.is_empty()));
    }
    assert!(store.catalog().node_service("n", "web").is_some());
}

#[tokio::test]
async fn nodes_that_the_pool_does_not_know_get_time() {
    let mut store = Store::default();
    let known = member("n", 1, "node", gossip::Status::Alive);
    let changes = all(&member_list(&[known]), "", &store);
    apply(&mut store, changes);
    let node = Node { name: "external".into(), address: "10.0.0.1".into(), ..Node::default() };
    let external = Register { node, skip_node_update: false, service: None, checks: vec![] };
    apply(&mut store, [Change::Register(Box::new(external))]);
    let (mut absent, start) = (BTreeMap::new(), Instant::now());
    let hours = Duration::from_hours;
    let mut look = |store: &Store, later| {
        absences(&mut absent, &MemberList::default(), store, start + later, hours(72))
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

/// Members come, die, leave, are forgotten, are built anew, copied, and go by other names, or by names that differ in case
/// only; the leader sees only some of it. In the end each row has a member that justifies it, and each member its row.
#[test]
fn after_any_history_each_row_has_a_member_that_justifies_it() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("MUSTER_REBUILT_ROUNDS").unwrap_or(500);
    let first = number("MUSTER_REBUILT_SEED").unwrap_or_else(rand::random::<u64>);
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        let again =
            format!("seed {seed}; again: MUSTER_REBUILT_SEED={seed} MUSTER_REBUILT_ROUNDS=1");
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut store = Store::default();
        let mut members: BTreeMap<&str, Member> = BTreeMap::new();
        let (mut before, mut clock) = (MemberList::default(), 0);
        for _ in 0..rng.random_range(1..30) {
            clock += 1;
            step(&mut rng, &mut members, clock);
            if rng.random_bool(0.5) {
                let now = member_list(&members.values().cloned().collect::<Vec<_>>());
                let changes = if rng.random_bool(0.2) {
                    all(&now, "leader", &store)
                } else {
                    news(&before, &now, "leader", &store)
                };
                apply(&mut store, changes);
                before = now;
                let row = ["a", "b", "c"][rng.random_range(0..3)];
                if store.catalog().node_named(row).is_some() && rng.random_bool(0.5) {
                    with_service(&mut store, row, "web");
                }
            }
        }
        // Nobody answers to a name that its agent has given up: gossip notices.
        let now = member_list(&members.values().cloned().collect::<Vec<_>>());
        for member in members.values_mut().filter(|it| is_living(it) && is_renamed(it, &now)) {
            member.status = gossip::Status::Failed;
        }
        let now = member_list(&members.values().cloned().collect::<Vec<_>>());
        let changes = news(&before, &now, "leader", &store);
        apply(&mut store, changes);
        // A name may wait for another to be given up.
        for _ in 0..2 {
            let changes = all(&now, "leader", &store);
            apply(&mut store, changes);
        }
        assert_eq!(all(&now, "leader", &store), [], "{again}: it does not settle");
        for row in &store.catalog().nodes().rows {
            let same_name =
                || members.values().filter(|it| is_same_name(&it.details.name, &row.name));
            // Whom the pool has forgotten is the business of `absences`.
            if same_name().next().is_none() || same_name().any(|it| is_copy(it, &now, &store)) {
                continue;
            }
            let health = health_of(&store, &row.name);
            let justified = if health == "passing" {
                same_name().any(|it| is_living(it) && it.details.id.to_string() == row.id)
            } else {
                !same_name().any(is_living)
            };
            assert!(justified, "{again}: {} is {health}: {members:?}", row.name);
        }
        let is_judged = |it: &&Member| is_living(it) && !is_copy(it, &now, &store);
        for member in members.values().filter(is_judged) {
            let row = store.catalog().node_named(&member.details.name);
            assert!(row.is_some(), "{again}: {member:?} has no row");
        }
    }
}

/// Applies a random event to one member, as gossip tells of it.
fn step(rng: &mut SmallRng, members: &mut BTreeMap<&str, Member>, clock: u64) {
    use gossip::Status::{Alive, Failed, Left};
    let name = ["a", "b", "c", "A", "B"][rng.random_range(0..5)];
    let Some(old) = members.get(name).cloned() else {
        let role = if rng.random_bool(0.3) { "consul" } else { "node" };
        members.insert(name, at(member(name, rng.random_range(1..6), role, Alive), clock));
        return;
    };
    let id = old.details.id.as_u128();
    let next = match rng.random_range(0..7) {
        0 => Member { status: Failed, ..old },
        1 => Member { status: Left, ..old },
        2 => {
            members.remove(name);
            return;
        }
        // Built anew, under its name or with its id elsewhere.
        3 => at(member(name, id + 10, "node", Alive), clock),
        4 => {
            let other = ["a", "b", "c", "A", "B"][rng.random_range(0..5)];
            members.insert(other, at(member(other, id, "node", Alive), clock));
            return;
        }
        // Built anew elsewhere, with the id of somebody that may well live.
        5 => {
            let ids: Vec<_> = members.values().map(|it| it.details.id.as_u128()).collect();
            let copied = ids[rng.random_range(0..ids.len())];
            let address = format!("127.0.0.{}:8301", rng.random_range(2..5));
            living_at(at(member(name, copied, "node", Alive), clock), &address)
        }
        _ => at(Member { status: Alive, ..old }, clock),
    };
    members.insert(name, next);
}

#[test]
fn no_more_nodes_come_in_than_a_minute_may_bring() {
    let mut store = Store::default();
    let known = member("known", 1, "node", gossip::Status::Alive);
    let changes = all(&member_list(&[known]), "n1", &store);
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
