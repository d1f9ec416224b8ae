//! Bringing back a cluster whose majority is gone, from what one server kept on disk.
//!
//! ```text
//!   newest snapshot ─▶ every entry of the log ─▶ one snapshot with the servers that are wanted
//!                                                       │
//!                     a new cluster ID ◀── the log is cut up to it
//! ```
//!
//! It works on the folder of a server that does not run. Entries that no majority confirmed are
//! kept: nobody can tell them from those that were acknowledged. The servers become a cluster with
//! an ID of its own, so that lost ones that come back can neither outvote nor confuse it; all that
//! are recovered to the same list from the same cluster arrive at the same ID.
//!
//! The steps may be interrupted anywhere: a mark tells that they began, the server does not start
//! while it is there, and the same command ends what was begun.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::LogBackend;
use super::judge::TERM_MAX;
use super::log::sled::Sled;
use super::log::wal::Wal;
use super::log::{DiskQuota, LogStore, Record, Recovered, invalid};
use super::types::{LogId, Membership, Payload, Server, ServerId, StoredMembership, Vote};
use crate::disk;
use crate::raft::membership::promise::Promises;
use crate::raft::snapshot::files::{Coverage, Snapshots};
use crate::raft::start::open::lock;
use crate::store::Store;

/// Read at once from the log.
const READ_BYTES: usize = 4 << 20;

/// A server that is to take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its lasting identity.
    pub id: ServerId,
    /// `ip:port`; `None` keeps the one that is known.
    pub address: Option<String>,
    /// Counts towards a majority.
    pub voter: bool,
}

/// Content of a server's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderContent {
    /// Term and position of the last entry.
    pub last: (u64, u64),
    /// The servers as that log knows them, voters marked.
    pub servers: Vec<(ServerId, Server, bool)>,
    /// The cluster's ID.
    pub cluster: Option<Uuid>,
    /// Keys, nodes and instances in the state, for people to recognise it by.
    pub counts: crate::store::Counts,
}

/// Result of a recovery, or of its preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Before.
    pub kept: FolderContent,
    /// The servers afterwards, voters marked.
    pub servers: Vec<(ServerId, Server, bool)>,
    /// The cluster's ID afterwards.
    pub cluster: Uuid,
}

/// The folder of a server that does not run.
pub struct Folder {
    directory: PathBuf,
    _lock: File,
    log: Box<dyn LogStore>,
    recovered: Recovered,
    snapshots: Snapshots,
    /// Entries that are left out.
    skipped: BTreeSet<u64>,
}

