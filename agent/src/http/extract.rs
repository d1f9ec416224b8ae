//! What a request says: path, parameters, token, and how its answer is wanted.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use muster_client::types::parse_nanos;
use tokio::sync::mpsc;

use super::Door;
use super::encode::Layout;
use super::error::Error;
use super::reply::Reply;
use crate::acl::{self, Access, Resource, Token};
use crate::read::{Consistency, Options};
use crate::store::Index;

/// JSON bodies without a limit of their own.
pub(crate) const BODY_BYTES_MAX: u64 = 8 << 20;

/// What lies in no namespace, and ignores those that are named.
const UNNAMESPACED: [&str; 4] =
    ["/v1/catalog/nodes", "/v1/catalog/datacenters", "/v1/coordinate/", "/v1/txn"];

/// A request on its way to its handler. Handlers take out what they need and drop the rest before
/// they wait: what sleeps must be small.
pub(crate) struct Request {
    pub(crate) door: Arc<Door>,
    pub(crate) params: Params,
    pub(crate) token: Token,
    pub(crate) layout: Layout,
    pub(crate) headers: HeaderMap,
    /// Decoded.
    pub(super) path: String,
    /// Length of the route's part of the path.
    pub(super) route_len: usize,
    pub(super) body: RequestBody,
}

impl Request {
    /// What follows the route in the path: the key, the name, the id.
    pub(crate) fn rest(&self) -> &str {
        &self.path[self.route_len..]
    }

    /// Fails unless the token may.
    pub(crate) fn authorize(&self, resource: Resource<'_>, access: Access) -> Result<(), Error> {
        Ok(acl::authorize(&self.token, resource, access)?)
    }

    /// A value as JSON in the layout that was asked for.
    pub(crate) fn json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Reply {
        Reply::json(value, self.layout)
    }

    /// Fails if `?dc=` names another datacenter than this one.
    pub(crate) fn datacenter_is_here(&self) -> Result<(), Error> {
        self.door.is_here(self.params.get("dc").unwrap_or_default())
    }

    /// `?index`, `?wait`, `?stale`, `?consistent`, ... with the reference's texts for wrong ones.
    pub(crate) fn read_options(&self) -> Result<ReadOptions, Error> {
        let max_stale = self.door.settings.discovery_max_stale;
        read_options(&self.params, &self.headers, &self.path, max_stale)
    }

    /// Namespaces are refused where the reference refuses them, rather than silently ignored.
    pub(crate) fn no_namespace(&self) -> Result<(), Error> {
        no_namespace(&self.params, &self.headers)
    }

    /// `?index` and `?wait`.
    pub(crate) fn index_and_wait(&self) -> Result<(Index, Duration), Error> {
        index_and_wait(&self.params)
    }

    /// Does the client want a stream of events?
    pub(crate) fn wants_events(&self) -> bool {
        accepts(&self.headers, "text/event-stream")
    }

    /// The index after which a resumed event stream goes on.
    pub(crate) fn last_event(&self) -> Option<Index> {
        self.headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
    }

    /// Length of the body as its sender announced it.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Separates the body from the rest, for handlers that need both.
    pub(crate) fn into_body(self) -> RequestBody {
        self.body
    }
}

