//! What a peer of bad will, or one that is broken, sends to a server: refused, and nothing is left of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use muster_agent::raft::log::{Record, log_id};
use muster_agent::raft::recover::{Folder, Wanted};
use muster_agent::raft::snapshot::files::Coverage;
use muster_agent::raft::types::{
    Entry, LogId, Payload, Proposal, ServerId, StoredMembership, Types, Vote,
};
use muster_agent::raft::{Consensus, LogBackend};
use muster_agent::rpc::{Error, Method, Pool, Reason};
use muster_agent::store::{Change, Command, Restore, Timestamp};
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::type_config::alias::SnapshotMetaOf;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::{Cluster, PATIENCE, id, propose};
use crate::support::{BACKENDS, NODE_ID, entry, get, open, put, settings};

/// As servers write to each other.
#[derive(Serialize)]
struct Letter<T> {
    cluster: Uuid,
    from: ServerId,
    to: ServerId,
    body: T,
}

#[derive(Serialize)]
struct Invitation {
    to: ServerId,
    from: Option<ServerId>,
    asks: bool,
    cluster: Uuid,
    founder: ServerId,
    formed: bool,
    void: Vec<Uuid>,
}

#[derive(Serialize)]
struct Piece {
    vote: Vote,
    meta: SnapshotMetaOf<Types>,
    total: u64,
    offset: u64,
    bytes: Bytes,
}

fn kept_cluster(folder: &Path) -> Uuid {
    let text = fs::read(folder.join("raft/cluster.json")).unwrap();
    let promise: serde_json::Value = serde_json::from_slice(&text).unwrap();
    promise["cluster"].as_str().unwrap().parse().unwrap()
}

fn stat(cluster: &Cluster, server: usize, name: &str) -> u64 {
    let stats = cluster.consensus(server).stats();
    stats.into_iter().find(|(it, _)| *it == name).unwrap().1.parse().unwrap()
}

async fn refused(
    cluster: &Cluster,
    to: usize,
    method: Method,
    body: &(impl Serialize + Sync),
) -> String {
    let deadline = Instant::now() + PATIENCE;
    let answer: Result<serde::de::IgnoredAny, Error> =
        Pool::default().call(cluster.address(to), method, body, deadline).await;
    match answer {
        Err(Error::Refused { refusal, .. }) => {
            assert_eq!(refusal.reason, Reason::Malformed, "{method:?}: {refusal}");
            refusal.text
        }
        other => panic!("{method:?} was not refused: {other:?}"),
    }
}

