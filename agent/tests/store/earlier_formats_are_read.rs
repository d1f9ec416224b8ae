//! What any earlier version wrote is read by this one, and means the same.
//!
//! `tests/fixtures` keeps a history of commands as they stood in the log, and the state that they
//! led to in every format that a version ever wrote. A new format writes its fixture here once, and
//! fails until that is committed.

use std::fs;
use std::path::PathBuf;

use muster_agent::store::acl::{AclChange, Expected};
use muster_agent::store::{
    Behavior, CatalogVerb, Change, Check, Command, Deregister, KvChange, KvVerb, Node, Register,
    Service, ServiceAddress, Session, Store, Timestamp, TxnOp, Weights, snapshot,
};

use crate::acl_rows;
use crate::questions::ask_all;
use crate::same_log_same_bytes::bytes_of;

const SESSION: &str = "11111111-2222-3333-4444-555555555555";
const OTHER_SESSION: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

/// The first index of the history; each command has the next.
const FIRST: u64 = 11;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn kv(verb: KvVerb, key: &str, value: &'static str) -> Change {
    Change::Kv(KvChange { verb, key: key.into(), value: value.into(), flags: 7 })
}

fn register(node: &str, id: &str, service: Option<&str>, checks: Vec<Check>) -> Change {
    let mut row = Node {
        id: id.into(),
        name: node.into(),
        address: "10.0.0.1".into(),
        datacenter: "dc1".into(),
        ..Node::default()
    };
    row.tagged_addresses.insert("lan".into(), "10.0.0.1".into());
    row.meta.insert("zone".into(), "a".into());
    let service = service.map(|name| Service {
        kind: String::new(),
        id: format!("{name}-1").into(),
        name: name.into(),
        tags: vec!["a".into(), "B".into()],
        address: "10.0.0.9".into(),
        tagged_addresses: [(
            "wan".to_owned(),
            ServiceAddress { address: "192.0.2.1".into(), port: 90 },
        )]
        .into(),
        meta: [("version".to_owned(), "3".to_owned())].into(),
        port: 80,
        weights: Weights { passing: 3, warning: 1 },
        enable_tag_override: true,
        node: "".into(),
        create_index: 0,
        modify_index: 0,
    });
    Change::Register(Box::new(Register { node: row, skip_node_update: false, service, checks }))
}

fn check(node: &str, id: &str, service: &str, status: &str) -> Check {
    Check {
        node: node.into(),
        id: id.into(),
        name: "a check".into(),
        status: status.into(),
        notes: "notes".into(),
        output: "output \u{fc}".into(),
        service_id: service.into(),
        service_name: String::new(),
        service_tags: Vec::new(),
        kind: "ttl".into(),
        definition: r#"{"TTL":"10s"}"#.into(),
        create_index: 0,
        modify_index: 0,
    }
}

fn session(id: &str, behavior: Behavior) -> Change {
    Change::SessionCreate(Box::new(Session {
        id: id.into(),
        name: "a lock".into(),
        node: "n1".into(),
        lock_delay_ns: 15_000_000_000,
        behavior,
        ttl: "30s".into(),
        node_checks: ["serfHealth".to_owned()].into(),
        service_checks: [("c1".to_owned(), String::new())].into(),
        create_index: 0,
        modify_index: 0,
    }))
}

