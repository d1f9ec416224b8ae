//! An HTTP request on its way from an agent to a server, and the answer on its way back.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use muster_client::types::parse_nanos;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::accept;
use crate::read::body::counted;
use crate::rpc::{self, ReplyStream};

/// The largest body of a request that is passed on. No end point takes a larger one.
pub const BODY_BYTES_MAX: u64 = 8 << 20;
/// The body of an answer travels in pieces of this size.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Answers up to this size are taken in whole before they go out, so that they can be shared and compressed; larger
/// ones pass through.
const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// Answer of a server that knows no leader.
const NO_LEADER: &[u8] = b"No cluster leader";

/// A request, as its agent took it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// As in the request line, still escaped.
    pub path: String,
    /// Query string after the question mark, still escaped.
    pub query: String,
    /// Those that end points look at.
    pub headers: Vec<(String, Bytes)>,
    /// Whole.
    pub body: Bytes,
    /// There was more of the body than is passed on: it is too large for every end point.
    pub cut: bool,
    /// Its body comes in pieces, under this name.
    pub upload: Option<Uuid>,
    /// The agent that passes it on.
    pub agent: Agent,
}

/// A piece of a body that is too large to be passed on whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Of which request.
    pub upload: Uuid,
    /// The bytes; `None` after the last piece.
    pub bytes: Option<Bytes>,
}

/// Settings of the asking agent that shape an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Agent {
    /// Its node: the default for sessions, and what `?near=_agent` means.
    pub node_name: String,
    /// Bytes of a key's value.
    pub kv_value_bytes_max: u64,
    /// Bytes of a transaction's body.
    pub txn_body_bytes_max: u64,
    /// Above zero, reads of catalog and health are stale up to this unless they say otherwise.
    pub discovery_max_stale: Duration,
}

impl Request {
    /// The first value of a parameter that has no escapes in it, as numbers and durations have none.
    fn param(&self, name: &str) -> Option<&str> {
        self.query.split(['&', ';']).find_map(|pair| match pair.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (pair == name).then_some(""),
        })
    }

    /// Does it change nothing?
    pub(super) fn only_reads(&self) -> bool {
        self.method == "GET"
    }

    fn wants_events(&self) -> bool {
        let accept = self.headers.iter().filter(|(key, _)| key == "accept");
        accept::prefers_events(accept.map(|(_, value)| &**value))
    }

    /// Does its answer go on for as long as somebody listens, or may it take any time?
    pub(super) fn is_endless(&self) -> bool {
        self.wants_events() || self.path == "/v1/snapshot"
    }

    /// After which index and how long it waits for a change, if it does. Zero: as long as the server thinks right.
    pub(super) fn waits(&self) -> Option<(u64, Duration)> {
        if !self.only_reads() || self.wants_events() {
            return None;
        }
        let index = self.param("index")?.parse().ok().filter(|index| *index > 0)?;
        let wait = match self.param("wait") {
            None | Some("") => 0,
            // Wrong ones do not wait: the server says so.
            Some(text) => parse_nanos(text)?,
        };
        Some((index, Duration::from_nanos(u64::try_from(wait).unwrap_or(0))))
    }

    /// May a wait that another reader began answer this one too? It may have been read a moment before this one asked:
    /// not for those who ask for more than that.
    pub(super) fn may_be_shared(&self) -> bool {
        self.param("consistent").is_none()
    }

    /// The same request with other parameters for its wait: the index and, if it is not up to the server, the time.
    /// `None`: it does not wait.
    pub(super) fn waiting(&self, wait: Option<(u64, Option<Duration>)>) -> Request {
        let own = |pair: &&str| {
            !matches!(pair.split_once('=').map_or(*pair, |(key, _)| key), "index" | "wait")
        };
        let mut pairs: Vec<String> = self
            .query
            .split(['&', ';'])
            .filter(|pair| !pair.is_empty())
            .filter(own)
            .map(str::to_owned)
            .collect();
        if let Some((index, wait)) = wait {
            pairs.push(format!("index={index}"));
            pairs.extend(wait.map(|wait| format!("wait={}ms", wait.as_millis().max(1))));
        }
        Request { query: pairs.join("&"), ..self.clone() }
    }
}

/// The beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Headers of the end point. What every answer of an agent carries is added by the agent that sends it out.
    pub headers: Vec<(String, Bytes)>,
    /// Bytes of the body, if that is known.
    pub length: Option<u64>,
    /// As much of the body as fits.
    pub body: Bytes,
}

impl Head {
    /// The index of the answer.
    pub(super) fn index(&self) -> Option<u64> {
        let (_, value) = self.headers.iter().find(|(name, _)| name == "x-consul-index")?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// An answer with all of its body in it.
    pub(super) fn answer(&self) -> ForwardedReply {
        let Head { status, headers, body, .. } = self.clone();
        ForwardedReply { status, headers, body: Body::Whole(body) }
    }
}

/// A part of an answer. The first is a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Status and headers.
    Head(Head),
    /// More of the body.
    Body(Bytes),
}

