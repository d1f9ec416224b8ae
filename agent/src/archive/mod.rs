//! A saved state as a file: what `GET /v1/snapshot` gives and `PUT /v1/snapshot` takes.
//!
//! ```text
//! gzip ( tar: meta.json    which state this is, in the reference's words
//!             state.bin    the state, in the store's own versioned format
//!             SHA256SUMS   of the two before )
//! ```
//!
//! The envelope is the reference's, byte for byte where its tools look: its command line saves,
//! verifies and inspects our archives. The state within is ours; an archive that holds another
//! program's state is recognised and refused.
//!
//! Both directions stream. Writing needs the size of the state before its bytes, so the state is
//! encoded twice, which costs less than a copy of it.

mod meta;
mod read;
pub(crate) mod tar;

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

pub use meta::{Meta, Server};
pub use read::{Error, inspect, read};

use crate::store::{self, Store};

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";

/// Writes the archive of a state. Size and format in `meta` are set here.
pub fn write(meta: &Meta, state: &Store, out: impl Write) -> io::Result<()> {
    let mut counted = Summed::new(io::sink());
    encode(state, &mut counted)?;
    let (_, size, state_sum) = counted.finish();
    let (at, meta) = (meta.seconds(), meta.encode(size));
    let sums = format!("{:x}  {META}\n{state_sum}  {STATE}\n", Sha256::digest(&meta));

    let mut out = GzEncoder::new(out, Compression::fast());
    tar::entry(&mut out, META, &meta, at)?;
    tar::header(&mut out, STATE, size, at)?;
    let mut again = Summed::new(&mut out);
    encode(state, &mut again)?;
    let (_, written, again) = again.finish();
    if (written, &again) != (size, &state_sum) {
        return Err(io::Error::other("one state was encoded in two ways"));
    }
    tar::pad(&mut out, size)?;
    tar::entry(&mut out, SUMS, sums.as_bytes(), at)?;
    tar::end(&mut out)?;
    out.finish()?.flush()
}

fn encode(state: &Store, out: impl Write) -> io::Result<()> {
    store::snapshot::write(state, out).map_err(|error| match error {
        store::snapshot::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    })
}

/// Counts and hashes what passes.
struct Summed<T> {
    inner: T,
    bytes: u64,
    hash: Sha256,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Summed { inner, bytes: 0, hash: Sha256::new() }
    }

    /// The inner one, the bytes that passed and their sum in hexadecimal digits.
    fn finish(self) -> (T, u64, String) {
        (self.inner, self.bytes, format!("{:x}", self.hash.finalize()))
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.passed(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: io::Read> io::Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.passed(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
