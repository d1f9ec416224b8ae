//! Tables of what the reference was seen to do (1.8.7, asked over its HTTP API), command by
//! command: which index each question answers with, what ends what, and (`words`) how a command is
//! refused.

mod words;

use super::*;

const HOST_ID: &str = "11111111-1111-1111-1111-111111111111";
const OTHER_ID: &str = "22222222-2222-2222-2222-222222222222";
const SESSION: &str = "33333333-3333-3333-3333-333333333333";

fn node(name: &str, id: &str, address: &str) -> Node {
    Node {
        id: id.into(),
        name: name.into(),
        address: address.into(),
        datacenter: "dc1".into(),
        ..Node::default()
    }
}

fn service(id: &str, name: &str, tags: &[&str]) -> Service {
    Service {
        kind: String::new(),
        id: id.into(),
        name: name.into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        address: String::new(),
        tagged_addresses: std::collections::BTreeMap::default(),
        meta: std::collections::BTreeMap::default(),
        port: 0,
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
        node: "".into(),
        create_index: 0,
        modify_index: 0,
    }
}

fn check(id: &str, service_id: &str, status: &str) -> Check {
    Check {
        node: "".into(),
        id: id.into(),
        name: id.into(),
        status: status.into(),
        notes: String::new(),
        output: String::new(),
        service_id: service_id.into(),
        service_name: String::new(),
        service_tags: Vec::new(),
        kind: String::new(),
        definition: "".into(),
        create_index: 0,
        modify_index: 0,
    }
}

fn register(node: Node, service: Option<Service>, checks: Vec<Check>) -> Change {
    Change::Register(Box::new(Register { node, skip_node_update: false, service, checks }))
}

fn deregister(node: &str, service_id: Option<&str>, check_id: Option<&str>) -> Change {
    Change::Deregister(Deregister {
        node: node.into(),
        service_id: service_id.map(str::to_owned),
        check_id: check_id.map(str::to_owned),
    })
}

fn kv(verb: KvVerb, key: &str, value: &'static str) -> Change {
    Change::Kv(KvChange { verb, key: key.into(), value: value.into(), flags: 0 })
}

fn session(id: &str, node: &str, checks: &[&str]) -> Session {
    Session {
        id: id.into(),
        name: String::new(),
        node: node.into(),
        lock_delay_ns: 15_000_000_000,
        behavior: Behavior::Release,
        ttl: String::new(),
        node_checks: checks.iter().map(|check| (*check).to_owned()).collect(),
        service_checks: Vec::new(),
        create_index: 0,
        modify_index: 0,
    }
}

fn create(session: Session) -> Change {
    Change::SessionCreate(Box::new(session))
}

fn apply(store: &mut Store, index: Index, change: Change) -> Applied {
    store.apply(index, &Command { at: Timestamp(1_000 * index), change })
}

/// A server with itself in the catalog, as the reference starts: `n1` with `serfHealth` and the
/// service `consul`, its row last changed at 12.
fn started() -> Store {
    let mut store = Store::default();
    let serf = check("serfHealth", "", "passing");
    let consul = service("consul", "consul", &[]);
    apply(&mut store, 11, register(node("n1", HOST_ID, "127.0.0.1"), Some(consul), vec![serf]));
    apply(&mut store, 12, register(node("n1", HOST_ID, "127.0.0.2"), None, vec![]));
    store
}