/// How a read is wanted. Discovery may be as stale as `discovery_max_stale` if nothing else is said.
pub(super) fn read_options(
    params: &Params,
    headers: &HeaderMap,
    path: &str,
    discovery_max_stale: Duration,
) -> Result<ReadOptions, Error> {
    let mut consistency = None;
    let stale = params.has("stale");
    if stale {
        consistency = Some(Consistency::Stale { max: None });
    }
    let consistent = params.has("consistent");
    if consistent {
        consistency = Some(Consistency::Consistent);
    }
    if params.has("leader") && consistency.is_none() {
        consistency = Some(Consistency::Default);
    }
    let cached = params.has("cached");
    let mut max_stale = None;
    if let Some(text) = params.get("max_stale").filter(|text| !text.is_empty()) {
        let max = parse_nanos(text)
            .ok_or_else(|| Error::invalid(format!("Invalid max_stale value {text:?}")))?;
        if let Ok(max @ 1..) = u64::try_from(max) {
            max_stale = Some(Duration::from_nanos(max));
            consistency = Some(Consistency::Stale { max: max_stale });
        }
    }
    let discovery = path.starts_with("/v1/catalog") || path.starts_with("/v1/health");
    if consistency.is_none() && !cached && discovery && !discovery_max_stale.is_zero() {
        consistency = Some(Consistency::Stale { max: Some(discovery_max_stale) });
    }
    if (stale || max_stale.is_some()) && consistent {
        return Err(Error::invalid(
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ));
    }
    if cached && consistent {
        return Err(Error::invalid(
            "Cannot specify ?cached with ?consistent, conflicting semantics.",
        ));
    }
    check_cache_control(headers)?;
    let (index, wait) = index_and_wait(params)?;
    if !UNNAMESPACED.iter().any(|start| path.starts_with(start)) {
        no_namespace(params, headers)?;
    }
    let consistency = consistency.unwrap_or_default();
    Ok(ReadOptions { options: Options { consistency, index, wait }, cached })
}

fn no_namespace(params: &Params, headers: &HeaderMap) -> Result<(), Error> {
    let refuse = |what: &str| {
        Err(Error::BadRequest(format!("{what} - Namespaces are a Consul Enterprise feature")))
    };
    if headers.get("x-consul-namespace").is_some_and(|name| !name.is_empty()) {
        return refuse("Invalid header: \"X-Consul-Namespace\"");
    }
    if params.get("ns").is_some_and(|name| !name.is_empty()) {
        return refuse("Invalid query parameter: \"ns\"");
    }
    Ok(())
}

fn index_and_wait(params: &Params) -> Result<(Index, Duration), Error> {
    let mut wait = Duration::ZERO;
    if let Some(text) = params.get("wait").filter(|text| !text.is_empty()) {
        let ns = parse_nanos(text).ok_or_else(|| Error::invalid("Invalid wait time"))?;
        wait = Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    }
    let mut index = 0;
    if let Some(text) = params.get("index").filter(|text| !text.is_empty()) {
        index = go_unsigned(text).map_err(|_| Error::invalid("Invalid index"))?;
    }
    Ok((index, wait))
}

/// `Cache-Control` asks for nothing here that an answer does not already give (shared answers
/// are never older than the state), but a malformed one is refused as the reference does.
fn check_cache_control(headers: &HeaderMap) -> Result<(), Error> {
    let Some(header) = headers.get(CACHE_CONTROL) else { return Ok(()) };
    let wrong = || Error::invalid("Invalid Cache-Control header.");
    let text = header.to_str().map_err(|_| wrong())?.to_lowercase();
    for part in text.split(',').map(str::trim) {
        let Some((name, value)) = part.split_once('=') else { continue };
        if matches!(name, "max-age" | "stale-if-error") && value.parse::<i64>().is_err() {
            return Err(wrong());
        }
    }
    Ok(())
}

/// A request's body, for whoever takes it. What nobody took is read and thrown away before the
/// answer goes out: clients that still write would miss the answer for a broken pipe.
#[derive(Clone)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Option<Source>>>>);

