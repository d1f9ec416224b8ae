//! Event streams, our addition to the API: any read that can block can also be watched.
//!
//! With `Accept: text/event-stream` the current answer comes first, then one event per change.
//! The event's id is the index; a client that comes back with `Last-Event-ID` (browsers do by
//! themselves) gets only what is newer. What does not exist (any more) is the datum `null`. A
//! comment every quarter of a minute keeps middle boxes awake and finds out clients that are gone.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::reply::{Content, Reply};
use crate::read::{Body, Consistency, Options, Outcome, Query, Reader};
use crate::store::Index;

/// Silence is broken after this long.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A reply that goes on for as long as the client listens.
pub(crate) fn events(
    reader: Reader,
    query: Arc<dyn Query>,
    consistency: Consistency,
    after: Option<Index>,
) -> Reply {
    let watch = Watch { reader, query, consistency, index: after.unwrap_or(0) };
    let pieces = futures::stream::unfold(watch, |mut watch| async move {
        let piece = watch.next().await;
        Some((piece, watch))
    });
    let mut reply = reply();
    reply.content = Content::Stream(Box::pin(pieces));
    reply
}

/// The head of a stream, still without its pieces.
pub(super) fn reply() -> Reply {
    let mut reply = Reply::empty();
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

/// Breaks the silence.
pub(super) fn silence() -> Bytes {
    Bytes::from_static(b": still here\n\n")
}

struct Watch {
    reader: Reader,
    query: Arc<dyn Query>,
    consistency: Consistency,
    /// Of the last event; 0 before the first.
    index: Index,
}

impl Watch {
    async fn next(&mut self) -> Bytes {
        let options =
            Options { consistency: self.consistency, index: self.index, wait: KEEP_ALIVE };
        match self.reader.answer(options, &*self.query).await {
            Ok(outcome) if outcome.index == self.index => silence(),
            Ok(outcome) => {
                self.index = outcome.index;
                event(&outcome)
            }
            Err(error) => Bytes::from(format!("event: unavailable\ndata: {error}\n\n")),
        }
    }
}

fn event(outcome: &Outcome<Body>) -> Bytes {
    let body = &outcome.found.rows;
    piece(outcome.index, if body.exists() { body.bytes() } else { b"null" })
}

/// One event: an index and JSON.
pub(super) fn piece(index: Index, json: &[u8]) -> Bytes {
    let mut text = String::with_capacity(json.len() + 32);
    let _ = writeln!(text, "id: {index}");
    // JSON is UTF-8; line breaks, if any, are between its values.
    for line in String::from_utf8_lossy(json).lines() {
        let _ = writeln!(text, "data: {line}");
    }
    text.push('\n');
    Bytes::from(text)
}
