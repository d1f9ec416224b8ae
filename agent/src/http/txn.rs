//! `/v1/txn`: several operations, all or nothing.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::body;
use super::decode::{self, Malformed, Object, wrong_type};
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later};
use super::payload;
use super::reply::{KNOWN_LEADER, LAST_CONTACT, Reply};
use super::routing::{self, Routes};
use super::rows::{CheckRow, Empty, EntryRow, NodeRow, Rows, ServiceRow};
use crate::acl::{Access, Resource, Token, authorize};
use crate::read::{Consistency, Options};
use crate::store::{
    CatalogVerb, Change, Found, KvChange, KvVerb, Reply as Applied, Timestamp, TxnError, TxnOp,
    TxnResult,
};

pub(super) fn routes() -> Routes {
    Routes::new().route("/v1/txn", routing::put(txn))
}

/// More operations are refused.
const OPERATIONS_MAX: usize = 64;

/// An operation as it came, and whether the reference counts it as a write.
pub(super) struct Operation {
    op: TxnOp,
    writes: bool,
}

/// Reads the list of operations. Nodes that name no datacenter are in `datacenter`.
pub(super) fn operations(
    bytes: &[u8],
    value_bytes_max: u64,
    datacenter: &str,
) -> Result<Vec<Operation>, Error> {
    let malformed = |error: Malformed| Error::invalid(format!("Failed to parse body: {error}"));
    let items = match decode::value(bytes).map_err(malformed)? {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => return Err(malformed(wrong_type("body", &other, "api.TxnOps"))),
    };
    let count = items.len();
    let mut operations = Vec::with_capacity(count.min(OPERATIONS_MAX));
    let mut too_large = None;
    for item in items {
        let mut from = Object::from(item, "api.TxnOp").map_err(malformed)?;
        let parts = [
            from.object("KV").map_err(malformed)?.map(kv),
            from.object("Node").map_err(malformed)?.map(node),
            from.object("Service").map_err(malformed)?.map(service),
            from.object("Check").map_err(malformed)?.map(check),
        ];
        from.finish().map_err(malformed)?;
        // The first part that is there counts; one without any does nothing.
        for operation in parts.into_iter().flatten().take(1) {
            let mut operation = operation.map_err(malformed)?;
            if let TxnOp::Node(_, node) = &mut operation.op
                && node.datacenter.is_empty()
            {
                datacenter.clone_into(&mut node.datacenter);
            }
            if let TxnOp::Kv(change) = &operation.op
                && change.value.len() as u64 > value_bytes_max
            {
                too_large.get_or_insert_with(|| {
                    let (key, size) = (&change.key, change.value.len());
                    format!("Value for key {key:?} is too large ({size} > {value_bytes_max} bytes)")
                });
            }
            operations.push(operation);
        }
    }
    if count > OPERATIONS_MAX {
        return Err(Error::TooLarge(format!(
            "Transaction contains too many operations ({count} > {OPERATIONS_MAX})"
        )));
    }
    match too_large {
        Some(text) => Err(Error::TooLarge(text)),
        None => Ok(operations),
    }
}

fn kv(mut from: Object) -> Result<Operation, Malformed> {
    let verb = from.string("Verb")?;
    let key = from.string("Key")?;
    let value = BASE64_STANDARD
        .decode(from.string("Value")?)
        .map_err(|_| Malformed("illegal base64 data".into()))?;
    let flags = from.unsigned("Flags")?;
    let index = from.unsigned("Index")?;
    let session = from.string("Session")?;
    let _ = from.string("Namespace")?;
    from.finish()?;
    let write = |verb| Operation {
        op: TxnOp::Kv(KvChange {
            verb,
            key: key.clone(),
            value: Bytes::from(value.clone()),
            flags,
        }),
        writes: true,
    };
    let read = |op| Operation { op, writes: false };
    Ok(match verb.as_str() {
        "set" => write(KvVerb::Set),
        "cas" => write(KvVerb::Cas(index)),
        "lock" => write(KvVerb::Lock(session.into())),
        "unlock" => write(KvVerb::Unlock(session.into())),
        "delete" => write(KvVerb::Delete),
        "delete-cas" => write(KvVerb::DeleteCas(index)),
        "delete-tree" => write(KvVerb::DeleteTree),
        "get" => read(TxnOp::KvGet(key)),
        "get-tree" => read(TxnOp::KvGetTree(key)),
        "check-index" => read(TxnOp::KvCheckIndex(key, index)),
        "check-session" => read(TxnOp::KvCheckSession(key, session.into())),
        "check-not-exists" => read(TxnOp::KvCheckNotExists(key)),
        other => read(TxnOp::Unknown(format!("unknown KV verb {other:?}"))),
    })
}

