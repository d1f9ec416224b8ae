//! An answer in the making: status, headers, body; and the body type that the server writes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use http::header::{
    ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, VARY,
};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use serde::Serialize;

use super::encode::{self, Layout};
use super::error::Error;
use crate::read::body::counted;
use crate::read::{Body, Consistency, ReadResult};
use crate::rpc;
use crate::store::Found;
use crate::upstream;

pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
pub(crate) const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
pub(crate) const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
pub(crate) const CONSISTENCY: HeaderName =
    HeaderName::from_static("x-consul-effective-consistency");

/// Of what one service of an agent is, to wait for another with `?hash=`.
pub(crate) const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

/// Our addition: the row after which the next page begins. Percent escapes stand for what headers
/// cannot carry, so that it can be sent back as it is.
pub(crate) const AFTER: HeaderName = HeaderName::from_static("x-muster-after");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Reply of a handler.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
}

/// The body of a reply.
pub(crate) enum Content {
    /// One piece; maybe none.
    Bytes(Bytes),
    /// An answer that other readers may be sending too.
    Shared(Arc<Found<Body>>),
    /// Pieces as they come: event streams.
    Stream(Pieces),
    /// Forwarded answer of a server, and its length, if known.
    Passed(Option<u64>, upstream::Pieces),
}

/// The answer behind a response's body, for who makes something else of it. An extension of the response.
#[derive(Clone)]
pub(super) struct Behind(pub(super) Arc<Found<Body>>);

/// Pieces of a body that ends when it ends.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

impl Reply {
    /// Success without a body.
    pub(crate) fn empty() -> Reply {
        Reply::status(StatusCode::OK)
    }

    /// A status without a body.
    pub(crate) fn status(status: StatusCode) -> Reply {
        Reply {
            status,
            // What nearly all answers have; the connection keeps the room for its next request.
            headers: HeaderMap::with_capacity(6),
            content: Content::Bytes(Bytes::new()),
        }
    }

    /// Plain text.
    pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Reply {
        let text = text.into();
        let mut reply = Reply::status(status);
        if !text.is_empty() {
            reply.headers.insert(CONTENT_TYPE, TEXT);
        }
        reply.content = Content::Bytes(text);
        reply
    }