#[test]
fn indexes_of_the_catalog_move_as_the_references() {
    type Indexes = [Index; 11];
    let web = || Some(service("w", "web", &["a"]));
    let m = |address| node("m", "", address);
    let passing = || vec![check("c", "w", "passing")];
    // nodes, services, service web, health web, health none, service none, node m, node none,
    // checks of m, checks of web, checks in any state. Where the reference answers a missing
    // node with 1, even if it was there before, we answer with the last time that one went; and
    // where it moves the table of checks for a repetition (13 → 14), we do not.
    let table: Vec<(&str, Change, Indexes)> = vec![
        (
            "a node with a service and its check",
            register(m("1.1.1.1"), web(), passing()),
            [13, 13, 13, 13, 13, 13, 13, 0, 13, 13, 13],
        ),
        (
            "the same again",
            register(m("1.1.1.1"), web(), passing()),
            [13, 13, 13, 13, 13, 13, 13, 0, 13, 13, 13],
        ),
        (
            "the check warns",
            register(m("1.1.1.1"), None, vec![check("c", "w", "warning")]),
            [13, 13, 15, 15, 15, 13, 13, 0, 15, 15, 15],
        ),
        (
            "a node's check",
            register(m("1.1.1.1"), None, vec![check("nc", "", "passing")]),
            [13, 13, 16, 16, 16, 13, 13, 0, 16, 16, 16],
        ),
        (
            "the node's address",
            register(m("1.1.1.2"), None, vec![]),
            [17, 13, 17, 17, 17, 17, 17, 0, 16, 16, 16],
        ),
        (
            "another node with another service",
            register(node("q", "", "1.1.1.2"), Some(service("db", "db", &[])), vec![]),
            [18, 18, 17, 17, 18, 18, 18, 0, 16, 16, 16],
        ),
        (
            "the node's check goes",
            deregister("m", None, Some("nc")),
            [18, 19, 19, 19, 19, 19, 19, 0, 19, 19, 19],
        ),
        (
            "the service's check goes",
            deregister("m", None, Some("c")),
            [18, 19, 20, 20, 20, 19, 19, 0, 20, 20, 20],
        ),
        (
            "the other service goes: the first extinction",
            deregister("q", Some("db"), None),
            [18, 21, 20, 20, 21, 21, 21, 0, 21, 21, 21],
        ),
        (
            "a second instance",
            register(m("1.1.1.2"), Some(service("w2", "web", &["a"])), vec![]),
            [18, 22, 22, 22, 21, 21, 22, 0, 21, 21, 21],
        ),
        (
            "the first instance goes",
            deregister("m", Some("w"), None),
            [18, 23, 23, 23, 21, 21, 23, 0, 23, 23, 23],
        ),
        (
            "the last instance goes",
            deregister("m", Some("w2"), None),
            [18, 24, 24, 24, 24, 24, 24, 0, 24, 24, 24],
        ),
        (
            "the node goes",
            deregister("m", None, None),
            [25, 24, 24, 24, 24, 24, 25, 25, 24, 24, 24],
        ),
        (
            "it goes again",
            deregister("m", None, None),
            [25, 24, 24, 24, 24, 24, 25, 25, 24, 24, 24],
        ),
        (
            "it comes back",
            register(m("1.1.1.1"), web(), passing()),
            [27, 27, 27, 27, 24, 24, 27, 25, 27, 27, 27],
        ),
        (
            "it goes with all that is on it",
            deregister("m", None, None),
            [28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28],
        ),
    ];
    let mut store = started();
    for (index, (what, change, expected)) in (13..).zip(table) {
        apply(&mut store, index, change);
        let catalog = store.catalog();
        let found: Indexes = [
            catalog.nodes().index,
            catalog.all_services().index,
            catalog.service("web").index,
            catalog.instances("web").index,
            catalog.instances("none").index,
            catalog.service("none").index,
            catalog.node_services("m").index,
            catalog.node_services("none").index,
            catalog.node_checks("m").index,
            catalog.service_checks("web").index,
            catalog.checks_in_state("any").index,
        ];
        assert_eq!(found, expected, "{index}: {what}");
    }
}

