//! Transactions: several operations, all or nothing.
//!
//! Operations see what earlier ones of the same transaction did. If any fails, every error is
//! reported and nothing was done. As in the reference, operations that cannot be right whatever
//! the state (no key, no name) and locks within a lock-delay are complained of first and alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalog::{validate_node_id, validate_service_name};
use super::refusal::{Quoted, Refusal};
use super::scope::ApplyContext;
use super::session::canonical;
use super::{
    Catalog, Check, Entry, Index, KvChange, KvVerb, Node, Reply, Service, SessionId, Store,
    Timestamp,
};

/// One operation. `check_*` verbs only test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnOp {
    /// A write to the key-value table.
    Kv(KvChange),
    /// Reads a key; fails if it does not exist.
    KvGet(String),
    /// Reads a key; an absent one yields a row with no value and no indexes.
    KvGetOrEmpty(String),
    /// Reads every key under a prefix.
    KvGetTree(String),
    /// Fails unless the key's ModifyIndex is this.
    KvCheckIndex(String, u64),
    /// Fails unless the key is locked by this session.
    KvCheckSession(String, SessionId),
    /// Fails if the key exists.
    KvCheckNotExists(String),
    /// Node operations.
    Node(CatalogVerb, Box<Node>),
    /// Service operations on a node.
    Service(CatalogVerb, String, Box<Service>),
    /// Check operations.
    Check(CatalogVerb, Box<Check>),
    /// Ends a session.
    SessionDelete(SessionId),
    /// An operation that the interface could not parse; always fails with this text (`unknown KV verb "zap"`),
    /// beside the errors of the other operations.
    Unknown(String),
}

/// Kind of a catalog operation in a transaction. `Cas` and `DeleteCas` compare with the row's
/// own `modify_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogVerb {
    /// Reads; fails if absent.
    Get,
    /// Writes.
    Set,
    /// Writes if unchanged; 0 means: must not exist.
    Cas,
    /// Removes.
    Delete,
    /// Removes if unchanged.
    DeleteCas,
}

/// A row that an operation yields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnResult {
    /// A key; its value is to be shown only if `true`, for reads.
    Kv(Arc<Entry>, bool),
    /// A node.
    Node(Arc<Node>),
    /// A service.
    Service(Arc<Service>),
    /// A check.
    Check(Arc<Check>),
}

/// Failure of one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TxnError {
    /// Position in the list of operations.
    pub op_index: usize,
    /// The reference's text.
    pub what: String,
}

impl TxnOp {
    /// Does it only read? Transactions of such operations need no log.
    pub fn is_read(&self) -> bool {
        match self {
            TxnOp::KvGet(_)
            | TxnOp::KvGetOrEmpty(_)
            | TxnOp::KvGetTree(_)
            | TxnOp::KvCheckIndex(..)
            | TxnOp::KvCheckSession(..)
            | TxnOp::KvCheckNotExists(_) => true,
            TxnOp::Node(verb, _) | TxnOp::Service(verb, ..) | TxnOp::Check(verb, _) => {
                *verb == CatalogVerb::Get
            }
            TxnOp::Kv(_) | TxnOp::SessionDelete(_) | TxnOp::Unknown(_) => false,
        }
    }
}

impl Store {
    /// Answers a transaction of operations that only read, without the log. Whatever an
    /// operation would have written is lost with the copy that it is tried on.
    pub fn txn_read(&self, at: Timestamp, ops: &[TxnOp]) -> Reply {
        let mut context = ApplyContext::new(self.index, at);
        apply(&mut self.clone(), &mut context, ops)
    }
}

/// Does all operations, or none and reports every error.
pub(super) fn apply(store: &mut Store, context: &mut ApplyContext, ops: &[TxnOp]) -> Reply {
    let failed =
        |(op_index, refusal): (usize, Refusal)| TxnError { op_index, what: refusal.to_string() };
    let mut errors: Vec<TxnError> = ops
        .iter()
        .enumerate()
        .filter_map(|(position, op)| Some((position, validate(store, context.at, op).err()?)))
        .map(failed)
        .collect();
    let mut results = Vec::new();
    if errors.is_empty() {
        let before = store.clone();
        for (position, op) in ops.iter().enumerate() {
            let outcome = store.operate(context, op, &mut results);
            store.end_orphaned_sessions(context);
            errors.extend(outcome.err().map(|refusal| failed((position, refusal))));
        }
        if !errors.is_empty() {
            *store = before;
            *context = ApplyContext::new(context.index, context.at);
            results.clear();
        }
    }
    Reply::Txn { results, errors }
}