/// The verb of a catalog operation, or an operation that always fails.
fn catalog_verb(verb: &str, kind: &str) -> Result<CatalogVerb, TxnOp> {
    Ok(match verb {
        "get" => CatalogVerb::Get,
        "set" => CatalogVerb::Set,
        "cas" => CatalogVerb::Cas,
        "delete" => CatalogVerb::Delete,
        "delete-cas" => CatalogVerb::DeleteCas,
        other => return Err(TxnOp::Unknown(format!("unknown {kind} verb {other:?}"))),
    })
}

fn catalog(verb: &str, kind: &str, op: impl FnOnce(CatalogVerb) -> TxnOp) -> Operation {
    let op = catalog_verb(verb, kind).map_or_else(|unknown| unknown, op);
    Operation { writes: verb != "get", op }
}

fn node(mut from: Object) -> Result<Operation, Malformed> {
    let verb = from.string("Verb")?;
    let node = from.object("Node")?.unwrap_or_else(Object::empty);
    from.finish()?;
    let node = Box::new(body::node(node)?);
    Ok(catalog(&verb, "Node", |verb| TxnOp::Node(verb, node)))
}

fn service(mut from: Object) -> Result<Operation, Malformed> {
    let verb = from.string("Verb")?;
    let node = from.string("Node")?;
    let service = from.object("Service")?.unwrap_or_else(Object::empty);
    from.finish()?;
    let service = Box::new(body::service(service)?);
    Ok(catalog(&verb, "Service", |verb| TxnOp::Service(verb, node, service)))
}

fn check(mut from: Object) -> Result<Operation, Malformed> {
    let verb = from.string("Verb")?;
    let check = from.object("Check")?.unwrap_or_else(Object::empty);
    from.finish()?;
    let check = Box::new(body::check_in_transaction(check)?);
    Ok(catalog(&verb, "Check", |verb| TxnOp::Check(verb, check)))
}

/// Fails unless the token may do everything in the transaction.
fn authorize_all(token: &Token, operations: &[Operation]) -> Result<(), Error> {
    for Operation { op, writes } in operations {
        let access = if *writes { Access::Write } else { Access::Read };
        let resource = match op {
            TxnOp::Kv(KvChange { verb: KvVerb::DeleteTree, key, .. }) | TxnOp::KvGetTree(key) => {
                Resource::KeyPrefix(key)
            }
            TxnOp::Kv(KvChange { key, .. })
            | TxnOp::KvGet(key)
            | TxnOp::KvGetOrEmpty(key)
            | TxnOp::KvCheckIndex(key, _)
            | TxnOp::KvCheckSession(key, _)
            | TxnOp::KvCheckNotExists(key) => Resource::Key(key),
            TxnOp::Node(_, node) => Resource::Node(&node.name),
            TxnOp::Service(_, _, service) => Resource::Service(&service.name),
            TxnOp::Check(_, check) => Resource::Node(&check.node),
            TxnOp::SessionDelete(_) => Resource::Session(""),
            TxnOp::Unknown(_) => continue,
        };
        authorize(token, resource, access)?;
    }
    Ok(())
}

fn txn(request: Request) -> Result<Answer, Error> {
    let settings = &request.app.settings;
    let (body_max, value_max) = (settings.txn_body_bytes_max, settings.kv_value_bytes_max);
    if let Some(length) = request.content_length().filter(|length| *length > body_max) {
        return Err(too_large(length, body_max));
    }
    // Only read where the transaction reads alone; wrong ones do not matter to a write.
    let options = request.read_options();
    let datacenter = request.datacenter_is_here();
    let token = request.token.clone();
    let app = Arc::clone(&request.app);
    let layout = request.layout;
    let body = request.into_body();
    later(async move {
        let bytes = match payload::collect(body, body_max).await {
            Err(Error::TooLarge(_)) => return Err(too_large(body_max.saturating_add(1), body_max)),
            bytes => bytes?,
        };
        let operations = operations(&bytes, value_max, &app.parts.datacenter)?;
        drop(bytes);
        let writes = operations.iter().any(|operation| operation.writes);
        if writes {
            datacenter?;
            authorize_all(&token, &operations)?;
            let ops = operations.into_iter().map(|operation| operation.op).collect();
            let (applied, _) = app.propose(Change::Txn(ops)).await?;
            return Ok(reply(applied, None, layout));
        }
        let options = Options { index: 0, ..options?.options };
        datacenter?;
        authorize_all(&token, &operations)?;
        let ops: Vec<TxnOp> = operations.into_iter().map(|operation| operation.op).collect();
        let outcome = app
            .reader()?
            .read(options, |store| Found {
                // No operation that reads asks for the time.
                rows: store.txn_read(Timestamp(0), &ops),
                index: store.index(),
                scopes: Vec::new(),
            })
            .await?;
        let stale = matches!(outcome.consistency, Consistency::Stale { .. });
        let contact = if stale { outcome.last_contact.as_millis() } else { 0 };
        let meta = ReadMeta { known_leader: outcome.known_leader, last_contact_ms: contact };
        Ok(reply(outcome.found.rows.clone(), Some(meta), layout))
    })
}

