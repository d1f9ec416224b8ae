//! A snapshot on its way to a server that is too far behind for the log: piece by piece, and after
//! a broken connection from where it stopped.
//!
//! ```text
//!   sender   nothing at 0 ─▶           receiver   wants from 1048576 (kept from the last attempt)
//!            piece at 1048576 ─▶                  wants from 1572864
//!            …                                    installed
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::raft::judge::{self, Own};
use crate::raft::log::chained;
use crate::raft::snapshot::files::{Coverage, Image, decode, encode, judge_header, read};
use crate::raft::types::{LogId, ServerId, Types, Vote};
use crate::store::Store;

/// Small enough that a slow link shows progress within the patience below.
const PIECE_BYTES: usize = 512 << 10;

/// A larger one is not taken: twice what is sent, for versions that send more.
const PIECE_BYTES_MAX: usize = 2 * PIECE_BYTES;

/// A snapshot larger than this is not taken: the state has to fit into memory.
const TOTAL_BYTES_MAX: u64 = 64 << 30;

/// For one piece to arrive.
const PIECE_MAX: Duration = Duration::from_secs(10);

/// For the last one: the receiver reads all of it, and keeps it.
const INSTALL_MAX: Duration = Duration::from_mins(10);

/// A piece of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::raft) struct Piece {
    vote: Vote,
    meta: SnapshotMetaOf<Types>,
    /// Bytes of the whole.
    total: u64,
    offset: u64,
    bytes: Bytes,
}

impl Piece {
    /// Does what it announces hold together? Nothing of it is kept before.
    pub(in crate::raft) fn judge(&self, own: &Own, from: ServerId) -> Result<(), String> {
        let servers = self.meta.last_membership.membership();
        judge::snapshot(own, from, &self.vote, self.meta.last_log_id, servers)?;
        let (total, offset, bytes) = (self.total, self.offset, self.bytes.len());
        if total == 0 || total > TOTAL_BYTES_MAX {
            return Err(format!(
                "a snapshot of `{total}` bytes; at most {TOTAL_BYTES_MAX} are taken"
            ));
        }
        if offset > total || bytes as u64 > total - offset {
            return Err(format!("{bytes} bytes at `{offset}` of a snapshot of `{total}` bytes"));
        }
        if bytes > PIECE_BYTES_MAX {
            return Err(format!("a piece of {bytes} bytes; at most {PIECE_BYTES_MAX} are taken"));
        }
        Ok(())
    }

    fn coverage(&self) -> Coverage {
        Coverage { last: self.meta.last_log_id, membership: self.meta.last_membership.clone() }
    }
}

/// The receiver's answer to a piece.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::raft) enum Received {
    /// It has everything before that.
    Wants {
        /// Offset of the next piece.
        offset: u64,
    },
    /// It has all, and this is its vote.
    Installed(SnapshotResponse<Types>),
}

/// A snapshot that is being sent.
#[derive(Debug)]
pub(in crate::raft) struct Outgoing {
    vote: Vote,
    meta: SnapshotMetaOf<Types>,
    source: Source,
    total: u64,
    offset: u64,
    /// The receiver has not yet said where to begin.
    read_index: bool,
}

#[derive(Debug)]
enum Source {
    /// Open, since only the newest two files are kept: one removed meanwhile can still be read.
    File(File),
    Memory(Bytes),
}

impl Outgoing {
    pub(in crate::raft) async fn open(
        vote: Vote,
        snapshot: SnapshotOf<Types, Image>,
    ) -> io::Result<Outgoing> {
        let meta = snapshot.meta;
        let coverage =
            Coverage { last: meta.last_log_id, membership: meta.last_membership.clone() };
        let (source, total) = blocking(move || match snapshot.snapshot {
            Image::File(path) => {
                let file = File::open(path)?;
                let total = file.metadata()?.len();
                Ok((Source::File(file), total))
            }
            Image::State(store) => {
                let bytes = Bytes::from(encode(&coverage, &store)?);
                let total = bytes.len() as u64;
                Ok((Source::Memory(bytes), total))
            }
        })
        .await?;
        Ok(Outgoing { vote, meta, source, total, offset: 0, read_index: true })
    }

    /// Goes on from there.
    pub(in crate::raft) fn seek(&mut self, offset: u64) -> io::Result<()> {
        if offset > self.total {
            return Err(io::Error::other("the receiver wants more than there is"));
        }
        (self.offset, self.read_index) = (offset, false);
        Ok(())
    }

    pub(in crate::raft) fn patience(&self) -> Duration {
        let last = self.offset + PIECE_BYTES as u64 >= self.total;
        if last { INSTALL_MAX } else { PIECE_MAX }
    }

