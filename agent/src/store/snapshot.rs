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
//! All numbers are big-endian. The first record is the header. A program ignores fields that it
//! does not know; a record of a kind that it does not know is an error, since leaving it out
//! would lose a part of the truth. Rows come sorted, so equal states give equal bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::catalog::Indexes;
use super::kv::KvIndexes;
use super::{Check, Counts, Entry, Index, Node, Service, Session, Store, Timestamp};

const MAGIC: [u8; 8] = *b"MUSTER\0S";
/// Of the whole file. A new kind of record needs a new format, a new field does not.
pub const FORMAT: u16 = 1;
/// A block is closed once it holds so much; one large record may make it longer.
const BLOCK_TARGET: usize = 64 * 1024;
/// What a reader believes: more than any record that the limits on values and requests allow.
const BLOCK_MAX: u32 = 1 << 30;

/// Why bytes are not a snapshot that this program can take.
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
    /// A record that is none.
    #[error("snapshot has a malformed record of kind `{kind}`")]
    Record {
        /// Which kind.
        kind: String,
        /// What its decoder said.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// What a snapshot holds, told before its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    index: Index,
    nodes: u64,
    checks: u64,
    services: u64,
    keys: u64,
    sessions: u64,
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
}

impl Header {
    fn of(store: &Store) -> Header {
        let Counts { nodes, instances, checks, keys, sessions, .. } = store.counts();
        Header {
            index: store.index,
            nodes: nodes as u64,
            checks: checks as u64,
            services: instances as u64,
            keys: keys as u64,
            sessions: sessions as u64,
        }
    }
}

/// Writes `store` to `out`, in blocks: memory does not grow with the state.
pub fn write(store: &Store, out: impl Write) -> Result<(), Error> {
    let mut blocks = Blocks::new(out)?;
    blocks.record("header", &Header::of(store))?;
    let (catalog, kv, sessions) = (&store.catalog, &store.kv, &store.sessions);
    blocks.record(
        "indexes",
        &TableIndexes {
            catalog: catalog.indexes().clone(),
            kv: kv.indexes(),
            sessions: sessions.index(),
        },
    )?;
    for node in catalog.node_rows() {
        blocks.record("node", &**node)?;
    }
    for check in catalog.check_rows() {
        blocks.record("check", &**check)?;
    }
    for service in catalog.service_rows() {
        blocks.record("service", &**service)?;
    }
    for (name, index) in catalog.service_indexes() {
        blocks.record("service-index", &ServiceIndex { name: name.clone(), index: *index })?;
    }
    for entry in kv.entries() {
        blocks.record("kv", &**entry)?;
    }
    for (key, index) in kv.stones() {
        blocks.record("tombstone", &Tombstone { key: key.clone(), index: *index })?;
    }
    for session in sessions.rows() {
        blocks.record("session", &**session)?;
    }
    for (key, until) in sessions.delays() {
        blocks.record("lock-delay", &LockDelay { key: key.clone(), until: *until })?;
    }
    blocks.finish()
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
    match kind {
        "header" => {
            let told: Header = decode(kind, body)?;
            store.index = told.index;
            *header = Some(told);
        }
        "indexes" => {
            let indexes: TableIndexes = decode(kind, body)?;
            store.catalog.restore_indexes(indexes.catalog);
            store.kv.restore_indexes(&indexes.kv);
            store.sessions.restore_index(indexes.sessions);
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

impl<W: Write> Blocks<W> {
    fn new(mut out: W) -> Result<Self, Error> {
        out.write_all(&MAGIC)?;
        out.write_all(&FORMAT.to_be_bytes())?;
        Ok(Blocks {
            out,
            payload: Vec::with_capacity(BLOCK_TARGET * 2),
            body: Vec::new(),
            records: 0,
            crcs: crc32fast::Hasher::new(),
        })
    }

    fn record(&mut self, kind: &'static str, row: &impl Serialize) -> Result<(), Error> {
        self.body.clear();
        rmp_serde::encode::write_named(&mut self.body, row).map_err(io::Error::other)?;
        let length = u32::try_from(self.body.len())
            .ok()
            .filter(|length| *length < BLOCK_MAX / 2)
            .ok_or_else(|| io::Error::other("a row is too large for a snapshot"))?;
        let kind_length = u8::try_from(kind.len()).expect("kinds are short words of this file");
        self.payload.push(kind_length);
        self.payload.extend_from_slice(kind.as_bytes());
        self.payload.extend_from_slice(&length.to_be_bytes());
        self.payload.extend_from_slice(&self.body);
        self.records += 1;
        if self.payload.len() >= BLOCK_TARGET {
            self.close_block()?;
        }
        Ok(())
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