#[test]
fn indexes_of_keys_move_as_the_references() {
    // key a, key none, under a, under zz, everything
    let table: Vec<(&str, Change, [Index; 5])> = vec![
        ("a key", kv(KvVerb::Set, "a/x", "1"), [13, 13, 13, 13, 13]),
        ("the same again", kv(KvVerb::Set, "a/x", "1"), [13, 13, 13, 13, 13]),
        ("another", kv(KvVerb::Set, "b", "1"), [13, 15, 13, 15, 15]),
        ("a second under the prefix", kv(KvVerb::Set, "a/y", "1"), [13, 16, 16, 16, 16]),
        ("it goes", kv(KvVerb::Delete, "a/y", ""), [13, 17, 17, 17, 17]),
        ("it goes again", kv(KvVerb::Delete, "a/y", ""), [13, 17, 17, 17, 17]),
        ("elsewhere", kv(KvVerb::Set, "b", "2"), [13, 19, 17, 19, 19]),
        ("reaping hides no index", Change::TombstonesReap { up_to: 17 }, [13, 19, 17, 19, 19]),
        ("all under the prefix go", kv(KvVerb::DeleteTree, "a", ""), [21, 21, 21, 21, 21]),
        ("elsewhere again", kv(KvVerb::Set, "b", "3"), [22, 22, 21, 22, 22]),
        ("a lost write", kv(KvVerb::Cas(1), "b", "4"), [22, 22, 21, 22, 22]),
    ];
    let mut store = Store::default();
    for (index, (what, change, expected)) in (13..).zip(table) {
        apply(&mut store, index, change);
        let table = store.kv();
        let found = [
            table.get("a/x").index,
            table.get("none").index,
            table.list("a").index,
            table.list("zz").index,
            table.list("").index,
        ];
        assert_eq!(found, expected, "{index}: {what}");
    }
}

#[test]
fn locks_count_and_yield_as_the_references() {
    let lock = |session: &str| KvVerb::Lock(session.into());
    let unlock = |session: &str| KvVerb::Unlock(session.into());
    let other = "44444444-4444-4444-4444-444444444444";
    // change, decided, LockIndex, holder, ModifyIndex
    let table: Vec<(Change, bool, u64, Option<&str>, Index)> = vec![
        (kv(lock(SESSION), "l", "one"), true, 1, Some(SESSION), 20),
        (kv(lock(SESSION), "l", "one"), true, 1, Some(SESSION), 20),
        (kv(lock(other), "l", "two"), false, 1, Some(SESSION), 20),
        (kv(lock(SESSION), "l", "more"), true, 1, Some(SESSION), 23),
        // A plain write keeps the holder but forgets the count.
        (kv(KvVerb::Set, "l", "plain"), true, 0, Some(SESSION), 24),
        (kv(lock(SESSION), "l", "plain"), true, 0, Some(SESSION), 24),
        (kv(unlock(other), "l", "x"), false, 0, Some(SESSION), 24),
        (kv(unlock(SESSION), "l", "plain"), true, 0, None, 27),
        (kv(unlock(SESSION), "l", "plain"), false, 0, None, 27),
        (kv(lock(other), "l", "plain"), true, 1, Some(other), 29),
    ];
    let mut store = started();
    apply(&mut store, 13, create(session(SESSION, "n1", &["serfHealth"])));
    apply(&mut store, 14, create(session(other, "N1", &[])));
    for (index, (change, decided, lock_index, holder, modified)) in (20..).zip(table) {
        let reply = apply(&mut store, index, change).reply;
        assert_eq!(reply != Reply::Decided(false), decided, "{index}");
        let entry = store.kv().get("l").rows.unwrap();
        assert_eq!(
            (entry.lock_index, entry.session.as_deref(), entry.modify_index),
            (lock_index, holder, modified),
            "{index}"
        );
    }
}