/// All go on, and all start again from what they have kept.
async fn all_go_on(mut cluster: Cluster) {
    let leader = cluster.leader().await;
    propose(cluster.consensus(leader), put("after", "1")).await.unwrap();
    let count = cluster.servers.len();
    for number in 0..count {
        cluster.stop(number).await;
    }
    for number in 0..count {
        cluster.start(number).await;
    }
    let leader = cluster.leader().await;
    propose(cluster.consensus(leader), put("again", "1")).await.unwrap();
    for number in 0..count {
        let deadline = Instant::now() + PATIENCE;
        while get(cluster.consensus(number), "again").is_none() {
            assert!(Instant::now() < deadline, "{number} has not heard of it{}", cluster.picture());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(get(cluster.consensus(number), "after").is_some());
    }
    cluster.shutdown().await;
}

fn unreadable() -> Change {
    let records = Bytes::from_static(b"rows");
    Change::Restore(Restore::Rows { id: "r".into(), number: 0, format: 65_535, records })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_no_server_can_read_is_not_appended() {
    let cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let error = refused(&cluster, leader, Method::Propose, &unreadable()).await;
    assert!(error.contains("65535"), "{error}");
    let nonsense = serde_json::json!({ "Nonsense": { "at": u64::MAX } });
    refused(&cluster, leader, Method::Propose, &nonsense).await;
    refused(&cluster, leader, Method::Propose, &"x".repeat(9 << 20)).await;
    // The same in the log of another leader.
    let (from, to) = (id(leader), (leader + 1) % 3);
    let proposal = Proposal::new(Command { at: Timestamp(0), change: unreadable() });
    let (term, last) = (stat(&cluster, to, "term"), stat(&cluster, to, "last_log_index"));
    let mut vote = Vote::new(term, from);
    vote.committed = true;
    let body = AppendEntriesRequest::<Types> {
        vote,
        prev_log_id: Some(log_id(term, last)),
        entries: vec![Entry::new(log_id(term, last + 1), Payload::Normal(proposal))],
        leader_commit: None,
    };
    let cluster_id = kept_cluster(&cluster.folder.path().join("s1"));
    let letter = Letter { cluster: cluster_id, from, to: id(to), body };
    refused(&cluster, to, Method::Append, &letter).await;
    all_go_on(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_term_or_index_near_the_end_of_its_range_is_believed() {
    let cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let to = (leader + 1) % 3;
    let cluster_id = kept_cluster(&cluster.folder.path().join("s1"));
    let far = [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 32) + 1000];
    for from in [id(leader), id(77)] {
        for term in far {
            let vote = Vote::new(term, from);
            let granted = Vote { committed: true, ..vote };
            let voting = || Letter {
                cluster: cluster_id,
                from,
                to: id(to),
                body: VoteRequest::<Types>::new(vote, Some(log_id(term, term))),
            };
            refused(&cluster, to, Method::Vote, &voting()).await;
            refused(&cluster, to, Method::PreVote, &voting()).await;
            let body = AppendEntriesRequest::<Types> {
                vote: granted,
                prev_log_id: None,
                entries: Vec::new(),
                leader_commit: Some(log_id(term, term)),
            };
            let letter = Letter { cluster: cluster_id, from, to: id(to), body };
            refused(&cluster, to, Method::Append, &letter).await;
            let body = TransferLeaderRequest::<Types>::new(granted, id(to), None);
            let letter = Letter { cluster: cluster_id, from, to: id(to), body };
            refused(&cluster, to, Method::Transfer, &letter).await;
        }
    }
    // A server that nobody knows is no candidate, however modest it is.
    let body = VoteRequest::<Types>::new(Vote::new(5, id(77)), None);
    let letter = Letter { cluster: cluster_id, from: id(77), to: id(to), body };
    let error = refused(&cluster, to, Method::Vote, &letter).await;
    assert!(error.contains("not known"), "{error}");
    let term = stat(&cluster, to, "term");
    assert!(term < 1000, "term {term}");
    all_go_on(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_nobody_gave_is_not_accepted() {
    let mut cluster = Cluster::new(3, 3);
    cluster.start(0).await;
    cluster.start(1).await;
    let invitation = |from: Option<ServerId>, founder: ServerId, formed: bool| Invitation {
        to: id(1),
        from,
        asks: false,
        cluster: Uuid::new_v4(),
        founder,
        formed,
        void: Vec::new(),
    };
    for formed in [false, true] {
        let nobody = refused(&cluster, 1, Method::Form, &invitation(None, id(50), formed)).await;
        assert!(nobody.contains("gossip"), "{nobody}");
        // In the name of one that is there, and knows nothing of it; in its own name.
        refused(&cluster, 1, Method::Form, &invitation(Some(id(0)), id(0), formed)).await;
        refused(&cluster, 1, Method::Form, &invitation(Some(id(1)), id(1), formed)).await;
    }
    refused(&cluster, 1, Method::Form, &invitation(Some(id(0)), id(50), false)).await;
    assert!(
        !cluster.folder.path().join("s2/raft/cluster.json").exists(),
        "it has promised nothing"
    );
    cluster.start(2).await;
    cluster.leader().await;
    all_go_on(cluster).await;
}

/// A vote of the leader and what it could say of a snapshot.
fn covered(term: u64, leader: usize, index: u64) -> (Vote, Coverage) {
    let vote = Vote { committed: true, ..Vote::new(term, id(leader)) };
    let node = muster_agent::raft::types::Server::default();
    let voters = std::collections::BTreeSet::from([id(leader)]);
    let nodes = std::collections::BTreeMap::from([(id(leader), node)]);
    let servers = openraft::Membership::new(vec![voters], nodes).unwrap();
    let last: LogId = log_id(term, index);
    (vote, Coverage { last: Some(last), membership: StoredMembership::new(Some(last), servers) })
}

/// The beginning of a snapshot file.
fn header(coverage: &Coverage) -> Vec<u8> {
    let meta = rmp_serde::to_vec_named(coverage).unwrap();
    let mut bytes = b"MUSTSNAP".to_vec();
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(meta.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&meta).to_le_bytes());
    bytes.extend_from_slice(&meta);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_garbage_is_refused_and_leaves_nothing() {
    let cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let to = (leader + 1) % 3;
    let cluster_id = kept_cluster(&cluster.folder.path().join("s1"));
    let term = stat(&cluster, to, "term");
    let folder = cluster.folder.path().join(format!("s{}/raft/snapshots", to + 1));
    let pool = Pool::default();
    let send = |total: u64, offset: u64, bytes: Vec<u8>, index: u64| {
        let (vote, coverage) = covered(term, leader, index);
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: coverage.last,
            last_membership: coverage.membership,
        };
        let body = Piece { vote, meta, total, offset, bytes: bytes.into() };
        let letter = Letter { cluster: cluster_id, from: id(leader), to: id(to), body };
        let (pool, address) = (pool.clone(), cluster.address(to));
        async move {
            let deadline = Instant::now() + PATIENCE;
            let answer: Result<serde_json::Value, Error> =
                pool.call(address, Method::Snapshot, &letter, deadline).await;
            answer.map_err(|error| error.to_string())
        }
    };
    let (_, coverage) = covered(term, leader, 1000);
    let (_, other) = covered(term, leader, 2000);
    let sound = header(&coverage);
    let mut long = sound.clone();
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: Vec<(&str, u64, u64, Vec<u8>, u64)> = vec![
        ("ten bytes", 10, 0, vec![7; 10], 1000),
        ("the beginning of garbage", 1 << 20, 0, vec![7; 4096], 1000),
        ("nothing", 0, 0, Vec::new(), 1000),
        ("without end", u64::MAX, 0, sound.clone(), 1000),
        ("behind its end", 100, 200, vec![7; 10], 1000),
        ("longer than it says", 100, 95, vec![7; 10], 1000),
        ("an endless header", 1 << 20, 0, long, 1000),
        ("a header of another one", 1 << 20, 0, header(&other), 1000),
        ("an index without end", 1 << 20, 0, sound.clone(), u64::MAX),
        ("a piece that is too large", 8 << 20, 0, vec![7; 4 << 20], 1000),
    ];
    for (what, total, offset, bytes, index) in cases {
        let answer = send(total, offset, bytes, index).await;
        assert!(answer.is_err(), "{what}: {answer:?}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{what} left something");
    }
    // Its header is in order, so it is kept until its end, and then found out.
    let whole = [&sound[..], &[7; 1000]].concat();
    let answer = send(whole.len() as u64, 0, whole, 1000).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    all_go_on(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_read_is_named_and_can_be_given_up() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let server = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
        server.propose(put("before", "1")).await.unwrap();
        server.shutdown().await;
        drop(server);
        let name = if backend == LogBackend::Wal { "wal" } else { "sled" };
        let index = {
            let (mut log, found) = open(backend, &folder.path().join("raft").join(name)).unwrap();
            let last = found.last.unwrap();
            let (term, index) = (last.leader_id.term, last.index + 1);
            let proposal = Proposal::new(Command { at: Timestamp(0), change: unreadable() });
            let bad = Entry::new(log_id(term, index), Payload::Normal(proposal));
            let good = Record::Entry(entry(term, index + 1, 20));
            log.write(&[Record::Entry(bad), good]).unwrap();
            index
        };
        let error = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {source:?}");
        assert!(text.contains(&format!("log entry {index} ")), "{text}");
        assert!(text.contains(&format!("-skip-entry={index}")), "{text}");

        let me: ServerId = NODE_ID.parse().unwrap();
        let alone = [Wanted { id: me, address: None, voter: true }];
        let opened = || Folder::open(folder.path()).unwrap();
        assert!(opened().recover(me, &alone, true).is_err(), "it is in the way");
        let error = opened().skipping(&[index - 1]).err().expect("it can be read").to_string();
        assert!(error.contains("can be read"), "{error}");
        let error = opened().skipping(&[index + 7]).err().expect("it is not there").to_string();
        assert!(error.contains("no entry"), "{error}");
        opened().skipping(&[index]).unwrap().recover(me, &alone, false).unwrap();
        let server = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
        assert_eq!(get(&server, "before").as_deref(), Some("1"));
        assert!(get(&server, &format!("key {}", index + 1)).is_some(), "what follows it holds");
        server.propose(put("after", "1")).await.unwrap();
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_after_which_there_is_no_election_is_named_and_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let backend = LogBackend::Wal;
    let server = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
    server.propose(put("before", "1")).await.unwrap();
    server.shutdown().await;
    drop(server);
    let me: ServerId = NODE_ID.parse().unwrap();
    {
        let (mut log, _) = open(backend, &folder.path().join("raft/wal")).unwrap();
        log.write(&[Record::Vote(Vote::new(u64::MAX, id(9)))]).unwrap();
    }
    let error = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap_err();
    let text = format!("{:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(text.contains("operator recover"), "{text}");
    let alone = [Wanted { id: me, address: None, voter: true }];
    Folder::open(folder.path()).unwrap().recover(me, &alone, false).unwrap();
    let server = Consensus::start(settings(Some(folder.path()), backend)).await.unwrap();
    assert_eq!(get(&server, "before").as_deref(), Some("1"));
    server.propose(put("after", "1")).await.unwrap();
    server.shutdown().await;
}

/// The tests above send what they say: the same without the fault is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_known_server_are_taken() {
    let cluster = Cluster::formed(3).await;
    let leader = cluster.leader().await;
    let to = (leader + 1) % 3;
    let cluster_id = kept_cluster(&cluster.folder.path().join("s1"));
    let body = VoteRequest::<Types>::new(Vote::new(1, id(leader)), None);
    let letter = Letter { cluster: cluster_id, from: id(leader), to: id(to), body };
    let deadline = Instant::now() + PATIENCE;
    let answer: Result<serde::de::IgnoredAny, Error> =
        Pool::default().call(cluster.address(to), Method::PreVote, &letter, deadline).await;
    assert!(answer.is_ok(), "{answer:?}");
    cluster.shutdown().await;
}
