//! The state as versioned bytes, streamed and checked.
//!
//! ```text
//! magic "MUSTER\0S" | format: u16
//! block*            | length: u32 (not 0) | CRC32 of the payload: u32 | payload
//! footer            | 0: u32              | CRC32 of all blocks' CRCs: u32 | records: u64
//!
//! payload = record* = kind: u8 length + text | length: u32 | MessagePack with named fields
//! ```
//!
//! | format | came with |
//! |---|---|
//! | 1 | nodes, checks, services, keys, tombstones, sessions, lock-delays |
//! | 2 | `autopilot`; `staging`, and rows under `staged/`: a state that is on its way in |
//! | 3 | `acl-…`: tokens, policies, roles, ways to log in, and what logins grant |
//!
//! All numbers are big-endian. The first record is the header. A program ignores fields that it
//! does not know; a record of a kind that it does not know is an error, since leaving it out
//! would lose a part of the truth. Rows come sorted, so equal states give equal bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::acl;
use super::catalog::Indexes;
use super::kv::KvIndexes;
use super::restore::Staging;
use super::{Autopilot, Check, Counts, Entry, Index, Node, Service, Session, Store, Timestamp};

const MAGIC: [u8; 8] = *b"MUSTER\0S";
/// Of the whole file. A new kind of record needs a new format, a new field does not.
pub const FORMAT: u16 = 3;
/// Of a state without rows of access control: servers of the version before can read it during an upgrade.
const FORMAT_WITHOUT_ACL: u16 = 2;
/// A block is closed once it holds so much; one large record may make it longer.
const BLOCK_TARGET: usize = 64 * 1024;
/// Before the kinds of rows that belong to a state on its way in.
const STAGED: &str = "staged/";
/// Largest block that a reader accepts: more than any record that the limits on values and requests allow.
const BLOCK_MAX: u32 = 1 << 30;