fn too_large(found: u64, limit: u64) -> Error {
    Error::TooLarge(format!(
        "Request body({found} bytes) too large, max size: {limit} bytes. See \
         https://www.consul.io/docs/agent/options.html#txn_max_req_len."
    ))
}

/// Additional fields in the answer of a transaction that only reads.
#[derive(Clone, Copy)]
struct ReadMeta {
    known_leader: bool,
    last_contact_ms: u128,
}

fn reply(applied: Applied, meta: Option<ReadMeta>, layout: super::encode::Layout) -> Reply {
    let (results, errors) = match applied {
        Applied::Txn { results, errors } => (results, errors),
        _ => (Vec::new(), Vec::new()),
    };
    let failed = !errors.is_empty();
    let mut reply = Reply::json(&TxnReply { results: &results, errors: &errors, meta }, layout);
    if failed {
        reply.status = StatusCode::CONFLICT;
    }
    if let Some(meta) = meta {
        reply.meta(0, meta.known_leader, meta.last_contact_ms);
        // Transactions have no index of their own.
        reply.headers.remove(super::reply::INDEX);
        debug_assert!(reply.headers.contains_key(KNOWN_LEADER));
        debug_assert!(reply.headers.contains_key(LAST_CONTACT));
    }
    reply
}

struct TxnReply<'a> {
    results: &'a [TxnResult],
    errors: &'a [TxnError],
    meta: Option<ReadMeta>,
}

impl Serialize for TxnReply<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let failed = !self.errors.is_empty();
        let mut map = to.serialize_map(None)?;
        let results = Rows(self.results.iter().map(ResultRow));
        map.serialize_entry("Results", &(!failed).then_some(results))?;
        let errors = Rows(self.errors.iter().map(ErrorRow::from));
        map.serialize_entry("Errors", &failed.then_some(errors))?;
        if let Some(meta) = self.meta {
            map.serialize_entry("Index", &0)?;
            map.serialize_entry("LastContact", &(meta.last_contact_ms * 1_000_000))?;
            map.serialize_entry("KnownLeader", &meta.known_leader)?;
            map.serialize_entry("ConsistencyLevel", "")?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorRow<'a> {
    op_index: usize,
    what: &'a str,
}

impl<'a> From<&'a TxnError> for ErrorRow<'a> {
    fn from(error: &'a TxnError) -> Self {
        ErrorRow { op_index: error.op_index, what: &error.what }
    }
}

struct ResultRow<'a>(&'a TxnResult);

impl Serialize for ResultRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        match self.0 {
            TxnResult::Kv(entry, with_value) => {
                map.serialize_entry("KV", &EntryRow::new(entry, *with_value))?;
            }
            TxnResult::Node(node) => map.serialize_entry("Node", &NodeRow::from(&**node))?,
            TxnResult::Service(service) => {
                map.serialize_entry("Service", &ServiceRow::new(service, Empty::Null))?;
            }
            TxnResult::Check(check) => {
                map.serialize_entry("Check", &CheckRow::new(check, Empty::Null))?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// JSON that often looks like a transaction.
    fn bodies() -> impl Strategy<Value = String> {
        let verb = prop_oneof!["set", "get", "cas", "lock", "delete-tree", "check-index", ".{0,5}"];
        let field = prop_oneof!["Verb", "Key", "Value", "Flags", "Index", "Session", ".{0,5}"];
        let scalar = prop_oneof![
            verb.prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
            Just(Value::from("aGk=")),
        ];
        let object = prop::collection::vec((field, scalar), 0..6)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()));
        let kind = prop_oneof!["KV", "Node", "Service", "Check", "Bogus"];
        let operation = (kind, object)
            .prop_map(|(kind, fields)| Value::Object([(kind, fields)].into_iter().collect()));
        prop::collection::vec(operation, 0..70).prop_map(|items| Value::Array(items).to_string())
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in bodies()) {
            match operations(body.as_bytes(), 100, "dc1") {
                Ok(operations) => prop_assert!(operations.len() <= OPERATIONS_MAX),
                Err(error) => prop_assert!(error.status().is_client_error()),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = operations(&body, 100, "dc1") {
                prop_assert!(error.status().is_client_error());
            }
        }
    }
}
