//! Random commands over a handful of names, some of which differ only in case.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use muster_agent::store::{
    Applied, Behavior, CatalogVerb, Change, Check, Command, Deregister, KvChange, KvVerb, Node,
    Register, Service, Session, Store, Timestamp, TxnOp, Weights,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const NODES: [&str; 4] = ["n1", "N1", "n2", "other"];
pub(crate) const NODE_IDS: [&str; 4] = [
    "",
    "aaaaaaaa-1111-1111-1111-111111111111",
    "aaaabbbb-2222-2222-2222-222222222222",
    "cccccccc-3333-3333-3333-333333333333",
];
pub(crate) const SERVICES: [&str; 3] = ["web", "Web", "db"];
pub(crate) const SERVICE_IDS: [&str; 4] = ["", "web-1", "WEB-1", "x"];
pub(crate) const CHECKS: [&str; 4] = ["serfHealth", "c1", "C1", "c2"];
pub(crate) const STATES: [&str; 5] = ["passing", "warning", "critical", "", "odd"];
pub(crate) const KEYS: [&str; 9] = ["a", "a/", "a/b", "a/b/c", "ab", "b", "b/x", "ü", ""];
pub(crate) const SESSIONS: [&str; 5] = [
    "11111111-2222-3333-4444-555555555555",
    "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE",
    "not-an-id",
    "",
];

/// A log: commands in order, with times that mostly go forward. Most begin with a node and a
/// session on it, so that there are locks to be taken and lost.
pub(crate) fn commands(length_max: usize) -> impl Strategy<Value = Vec<Command>> {
    let first = (register(), session(), proptest::bool::weighted(0.8)).prop_map(|(mut r, s, b)| {
        r.node.name = s.node.as_str().into();
        r.checks.clear();
        let plain = Session { node_checks: Vec::new(), service_checks: Vec::new(), ..s };
        let changes = [Change::Register(Box::new(r)), Change::SessionCreate(Box::new(plain))];
        changes.map(|change| (change, 1)).into_iter().take(if b { 2 } else { 0 })
    });
    (first, vec((change(), 0u64..3_000), 1..length_max)).prop_map(|(first, changes)| {
        let mut now = 1_000_000;
        first
            .chain(changes)
            .map(|(change, later)| {
                now += later;
                Command { at: Timestamp(now), change }
            })
            .collect()
    })
}

/// A store after each of `commands`, with what the command did. Indexes have gaps, as in a log
/// that carries more than commands.
pub(crate) fn replay(commands: &[Command]) -> impl Iterator<Item = (Store, Applied)> {
    let mut store = Store::default();
    (0u64..).map(|n| 10 + 3 * n).zip(commands).map(move |(index, command)| {
        let applied = store.apply(index, command);
        (store.clone(), applied)
    })
}

