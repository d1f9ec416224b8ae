//! Snapshots: the whole state as a file, so that the log before it can go.
//!
//! ```text
//!   raft/snapshots/<term>-<index>.snap
//!   magic 8 │ version u32 │ length u32 │ checksum u32 │ what it covers │ the store's own format
//! ```
//!
//! A snapshot is written beside its name, flushed and renamed: it is whole or it is not there. The
//! newest two are kept; a damaged one is passed over with a warning if an older one is sound.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::raft::log::{WAY_OUT, chained, invalid};
use crate::raft::types::{LogId, StoredMembership};
use crate::store::{self, Store, snapshot};

const MAGIC: [u8; 8] = *b"MUSTSNAP";
const VERSION: u32 = 1;
/// Keeps a damaged length from asking for all memory.
const META_BYTES_MAX: u32 = 16 << 20;
const KEPT: usize = 2;

/// The part of the log that a snapshot covers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// The last entry in it.
    pub last: Option<LogId>,
    /// The servers as of that entry.
    pub membership: StoredMembership,
}

/// A snapshot's content, wherever it is.
#[derive(Debug)]
pub enum Image {
    /// The state itself, in this process.
    State(Box<Store>),
    /// A file of this server.
    File(PathBuf),
}

impl Image {
    /// The state.
    pub fn load(self) -> io::Result<Store> {
        match self {
            Image::State(store) => Ok(*store),
            Image::File(path) => read(&path).map(|(_, store)| store),
        }
    }
}

/// The folder of snapshots; without one they stay in memory.
#[derive(Debug, Clone)]
pub struct Snapshots {
    directory: PathBuf,
}

impl Snapshots {
    /// Opens or creates the folder, removes what a crash left half-written.
    pub fn open(directory: &Path) -> io::Result<Snapshots> {
        disk::folder(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("tmp")) {
                fs::remove_file(path)?;
            }
        }
        Ok(Snapshots { directory: directory.to_owned() })
    }

    /// Is there none, sound or not?
    pub fn is_empty(&self) -> io::Result<bool> {
        self.list().map(|paths| paths.is_empty())
    }

    /// The newest sound snapshot with its state. One that ends before `needed`, where the log
    /// begins, does not help.
    pub fn newest(&self, needed: Option<LogId>) -> io::Result<Option<(Coverage, PathBuf, Store)>> {
        let mut damage = None;
        for path in self.list()?.into_iter().rev() {
            match read(&path) {
                Ok((coverage, _)) if coverage.last < needed => {
                    let text = format!("snapshot {} ends before the log begins", path.display());
                    damage = damage.or(Some(invalid(text)));
                }
                Ok((coverage, store)) => {
                    if let Some(error) = damage {
                        tracing::warn!("{error}; using {} instead", path.display());
                    }
                    return Ok(Some((coverage, path, store)));
                }
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        match (damage, needed) {
            // A newer program reads it.
            (Some(error), _) if error.kind() == io::ErrorKind::Unsupported => Err(error),
            (Some(error), _) => Err(io::Error::new(error.kind(), format!("{error}; {WAY_OUT}"))),
            (None, Some(needed)) => Err(invalid(format!(
                "the log begins after entry {}, and there is no snapshot of what was before in {}; {WAY_OUT}",
                needed.index,
                self.directory.display()
            ))),
            (None, None) => Ok(None),
        }
    }

    /// Writes a snapshot durably and removes all but the newest two. Returns its path and size.
    pub fn write(&self, coverage: &Coverage, store: &Store) -> io::Result<(PathBuf, u64)> {
        let (term, index) = coverage.last.map_or((0, 0), |id| (id.leader_id.term, id.index));
        let path = self.directory.join(format!("{term:016x}-{index:016x}.snap"));
        let beside = path.with_extension("tmp");
        let written = write(&beside, coverage, store)
            .and_then(|bytes| disk::rename(&beside, &path).map(|()| bytes));
        match written {
            Ok(bytes) => {
                self.remove_old()?;
                Ok((path, bytes))
            }
            Err(error) => {
                // The half of it would only make a full disk fuller.
                let _ = fs::remove_file(&beside);
                Err(named(&path, "cannot write snapshot", &error))
            }
        }
    }

    /// Oldest first.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("snap")) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn remove_old(&self) -> io::Result<()> {
        let paths = self.list()?;
        for path in &paths[..paths.len().saturating_sub(KEPT)] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// The bytes that a file of it would have.
pub(in crate::raft) fn encode(coverage: &Coverage, store: &Store) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, coverage, store)?;
    Ok(bytes)
}

/// Decodes the bytes of a snapshot.
pub(in crate::raft) fn decode(mut bytes: &[u8]) -> io::Result<(Coverage, Store)> {
    read_from(&mut bytes)
}

/// Do these bytes begin a snapshot that covers this, in a format that this version knows?
pub(in crate::raft) fn judge_header(mut bytes: &[u8], expected: &Coverage) -> io::Result<()> {
    let coverage = read_header(&mut bytes)?;
    if coverage == *expected {
        return Ok(());
    }
    Err(invalid("the snapshot covers other entries than its sender says".to_owned()))
}

fn write_to(out: &mut impl Write, coverage: &Coverage, store: &Store) -> io::Result<()> {
    let meta = rmp_serde::to_vec_named(coverage).map_err(io::Error::other)?;
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32fast::hash(&meta).to_le_bytes())?;
    out.write_all(&meta)?;
    store::snapshot::write(store, out).map_err(chained)
}

fn write(path: &Path, coverage: &Coverage, store: &Store) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 18, disk::create(path)?);
    write_to(&mut out, coverage, store)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Reads a snapshot file.
pub(in crate::raft) fn read(path: &Path) -> io::Result<(Coverage, Store)> {
    read_unnamed(path).map_err(|error| named(path, "cannot read snapshot", &error))
}

fn read_unnamed(path: &Path) -> io::Result<(Coverage, Store)> {
    let file = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut file = Counted { from: file, bytes: 0 };
    read_from(&mut file).map_err(|error| {
        let text = format!("{error} (found at offset {})", file.bytes);
        io::Error::new(error.kind(), text)
    })
}

/// Tells how far reading has come.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

fn read_header(file: &mut impl Read) -> io::Result<Coverage> {
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    let (version, length, sum) = (number(file)?, number(file)?, number(file)?);
    if magic != MAGIC {
        return Err(invalid("it does not begin as a snapshot".to_owned()));
    }
    if version > VERSION {
        let text = format!(
            "it has format {version}, this version knows {VERSION}; it was written by a newer version"
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    if length > META_BYTES_MAX {
        return Err(invalid("its header is damaged".to_owned()));
    }
    // Grows with what is there, not with what was announced.
    let mut meta = Vec::new();
    file.by_ref().take(u64::from(length)).read_to_end(&mut meta)?;
    if meta.len() < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    if crc32fast::hash(&meta) != sum {
        return Err(invalid("its header is damaged".to_owned()));
    }
    rmp_serde::from_slice(&meta).map_err(io::Error::other)
}

fn read_from(file: &mut impl Read) -> io::Result<(Coverage, Store)> {
    let coverage = read_header(file)?;
    let store = store::snapshot::read(file).map_err(|error| match error {
        snapshot::Error::Format(_) | snapshot::Error::Kind(_) => {
            io::Error::new(io::ErrorKind::Unsupported, error.to_string())
        }
        damaged => chained(damaged),
    })?;
    Ok((coverage, store))
}

fn number(file: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn named(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