    /// A value as JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(value: &T, layout: Layout) -> Reply {
        Reply::encoded(counted(Bytes::from(encode::json(value, layout))))
    }

    /// JSON that is already encoded.
    pub(crate) fn encoded(bytes: Bytes) -> Reply {
        let mut reply = Reply::empty();
        reply.headers.insert(CONTENT_TYPE, JSON);
        reply.content = Content::Bytes(bytes);
        reply
    }

    /// An outcome of the read path: JSON, or 404 without a body, with the headers that every
    /// read carries.
    pub(crate) fn outcome(outcome: ReadResult<Body>) -> Reply {
        let mut reply = Reply::empty();
        reply.meta(outcome.index, outcome.known_leader, outcome.last_contact.as_millis());
        if let Some(next) = outcome.found.rows.next() {
            let escaped =
                percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
                    .to_string();
            if let Ok(next) = HeaderValue::try_from(escaped) {
                reply.headers.insert(AFTER, next);
            }
        }
        if outcome.found.rows.exists() {
            reply.headers.insert(CONTENT_TYPE, JSON);
            reply.content = Content::Shared(outcome.found);
        } else {
            reply.status = StatusCode::NOT_FOUND;
        }
        reply
    }

    /// Index, leader and contact, as on every answer of a read.
    pub(crate) fn meta(&mut self, index: u64, known_leader: bool, last_contact_ms: u128) {
        let known = HeaderValue::from_static(if known_leader { "true" } else { "false" });
        self.headers.insert(INDEX, HeaderValue::from(index));
        self.headers.insert(KNOWN_LEADER, known);
        let contact = match last_contact_ms {
            0 => HeaderValue::from_static("0"),
            ms => HeaderValue::from(u64::try_from(ms).unwrap_or(u64::MAX)),
        };
        self.headers.insert(LAST_CONTACT, contact);
    }

    /// Sets the effective consistency mode (catalog and health only).
    pub(crate) fn effective(&mut self, consistency: Consistency) {
        let name = match consistency {
            Consistency::Default => "leader",
            Consistency::Consistent => "consistent",
            Consistency::Stale { .. } => "stale",
        };
        self.headers.insert(CONSISTENCY, HeaderValue::from_static(name));
    }

    /// Adds a header.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Reply {
        self.headers.insert(name, value);
        self
    }

    /// The response as it goes out: compressed if the client takes that and there is a body.
    pub(crate) fn finish(mut self, gzip: bool) -> Response {
        let body = match self.content {
            Content::Bytes(bytes) if bytes.is_empty() => Outgoing::Once(None),
            Content::Bytes(bytes) => {
                Outgoing::Once(Some(if gzip { counted(encode::gzip(&bytes)) } else { bytes }))
            }
            Content::Shared(found) if gzip => {
                Outgoing::Once(Some(found.rows.zipped(encode::gzip).clone()))
            }
            Content::Shared(found) => Outgoing::Once(Some(found.rows.bytes().clone())),
            Content::Stream(pieces) => Outgoing::Stream(pieces),
            Content::Passed(length, pieces) => Outgoing::Passed(length, pieces),
        };
        if gzip && matches!(body, Outgoing::Once(Some(_))) {
            self.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let mut response = Response::new(match body {
            Outgoing::Once(None) => axum::body::Body::empty(),
            body => axum::body::Body::new(body),
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl IntoResponse for Reply {
    /// Not compressed: that is for who knows what the client takes.
    fn into_response(self) -> Response {
        self.finish(false)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Reply::from(self).into_response()
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Reply {
        let mut reply = match error {
            // The reference says nothing more, and its clients print what is there.
            Error::Upstream(upstream::Error::Exceeded { .. }) => Reply::status(error.status()),
            _ => Reply::text(error.status(), error.to_string()),
        };
        match error {
            Error::Upstream(upstream::Error::Exceeded { retry_after }) => {
                let seconds = retry_after.as_secs_f64().ceil().clamp(1.0, 3600.0);
                reply.headers.insert(RETRY_AFTER, HeaderValue::from(whole(seconds)));
            }
            Error::MethodNotAllowed { allowed, .. } => {
                reply.headers.insert(ALLOW, allow(&allowed));
            }
            Error::TooMany { retry_after } | Error::Taken { retry_after, .. } => {
                let seconds = HeaderValue::from(retry_after.as_secs());
                reply.headers.insert(RETRY_AFTER, seconds);
            }
            Error::Filter(_) => reply.meta(1, false, 0),
            _ => {}
        }
        reply
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within an hour")]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}

/// The value of `Allow` for a path with these methods.
pub(crate) fn allow(methods: &[&str]) -> HeaderValue {
    let mut value = String::from("OPTIONS");
    for method in methods {
        value.push(',');
        value.push_str(method);
    }
    HeaderValue::from_str(&value).expect("method names are tokens")
}

/// Marks an answer as one that depends on the accepted encoding: all of the API's are.
pub(crate) fn vary(headers: &mut HeaderMap) {
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A body on its way out.
enum Outgoing {
    /// One piece, or nothing.
    Once(Option<Bytes>),
    /// Pieces as they come.
    Stream(Pieces),
    /// Pieces as they come from a server.
    Passed(Option<u64>, upstream::Pieces),
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    /// A body that breaks off must not look like one that is complete.
    type Error = rpc::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Outgoing::Once(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Outgoing::Stream(pieces) => {
                pieces.as_mut().poll_next(context).map(|piece| piece.map(|b| Ok(Frame::data(b))))
            }
            Outgoing::Passed(_, pieces) => pieces
                .as_mut()
                .poll_next(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Outgoing::Once(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Once(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Outgoing::Stream(_) | Outgoing::Passed(None, _) => SizeHint::default(),
            Outgoing::Passed(Some(length), _) => SizeHint::with_exact(*length),
        }
    }
}
