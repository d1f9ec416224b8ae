//! Servers, logs and changes for the tests.

use std::io;
use std::path::Path;

use muster_agent::raft::log::sled::Sled;
use muster_agent::raft::log::wal::Wal;
use muster_agent::raft::log::{DiskQuota, LogStore, Record, Recovered, log_id};
use muster_agent::raft::types::{Entry, LogId, Payload, Proposal};
use muster_agent::raft::{Consensus, LogBackend, Settings};
use muster_agent::store::{Change, Command, KvChange, KvVerb, Timestamp};
use openraft::entry::RaftEntry;

pub(crate) const NODE_ID: &str = "6f9a3c1e-0000-4000-8000-000000000001";

pub(crate) const BACKENDS: [LogBackend; 2] = [LogBackend::Wal, LogBackend::Sled];

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
        autopilot: muster_agent::store::Autopilot::default(),
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

/// An entry whose content tells its index.
pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let change = put(&format!("key {index}"), vec![b'v'; bytes]);
    let proposal = Proposal::new(Command { at: Timestamp(index), change });
    Entry::new(log_id(term, index), Payload::Normal(proposal))
}

/// Small entries of `first..=last` as records.
pub(crate) fn entries(term: u64, first: u64, last: u64) -> Vec<Record> {
    (first..=last).map(|index| Record::Entry(entry(term, index, 20))).collect()
}

pub(crate) fn open(
    backend: LogBackend,
    folder: &Path,
) -> io::Result<(Box<dyn LogStore>, Recovered)> {
    open_with(backend, folder, DiskQuota::default())
}

pub(crate) fn open_with(
    backend: LogBackend,
    folder: &Path,
    quota: DiskQuota,
) -> io::Result<(Box<dyn LogStore>, Recovered)> {
    Ok(match backend {
        LogBackend::Wal => {
            let (store, recovered) = Wal::open(folder, &quota)?;
            (Box::new(store), recovered)
        }
        LogBackend::Sled => {
            let (store, recovered) = Sled::open(folder, quota)?;
            (Box::new(store), recovered)
        }
    })
}

/// All that a store holds.
pub(crate) fn read_all(store: &dyn LogStore) -> Vec<LogId> {
    let entries = store.reader().read(0, u64::MAX - 1, usize::MAX).unwrap();
    for entry in &entries {
        let bytes = match &entry.payload {
            Payload::Normal(proposal) => proposal.command().at,
            _ => continue,
        };
        assert_eq!(bytes, Timestamp(entry.log_id.index), "the content belongs to the entry");
    }
    entries.into_iter().map(|entry| entry.log_id).collect()
}

pub(crate) fn ids(term: u64, first: u64, last: u64) -> Vec<LogId> {
    (first..=last).map(|index| log_id(term, index)).collect()
}
