//! In which words the reference refuses.

use super::*;

#[test]
fn refusals_are_worded_as_the_references() {
    let x = |id: &str| create(session(id, "n1", &[]));
    let lock = |session: &str| kv(KvVerb::Lock(session.into()), "k", "1");
    let with_check = |check| register(node("n1", HOST_ID, "127.0.0.2"), None, vec![check]);
    let with_meta = |key: &str| {
        let mut service = service("w", "web", &[]);
        service.meta.insert(key.into(), "c".into());
        register(node("n1", HOST_ID, "127.0.0.2"), Some(service), vec![])
    };
    let table: Vec<(Change, &str)> = vec![
        (register(node("", "", "1.1.1.1"), None, vec![]), "Must provide node"),
        (deregister("", Some("web"), None), "Must provide node"),
        (
            register(node("x", "", ""), None, vec![]),
            "Must provide address if SkipNodeUpdate is not set",
        ),
        (
            register(node("x", "zz", "1.1.1.1"), None, vec![]),
            "Bad node ID: uuid string is wrong length",
        ),
        (
            register(node("N1", OTHER_ID, "1.1.1.3"), None, vec![]),
            "failed inserting node: Error while renaming Node ID: \
             \"22222222-2222-2222-2222-222222222222\": Node name N1 is reserved by node \
             11111111-1111-1111-1111-111111111111 with name n1 (127.0.0.2)",
        ),
        (
            with_check(check("c", "nope", "passing")),
            "failed inserting check: Missing service registration on node \"n1\"",
        ),
        (
            with_check(Check { node: "other".into(), ..check("c", "", "") }),
            "check node \"other\" does not match node \"n1\"",
        ),
        (
            with_check(Check { node: "N1".into(), ..check("c", "", "") }),
            "check node \"N1\" does not match node \"n1\"",
        ),
        (
            with_meta("a b"),
            "failed inserting service: Invalid Service Meta for node n1 and serviceID w: \
             Couldn't load metadata pair ('a b', 'c'): Key contains invalid characters",
        ),
        (
            with_meta("consul-"),
            "failed inserting service: Invalid Service Meta for node n1 and serviceID w: \
             Couldn't load metadata pair ('consul-', 'c'): Key prefix 'consul-' is reserved for \
             internal use",
        ),
        (create(session(SESSION, "none", &[])), "Missing node registration"),
        (create(session(SESSION, "n1", &["x"])), "Missing check 'x' registration"),
        (create(session(SESSION, "n1", &["Bad"])), "Check 'Bad' is in critical state"),
        (lock(""), "missing session"),
        (lock("abc"), "failed session lookup: index error: UUID must be 36 characters"),
        (
            lock("11111111-1111-1111-1111-11111111111g"),
            "failed session lookup: index error: Invalid UUID: encoding/hex: invalid byte: \
             U+0067 'g'",
        ),
        (
            lock("111111111111111111111111111111111111"),
            "invalid session \"111111111111111111111111111111111111\"",
        ),
        (kv(KvVerb::Set, "", "1"), "Must provide key"),
        (kv(KvVerb::Unlock("".into()), "k", "1"), "missing session"),
    ];
    let mut store = started();
    apply(&mut store, 13, with_check(check("bad", "", "critical")));
    let mut before = Vec::new();
    snapshot::write(&store, &mut before).unwrap();
    for (change, text) in table {
        // At an index that is applied already, so that the bytes can be compared whole.
        let applied = apply(&mut store, 13, change);
        assert_eq!(applied.reply, Reply::Refused(text.into()));
        assert!(applied.touched.is_empty());
        let mut after = Vec::new();
        snapshot::write(&store, &mut after).unwrap();
        assert!(before == after, "refused with `{text}`, and yet something changed");
    }
    assert_eq!(apply(&mut store, 14, x(SESSION)).reply, Reply::Done);
}