/// Checks an operation before any of the transaction is applied.
fn validate(store: &Store, at: Timestamp, op: &TxnOp) -> Result<(), Refusal> {
    match op {
        TxnOp::Kv(KvChange { verb, key, .. }) => {
            if key.is_empty() && *verb != KvVerb::DeleteTree {
                return Err(Refusal::KeyMissing);
            }
            if matches!(verb, KvVerb::Lock(_)) && store.sessions.delayed(at, key) {
                let what = format!("failed to lock key {} due to lock delay", Quoted(key));
                return Err(Refusal::Text(what));
            }
            Ok(())
        }
        TxnOp::KvGet(key)
        | TxnOp::KvGetOrEmpty(key)
        | TxnOp::KvGetTree(key)
        | TxnOp::KvCheckIndex(key, _)
        | TxnOp::KvCheckSession(key, _)
        | TxnOp::KvCheckNotExists(key)
            if key.is_empty() =>
        {
            Err(Refusal::KeyMissing)
        }
        // As in the reference, reads look for what they were given, whatever that is.
        TxnOp::Node(CatalogVerb::Get, _) | TxnOp::Service(CatalogVerb::Get, ..) => Ok(()),
        TxnOp::Node(_, node) if node.name.is_empty() => Err(Refusal::NodeNameMissing),
        TxnOp::Node(_, node) => validate_node_id(&node.id),
        TxnOp::Service(_, _, service) => validate_service_name(service),
        _ => Ok(()),
    }
}

impl Store {
    fn operate(
        &mut self,
        context: &mut ApplyContext,
        op: &TxnOp,
        results: &mut Vec<TxnResult>,
    ) -> Result<(), Refusal> {
        match op {
            TxnOp::Kv(change) => self.operate_write(context, change, results)?,
            TxnOp::KvGet(key) => {
                let entry =
                    self.kv.get(key).rows.ok_or_else(|| {
                        Refusal::Text(format!("key {} doesn't exist", Quoted(key)))
                    })?;
                results.push(TxnResult::Kv(entry, true));
            }
            TxnOp::KvGetOrEmpty(key) => {
                let entry = self.kv.get(key).rows.unwrap_or_else(|| Arc::new(Entry::absent(key)));
                results.push(TxnResult::Kv(entry, true));
            }
            TxnOp::KvGetTree(prefix) => {
                let rows = self.kv.list(prefix).rows;
                results.extend(rows.into_iter().map(|entry| TxnResult::Kv(entry, true)));
            }
            TxnOp::KvCheckIndex(key, expected) => {
                let entry = self.tested(key, "index")?;
                let current = entry.modify_index;
                if current != *expected {
                    return Err(Refusal::Text(format!(
                        "failed index check for key {}, current modify index {current} != {expected}",
                        Quoted(key)
                    )));
                }
                results.push(TxnResult::Kv(entry, false));
            }
            TxnOp::KvCheckSession(key, expected) => {
                let entry = self.tested(key, "session")?;
                let current = entry.session.as_deref().unwrap_or("");
                if canonical(expected) != current {
                    return Err(Refusal::Text(format!(
                        "failed session check for key {}, current session {} != {}",
                        Quoted(key),
                        Quoted(current),
                        Quoted(expected)
                    )));
                }
                results.push(TxnResult::Kv(entry, false));
            }
            TxnOp::KvCheckNotExists(key) => {
                if self.kv.get(key).rows.is_some() {
                    return Err(Refusal::Text(format!("key {} exists", Quoted(key))));
                }
            }
            TxnOp::Node(verb, node) => {
                results
                    .extend(self.catalog.operate_node(context, *verb, node)?.map(TxnResult::Node));
            }
            TxnOp::Service(verb, node, service) => {
                let row = self.catalog.operate_service(context, *verb, node, service)?;
                results.extend(row.map(TxnResult::Service));
            }
            TxnOp::Check(verb, check) => {
                let row = self.catalog.operate_check(context, *verb, check)?;
                results.extend(row.map(TxnResult::Check));
            }
            TxnOp::SessionDelete(id) => self.end_session(context, id),
            TxnOp::Unknown(what) => return Err(Refusal::Text(what.clone())),
        }
        Ok(())
    }

    /// A write to a key. What a single write answers with `false` is an error here.
    fn operate_write(
        &mut self,
        context: &mut ApplyContext,
        change: &KvChange,
        results: &mut Vec<TxnResult>,
    ) -> Result<(), Refusal> {
        let key = Quoted(&change.key);
        if self.change_key(context, change)? == Reply::Decided(false) {
            return Err(Refusal::Text(match change.verb {
                KvVerb::Cas(_) => format!("failed to set key {key}, index is stale"),
                KvVerb::DeleteCas(_) => format!("failed to delete key {key}, index is stale"),
                KvVerb::Unlock(_) => format!(
                    "failed to unlock key {key}, lock isn't held, or is held by another session"
                ),
                _ => format!("failed to lock key {key}, lock is already held"),
            }));
        }
        let deletes =
            matches!(change.verb, KvVerb::Delete | KvVerb::DeleteCas(_) | KvVerb::DeleteTree);
        if !deletes {
            results.extend(self.kv.get(&change.key).rows.map(|entry| TxnResult::Kv(entry, false)));
        }
        Ok(())
    }

