//! A snapshot on its way to a server that is too far behind for the log: piece by piece, and after
//! a broken connection from where it stopped.
//!
//! ```text
//!   sender   nothing at 0 ─▶           receiver   wants from 1048576 (kept from the last attempt)
//!            piece at 1048576 ─▶                  wants from 1572864
//!            …                                    installed
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use serde::{Deserialize, Serialize};

use super::snapshots::{Coverage, Image, decode, encode};
use super::types::{LogId, ServerId, Types, Vote};

/// Small enough that a slow link shows progress within the patience below.
const PIECE_BYTES: usize = 512 << 10;

/// For one piece to arrive.
const PIECE_MAX: Duration = Duration::from_secs(10);

/// For the last one: the receiver reads all of it, and keeps it.
const INSTALL_MAX: Duration = Duration::from_mins(10);

/// A piece of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    vote: Vote,
    meta: SnapshotMetaOf<Types>,
    /// Bytes of the whole.
    total: u64,
    offset: u64,
    bytes: Bytes,
}

/// What the receiver says to a piece.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Received {
    /// It has everything before that.
    Wants {
        /// Where to go on.
        offset: u64,
    },
    /// It has all, and this is its vote.
    Installed(SnapshotResponse<Types>),
}

/// A snapshot that is being sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    vote: Vote,
    meta: SnapshotMetaOf<Types>,
    source: Source,
    total: u64,
    offset: u64,
    /// The receiver has not yet said where to begin.
    asking: bool,
}

#[derive(Debug)]
enum Source {
    /// Open, since only the newest two files are kept: one removed meanwhile can still be read.
    File(File),
    Memory(Bytes),
}

impl Outgoing {
    pub(super) async fn open(
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
        Ok(Outgoing { vote, meta, source, total, offset: 0, asking: true })
    }

    /// Goes on from there.
    pub(super) fn seek(&mut self, offset: u64) -> io::Result<()> {
        if offset > self.total {
            return Err(io::Error::other("the receiver wants more than there is"));
        }
        (self.offset, self.asking) = (offset, false);
        Ok(())
    }

    pub(super) fn patience(&self) -> Duration {
        let last = self.offset + PIECE_BYTES as u64 >= self.total;
        if last { INSTALL_MAX } else { PIECE_MAX }
    }

    pub(super) async fn piece(&mut self) -> io::Result<Piece> {
        let offset = self.offset;
        let left = usize::try_from(self.total - offset).unwrap_or(usize::MAX);
        let length = if self.asking { 0 } else { left.min(PIECE_BYTES) };
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

/// Where received pieces are kept until they are a whole.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// `None` keeps them in memory.
    path: Option<PathBuf>,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    /// What it is a part of: the same bytes only come from the same server.
    of: (ServerId, Option<LogId>, u64),
    kept: Kept,
    length: u64,
}

#[derive(Debug)]
enum Kept {
    File(File),
    Memory(Vec<u8>),
}

/// A whole snapshot with its sender's vote.
pub(super) struct Arrived {
    pub(super) vote: Vote,
    pub(super) snapshot: SnapshotOf<Types, Image>,
}

impl Incoming {
    pub(super) fn new(path: Option<PathBuf>) -> Incoming {
        Incoming { path, partial: None }
    }

    /// Takes a piece; `Err` with what to ask for next as long as it is not the last.
    pub(super) async fn take(
        &mut self,
        from: ServerId,
        piece: Piece,
    ) -> io::Result<Result<Arrived, Received>> {
        let of = (from, piece.meta.last_log_id, piece.total);
        let mut partial = match self.partial.take().filter(|partial| partial.of == of) {
            Some(partial) => partial,
            None => Partial { of, kept: self.empty()?, length: 0 },
        };
        let Piece { vote, meta, total, offset, bytes } = piece;
        if offset == partial.length && !bytes.is_empty() {
            if bytes.len() as u64 > total - offset {
                return Err(io::Error::other("more pieces than the snapshot has"));
            }
            partial = blocking(move || partial.append(&bytes)).await?;
        }
        if partial.length < total {
            let offset = partial.length;
            self.partial = Some(partial);
            return Ok(Err(Received::Wants { offset }));
        }
        let image = match (partial.kept, &self.path) {
            (Kept::File(_), Some(path)) => Image::File(path.clone()),
            (Kept::File(_), None) => return Err(io::Error::other("a file without a name")),
            (Kept::Memory(bytes), _) => {
                let store = blocking(move || decode(&bytes)).await?;
                Image::State(Box::new(store))
            }
        };
        Ok(Ok(Arrived { vote, snapshot: SnapshotOf::<Types, Image> { meta, snapshot: image } }))
    }

    fn empty(&self) -> io::Result<Kept> {
        Ok(match &self.path {
            None => Kept::Memory(Vec::new()),
            Some(path) => Kept::File(File::create(path)?),
        })
    }
}

impl Partial {
    fn append(mut self, bytes: &[u8]) -> io::Result<Partial> {
        match &mut self.kept {
            Kept::File(file) => file.write_all(bytes)?,
            Kept::Memory(kept) => kept.extend_from_slice(bytes),
        }
        self.length += bytes.len() as u64;
        Ok(self)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
