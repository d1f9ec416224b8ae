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
use crate::read::{Body, Consistency, Options, Query, Reader};
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
                self.ready = event(&outcome.index.to_string(), &outcome.found.rows);
                self.ready.pop_front().unwrap_or_default()
            }
            Err(error) => Bytes::from(format!("event: unavailable\ndata: {error}\n\n")),
        }
    }
}

/// Events up to this size go out in one piece of their own.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// One event with an answer as its datum, in pieces; `id` is where that one is. Large ones share their lines with all who
/// listen: of those who do not read, each would keep a copy of its own.
pub(super) fn event(id: &str, body: &Body) -> VecDeque<Bytes> {
    let json = if body.exists() { body.bytes().clone() } else { Bytes::from_static(b"null") };
    if json.len() <= COPIED_BYTES_MAX {
        return [piece(id, &json)].into();
    }
    let lines = body.lines(|json| {
        let json = json.slice(..json.trim_ascii_end().len());
        if json.contains(&b'\n') { counted(Bytes::from(data(&json))) } else { json }
    });
    let begin = if lines.starts_with(DATA) { "" } else { "data: " };
    let head = format!("id: {id}\n{begin}");
    [Bytes::from(head), lines.clone(), Bytes::from_static(b"\n\n")].into()
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

/// One event: where it is, and JSON.
pub(super) fn piece(id: &str, json: &[u8]) -> Bytes {
    Bytes::from(format!("id: {id}\n{}\n\n", data(json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_events() {
        let check = |body: Body, expected: &str| {
            let said = Vec::from(event("a b 7", &body)).concat();
            assert_eq!(String::from_utf8_lossy(&said), expected);
        };
        check(Body::new("[]"), "id: a b 7\ndata: []\n\n");
        check(Body::missing(), "id: a b 7\ndata: null\n\n");
        check(Body::new("[\n    1\n]\n"), "id: a b 7\ndata: [\ndata:     1\ndata: ]\n\n");
    }

    #[test]
    fn large_events_say_the_same_in_pieces_that_are_shared() {
        let row = format!("\"{}\"", "x".repeat(1000));
        for json in [
            "[]".to_owned(),
            format!("[{}]\n", vec![&*row; 40].join(",")),
            format!("[\n{}\n]", vec![&*row; 40].join(",\n")),
        ] {
            let body = Body::new(json.clone());
            let (first, second) = (event("7", &body), event("n 7", &body));
            assert_eq!(Vec::from(first.clone()).concat(), piece("7", json.as_bytes()));
            let large: Vec<_> = first.iter().zip(&second).filter(|(a, _)| a.len() > 1000).collect();
            assert!(large.iter().all(|(a, b)| a.as_ptr() == b.as_ptr()), "a copy for each");
            assert_eq!(large.len(), usize::from(json.len() > 1000));
        }
    }
}