#[test]
fn what_ends_a_session() {
    let other = "44444444-4444-4444-4444-444444444444";
    let critical = |id: &str| {
        register(node("n1", HOST_ID, "127.0.0.2"), None, vec![check(id, "", "critical")])
    };
    let table: Vec<(&str, Change, bool)> = vec![
        ("its destruction", Change::SessionDestroy { id: SESSION.into() }, true),
        ("that of another", Change::SessionDestroy { id: other.into() }, false),
        ("its check turns critical", critical("serfHealth"), true),
        ("spelt otherwise", critical("SERFhealth"), true),
        ("another check does", critical("disk"), false),
        ("its check goes", deregister("n1", None, Some("serfHealth")), true),
        ("its node goes", deregister("N1", None, None), true),
        ("a service goes", deregister("n1", Some("consul"), None), false),
    ];
    for behavior in [Behavior::Release, Behavior::Delete] {
        for (what, change, ends) in &table {
            let mut store = started();
            apply(
                &mut store,
                13,
                create(Session { behavior, ..session(SESSION, "n1", &["serfHealth"]) }),
            );
            apply(&mut store, 14, kv(KvVerb::Lock(SESSION.into()), "held", "1"));
            apply(&mut store, 15, kv(KvVerb::Set, "free", "1"));
            let applied = apply(&mut store, 16, change.clone());
            assert_eq!(store.sessions().get(SESSION).rows.is_none(), *ends, "{what}");
            let held = store.kv().get("held");
            match (ends, behavior) {
                (false, _) => assert_eq!(held.rows.unwrap().session.as_deref(), Some(SESSION)),
                (true, Behavior::Release) => {
                    let entry = held.rows.unwrap();
                    assert_eq!((entry.session.as_deref(), entry.modify_index), (None, 16));
                    assert_eq!(entry.lock_index, 1);
                }
                (true, Behavior::Delete) => assert!(held.rows.is_none()),
            }
            assert_eq!(applied.touched.contains(&Scope::Key("held".into())), *ends, "{what}");
            assert_eq!(store.kv().get("free").index, 15);
            // In the time of the commands, which is 16 s: delayed for 15 s.
            let until = store.sessions().lock_delay_until("held");
            assert_eq!(until, ends.then_some(Timestamp(31_000)), "{what}");
        }
    }
}

#[test]
fn a_lock_delay_lasts_as_long_as_the_session_said_and_survives_a_restart() {
    let mut store = started();
    apply(&mut store, 13, create(session(SESSION, "n1", &[])));
    apply(&mut store, 14, create(session(OTHER_ID, "n1", &[])));
    apply(&mut store, 15, kv(KvVerb::Lock(SESSION.into()), "l", "1"));
    apply(&mut store, 16, Change::SessionDestroy { id: SESSION.into() });
    let mut bytes = Vec::new();
    snapshot::write(&store, &mut bytes).unwrap();
    let mut store = snapshot::read(&*bytes).unwrap();
    let take = || kv(KvVerb::Lock(OTHER_ID.into()), "l", "2");
    let at = |ms, change| Command { at: Timestamp(ms), change };
    assert_eq!(store.apply(17, &at(30_999, take())).reply, Reply::Decided(false));
    let txn = Change::Txn(vec![TxnOp::Kv(KvChange {
        verb: KvVerb::Lock(OTHER_ID.into()),
        key: "l".into(),
        value: "2".into(),
        flags: 0,
    })]);
    let Reply::Txn { errors, .. } = store.apply(18, &at(30_999, txn)).reply else {
        panic!("a transaction answers as one");
    };
    assert_eq!(errors[0].what, "failed to lock key \"l\" due to lock delay");
    // Anybody may write it meanwhile, and other keys may be locked.
    assert_eq!(store.apply(19, &at(30_999, kv(KvVerb::Set, "l", "3"))).reply, Reply::Done);
    assert_eq!(store.apply(20, &at(31_000, take())).reply, Reply::Decided(true));
    assert_eq!(store.sessions().lock_delay_until("l"), None, "what is over is forgotten");
}