impl Folder {
    /// Opens it. An error if a server is using it, or if there is nothing in it.
    pub fn open(data_dir: &Path) -> io::Result<Folder> {
        let directory = data_dir.join("raft");
        if !directory.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "there is no {}: this is not the data directory of a server",
                    directory.display()
                ),
            ));
        }
        let held = lock(&directory)?;
        let backend =
            if directory.join("sled").exists() { LogBackend::Sled } else { LogBackend::Wal };
        Folder::of(directory, held, backend)
    }

    fn of(directory: PathBuf, lock: File, backend: LogBackend) -> io::Result<Folder> {
        let (log, recovered): (Box<dyn LogStore>, Recovered) = match backend {
            LogBackend::Wal => {
                let (store, recovered) = Wal::open(&directory.join("wal"), &DiskQuota::default())?;
                (Box::new(store), recovered)
            }
            LogBackend::Sled => {
                let (store, recovered) = Sled::open(&directory.join("sled"), DiskQuota::default())?;
                (Box::new(store), recovered)
            }
        };
        let snapshots = Snapshots::open(&directory.join("snapshots"))?;
        let skipped = BTreeSet::new();
        Ok(Folder { directory, _lock: lock, log, recovered, snapshots, skipped })
    }

    /// Leaves out entries that this version cannot read. One that it can read is not left out, whatever its number.
    pub fn skipping(mut self, entries: &[u64]) -> io::Result<Folder> {
        let Recovered { first, last, .. } = self.recovered;
        let (first, last) = (first.unwrap_or(0), last.map_or(0, |id| id.index));
        for entry in entries {
            if self.recovered.last.is_none() || !(first..=last).contains(entry) {
                return Err(invalid(format!(
                    "there is no entry {entry} to skip: the log holds {first} to {last}"
                )));
            }
            if self.log.reader().read(*entry, *entry, READ_BYTES).is_ok() {
                return Err(invalid(format!(
                    "entry {entry} can be read and applied, so it is not skipped"
                )));
            }
        }
        self.skipped.extend(entries);
        Ok(self)
    }

    /// The state with everything that the log holds, whether it was confirmed or not.
    fn state(&self) -> io::Result<(LogId, Membership, Store)> {
        let (coverage, mut store) = match self.snapshots.newest(self.recovered.purged)? {
            Some((coverage, _, store)) => (coverage, store),
            None => (Coverage::default(), Store::default()),
        };
        let mut membership = coverage.membership.membership().clone();
        let mut last = coverage.last;
        let reader = self.log.reader();
        let mut next = last.map_or(self.recovered.first.unwrap_or(0), |id| id.index + 1);
        while let Some(end) = self.recovered.last.filter(|end| next <= end.index) {
            if self.skipped.contains(&next) {
                // Its term matters only if nothing follows.
                last = if next == end.index { Some(end) } else { last };
                next += 1;
                continue;
            }
            let skipped = self.skipped.range(next..).next();
            let upto = skipped.map_or(end.index, |skipped| end.index.min(skipped - 1));
            let entries = reader.read(next, upto, READ_BYTES)?;
            if entries.first().is_none_or(|entry| entry.log_id.index != next) {
                let end = end.index;
                return Err(invalid(format!("the log has no entry {next}, but one at {end}")));
            }
            for entry in entries {
                match entry.payload {
                    Payload::Blank => {}
                    Payload::Normal(proposal) => {
                        store.apply(entry.log_id.index, proposal.command());
                    }
                    Payload::Membership(agreed) => membership = agreed,
                }
                last = Some(entry.log_id);
                next = entry.log_id.index + 1;
            }
        }
        let last = last
            .ok_or_else(|| invalid("the log is empty: there is nothing to recover".to_owned()))?;
        Ok((last, membership, store))
    }

    /// Reads its content.
    pub fn kept(&self, me: ServerId) -> io::Result<FolderContent> {
        let (last, membership, store) = self.state()?;
        self.describe(me, last, &membership, &store)
    }

    fn describe(
        &self,
        me: ServerId,
        last: LogId,
        membership: &Membership,
        store: &Store,
    ) -> io::Result<FolderContent> {
        Ok(FolderContent {
            last: (last.leader_id.term, last.index),
            servers: listed(membership),
            cluster: Promises::open(me, Some(&self.directory))?
                .now()
                .map(|promise| promise.cluster),
            counts: store.counts(),
        })
    }

    /// Makes `wanted` the servers of the cluster; with `dry` only says what that would mean.
    /// `me` is the server whose folder it is.
    pub fn recover(mut self, me: ServerId, wanted: &[Wanted], dry: bool) -> io::Result<Plan> {
        let (last, membership, store) = self.state()?;
        let kept = self.describe(me, last, &membership, &store)?;
        let agreed = servers(&membership, wanted)?;
        let voters: BTreeSet<ServerId> = membership.voter_ids().collect();
        let same = agreed.voter_ids().collect::<BTreeSet<_>>() == voters;
        let mark = mark(&self.directory);
        let begun = begun(&mark)?;
        let ids: Vec<ServerId> = agreed.nodes().map(|(id, _)| *id).collect();
        let cluster = match (&begun, kept.cluster) {
            (Some(begun), _) if begun.servers == ids => begun.cluster,
            (Some(_), _) => {
                return Err(invalid(format!(
                    "a recovery to other servers was begun here: repeat it, or remove {} if you know why",
                    mark.display()
                )));
            }
            // Servers that only moved stay the cluster that they are.
            (None, Some(cluster)) if same => cluster,
            (None, before) => successor(before, &ids),
        };
        let plan = Plan { kept, servers: listed(&agreed), cluster };
        if dry {
            return Ok(plan);
        }
        let begun = Begun { servers: ids, cluster };
        disk::replace(&mark, &serde_json::to_vec(&begun).map_err(io::Error::other)?)?;
        let coverage =
            Coverage { last: Some(last), membership: StoredMembership::new(Some(last), agreed) };
        self.snapshots.write(&coverage, &store)?;
        // A term that nobody has voted in: what was promised to lost servers does not hold. One so far from the log
        // that no election can follow it was no server's.
        let voted = self.recovered.vote.map_or(0, |vote| vote.leader_id.term);
        let term = if voted > TERM_MAX { 0 } else { voted };
        let vote = Vote::new(term.max(last.leader_id.term) + 1, me);
        self.log.write(&[Record::Vote(vote), Record::Purged(last)])?;
        let founder = plan.servers.first().map_or(me, |(id, _, _)| *id);
        Promises::open(me, Some(&self.directory))?.bind(cluster, founder, true)?;
        fs::remove_file(&mark)?;
        disk::sync_folder(&self.directory)?;
        Ok(plan)
    }
}