/// Where a body comes from.
enum Source {
    /// The connection, still unread.
    Connection(Incoming),
    /// The agent that passed the request on; `None`: it was too large for that.
    Agent(Option<Bytes>),
    /// The same agent, piece by piece.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

/// Bytes of a refused body that are read all the same.
const DRAIN_BYTES_MAX: u64 = 16 << 20;
/// How long that may take.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

impl RequestBody {
    /// Most requests have none, and cost nothing here.
    pub(super) fn new(body: Incoming) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody(None);
        }
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Connection(body))))))
    }

    /// The body of a request that another agent passed on.
    pub(super) fn passed(body: Option<Bytes>) -> RequestBody {
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Agent(body))))))
    }

    /// The body of a request that another agent passes on piece by piece.
    pub(super) fn uploaded(pieces: mpsc::Receiver<io::Result<Bytes>>) -> RequestBody {
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Pieces(pieces))))))
    }

    fn take(&self) -> Option<Source> {
        self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Is there something that nobody took?
    pub(super) fn is_left(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|body| body.lock().unwrap_or_else(PoisonError::into_inner).is_some())
    }

    /// Reads what nobody took.
    pub(super) async fn drain(&self) {
        if let Some(Source::Connection(body)) = self.take() {
            drain(body).await;
        }
    }
}

async fn drain(mut body: Incoming) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            if bytes > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    // A client that is slower than that misses the answer: nothing to be done.
    let _ = tokio::time::timeout(DRAIN_WAIT, read).await;
}

/// How long the next piece of a large body may take.
const PIECE_WAIT: Duration = Duration::from_secs(30);

/// Hands a body over piece by piece to whoever reads at the other end. A reader that has seen
/// enough closes its end, and the rest is read and thrown away.
pub(crate) async fn pour(body: RequestBody, to: mpsc::Sender<io::Result<Bytes>>) {
    let mut body = match body.take() {
        None => return,
        Some(Source::Connection(body)) => body,
        Some(Source::Agent(body)) => {
            let piece = body.ok_or_else(|| io::Error::other("too large to be passed on whole"));
            // Who reads may have seen enough.
            let _ = to.send(piece).await;
            return;
        }
        Some(Source::Pieces(mut pieces)) => loop {
            let piece = match tokio::time::timeout(PIECE_WAIT, pieces.recv()).await {
                Ok(None) => return,
                Ok(Some(piece)) => piece,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            let failed = piece.is_err();
            if to.send(piece).await.is_err() || failed {
                return;
            }
        },
    };
    loop {
        let piece = match tokio::time::timeout(PIECE_WAIT, body.frame()).await {
            Ok(None) => return,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let failed = piece.is_err();
        if to.send(piece).await.is_err() {
            drain(body).await;
            return;
        }
        if failed {
            return;
        }
    }
}

/// The whole of a body, up to `bytes_max`.
pub(crate) async fn collect(body: RequestBody, bytes_max: u64) -> Result<Bytes, Error> {
    let too_large =
        || Error::TooLarge(format!("Request body too large, max size: {bytes_max} bytes."));
    let mut body = match body.take() {
        None => return Ok(Bytes::new()),
        Some(Source::Agent(Some(bytes))) if bytes.len() as u64 <= bytes_max => return Ok(bytes),
        Some(Source::Agent(_) | Source::Pieces(_)) => return Err(too_large()),
        Some(Source::Connection(body)) => body,
    };
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Error::invalid(format!("Request body could not be read: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        if (whole.len() + data.len()) as u64 > bytes_max {
            drop(whole);
            drain(body).await;
            return Err(too_large());
        }
        whole.extend_from_slice(data);
    }
    Ok(whole.freeze())
}

/// How a read is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadOptions {
    /// For the read path.
    pub(crate) options: Options,
    /// `?cached`: say in a header whether the answer was known.
    pub(crate) cached: bool,
}

/// Does `Accept` name this type?
pub(crate) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|part| {
            part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(kind))
        })
    })
}

/// Does the client take gzip? Only a name counts, not `*`, as in the reference.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|part| {
            let mut pieces = part.split(';');
            let named = pieces.next().is_some_and(|n| n.trim().eq_ignore_ascii_case("gzip"));
            named && !pieces.any(|piece| refuses(piece.trim()))
        })
    })
}

/// `q=0`, in any of its spellings.
fn refuses(piece: &str) -> bool {
    piece.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
}