/// Bytes are not a snapshot that this program can read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed. A file that ends early fails so too.
    #[error("snapshot could not be read or written")]
    Io(#[from] io::Error),
    /// Something else altogether.
    #[error("not a snapshot")]
    Magic,
    /// Written by a newer program.
    #[error("snapshot has format {0}; this program knows formats up to {FORMAT}")]
    Format(u16),
    /// Written by a newer program.
    #[error("snapshot has a record of the unknown kind `{0}`; a newer program wrote it")]
    Kind(String),
    /// Damaged on the way or on the disk.
    #[error("snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// No index that a state can have.
    #[error("snapshot has index `{index}`; the highest that is taken is `{max}`")]
    Index {
        /// The announced index.
        index: Index,
        /// Largest accepted index.
        max: Index,
    },
    /// Its rows are of a later time than it is.
    #[error("snapshot has index `{index}` and a row of index `{row}`, which is above it")]
    Below {
        /// The announced index.
        index: Index,
        /// The highest of its rows and tables.
        row: Index,
    },
    /// A record that is none.
    #[error("snapshot has a malformed record of kind `{kind}`")]
    Record {
        /// Which kind.
        kind: String,
        /// The decoder's error.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// Header of a snapshot, before its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) index: Index,
    /// Indexes are so far ahead of the log.
    #[serde(default)]
    ahead: Index,
    nodes: u64,
    checks: u64,
    services: u64,
    keys: u64,
    sessions: u64,
    /// Rows of access control.
    #[serde(default)]
    acl: u64,
}

#[derive(Serialize, Deserialize)]
struct Tombstone {
    key: Arc<str>,
    index: Index,
}

#[derive(Serialize, Deserialize)]
struct LockDelay {
    key: Arc<str>,
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct ServiceIndex {
    name: Arc<str>,
    index: Index,
}

#[derive(Serialize, Deserialize)]
struct TableIndexes {
    catalog: Indexes,
    kv: KvIndexes,
    sessions: Index,
    #[serde(default)]
    acl: acl::Indexes,
}

impl Header {
    /// Does it announce the same rows?
    pub(super) fn same_rows(&self, other: &Header) -> bool {
        let here = |header: &Header| Header { index: 0, ahead: 0, ..header.clone() };
        here(self) == here(other)
    }

    pub(super) fn of(store: &Store) -> Header {
        let Counts { nodes, instances, checks, keys, sessions, .. } = store.counts();
        Header {
            index: store.index,
            ahead: store.ahead,
            nodes: nodes as u64,
            checks: checks as u64,
            services: instances as u64,
            keys: keys as u64,
            sessions: sessions as u64,
            acl: store.acl.len() as u64,
        }
    }
}

/// The lowest format that has all kinds of records that `store` needs.
pub fn format_of(store: &Store) -> u16 {
    let staged = store.staging.as_ref().map_or(0, |staging| staging.store().acl.len());
    if store.acl.len() + staged > 0 { FORMAT } else { FORMAT_WITHOUT_ACL }
}

/// Writes `store` to `out`, in blocks: memory does not grow with the state.
pub fn write(store: &Store, out: impl Write) -> Result<(), Error> {
    let mut blocks = Blocks::new(out, format_of(store))?;
    blocks.record("", "header", &Header::of(store))?;
    rows(store, "", &mut blocks)?;
    if let Some(staging) = &store.staging {
        blocks.record("", "staging", &staging.outline())?;
        rows(staging.store(), STAGED, &mut blocks)?;
    }
    blocks.finish()
}

/// Gives the records of `store` in pieces of about `bytes_max` to `take`, in order and without
/// their envelope: for the log, which has its own.
pub fn pieces(
    store: &Store,
    bytes_max: usize,
    take: impl FnMut(Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut pieces = Pieces { bytes_max, take, piece: Vec::new(), body: Vec::new() };
    pieces.record("", "header", &Header::of(store))?;
    rows(store, "", &mut pieces)?;
    pieces.hand_over()
}

/// Takes the records of one of the pieces that [`pieces`] gave.
pub(super) fn take_piece(
    store: &mut Store,
    header: &mut Option<Header>,
    mut piece: &[u8],
) -> Result<(), Error> {
    while !piece.is_empty() {
        let (kind, body) = split_record(&mut piece)?;
        restore(store, header, kind, body)?;
    }
    Ok(())
}

/// Takes records one by one.
trait Sink {
    /// The record's kind is `prefix` and `kind` together.
    fn record(&mut self, prefix: &str, kind: &str, row: &impl Serialize) -> Result<(), Error>;
}

/// All rows of a store but its header, sorted.
fn rows(store: &Store, prefix: &str, sink: &mut impl Sink) -> Result<(), Error> {
    let (catalog, kv, sessions) = (&store.catalog, &store.kv, &store.sessions);
    let indexes = TableIndexes {
        catalog: catalog.indexes().clone(),
        kv: kv.indexes(),
        sessions: sessions.index(),
        acl: store.acl.indexes(),
    };
    sink.record(prefix, "indexes", &indexes)?;
    for node in catalog.node_rows() {
        sink.record(prefix, "node", &**node)?;
    }
    for check in catalog.check_rows() {
        sink.record(prefix, "check", &**check)?;
    }
    for service in catalog.service_rows() {
        sink.record(prefix, "service", &**service)?;
    }
    for (name, index) in catalog.service_indexes() {
        let row = ServiceIndex { name: name.clone(), index: *index };
        sink.record(prefix, "service-index", &row)?;
    }
    for entry in kv.entries() {
        sink.record(prefix, "kv", &**entry)?;
    }
    for (key, index) in kv.stones() {
        sink.record(prefix, "tombstone", &Tombstone { key: key.clone(), index: *index })?;
    }
    for session in sessions.rows() {
        sink.record(prefix, "session", &**session)?;
    }
    for (key, until) in sessions.delays() {
        sink.record(prefix, "lock-delay", &LockDelay { key: key.clone(), until: *until })?;
    }
    if let Some(autopilot) = &store.autopilot {
        sink.record(prefix, "autopilot", &**autopilot)?;
    }
    acl_rows(&store.acl, prefix, sink)
}

/// Rows of access control. Binding rules come after the ways to log in that they belong to.
fn acl_rows(acl: &acl::Acl, prefix: &str, sink: &mut impl Sink) -> Result<(), Error> {
    for policy in acl.policy_rows() {
        sink.record(prefix, "acl-policy", &**policy)?;
    }
    for role in acl.role_rows() {
        sink.record(prefix, "acl-role", &**role)?;
    }
    for method in acl.method_rows() {
        sink.record(prefix, "acl-auth-method", &**method)?;
    }
    for rule in acl.rule_rows() {
        sink.record(prefix, "acl-binding-rule", &**rule)?;
    }
    for token in acl.token_rows() {
        sink.record(prefix, "acl-token", &**token)?;
    }
    Ok(())
}

/// Reads a store. Whatever the bytes are, it neither panics nor allocates more than they are
/// worth. The store's epoch is 0: see [`Store::restored_over`].
pub fn read(mut from: impl Read) -> Result<Store, Error> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(Error::Magic);
    }
    let format = u16::from_be_bytes(bytes(&mut from)?);
    if format > FORMAT || format == 0 {
        return Err(Error::Format(format));
    }
    let mut store = Store::default();
    let mut header = None;
    let mut records = 0u64;
    let mut crcs = crc32fast::Hasher::new();
    loop {
        let length = u32::from_be_bytes(bytes(&mut from)?);
        let crc: [u8; 4] = bytes(&mut from)?;
        if length == 0 {
            if u32::from_be_bytes(crc) != crcs.finalize() {
                return Err(Error::Damaged("a block is missing or twice there"));
            }
            if u64::from_be_bytes(bytes(&mut from)?) != records {
                return Err(Error::Damaged("records are missing"));
            }
            break;
        }
        if length > BLOCK_MAX {
            return Err(Error::Damaged("a block is too long"));
        }
        crcs.update(&crc);
        let payload = block(&mut from, length)?;
        if crc32fast::hash(&payload) != u32::from_be_bytes(crc) {
            return Err(Error::Damaged("a block's checksum is wrong"));
        }
        let mut rest = &*payload;
        while !rest.is_empty() {
            let (kind, body) = split_record(&mut rest)?;
            restore(&mut store, &mut header, kind, body)?;
            records += 1;
        }
    }
    if header != Some(Header::of(&store)) {
        return Err(Error::Damaged("rows are missing or twice there"));
    }
    Ok(store)
}

/// Exactly `length` bytes; memory grows with what really comes, not with what was announced.
fn block(from: &mut impl Read, length: u32) -> Result<Vec<u8>, Error> {
    let mut payload = Vec::with_capacity((length as usize).min(BLOCK_TARGET * 2));
    from.by_ref().take(u64::from(length)).read_to_end(&mut payload)?;
    if payload.len() < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(payload)
}

fn split_record<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, &'a [u8]), Error> {
    let fault = Error::Damaged("a record runs over its block");
    let kind_length = usize::from(u8::from_be_bytes(
        bytes(rest).map_err(|_| Error::Damaged("a record has no kind"))?,
    ));
    let Some((kind, tail)) = rest.split_at_checked(kind_length) else { return Err(fault) };
    *rest = tail;
    let kind = str::from_utf8(kind).map_err(|_| Error::Damaged("a record's kind is no text"))?;
    let Ok(length) = bytes(rest).map(u32::from_be_bytes) else { return Err(fault) };
    let Some((body, tail)) = rest.split_at_checked(length as usize) else { return Err(fault) };
    *rest = tail;
    Ok((kind, body))
}