#[test]
fn a_transaction_sees_its_own_writes() {
    let op = |verb, key: &str, value: &'static str| {
        TxnOp::Kv(KvChange { verb, key: key.into(), value: value.into(), flags: 0 })
    };
    let mut store = started();
    let ops = vec![
        op(KvVerb::Set, "t/a", "1"),
        TxnOp::KvGet("t/a".into()),
        TxnOp::KvGetTree("t".into()),
        TxnOp::KvCheckIndex("t/a".into(), 13),
        TxnOp::Node(CatalogVerb::Set, Box::new(node("m", "", "1.1.1.1"))),
        TxnOp::Service(CatalogVerb::Set, "m".into(), Box::new(service("", "web", &["a"]))),
        TxnOp::Check(
            CatalogVerb::Set,
            Box::new(Check { node: "m".into(), ..check("c", "web", "") }),
        ),
        TxnOp::KvGetOrEmpty("t/none".into()),
        op(KvVerb::Delete, "t/a", ""),
        TxnOp::KvCheckNotExists("t/a".into()),
    ];
    let applied = apply(&mut store, 13, Change::Txn(ops));
    let Reply::Txn { results, errors } = applied.reply else { panic!("it answers as one") };
    assert_eq!(errors, []);
    let shown: Vec<String> = results
        .iter()
        .map(|result| match result {
            TxnResult::Kv(entry, value) => format!("{} {value} {}", entry.key, entry.modify_index),
            TxnResult::Node(node) => format!("node {}", node.name),
            TxnResult::Service(service) => format!("service {} on {}", service.id, service.node),
            TxnResult::Check(check) => {
                format!("check {} {} of {}", check.id, check.status, check.service_name)
            }
        })
        .collect();
    assert_eq!(
        shown,
        [
            "t/a false 13",
            "t/a true 13",
            "t/a true 13",
            "t/a false 13",
            "node m",
            "service web on m",
            "check c critical of web",
            "t/none true 0",
        ]
    );
    // The same without the log, for transactions that only read.
    let read = [
        TxnOp::KvGetTree(String::new()),
        TxnOp::Node(CatalogVerb::Get, Box::new(node("M", "", ""))),
    ];
    assert!(read.iter().all(TxnOp::is_read));
    assert!(
        matches!(store.txn_read(Timestamp(0), &read), Reply::Txn { errors, .. } if errors.len() == 1)
    );
}

#[test]
fn only_writes_of_a_transaction_take_a_missing_id_from_the_name() {
    use CatalogVerb::{Delete, DeleteCas, Get};
    let mut store = started();
    let named = |id: &str, name: &str| Box::new(service(id, name, &[]));
    let check = |id: &str, name: &str| {
        Box::new(Check { node: "n1".into(), name: name.into(), ..check(id, "", "passing") })
    };
    // A registration without ids: both rows go by their names.
    let rows = (Some(*named("", "web")), vec![*check("", "chk")]);
    let change = register(node("n1", "", "1.1.1.1"), rows.0, rows.1);
    assert_eq!(apply(&mut store, 13, change).reply, Reply::Done);
    let change = Change::SessionCreate(Box::new(session(SESSION, "n1", &[])));
    assert_eq!(apply(&mut store, 14, change).reply, Reply::Done);
    let on_n1 = |verb, id: &str, name: &str| TxnOp::Service(verb, "n1".into(), named(id, name));
    let rows = [
        (on_n1(Get, "web", ""), ""),
        (on_n1(Get, "", "web"), "service \"\" on node \"n1\" doesn't exist"),
        (on_n1(Get, "", ""), "service \"\" on node \"n1\" doesn't exist"),
        (TxnOp::Check(Get, check("chk", "")), ""),
        (TxnOp::Check(Get, check("", "chk")), "check \"\" on node \"n1\" doesn't exist"),
        (TxnOp::Check(Get, check("", "")), "check \"\" on node \"n1\" doesn't exist"),
        (TxnOp::Node(Get, Box::new(node("", "", ""))), "node \"\" doesn't exist"),
        (
            TxnOp::Node(Get, Box::new(node("n1", "zz", ""))),
            "node lookup by ID failed, wrong UUID: uuid string is wrong length for 'zz'",
        ),
        (TxnOp::Node(Delete, Box::new(node("", "zz", ""))), "Must provide node"),
        (
            TxnOp::Node(Delete, Box::new(node("n1", "zz", ""))),
            "Bad node ID: uuid string is wrong length",
        ),
        (
            on_n1(DeleteCas, "", "web"),
            "failed to delete service \"web\" on node \"n1\", index is stale",
        ),
        (
            TxnOp::Check(DeleteCas, check("", "chk")),
            "failed to delete check \"chk\" on node \"n1\", index is stale",
        ),
        (on_n1(Delete, "", "web"), ""),
        (TxnOp::Check(Delete, check("", "chk")), ""),
        (on_n1(Get, "web", ""), "service \"web\" on node \"n1\" doesn't exist"),
        (TxnOp::Check(Get, check("chk", "")), "check \"chk\" on node \"n1\" doesn't exist"),
    ];
    for (index, (op, expected)) in (15..).zip(rows) {
        let shown = format!("{op:?}");
        let Reply::Txn { errors, .. } = apply(&mut store, index, Change::Txn(vec![op])).reply
        else {
            panic!("it answers as one");
        };
        let texts: Vec<&str> = errors.iter().map(|error| error.what.as_str()).collect();
        assert_eq!(texts.join("; "), expected, "{shown}");
    }
}