    fn tested(&self, key: &str, what: &str) -> Result<Arc<Entry>, Refusal> {
        self.kv.get(key).rows.ok_or_else(|| {
            Refusal::Text(format!("failed to check {what}, key {} doesn't exist", Quoted(key)))
        })
    }
}

/// May a compare-and-set of a row go ahead? `expected` 0 means: must not exist.
fn unchanged(current: Option<Index>, expected: Index) -> bool {
    current.unwrap_or(0) == expected
}

/// The id of the row that an operation is about. As in the reference, only writes take a missing one from the name.
fn wanted_id<'a>(verb: CatalogVerb, id: &'a str, name: &'a str) -> &'a str {
    if id.is_empty() && verb != CatalogVerb::Get { name } else { id }
}

impl Catalog {
    fn operate_node(
        &mut self,
        context: &mut ApplyContext,
        verb: CatalogVerb,
        node: &Node,
    ) -> Result<Option<Arc<Node>>, Refusal> {
        let stale = |what: &str| {
            Refusal::Text(format!("failed to {what} node {}, index is stale", Quoted(&node.name)))
        };
        let current = self.node_named(&node.name).map(|row| row.modify_index);
        match verb {
            CatalogVerb::Get => {}
            CatalogVerb::Cas if !unchanged(current, node.modify_index) => return Err(stale("set")),
            CatalogVerb::Set | CatalogVerb::Cas => self.ensure_node(context, node)?,
            CatalogVerb::DeleteCas if current.is_none_or(|index| index != node.modify_index) => {
                return Err(stale("delete"));
            }
            CatalogVerb::Delete | CatalogVerb::DeleteCas => {
                self.remove_node(context, &node.name);
                return Ok(None);
            }
        }
        let row = if node.id.is_empty() {
            self.node_named(&node.name)
        } else {
            validate_node_id(&node.id).map_err(|refusal| match refusal {
                Refusal::NodeId(why) => {
                    let id = &node.id;
                    Refusal::Text(format!("node lookup by ID failed, wrong UUID: {why} for '{id}'"))
                }
                other => other,
            })?;
            self.node_with_id(&node.id)
        };
        match row {
            Some(row) => Ok(Some(row.clone())),
            None => Err(Refusal::Text(format!("node {} doesn't exist", Quoted(&node.name)))),
        }
    }

    fn operate_service(
        &mut self,
        context: &mut ApplyContext,
        verb: CatalogVerb,
        node: &str,
        service: &Service,
    ) -> Result<Option<Arc<Service>>, Refusal> {
        let id = wanted_id(verb, &service.id, &service.name);
        let place = || format!("service {} on node {}", Quoted(id), Quoted(node));
        let stale =
            |what: &str| Refusal::Text(format!("failed to {what} {}, index is stale", place()));
        let current = self.node_service(node, id).map(|row| row.modify_index);
        match verb {
            CatalogVerb::Get => {}
            CatalogVerb::Cas if !unchanged(current, service.modify_index) => {
                return Err(stale("set"));
            }
            CatalogVerb::Set | CatalogVerb::Cas => self.ensure_service(context, node, service)?,
            CatalogVerb::DeleteCas if current.is_none_or(|index| index != service.modify_index) => {
                return Err(stale("delete"));
            }
            CatalogVerb::Delete | CatalogVerb::DeleteCas => {
                self.remove_service(context, node, id);
                return Ok(None);
            }
        }
        match self.node_service(node, id) {
            Some(row) => Ok(Some(row.clone())),
            None => Err(Refusal::Text(format!("{} doesn't exist", place()))),
        }
    }

    fn operate_check(
        &mut self,
        context: &mut ApplyContext,
        verb: CatalogVerb,
        check: &Check,
    ) -> Result<Option<Arc<Check>>, Refusal> {
        let (node, id) = (&*check.node, wanted_id(verb, &check.id, &check.name));
        let place = || format!("check {} on node {}", Quoted(id), Quoted(node));
        let stale =
            |what: &str| Refusal::Text(format!("failed to {what} {}, index is stale", place()));
        let current = self.node_check(node, id).map(|row| row.modify_index);
        match verb {
            CatalogVerb::Get => {}
            CatalogVerb::Cas if !unchanged(current, check.modify_index) => {
                return Err(stale("set"));
            }
            CatalogVerb::Set | CatalogVerb::Cas => self.ensure_check(context, node, check)?,
            CatalogVerb::DeleteCas if current.is_none_or(|index| index != check.modify_index) => {
                return Err(stale("delete"));
            }
            CatalogVerb::Delete | CatalogVerb::DeleteCas => {
                self.remove_check(context, node, id);
                return Ok(None);
            }
        }
        match self.node_check(node, id) {
            Some(row) => Ok(Some(row.clone())),
            None => Err(Refusal::Text(format!("{} doesn't exist", place()))),
        }
    }
}