fn restore(
    store: &mut Store,
    header: &mut Option<Header>,
    kind: &str,
    body: &[u8],
) -> Result<(), Error> {
    fn decode<T: DeserializeOwned>(kind: &str, body: &[u8]) -> Result<T, Error> {
        rmp_serde::from_slice(body)
            .map_err(|source| Error::Record { kind: kind.to_owned(), source })
    }
    if let Some(kind) = kind.strip_prefix(STAGED) {
        let Some(staging) = &mut store.staging else {
            return Err(Error::Damaged("rows of a state on its way in, without its outline"));
        };
        return restore(staging.store_mut(), &mut None, kind, body);
    }
    match kind {
        "header" => {
            let told: Header = decode(kind, body)?;
            store.index = told.index;
            store.ahead = told.ahead;
            *header = Some(told);
        }
        "indexes" => {
            let indexes: TableIndexes = decode(kind, body)?;
            store.catalog.restore_indexes(indexes.catalog);
            store.kv.restore_indexes(&indexes.kv);
            store.sessions.restore_index(indexes.sessions);
            store.acl.restore_indexes(&indexes.acl);
        }
        "node" => store.catalog.restore_node(decode::<Node>(kind, body)?),
        "check" => {
            if !store.catalog.restore_check(decode::<Check>(kind, body)?) {
                return Err(Error::Damaged("a check without its node"));
            }
        }
        "service" => {
            if !store.catalog.restore_service(decode::<Service>(kind, body)?) {
                return Err(Error::Damaged("a service without its node, or twice there"));
            }
        }
        "service-index" => {
            let ServiceIndex { name, index } = decode(kind, body)?;
            store.catalog.restore_service_index(name, index);
        }
        "kv" => store.kv.restore_entry(decode::<Entry>(kind, body)?),
        "tombstone" => {
            let Tombstone { key, index } = decode(kind, body)?;
            store.kv.restore_tombstone(key, index);
        }
        "session" => store.sessions.restore_session(decode::<Session>(kind, body)?),
        "lock-delay" => {
            let LockDelay { key, until } = decode(kind, body)?;
            store.sessions.restore_delay(key, until);
        }
        "autopilot" => store.autopilot = Some(Arc::new(decode::<Autopilot>(kind, body)?)),
        "acl-policy" => store.acl.restore_policy(decode(kind, body)?),
        "acl-role" => store.acl.restore_role(decode(kind, body)?),
        "acl-auth-method" => store.acl.restore_method(decode(kind, body)?),
        "acl-binding-rule" => store.acl.restore_rule(decode(kind, body)?),
        "acl-token" => store.acl.restore_token(decode(kind, body)?),
        "staging" => store.staging = Some(Staging::from_outline(decode(kind, body)?)),
        unknown => return Err(Error::Kind(unknown.to_owned())),
    }
    Ok(())
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Collects records into checksummed blocks.
struct Blocks<W> {
    out: W,
    payload: Vec<u8>,
    body: Vec<u8>,
    records: u64,
    crcs: crc32fast::Hasher,
}

/// Appends one record. `body` is scratch space.
fn append(
    to: &mut Vec<u8>,
    body: &mut Vec<u8>,
    kind: [&str; 2],
    row: &impl Serialize,
) -> Result<(), Error> {
    body.clear();
    rmp_serde::encode::write_named(body, row).map_err(io::Error::other)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length < BLOCK_MAX / 2)
        .ok_or_else(|| io::Error::other("a row is too large for a snapshot"))?;
    let kind_length =
        u8::try_from(kind[0].len() + kind[1].len()).expect("kinds are short words of this file");
    to.push(kind_length);
    to.extend_from_slice(kind[0].as_bytes());
    to.extend_from_slice(kind[1].as_bytes());
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(body);
    Ok(())
}