#[test]
fn a_node_is_renamed_by_its_id_and_its_name_protected_by_its_health() {
    let mut store = started();
    let put = |store: &mut Store, index, name: &str, id: &str| {
        apply(store, index, register(node(name, id, "1.1.1.1"), None, vec![])).reply
    };
    assert_eq!(put(&mut store, 13, "renamed", HOST_ID), Reply::Done);
    let renamed = store.catalog().node("renamed").rows.unwrap();
    assert_eq!((renamed.create_index, renamed.modify_index), (11, 13));
    assert!(store.catalog().node("n1").rows.is_none());
    assert!(store.catalog().instances("consul").rows.is_empty(), "what was on it went with it");
    // Without serfHealth it may be dead: another node may take its name.
    assert_eq!(put(&mut store, 14, "renamed", OTHER_ID), Reply::Done);
    assert_eq!(store.catalog().node("22").rows.unwrap().name, "renamed".into());
    assert!(store.catalog().node("11").rows.is_none());
    // By hand, without an id: the row is anybody's, and loses its id, as in the reference.
    assert_eq!(put(&mut store, 15, "renamed", ""), Reply::Done);
    assert!(store.catalog().node("22").rows.is_none());
    assert_eq!(put(&mut store, 16, "RENAMED", HOST_ID), Reply::Done);
    assert_eq!(store.catalog().nodes().rows.len(), 1);
}

#[test]
fn a_service_that_changes_its_name_leaves_the_old_one() {
    let mut store = started();
    let m = || node("m", "", "1.1.1.1");
    let c = check("c", "w", "passing");
    apply(&mut store, 13, register(m(), Some(service("w", "web", &["a"])), vec![c]));
    let applied = apply(&mut store, 14, register(m(), Some(service("w", "web2", &["a"])), vec![]));
    let catalog = store.catalog();
    assert!(catalog.instances("web").rows.is_empty());
    assert_eq!(catalog.instances("web").index, 14, "whoever waits for the old name is told");
    let instances = catalog.instances("WEB2").rows;
    assert_eq!(instances.len(), 1);
    // As in the reference the check follows by the service's id, but keeps the name and tags of
    // its own last registration until the next one.
    assert_eq!(instances[0].checks[0].service_name, "web");
    for scope in [Scope::Services, Scope::Service("web".into()), Scope::Service("web2".into())] {
        assert!(applied.touched.contains(&scope), "{scope:?}");
    }
}

#[test]
fn scopes_overlap_as_documented() {
    let key = |key: &str| Scope::Key(key.into());
    let prefix = |prefix: &str| Scope::Prefix(prefix.into());
    for (a, b, expected) in [
        (key("a/b"), key("a/b"), true),
        (key("a/b"), key("a/bc"), false),
        (key("a/b"), prefix("a/"), true),
        (key("a/b"), prefix(""), true),
        (key("a"), prefix("a/"), false),
        (prefix("a"), prefix("a/b"), true),
        (prefix("a"), prefix("b"), false),
        (Scope::Nodes, Scope::Nodes, true),
        (Scope::Nodes, Scope::Node("n1".into()), false),
        (Scope::Service("web".into()), Scope::ServiceNodes("web".into()), false),
        (Scope::Everything, prefix("a"), true),
        (Scope::Sessions, Scope::Everything, true),
    ] {
        assert_eq!(a.overlaps(&b), expected, "{a:?} {b:?}");
        assert_eq!(b.overlaps(&a), expected, "{b:?} {a:?}");
    }
}