/// A recovery in progress, so that it ends as it began.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    servers: Vec<ServerId>,
    cluster: Uuid,
}

fn mark(directory: &Path) -> PathBuf {
    directory.join("recovery.json")
}

fn begun(mark: &Path) -> io::Result<Option<Begun>> {
    match fs::read(mark) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| invalid(format!("cannot read {}: {error}", mark.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ID of the cluster that these servers make after the loss of the others.
fn successor(before: Option<Uuid>, ids: &[ServerId]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"recovered");
    hash.update(before.unwrap_or_default().as_bytes());
    for id in ids {
        hash.update(id.0.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn listed(membership: &Membership) -> Vec<(ServerId, Server, bool)> {
    let voters: BTreeSet<ServerId> = membership.voter_ids().collect();
    let nodes = membership.nodes();
    nodes.map(|(id, server)| (*id, server.clone(), voters.contains(id))).collect()
}

/// The wanted servers, with what is known of them.
fn servers(known: &Membership, wanted: &[Wanted]) -> io::Result<Membership> {
    let mut nodes = BTreeMap::new();
    let mut voters = BTreeSet::new();
    for server in wanted {
        let before = known.get_node(&server.id);
        let Some(address) = server.address.clone().or(before.map(|it| it.address.clone())) else {
            return Err(invalid(format!(
                "server {} is not known here, so its address must be given",
                server.id
            )));
        };
        let name = before.map_or_else(|| server.id.to_string(), |it| it.name.clone());
        if nodes.insert(server.id, Server { name, address }).is_some() {
            return Err(invalid(format!("server {} is named twice", server.id)));
        }
        if server.voter {
            voters.insert(server.id);
        }
    }
    if voters.is_empty() {
        return Err(invalid("at least one of the servers must vote".to_owned()));
    }
    Membership::new(vec![voters], nodes).map_err(|error| invalid(error.to_string()))
}

/// Takes `raft/peers.json` in at a start, as the reference does: an operator put it there on every
/// server that is left. Before a first start it has no meaning and is removed.
pub(super) fn take_peers(
    directory: &Path,
    lock: File,
    backend: LogBackend,
    me: ServerId,
) -> io::Result<File> {
    if let Some(begun) = begun(&mark(directory))? {
        return Err(invalid(format!(
            "a recovery to {} server(s) was begun in {} and not ended; run the same `operator recover` again",
            begun.servers.len(),
            directory.display()
        )));
    }
    let (peers, info) = (directory.join("peers.json"), directory.join("peers.info"));
    if !info.exists() {
        disk::replace(&info, PEERS_INFO.as_bytes())?;
        if peers.exists() {
            fs::remove_file(&peers)?;
            tracing::info!("deleted peers.json: this server starts for the first time");
        }
        return Ok(lock);
    }
    let text = match fs::read(&peers) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lock),
        Err(error) => return Err(error),
    };
    tracing::info!("found peers.json file, recovering Raft configuration...");
    let held = lock.try_clone()?;
    let folder = Folder::of(directory.to_owned(), lock, backend)?;
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("recovery failed: {}: {error}", peers.display()))
    };
    let (_, membership, _) = folder.state().map_err(named)?;
    let wanted = parse_peers(&text, &membership).map_err(named)?;
    let plan = folder.recover(me, &wanted, false).map_err(named)?;
    fs::remove_file(&peers)?;
    disk::sync_folder(directory)?;
    tracing::info!(
        servers = plan.servers.len(),
        "deleted peers.json file after successful recovery"
    );
    Ok(held)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Peer {
    /// Up to protocol 2: addresses alone.
    Address(String),
    /// From protocol 3 on.
    Server {
        id: ServerId,
        address: String,
        #[serde(default)]
        non_voter: bool,
    },
}

fn parse_peers(text: &[u8], known: &Membership) -> io::Result<Vec<Wanted>> {
    let peers: Vec<Peer> = serde_json::from_slice(text).map_err(|error| {
        invalid(format!(
            "it must be a list of addresses, or of objects with `id`, `address` and `non_voter`: {error}"
        ))
    })?;
    peers
        .into_iter()
        .map(|peer| match peer {
            Peer::Server { id, address, non_voter } => {
                Ok(Wanted { id, address: Some(address), voter: !non_voter })
            }
            Peer::Address(address) => {
                let found = known.nodes().find(|(_, server)| server.address == address);
                let (id, _) = found.ok_or_else(|| {
                    invalid(format!(
                        "no server is known at {address}: name servers by their `id` instead"
                    ))
                })?;
                Ok(Wanted { id: *id, address: Some(address), voter: true })
            }
        })
        .collect()
}

/// Explains `peers.json` to whoever looks into the folder.
const PEERS_INFO: &str = r#"A file `peers.json` in this folder is read once, when the server starts, and then deleted. It says
which servers make up the cluster, for the case that a majority is lost for good. Stop all servers
that are left, put the same file here on each of them, and start them:

[
  { "id": "adf4238a-882b-9ddc-4a9d-5b6758e4159e", "address": "10.1.0.1:8300", "non_voter": false },
  { "id": "8b6dda82-3103-11e7-93ae-92361f002671", "address": "10.1.0.2:8300", "non_voter": false }
]

`id` is what the file `node-id` in the server's data directory holds. A list of plain addresses is
taken, too, if the servers are still known under them.

`muster operator recover` does the same, looks first, and says what it does. Before the first start
of a server a `peers.json` has no meaning and is deleted.
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Membership {
        let server = |n: u64| {
            (n.into(), Server { name: format!("s{n}"), address: format!("10.0.0.{n}:8300") })
        };
        let nodes: BTreeMap<ServerId, Server> = (1..=3).map(server).collect();
        Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap()
    }

    #[test]
    fn both_forms_of_peers_are_read() {
        let id = ServerId::from(2);
        let by_id = format!(r#"[{{"id":"{id}","address":"10.9.0.2:1","non_voter":true}}]"#);
        let table = [
            (
                r#"["10.0.0.1:8300","10.0.0.3:8300"]"#,
                Ok(vec![(1, "10.0.0.1:8300", true), (3, "10.0.0.3:8300", true)]),
            ),
            (by_id.as_str(), Ok(vec![(2, "10.9.0.2:1", false)])),
            (r#"["10.0.0.9:8300"]"#, Err("no server is known at 10.0.0.9:8300")),
            (r#"{"a":1}"#, Err("it must be a list")),
            (r#"[{"id":"x","address":"y"}]"#, Err("it must be a list")),
        ];
        for (text, expected) in table {
            let found = parse_peers(text.as_bytes(), &known());
            match expected {
                Ok(rows) => {
                    let rows: Vec<Wanted> = rows
                        .into_iter()
                        .map(|(id, address, voter)| Wanted {
                            id: ServerId::from(id),
                            address: Some(address.to_owned()),
                            voter,
                        })
                        .collect();
                    assert_eq!(found.unwrap(), rows, "{text}");
                }
                Err(words) => assert!(found.unwrap_err().to_string().contains(words), "{text}"),
            }
        }
    }

    #[test]
    fn servers_are_wanted_with_an_address_once_and_one_votes() {
        let wanted = |n: u64, address: Option<&str>, voter| Wanted {
            id: n.into(),
            address: address.map(str::to_owned),
            voter,
        };
        let kept = servers(&known(), &[wanted(1, None, true)]).unwrap();
        assert_eq!(listed(&kept)[0].1.address, "10.0.0.1:8300");
        for (list, words) in [
            (vec![wanted(9, None, true)], "its address must be given"),
            (vec![wanted(1, None, true), wanted(1, None, true)], "named twice"),
            (vec![wanted(1, None, false)], "must vote"),
            (vec![], "must vote"),
        ] {
            let error = servers(&known(), &list).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_same_servers_of_the_same_cluster_find_each_other() {
        let cluster = Some(Uuid::from_u128(7));
        let ids = [ServerId::from(1), ServerId::from(2)];
        assert_eq!(successor(cluster, &ids), successor(cluster, &ids));
        assert_ne!(successor(cluster, &ids), successor(cluster, &ids[..1]));
        assert_ne!(successor(cluster, &ids), successor(None, &ids));
    }
}
