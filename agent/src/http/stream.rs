//! Event streams, our addition to the API: any read that can block can also be watched.
//!
//! With `Accept: text/event-stream` the current answer comes first, then one event per change.
//! The event's id is the index; a client that comes back with `Last-Event-ID` (browsers do by
//! themselves) gets only what is newer. What does not exist (any more) is the datum `null`. A
//! comment every quarter of a minute keeps middle boxes awake and finds out clients that are gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::reply::{Content, Reply};
use crate::read::body::counted;
use crate::read::{Body, Consistency, Options, Query, ReadResult, Reader};
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
    let index = after.unwrap_or(0);
    let watch = Watch { reader, query, consistency, index, ready: VecDeque::new() };
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
    /// The rest of an event.
    ready: VecDeque<Bytes>,
}

impl Watch {
    async fn next(&mut self) -> Bytes {
        if let Some(piece) = self.ready.pop_front() {
            return piece;
        }
        let options =
            Options { consistency: self.consistency, index: self.index, wait: KEEP_ALIVE };
        match self.reader.answer(options, &*self.query).await {
            Ok(outcome) if outcome.index == self.index => silence(),
            Ok(outcome) => {
                self.index = outcome.index;
                self.ready.extend(event(&outcome));
                self.ready.pop_front().unwrap_or_default()
            }
            Err(error) => Bytes::from(format!("event: unavailable\ndata: {error}\n\n")),
        }
    }
}

/// Events up to this size go out in one piece of their own.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// One event, in pieces. Large ones share their lines with all who listen: of those who do not read, each would keep a
/// copy of its own.
fn event(outcome: &ReadResult<Body>) -> Vec<Bytes> {
    let body = &outcome.found.rows;
    let json = if body.exists() { body.bytes().clone() } else { Bytes::from_static(b"null") };
    if json.len() <= COPIED_BYTES_MAX {
        return vec![piece(outcome.index, &json)];
    }
    let lines = body.lines(|json| {
        let json = json.slice(..json.trim_ascii_end().len());
        if json.contains(&b'\n') { counted(Bytes::from(data(&json))) } else { json }
    });
    let begin = if lines.starts_with(DATA) { "" } else { "data: " };
    let head = format!("id: {}\n{begin}", outcome.index);
    vec![Bytes::from(head), lines.clone(), Bytes::from_static(b"\n\n")]
}

/// Prefix of a data line. JSON never begins so.
const DATA: &[u8] = b"data: ";

/// JSON as lines of a datum, without the last line's end.
fn data(json: &[u8]) -> String {
    let mut text = String::with_capacity(json.len() + json.len() / 4);
    // JSON is UTF-8; line breaks, if any, are between its values.
    for (place, line) in String::from_utf8_lossy(json).lines().enumerate() {
        text.push_str(if place == 0 { "data: " } else { "\ndata: " });
        text.push_str(line);
    }
    text
}

/// One event: an index and JSON.
pub(super) fn piece(index: Index, json: &[u8]) -> Bytes {
    Bytes::from(format!("id: {index}\n{}\n\n", data(json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_events_say_the_same_in_pieces_that_are_shared() {
        let row = format!("\"{}\"", "x".repeat(1000));
        for json in [
            "[]".to_owned(),
            format!("[{}]\n", vec![&*row; 40].join(",")),
            format!("[\n{}\n]", vec![&*row; 40].join(",\n")),
        ] {
            let rows = Body::new(json.clone());
            let outcome = ReadResult {
                found: Arc::new(crate::store::Found { rows, index: 7, scopes: Vec::new() }),
                index: 7,
                consistency: Consistency::Default,
                known_leader: true,
                last_contact: Duration::ZERO,
            };
            let (first, second) = (event(&outcome), event(&outcome));
            assert_eq!(first.concat(), piece(7, json.as_bytes()));
            let large: Vec<_> = first.iter().zip(&second).filter(|(a, _)| a.len() > 1000).collect();
            assert!(large.iter().all(|(a, b)| a.as_ptr() == b.as_ptr()), "a copy for each");
            assert_eq!(large.len(), usize::from(json.len() > 1000));
        }
    }
}
