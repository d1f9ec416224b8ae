//! Encoded answers, and the memory that all of them take: those that are kept for equal readers, and those that
//! connections still hold because their clients do not take them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Bytes of all large answers that are alive.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
/// Above this, who does not take its answer is not waited for.
const ALIVE_MAX: usize = 256 << 20;
/// Smaller ones are not counted: their number is bounded by that of connections.
const COUNTED_BYTES_MIN: usize = 16 << 10;

/// Do the answers that are alive take more memory than they should?
pub(crate) fn are_too_large() -> bool {
    ALIVE.load(Ordering::Relaxed) > ALIVE_MAX
}

/// The same bytes, counted for as long as anybody holds them.
pub(crate) fn counted(bytes: Bytes) -> Bytes {
    if bytes.len() < COUNTED_BYTES_MIN {
        return bytes;
    }
    ALIVE.fetch_add(bytes.len(), Ordering::Relaxed);
    Bytes::from_owner(Counted(bytes))
}

struct Counted(Bytes);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

/// The encoded form of an answer, with its other forms made when first asked for.
#[derive(Debug, Default)]
pub struct Body {
    bytes: Bytes,
    exists: bool,
    next: Option<String>,
    zipped: OnceLock<Bytes>,
    lines: OnceLock<Bytes>,
}

impl Body {
    /// An answer with something in it.
    pub fn new(bytes: impl Into<Bytes>) -> Body {
        Body { bytes: counted(bytes.into()), exists: true, ..Body::default() }
    }
    /// One page of an answer: the rest begins after this row.
    #[must_use]
    pub fn with_next(mut self, next: Option<String>) -> Body {
        self.next = next;
        self
    }
    /// After which row the next page begins, if there is one.
    pub fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }
    /// "There is no such thing."
    pub fn missing() -> Body {
        Body::default()
    }
    /// Does what was asked for exist?
    pub fn exists(&self) -> bool {
        self.exists
    }
    /// As encoded.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// Compressed by `zip`, which is called once for all who ask.
    pub fn zipped(&self, zip: impl FnOnce(&[u8]) -> Bytes) -> &Bytes {
        self.zipped.get_or_init(|| counted(zip(&self.bytes)))
    }
    /// As lines of an event stream, made by `split` once for all who listen.
    pub fn lines(&self, split: impl FnOnce(&Bytes) -> Bytes) -> &Bytes {
        self.lines.get_or_init(|| split(&self.bytes))
    }
    /// Bytes that it takes, about: forms made later are counted at the next look.
    pub(super) fn size(&self) -> usize {
        let formed = |form: &OnceLock<Bytes>| form.get().map_or(0, Bytes::len);
        self.bytes.len()
            + self.next.as_ref().map_or(0, String::capacity)
            + formed(&self.zipped)
            + formed(&self.lines)
    }
}