/// The token of a request: `?token=`, `X-Consul-Token`, `Authorization: Bearer`, in this order.
pub(super) fn token(params: &Params, headers: &HeaderMap) -> Token {
    if let Some(secret) = params.get("token").filter(|secret| !secret.is_empty()) {
        return Token::new(secret);
    }
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    if let Some(secret) = headers.get("x-consul-token").and_then(text).filter(|s| !s.is_empty()) {
        return Token::new(secret);
    }
    let bearer = headers.get(AUTHORIZATION).and_then(text).and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim().to_owned())
    });
    bearer.map_or_else(Token::default, Token::new)
}

/// The parameters of a query string, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Splits a query string. `None` if an escape in it is wrong.
    pub(crate) fn parse(query: &str) -> Option<Params> {
        if query.is_empty() {
            return Some(Params::default());
        }
        let mut pairs = Vec::with_capacity(4);
        for part in query.split(['&', ';']).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((unescape(name, true)?, unescape(value, true)?));
        }
        Some(Params(pairs))
    }

    /// Is there such a parameter, with any value?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The first value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All of them, escaped and sorted by name: how the reference repeats them in errors.
    pub(crate) fn encoded(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self.0.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let escape = |text: &str| {
            const KEEP: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
                .remove(b'-')
                .remove(b'_')
                .remove(b'.')
                .remove(b'~')
                .remove(b' ');
            percent_encoding::utf8_percent_encode(text, KEEP).to_string().replace(' ', "+")
        };
        let parts: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
            .collect();
        parts.join("&")
    }

    /// Every value.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent escapes, and `+` for a blank if `plus`. `None` for a wrong escape or for bytes
/// that are not UTF-8.
pub(super) fn unescape(text: &str, plus: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let high = char::from(*bytes.get(at + 1)?).to_digit(16)?;
                let low = char::from(*bytes.get(at + 2)?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
                at += 3;
                continue;
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

/// A number as the reference reads it: decimal digits only, 64 bits. The error is the reference's.
pub(crate) fn go_unsigned(text: &str) -> Result<u64, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
    } else {
        Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_split_and_unescaped() {
        let params = Params::parse("a=1&b&c=x+y%2Bz;tag=t1&tag=t2&=v").unwrap();
        assert_eq!(params.get("a"), Some("1"));
        assert!(params.has("b") && params.get("b") == Some(""));
        assert_eq!(params.get("c"), Some("x y+z"));
        assert_eq!(params.all("tag").collect::<Vec<_>>(), ["t1", "t2"]);
        for wrong in ["a=%", "a=%z1", "%f=1", "a=%ff"] {
            assert!(Params::parse(wrong).is_none(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_split_or_refused(query in "\\PC{0,60}|([%&;=+]|[0-9a-f]{1,2}){0,40}") {
            if let Some(params) = Params::parse(&query) {
                // What is sent back in errors reads as the same parameters.
                let again = Params::parse(&params.encoded()).expect("its own escapes");
                for (name, value) in &params.0 {
                    proptest::prop_assert!(again.all(name).any(|it| it == value));
                }
            }
        }
    }

    #[test]
    fn gzip_is_taken_by_name() {
        let rows = [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("*", false),
            ("identity", false),
        ];
        for (value, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
    }

    #[test]
    fn the_parameter_wins_over_the_header_and_that_over_bearer() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        let none = Params::default();
        assert!(token(&none, &headers) == Token::new("b"));
        headers.insert("x-consul-token", HeaderValue::from_static("h"));
        assert!(token(&none, &headers) == Token::new("h"));
        let params = Params::parse("token=p").unwrap();
        assert!(token(&params, &headers) == Token::new("p"));
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(go_unsigned("18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "-1", "+1", "1_000", "0x1", "18446744073709551616"] {
            assert!(go_unsigned(wrong).is_err(), "{wrong}");
        }
    }
}