/// Collects records into pieces for the log.
struct Pieces<F> {
    bytes_max: usize,
    take: F,
    piece: Vec<u8>,
    body: Vec<u8>,
}

impl<F: FnMut(Vec<u8>) -> Result<(), Error>> Pieces<F> {
    fn hand_over(&mut self) -> Result<(), Error> {
        if self.piece.is_empty() {
            return Ok(());
        }
        (self.take)(std::mem::take(&mut self.piece))
    }
}

impl<F: FnMut(Vec<u8>) -> Result<(), Error>> Sink for Pieces<F> {
    fn record(&mut self, prefix: &str, kind: &str, row: &impl Serialize) -> Result<(), Error> {
        let before = self.piece.len();
        append(&mut self.piece, &mut self.body, [prefix, kind], row)?;
        if self.piece.len() > self.bytes_max && before > 0 {
            // The record that runs over begins the next piece: only a large row makes a large one.
            let next = self.piece.split_off(before);
            self.hand_over()?;
            self.piece = next;
        }
        Ok(())
    }
}

impl<W: Write> Sink for Blocks<W> {
    fn record(&mut self, prefix: &str, kind: &str, row: &impl Serialize) -> Result<(), Error> {
        append(&mut self.payload, &mut self.body, [prefix, kind], row)?;
        self.records += 1;
        if self.payload.len() >= BLOCK_TARGET {
            self.close_block()?;
        }
        Ok(())
    }
}

impl<W: Write> Blocks<W> {
    fn new(mut out: W, format: u16) -> Result<Self, Error> {
        out.write_all(&MAGIC)?;
        out.write_all(&format.to_be_bytes())?;
        Ok(Blocks {
            out,
            payload: Vec::with_capacity(BLOCK_TARGET * 2),
            body: Vec::new(),
            records: 0,
            crcs: crc32fast::Hasher::new(),
        })
    }

    fn close_block(&mut self) -> Result<(), Error> {
        if self.payload.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.payload.len())
            .map_err(|_| io::Error::other("a block is too large for a snapshot"))?;
        let crc = crc32fast::hash(&self.payload).to_be_bytes();
        self.crcs.update(&crc);
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&crc)?;
        self.out.write_all(&self.payload)?;
        self.payload.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), Error> {
        self.close_block()?;
        self.out.write_all(&0u32.to_be_bytes())?;
        self.out.write_all(&self.crcs.finalize().to_be_bytes())?;
        self.out.write_all(&self.records.to_be_bytes())?;
        self.out.flush()?;
        Ok(())
    }
}