/// An answer.
#[derive(Debug)]
pub struct ForwardedReply {
    /// Status code.
    pub status: u16,
    /// Headers of the end point.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Body,
}

/// The body of an answer.
pub enum Body {
    /// In one piece.
    Whole(Bytes),
    /// As it comes, and how much, if that is known. It ends with an error if the server goes away before its end.
    Pieces(Option<u64>, Pieces),
}

/// Pieces of a body that may break off.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, rpc::Error>> + Send>>;

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Body::Pieces(length, _) => write!(f, "Pieces({length:?})"),
        }
    }
}

impl ForwardedReply {
    /// Takes an answer in: whole, if it is not too large for that.
    pub(super) async fn receive(
        server: SocketAddr,
        mut parts: ReplyStream<Part>,
    ) -> Result<ForwardedReply, rpc::Error> {
        let lost = |why: &str| rpc::Error::Lost { peer: server, why: why.to_owned() };
        let head = match parts.next().await {
            Some(Ok(Part::Head(head))) => head,
            Some(Ok(Part::Body(_))) => return Err(lost("the answer has no beginning")),
            Some(Err(error)) => return Err(error),
            None => return Err(lost("the answer is empty")),
        };
        let Head { status, headers, length, body } = head;
        let Some(length) = length.filter(|length| *length <= WHOLE_BYTES_MAX) else {
            let rest = futures::stream::unfold(parts, |mut parts| async {
                let piece = match parts.next().await? {
                    Ok(Part::Body(bytes)) => Ok(bytes),
                    Ok(Part::Head(_)) => return None,
                    Err(error) => Err(error),
                };
                Some((piece, parts))
            });
            let pieces = futures::StreamExt::chain(futures::stream::iter([Ok(body)]), rest);
            return Ok(ForwardedReply {
                status,
                headers,
                body: Body::Pieces(length, Box::pin(pieces)),
            });
        };
        if body.len() as u64 == length {
            return Ok(ForwardedReply { status, headers, body: Body::Whole(counted(body)) });
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        whole.extend_from_slice(&body);
        while let Some(part) = parts.next().await {
            match part? {
                Part::Body(bytes) if (whole.len() + bytes.len()) as u64 <= length => {
                    whole.extend_from_slice(&bytes);
                }
                _ => return Err(lost("the answer is longer than it said")),
            }
        }
        if whole.len() as u64 != length {
            return Err(lost("the answer is shorter than it said"));
        }
        Ok(ForwardedReply { status, headers, body: Body::Whole(counted(whole.freeze())) })
    }

    /// In a form that many can send, if it is in one piece.
    pub(super) fn into_whole(self) -> Option<Head> {
        match self.body {
            Body::Whole(body) => {
                Some(Head { status: self.status, headers: self.headers, length: None, body })
            }
            Body::Pieces(..) => None,
        }
    }

    pub(super) fn says_no_leader(&self) -> bool {
        self.status == 500 && matches!(&self.body, Body::Whole(bytes) if &**bytes == NO_LEADER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(query: &str) -> Request {
        Request {
            method: "GET".into(),
            path: "/v1/kv/k".into(),
            query: query.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            cut: false,
            upload: None,
            agent: Agent::default(),
        }
    }

    #[test]
    fn waits_are_read_and_rewritten() {
        let rows = [
            ("", None, ""),
            ("raw", None, "raw"),
            ("index=0", None, ""),
            ("index=5", Some(Duration::ZERO), ""),
            ("index=5&wait=", Some(Duration::ZERO), ""),
            ("raw&index=5&wait=1.5s&dc=dc1", Some(Duration::from_millis(1500)), "raw&dc=dc1"),
            ("index=5&wait=x", None, ""),
            ("index=x&wait=1s", None, ""),
            ("index=5&wait=-1s", Some(Duration::ZERO), ""),
            ("myindex=5&await=1s", None, "myindex=5&await=1s"),
        ];
        for (query, wait, rest) in rows {
            assert_eq!(get(query).waits(), wait.map(|wait| (5, wait)), "{query}");
            assert_eq!(get(query).waiting(None).query, rest, "{query}");
        }
        let again = get("raw&index=5").waiting(Some((5, Some(Duration::from_secs(2)))));
        assert_eq!(again.query, "raw&index=5&wait=2000ms");
        let events = Request {
            headers: vec![("accept".into(), "text/event-stream".into())],
            ..get("index=5")
        };
        assert!(events.is_endless() && events.waits().is_none());
        assert!(!get("index=1&consistent").may_be_shared() && get("index=1&stale").may_be_shared());
    }
}