/// Every kind of command and, in the end, of record. Later versions may add to its end only.
fn history() -> Vec<Command> {
    let changes = vec![
        Change::Noop,
        register(
            "n1",
            "aaaaaaaa-1111-1111-1111-111111111111",
            Some("web"),
            vec![check("", "serfHealth", "", "passing"), check("", "c1", "web-1", "warning")],
        ),
        register("N2", "", Some("db"), vec![]),
        register("gone", "", Some("db"), vec![]),
        Change::Deregister(Deregister { node: "gone".into(), service_id: None, check_id: None }),
        Change::Deregister(Deregister {
            node: "n2".into(),
            service_id: Some("db-1".into()),
            check_id: None,
        }),
        session(SESSION, Behavior::Release),
        session(OTHER_SESSION, Behavior::Delete),
        kv(KvVerb::Set, "a", "1"),
        kv(KvVerb::Cas(0), "a/b", "2"),
        kv(KvVerb::Cas(3), "a/b", "lost"),
        kv(KvVerb::Lock(SESSION.into()), "a/b/c", "3"),
        kv(KvVerb::Lock(OTHER_SESSION.into()), "b", "4"),
        kv(KvVerb::Unlock(SESSION.into()), "a/b/c", "5"),
        kv(KvVerb::Lock(SESSION.into()), "a/b/c", "6"),
        kv(KvVerb::Set, "b/x", "gone soon"),
        kv(KvVerb::Delete, "b/x", ""),
        Change::TombstonesReap { up_to: 20 },
        kv(KvVerb::Set, "ab", "gone soon"),
        kv(KvVerb::DeleteCas(29), "ab", ""),
        kv(KvVerb::DeleteTree, "nothing/", ""),
        Change::SessionDestroy { id: OTHER_SESSION.into() },
        Change::Txn(vec![
            TxnOp::Kv(KvChange {
                verb: KvVerb::Set,
                key: "\u{fc}".into(),
                value: vec![0, 255].into(),
                flags: u64::MAX,
            }),
            TxnOp::KvGet("a".into()),
            TxnOp::KvGetOrEmpty("zz".into()),
            TxnOp::KvGetTree("a/".into()),
            TxnOp::KvCheckIndex("a".into(), 19),
            TxnOp::KvCheckSession("a/b/c".into(), SESSION.into()),
            TxnOp::KvCheckNotExists("zz".into()),
            TxnOp::Check(CatalogVerb::Set, Box::new(check("N2", "c2", "", "critical"))),
        ]),
        // Since format 3.
        Change::Acl(AclChange::Policy(Expected::Absent, Box::new(acl_rows::policy(1, "p1")))),
        Change::Acl(AclChange::Role(Expected::Absent, Box::new(acl_rows::role(1, "r1")))),
        Change::Acl(AclChange::AuthMethod(Expected::Any, Box::new(acl_rows::method("jwt1")))),
        Change::Acl(AclChange::BindingRule(Expected::Absent, Box::new(acl_rows::rule(1, "jwt1")))),
        Change::Acl(AclChange::Bootstrap { token: Box::new(acl_rows::token(1, 1)), reset: 0 }),
        Change::Acl(AclChange::Token(Expected::Absent, Box::new(acl_rows::token(2, 2)))),
        Change::Acl(AclChange::TokensDelete(vec![acl_rows::id(2)])),
    ];
    let command = |(n, change): (u64, _)| Command { at: Timestamp(1_700_000_000_000 + n), change };
    (0..).zip(changes).map(command).collect()
}

fn replayed(commands: &[Command]) -> Store {
    let mut store = Store::default();
    for (index, command) in (FIRST..).zip(commands) {
        store.apply(index, command);
    }
    store
}

/// Commands one after the other, each with its length before it.
fn packed(commands: &[Command]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        let encoded = command.encode();
        bytes.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
        bytes.extend(encoded);
    }
    bytes
}

fn unpacked(mut bytes: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (encoded, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        commands.push(Command::decode(encoded).unwrap());
        bytes = rest;
    }
    commands
}

fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if file.starts_with(name) {
            files.push((file, fs::read(&path).unwrap()));
        }
    }
    files.sort();
    assert!(!files.is_empty(), "fixtures named {name}");
    files
}

fn keep(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    if !path.exists() {
        fs::write(&path, bytes).unwrap();
        panic!("there was no {}; it is written now: commit it", path.display());
    }
}

#[test]
fn todays_formats_are_kept() {
    let history = history();
    let commands = packed(&history);
    keep("commands-2.bin", &commands);
    keep(&format!("state-{}.snap", snapshot::FORMAT), &bytes_of(&replayed(&history)));
}

#[test]
fn commands_of_every_version_are_read() {
    let history = history();
    for (file, bytes) in kept("commands-") {
        let commands = unpacked(&bytes);
        assert!(commands.len() > 20, "{file}");
        for (n, (kept, today)) in commands.iter().zip(&history).enumerate() {
            assert_eq!(kept, today, "{file}, command {n}");
        }
    }
}

#[test]
fn states_of_every_version_are_read() {
    let logs = kept("commands-");
    for (file, bytes) in kept("state-") {
        // Access control came with format 3, and with the second kept log.
        let log = usize::from(!["state-1", "state-2"].iter().any(|old| file.starts_with(old)));
        let expected = replayed(&unpacked(&logs[log].1));
        let store = snapshot::read(&*bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(store.counts(), expected.counts(), "{file}");
        for (before, after) in ask_all(&expected).iter().zip(ask_all(&store)) {
            assert_eq!(before.rows, after.rows, "{file}: {}", before.question);
            assert_eq!(before.index, after.index, "{file}: {}", before.question);
        }
        // The facts themselves, so that a change to the rules of today does not hide one of the past.
        let counts = store.counts();
        assert_eq!((counts.nodes, counts.instances, counts.checks), (2, 1, 3), "{file}");
        assert_eq!((counts.keys, counts.sessions, counts.tombstones), (4, 1, 3), "{file}");
        let locked = store.kv().get("a/b/c").rows.unwrap();
        assert_eq!(locked.session.as_deref(), Some(SESSION), "{file}");
        assert_eq!((&*locked.value, locked.lock_index), (&b"6"[..], 2), "{file}");
    }
}