#[test]
fn failed_operations_are_worded_as_the_references() {
    use CatalogVerb::{Cas, Delete, DeleteCas, Get, Set};
    let kv =
        |verb, key: &str| TxnOp::Kv(KvChange { verb, key: key.into(), value: "".into(), flags: 0 });
    let on = |node: &str, verb, id: &str, name: &str| {
        TxnOp::Service(verb, node.into(), Box::new(service(id, name, &[])))
    };
    let n = |verb, name: &str| TxnOp::Node(verb, Box::new(node(name, "", "1.1.1.1")));
    let c = |verb, node: &str, service_id: &str, modify_index| {
        let check = check("y", service_id, "");
        TxnOp::Check(verb, Box::new(Check { node: node.into(), modify_index, ..check }))
    };
    let table: Vec<(TxnOp, &str)> = vec![
        (kv(KvVerb::Cas(0), "l"), "failed to set key \"l\", index is stale"),
        (TxnOp::Unknown("unknown KV verb \"zap\"".into()), "unknown KV verb \"zap\""),
        (kv(KvVerb::Lock("".into()), "l"), "missing session"),
        (
            kv(KvVerb::Lock("abc".into()), "l"),
            "failed session lookup: index error: UUID must be 36 characters",
        ),
        (
            kv(KvVerb::Lock(OTHER_ID.into()), "held"),
            "failed to lock key \"held\", lock is already held",
        ),
        (
            kv(KvVerb::Unlock(OTHER_ID.into()), "held"),
            "failed to unlock key \"held\", lock isn't held, or is held by another session",
        ),
        (
            TxnOp::KvCheckSession("l".into(), "f".into()),
            "failed session check for key \"l\", current session \"\" != \"f\"",
        ),
        (
            TxnOp::KvCheckSession("none".into(), "f".into()),
            "failed to check session, key \"none\" doesn't exist",
        ),
        (
            TxnOp::KvCheckIndex("l".into(), 4),
            "failed index check for key \"l\", current modify index 13 != 4",
        ),
        (
            TxnOp::KvCheckIndex("none".into(), 4),
            "failed to check index, key \"none\" doesn't exist",
        ),
        (TxnOp::KvGet("none".into()), "key \"none\" doesn't exist"),
        (TxnOp::KvCheckNotExists("l".into()), "key \"l\" exists"),
        (kv(KvVerb::DeleteCas(1), "l"), "failed to delete key \"l\", index is stale"),
        (n(Get, "u"), "node \"u\" doesn't exist"),
        (n(Cas, "n1"), "failed to set node \"n1\", index is stale"),
        (n(DeleteCas, "n1"), "failed to delete node \"n1\", index is stale"),
        (
            on("n1", DeleteCas, "", "y"),
            "failed to delete service \"y\" on node \"n1\", index is stale",
        ),
        (
            on("n1", Cas, "consul", "x"),
            "failed to set service \"consul\" on node \"n1\", index is stale",
        ),
        (on("n1", Get, "", "consul"), "service \"\" on node \"n1\" doesn't exist"),
        (on("zz", Set, "y", "y"), "Missing node registration"),
        (c(Get, "n1", "", 0), "check \"y\" on node \"n1\" doesn't exist"),
        (c(DeleteCas, "n1", "", 0), "failed to delete check \"y\" on node \"n1\", index is stale"),
        (c(Cas, "n1", "", 4), "failed to set check \"y\" on node \"n1\", index is stale"),
        (c(Set, "n1", "nope", 0), "Missing service registration"),
        (c(Set, "zz", "", 0), "Missing node registration"),
    ];
    let mut store = started();
    apply(&mut store, 13, self::kv(KvVerb::Set, "l", "x"));
    apply(&mut store, 14, create(session(SESSION, "n1", &[])));
    apply(&mut store, 15, create(session(OTHER_ID, "n1", &[])));
    apply(&mut store, 16, self::kv(KvVerb::Lock(SESSION.into()), "held", "x"));
    // Operations that succeed between them leave nothing behind, and shift no position.
    let good = || {
        [
            kv(KvVerb::Set, "new"),
            n(Delete, "none"),
            on("n1", Delete, "none", "none"),
            kv(KvVerb::DeleteCas(1), "none"),
        ]
    };
    let mut ops = Vec::new();
    let mut expected = Vec::new();
    for (op, what) in table {
        ops.extend(good());
        expected.push(TxnError { op_index: ops.len(), what: what.into() });
        ops.push(op);
    }
    let applied = apply(&mut store, 17, Change::Txn(ops));
    assert_eq!(applied.reply, Reply::Txn { results: Vec::new(), errors: expected });
    assert!(applied.touched.is_empty());
    assert!(store.kv().get("new").rows.is_none());

    // What can never be right is complained of first and alone.
    let applied = apply(
        &mut store,
        18,
        Change::Txn(vec![
            kv(KvVerb::Cas(0), "l"),
            kv(KvVerb::Set, ""),
            TxnOp::KvGet(String::new()),
            kv(KvVerb::DeleteTree, ""),
            n(Set, ""),
            TxnOp::Node(Set, Box::new(node("u", "zz", "1.1.1.1"))),
            on("n1", Delete, "w", ""),
        ]),
    );
    let Reply::Txn { errors, .. } = applied.reply else { panic!("a transaction answers as one") };
    let errors: Vec<_> = errors.iter().map(|error| (error.op_index, &*error.what)).collect();
    assert_eq!(
        errors,
        [
            (1, "Must provide key"),
            (2, "Must provide key"),
            (4, "Must provide node"),
            (5, "Bad node ID: uuid string is wrong length"),
            (6, "Must provide service name with ID"),
        ]
    );
    assert!(store.kv().get("l").rows.is_some(), "not even the delete-tree was done");
}