pub(crate) fn after(commands: &[Command]) -> Store {
    replay(commands).last().map(|(store, _)| store).unwrap_or_default()
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => Just(Change::Noop),
        8 => register().prop_map(|register| Change::Register(Box::new(register))),
        4 => deregister().prop_map(Change::Deregister),
        8 => kv_change().prop_map(Change::Kv),
        3 => session().prop_map(|session| Change::SessionCreate(Box::new(session))),
        1 => select(&SESSIONS[..]).prop_map(|id| Change::SessionDestroy { id: id.into() }),
        3 => vec(txn_op(), 0..5).prop_map(Change::Txn),
        1 => (0u64..120).prop_map(|up_to| Change::TombstonesReap { up_to }),
        4 => crate::acl_rows::change().prop_map(Change::Acl),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    (select(&NODE_IDS[..]), select(&NODES[..]), 1u8..3, any::<bool>(), 0u64..40).prop_map(
        |(id, name, address, meta, modify_index)| Node {
            id: id.into(),
            name: name.into(),
            address: format!("10.0.0.{address}"),
            datacenter: "dc1".into(),
            meta: meta.then(|| ("zone".to_owned(), "a".to_owned())).into_iter().collect(),
            modify_index,
            ..Node::default()
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let tags = btree_set(select(&["a", "b", "B"][..]), 0..3);
    (select(&SERVICE_IDS[..]), select(&SERVICES[..]), tags, 80i64..82, 0u64..40).prop_map(
        |(id, name, tags, port, modify_index)| Service {
            kind: String::new(),
            id: id.into(),
            name: name.into(),
            tags: tags.into_iter().map(str::to_owned).collect(),
            address: String::new(),
            tagged_addresses: BTreeMap::new(),
            meta: BTreeMap::new(),
            port,
            weights: Weights { passing: 1, warning: 1 },
            enable_tag_override: false,
            node: "".into(),
            create_index: 0,
            modify_index,
        },
    )
}

fn check(node: &'static str) -> impl Strategy<Value = Check> {
    (
        prop_oneof![4 => select(&CHECKS[..]), 1 => Just("")],
        select(&STATES[..]),
        prop_oneof![2 => Just(""), 2 => select(&SERVICE_IDS[..]), 1 => select(&SERVICES[..])],
        select(&["", "ok", "slow"][..]),
        0u64..40,
    )
        .prop_map(move |(id, status, service_id, output, modify_index)| Check {
            node: node.into(),
            id: id.into(),
            name: "c2".into(),
            status: status.into(),
            notes: String::new(),
            output: output.into(),
            service_id: service_id.into(),
            service_name: String::new(),
            service_tags: Vec::new(),
            kind: String::new(),
            definition: "".into(),
            create_index: 0,
            modify_index,
        })
}

fn register() -> impl Strategy<Value = Register> {
    (
        node(),
        any::<bool>(),
        proptest::option::of(service()),
        vec(check(""), 0..3),
        prop_oneof![6 => Just(None), 1 => select(&NODES[..]).prop_map(Some)],
    )
        .prop_map(|(node, skip_node_update, service, mut checks, other)| {
            if let (Some(other), Some(check)) = (other, checks.first_mut()) {
                check.node = other.into();
            }
            Register { node, skip_node_update, service, checks }
        })
}

fn deregister() -> impl Strategy<Value = Deregister> {
    (
        select(&NODES[..]),
        proptest::option::of(select(&["web-1", "x", "web", "db"][..])),
        proptest::option::of(select(&CHECKS[..])),
    )
        .prop_map(|(node, service_id, check_id)| Deregister {
            node: node.into(),
            service_id: service_id.map(str::to_owned),
            check_id: check_id.map(str::to_owned),
        })
}

fn kv_change() -> impl Strategy<Value = KvChange> {
    let session =
        || prop_oneof![4 => select(&SESSIONS[..3]), 1 => select(&SESSIONS[..])].prop_map(Arc::from);
    let verb = prop_oneof![
        4 => Just(KvVerb::Set),
        2 => prop_oneof![Just(0), 10u64..40].prop_map(KvVerb::Cas),
        2 => Just(KvVerb::Delete),
        1 => prop_oneof![Just(0), 10u64..40].prop_map(KvVerb::DeleteCas),
        1 => Just(KvVerb::DeleteTree),
        4 => session().prop_map(KvVerb::Lock),
        2 => session().prop_map(KvVerb::Unlock),
    ];
    // Locks are fought for on two keys.
    let key = prop_oneof![1 => select(&KEYS[..]), 1 => select(&KEYS[..2])];
    (verb, key, select(&["", "1", "2"][..]), 0u64..2).prop_map(|(verb, key, value, flags)| {
        KvChange { verb, key: key.into(), value: Bytes::from_static(value.as_bytes()), flags }
    })
}

fn session() -> impl Strategy<Value = Session> {
    (
        select(&SESSIONS[..3]),
        select(&NODES[..]),
        select(&[0u64, 1_500_000, 2_000_000_000, 90_000_000_000][..]),
        any::<bool>(),
        prop_oneof![2 => Just(BTreeSet::new()), 1 => btree_set(select(&CHECKS[..]), 0..3)],
        prop_oneof![4 => Just(BTreeSet::new()), 1 => btree_set(select(&CHECKS[..]), 0..2)],
    )
        .prop_map(|(id, node, lock_delay_ns, release, node_checks, service_checks)| Session {
            id: id.into(),
            name: "a lock".into(),
            node: node.into(),
            lock_delay_ns,
            behavior: if release { Behavior::Release } else { Behavior::Delete },
            ttl: String::new(),
            node_checks: node_checks.into_iter().map(str::to_owned).collect(),
            service_checks: service_checks
                .into_iter()
                .map(|id| (id.to_owned(), String::new()))
                .collect(),
            create_index: 0,
            modify_index: 0,
        })
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    let verb = || {
        use CatalogVerb::{Cas, Delete, DeleteCas, Get, Set};
        select(&[Get, Set, Cas, Delete, DeleteCas][..])
    };
    let key = || select(&KEYS[..]).prop_map(str::to_owned);
    prop_oneof![
        8 => kv_change().prop_map(TxnOp::Kv),
        1 => key().prop_map(TxnOp::KvGet),
        1 => key().prop_map(TxnOp::KvGetOrEmpty),
        1 => key().prop_map(TxnOp::KvGetTree),
        1 => (key(), 10u64..40).prop_map(|(key, index)| TxnOp::KvCheckIndex(key, index)),
        1 => (key(), select(&SESSIONS[..]))
            .prop_map(|(key, session)| TxnOp::KvCheckSession(key, session.into())),
        1 => key().prop_map(TxnOp::KvCheckNotExists),
        3 => (verb(), node()).prop_map(|(verb, node)| TxnOp::Node(verb, Box::new(node))),
        3 => (verb(), select(&NODES[..]), service())
            .prop_map(|(verb, node, row)| TxnOp::Service(verb, node.into(), Box::new(row))),
        3 => (verb(), select(&NODES[..]).prop_flat_map(check))
            .prop_map(|(verb, row)| TxnOp::Check(verb, Box::new(row))),
        1 => select(&SESSIONS[..]).prop_map(|id| TxnOp::SessionDelete(id.into())),
        1 => Just(TxnOp::Unknown("unknown KV verb \"zap\"".into())),
    ]
}
