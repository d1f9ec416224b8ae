//! From an archive to the state in it, trusting nothing.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};

use super::{META, Meta, STATE, SUMS, Summed, tar};
use crate::store::{Store, snapshot};

/// Bytes of the two small files; both are a few hundred.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// An archive is refused. The texts are the reference's, so far as it has the case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not compressed, or cut off before anything came.
    #[error("failed to decompress snapshot: {0}")]
    Gzip(String),
    /// No archive, or cut off between its files.
    #[error("failed to read snapshot file: failed reading snapshot: {0}")]
    Tar(String),
    /// Cut off in the first file.
    #[error("failed to read snapshot file: failed to read snapshot metadata: {0}")]
    MetaCut(String),
    /// Cut off in a later one.
    #[error("failed to read snapshot file: failed to read or write snapshot data: {0}")]
    Cut(String),
    /// `meta.json` is not what it should be.
    #[error("failed to read snapshot file: failed to decode snapshot metadata: {0}")]
    Meta(String),
    /// Something that does not belong there.
    #[error("failed to read snapshot file: unexpected file {0:?} in snapshot")]
    File(String),
    /// The checksums do not match the content.
    #[error("failed to read snapshot file: failed checking integrity of snapshot: {0}")]
    Sums(String),
    /// Damage behind the last file.
    #[error("{0}")]
    End(String),
    /// The archive is sound, but not ours.
    #[error(
        "the archive is sound, but the state in it was written by another program: only archives \
         that Muster saved can be restored (to move from Consul, use `kv export` and `kv import` \
         and register services anew)"
    )]
    Foreign,
    /// The archive is sound and ours, but this program cannot take the state.
    #[error("the archive is sound, but its state cannot be read: {0}")]
    State(#[source] snapshot::Error),
}

/// The state of an archive that proves sound to its last byte.
pub fn read(from: impl Read) -> Result<(Meta, Store), Error> {
    let (meta, state) = walk(from, judged)?;
    match state {
        Ok(store) => Ok((meta, store)),
        Err(snapshot::Error::Magic) => Err(Error::Foreign),
        // Too short for a beginning of ours.
        Err(snapshot::Error::Io(_)) if meta.state_format == 0 => Err(Error::Foreign),
        Err(error) => Err(Error::State(error)),
    }
}

fn judged(state: &mut dyn Read) -> Result<Store, snapshot::Error> {
    let state = snapshot::read(state)?;
    state.judge().map(|()| state)
}

/// Reads the metadata of an archive after verifying it. The state may be any program's.
pub fn inspect(from: impl Read) -> Result<Meta, Error> {
    walk(from, |_| ()).map(|(meta, ())| meta)
}

/// Reads all of it. What `take` makes of the state counts only if the sums are right.
fn walk<T>(from: impl Read, take: impl FnOnce(&mut dyn Read) -> T) -> Result<(Meta, T), Error> {
    let mut from = BufReader::new(from);
    check_head(&mut from)?;
    let mut tar = GzDecoder::new(from);
    let (mut meta, mut meta_sum, mut state, mut state_sum, mut sums) =
        (None, None, None, None, None);
    let mut take = Some(take);
    while let Some((name, size)) = tar::next(&mut tar).map_err(|error| Error::Tar(words(&error)))? {
        match name.as_str() {
            META => {
                let bytes = small(&mut tar, size).map_err(|error| Error::MetaCut(words(&error)))?;
                meta_sum = Some(format!("{:x}", Sha256::digest(&bytes)));
                let decoded: Meta = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::Meta(error.to_string()))?;
                meta = Some(decoded);
            }
            STATE => {
                // A second state would be summed with the first, and fail.
                let Some(take) = take.take() else {
                    return Err(Error::Sums(format!("hash check failed for {STATE:?}")));
                };
                let mut summed = Summed::new((&mut tar).take(size));
                state = Some(take(&mut summed));
                // The rest, of whatever it is, counts for the sum.
                io::copy(&mut summed, &mut io::sink())
                    .map_err(|error| Error::Cut(words(&error)))?;
                let (_, bytes, sum) = summed.finish();
                if bytes < size {
                    return Err(Error::Cut("unexpected EOF".to_owned()));
                }
                state_sum = Some(sum);
            }
            SUMS => {
                sums = Some(small(&mut tar, size).map_err(|error| Error::Cut(words(&error)))?);
            }
            _ => return Err(Error::File(name)),
        }
        let mut padding = [0; 512];
        tar.read_exact(&mut padding[..tar::padding(size)])
            .map_err(|error| Error::Cut(words(&error)))?;
    }
    let sums = sums.unwrap_or_default();
    check_sums(&String::from_utf8_lossy(&sums), &[(META, &meta_sum), (STATE, &state_sum)])?;
    check_end(tar)?;
    match (meta, state) {
        (Some(meta), Some(state)) => Ok((meta, state)),
        _ => Err(Error::Sums("file missing".to_owned())),
    }
}

/// Tells a file of another kind from one that ends early.
fn check_head(from: &mut impl BufRead) -> Result<(), Error> {
    let head = from.fill_buf().map_err(|error| Error::Gzip(words(&error)))?;
    match head.len() {
        0 => Err(Error::Gzip("EOF".to_owned())),
        1..10 => Err(Error::Gzip("unexpected EOF".to_owned())),
        _ if head[..2] != [0x1f, 0x8b] => Err(Error::Gzip("gzip: invalid header".to_owned())),
        _ => Ok(()),
    }
}

/// Lines of a sum and a name, as `sha256sum` writes and reads them.
fn check_sums(text: &str, files: &[(&str, &Option<String>)]) -> Result<(), Error> {
    let mut seen = Vec::new();
    for line in text.lines() {
        let Some((sum, name)) = line.split_once("  ") else {
            return Err(Error::Sums(format!("{line:?} is not a sum and a name")));
        };
        let Some((_, found)) = files.iter().find(|(file, _)| *file == name) else {
            return Err(Error::Sums(format!("list missing hash for {name:?}")));
        };
        match found {
            None => return Err(Error::Sums(format!("file missing for {name:?}"))),
            Some(found) if found != sum => {
                return Err(Error::Sums(format!("hash check failed for {name:?}")));
            }
            Some(_) => seen.push(name),
        }
    }
    match files.iter().find(|(file, _)| !seen.contains(file)) {
        Some((name, _)) => Err(Error::Sums(format!("file missing for {name:?}"))),
        None => Ok(()),
    }
}

/// Behind the last file come zeros, the checksum of the compression, and nothing.
fn check_end(mut tar: GzDecoder<impl BufRead>) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    loop {
        match tar.read(&mut buffer).map_err(|error| Error::End(words(&error)))? {
            0 => break,
            count if buffer[..count].iter().any(|byte| *byte != 0) => {
                return Err(Error::End("unread uncompressed bytes remain".to_owned()));
            }
            _ => {}
        }
    }
    let rest = tar.get_mut().fill_buf().map_err(|error| Error::End(words(&error)))?;
    if rest.is_empty() { Ok(()) } else { Err(Error::End("gzip: invalid header".to_owned())) }
}

fn small(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > SMALL_BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes are more than belong there")));
    }
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// An error in the reference's words.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => error.to_string(),
    }
}
