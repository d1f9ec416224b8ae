//! Servers and changes for the tests.

use std::path::Path;

use muster_agent::raft::{Consensus, LogBackend, Settings};
use muster_agent::store::{Change, KvChange, KvVerb};

pub(crate) const NODE_ID: &str = "6f9a3c1e-0000-4000-8000-000000000001";

/// Settings of a lone server; `None` keeps all in memory.
pub(crate) fn settings(data_dir: Option<&Path>, log_backend: LogBackend) -> Settings {
    Settings {
        data_dir: data_dir.map(Path::to_owned),
        node_id: NODE_ID.to_owned(),
        node_name: "s1".to_owned(),
        address: "127.0.0.1:8300".to_owned(),
        log_backend,
        raft_multiplier: 1,
        snapshot_threshold: 16_384,
        trailing_logs: 10_240,
    }
}

pub(crate) fn put(key: &str, value: impl Into<bytes::Bytes>) -> Change {
    Change::Kv(KvChange { verb: KvVerb::Set, key: key.to_owned(), value: value.into(), flags: 0 })
}

/// The value of a key as text.
pub(crate) fn get(consensus: &Consensus, key: &str) -> Option<String> {
    let entry = consensus.store().kv().get(key).rows?;
    Some(String::from_utf8_lossy(&entry.value).into_owned())
}