    pub(in crate::raft) async fn piece(&mut self) -> io::Result<Piece> {
        let offset = self.offset;
        let left = usize::try_from(self.total - offset).unwrap_or(usize::MAX);
        let length = if self.read_index { 0 } else { left.min(PIECE_BYTES) };
        let bytes = match &self.source {
            Source::Memory(bytes) => {
                let from = usize::try_from(offset).map_err(io::Error::other)?;
                bytes.slice(from..from + length)
            }
            Source::File(file) => {
                let mut file = file.try_clone()?;
                blocking(move || {
                    let mut bytes = vec![0; length];
                    file.seek(SeekFrom::Start(offset))?;
                    file.read_exact(&mut bytes)?;
                    Ok(Bytes::from(bytes))
                })
                .await?
            }
        };
        let (vote, meta, total) = (self.vote, self.meta.clone(), self.total);
        Ok(Piece { vote, meta, total, offset, bytes })
    }
}

/// Keeps received pieces until they are complete.
#[derive(Debug, Default)]
pub(in crate::raft) struct Incoming {
    /// `None` keeps them in memory.
    path: Option<PathBuf>,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    /// Sender and snapshot that it belongs to: the same bytes only come from the same server.
    of: (ServerId, Option<LogId>, u64),
    /// `None` until its header was judged.
    kept: Option<PartialStorage>,
    length: u64,
}

#[derive(Debug)]
enum PartialStorage {
    File(File),
    Memory(Vec<u8>),
}

/// A whole snapshot with its sender's vote.
pub(in crate::raft) struct Arrived {
    pub(in crate::raft) vote: Vote,
    pub(in crate::raft) snapshot: SnapshotOf<Types, Image>,
}

impl Incoming {
    pub(in crate::raft) fn new(path: Option<PathBuf>) -> Incoming {
        Incoming { path, partial: None }
    }

    /// Takes a piece; `Err` with what to ask for next as long as it is not the last.
    pub(in crate::raft) async fn take(
        &mut self,
        from: ServerId,
        piece: Piece,
    ) -> io::Result<Result<Arrived, Received>> {
        let of = (from, piece.meta.last_log_id, piece.total);
        let partial = self.partial.take().filter(|partial| partial.of == of);
        let mut partial = partial.unwrap_or(Partial { of, kept: None, length: 0 });
        let coverage = piece.coverage();
        let Piece { vote, meta, total, offset, bytes } = piece;
        if offset == partial.length && !bytes.is_empty() {
            if partial.kept.is_none() {
                judge_header(&bytes, &coverage)?;
                partial.kept = Some(self.empty()?);
            }
            partial = blocking(move || partial.append(&bytes)).await?;
        }
        if partial.length < total {
            let offset = partial.length;
            self.partial = Some(partial);
            return Ok(Err(Received::Wants { offset }));
        }
        let kept = partial.kept.ok_or_else(|| io::Error::other("a snapshot without bytes"))?;
        let path = self.path.clone();
        let store = blocking(move || whole(kept, path, &coverage)).await?;
        let image = Image::State(Box::new(store));
        Ok(Ok(Arrived { vote, snapshot: SnapshotOf::<Types, Image> { meta, snapshot: image } }))
    }

    fn empty(&self) -> io::Result<PartialStorage> {
        Ok(match &self.path {
            None => PartialStorage::Memory(Vec::new()),
            Some(path) => PartialStorage::File(disk::create(path)?),
        })
    }
}

impl Partial {
    fn append(mut self, bytes: &[u8]) -> io::Result<Partial> {
        match &mut self.kept {
            Some(PartialStorage::File(file)) => file.write_all(bytes)?,
            Some(PartialStorage::Memory(kept)) => kept.extend_from_slice(bytes),
            None => return Err(io::Error::other("a snapshot without its beginning")),
        }
        self.length += bytes.len() as u64;
        Ok(self)
    }
}

/// The state that has arrived, read to its last byte: only a sound one is shown to the library, which would end on
/// any other.
fn whole(kept: PartialStorage, path: Option<PathBuf>, coverage: &Coverage) -> io::Result<Store> {
    let (covered, store) = match (kept, path) {
        (PartialStorage::Memory(bytes), _) => decode(&bytes)?,
        (PartialStorage::File(file), Some(path)) => {
            drop(file);
            let arrived = read(&path);
            // It is written anew under its name, if it is sound.
            fs::remove_file(&path)?;
            arrived?
        }
        (PartialStorage::File(_), None) => return Err(io::Error::other("a file without a name")),
    };
    if covered != *coverage {
        return Err(io::Error::other("the snapshot covers other entries than its sender says"));
    }
    store.judge().map_err(chained)?;
    Ok(store)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
