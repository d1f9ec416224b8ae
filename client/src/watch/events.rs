//! The answers of `POST /v1/watch` as they come: one event stream with the answers of many questions.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http_body_util::Full;
use serde::{Deserialize, Serialize};

use crate::{Client, Error, Pieces};

const PATH: &str = "/v1/watch";
/// An event is not larger: far above any answer, far below what fells a client.
const EVENT_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The agent breaks the silence every quarter of a minute; after this time it is away.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// What the agent is asked.
#[derive(Serialize)]
pub(super) struct Request {
    #[serde(rename = "Watches")]
    pub(super) watches: Vec<Asked>,
}

/// One question.
#[derive(Serialize)]
pub(super) struct Asked {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "Path")]
    pub(super) path: String,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An answer to the question of this name.
    Answer {
        /// Its name.
        name: String,
        /// Its index.
        index: u64,
        /// JSON; `null` for what does not exist.
        datum: Bytes,
    },
    /// The question of this name failed. The agent goes on trying.
    Failed {
        /// Its name.
        name: String,
        /// As the answer to the question alone would have it.
        status: StatusCode,
        /// The agent's words.
        text: String,
    },
    /// The agent is there, and nothing happens.
    Silence,
}

#[derive(Deserialize)]
struct Failed {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Status")]
    status: u16,
    #[serde(rename = "Error")]
    error: String,
}

/// An open stream. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Events {
    pieces: Pieces,
    blocks: Blocks,
}

impl Events {
    /// Asks all questions of `body`, an encoded [`Request`].
    pub(super) async fn open(client: Client, body: Bytes) -> Result<Events, Error> {
        let mut request = client.request(http::Method::POST, PATH, &[], Full::new(body))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        Ok(Events { pieces: client.pieces(request).await?, blocks: Blocks::default() })
    }

    /// The next event; `None` when the agent ends the stream. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(block) = self.blocks.next() {
                match parse(&block) {
                    Ok(Some(event)) => return Ok(Some(event)),
                    // Of a kind that later versions send.
                    Ok(None) => continue,
                    Err(source) => return Err(Error::Decode { path: PATH.to_owned(), source }),
                }
            }
            if self.blocks.bytes.len() > EVENT_BYTES_MAX {
                return Err(Error::TooLarge { path: PATH.to_owned() });
            }
            let piece = tokio::time::timeout(SILENCE_MAX, self.pieces.next()).await;
            let Ok(piece) = piece else {
                let address = self.pieces.address().to_owned();
                return Err(Error::TimedOut { address, after: SILENCE_MAX });
            };
            match piece? {
                Some(piece) => self.blocks.push(&piece),
                None => return Ok(None),
            }
        }
    }
}

/// Cuts a stream into the blocks between empty lines.
#[derive(Debug, Default)]
struct Blocks {
    bytes: BytesMut,
    /// There is no end of a block before this.
    seen: usize,
}

impl Blocks {
    fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    fn next(&mut self) -> Option<Bytes> {
        let end = self.bytes[self.seen..].windows(2).position(|pair| pair == b"\n\n");
        let Some(end) = end else {
            self.seen = self.bytes.len().saturating_sub(1);
            return None;
        };
        let block = self.bytes.split_to(self.seen + end + 2).freeze();
        self.seen = 0;
        Some(block)
    }
}

/// Reads one block. An answer's datum is not copied unless it has several lines.
fn parse(block: &Bytes) -> Result<Option<Event>, serde_json::Error> {
    let (mut kind, mut id) = (String::new(), String::new());
    let mut datum: Option<Bytes> = None;
    for line in block.split(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => kind = String::from_utf8_lossy(value).into_owned(),
            b"id" => id = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                datum = Some(match datum {
                    None => block.slice_ref(value),
                    Some(before) => [&before[..], b"\n", value].concat().into(),
                });
            }
            _ => {}
        }
    }
    let Some(datum) = datum else { return Ok(Some(Event::Silence)) };
    if matches!(kind.as_str(), "error" | "unavailable") {
        let Failed { name, status, error } = serde_json::from_slice(&datum)?;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(Some(Event::Failed { name, status, text: error }));
    }
    let answer = id.rsplit_once(' ').and_then(|(name, index)| {
        Some(Event::Answer { name: name.to_owned(), index: index.parse().ok()?, datum })
    });
    Ok(answer.filter(|_| kind.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": still here\n\nid: web 57\ndata: [{\"a\":1}]\n\n\
        event: error\ndata: {\"Name\":\"x y\",\"Status\":403,\"Error\":\"Permission denied\"}\n\n\
        id: a b 7\ndata: [\ndata: 1]\ndata:\n\nevent: later\nid: z 1\ndata: 1\n\nid: k 3\ndata: null\n\n";

    fn events(pieces: impl Iterator<Item = &'static [u8]>) -> Vec<Event> {
        let mut blocks = Blocks::default();
        let mut events = Vec::new();
        for piece in pieces {
            blocks.push(piece);
            while let Some(block) = blocks.next() {
                events.extend(parse(&block).expect("events of our own"));
            }
        }
        assert!(blocks.bytes.is_empty());
        events
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let answer = |name: &str, index, datum: &'static str| Event::Answer {
            name: name.to_owned(),
            index,
            datum: Bytes::from_static(datum.as_bytes()),
        };
        let expected = [
            Event::Silence,
            answer("web", 57, "[{\"a\":1}]"),
            Event::Failed {
                name: "x y".to_owned(),
                status: StatusCode::FORBIDDEN,
                text: "Permission denied".to_owned(),
            },
            answer("a b", 7, "[\n1]\n"),
            answer("k", 3, "null"),
        ];
        for size in 1..=STREAM.len() {
            assert_eq!(events(STREAM.chunks(size)), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_error_without_its_fields_is_refused() {
        assert!(parse(&Bytes::from_static(b"event: error\ndata: []\n\n")).is_err());
    }
}
