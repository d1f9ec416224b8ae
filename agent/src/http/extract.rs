//! Parts of a request: path, parameters, token, and options of the answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use muster_client::types::{format_duration, parse_nanos};

use super::encode::Layout;
use super::error::Error;
use super::params::{self, Params, go_unsigned};
use super::payload::RequestBody;
use super::reply::Reply;
use super::routing::Route;
use super::{AppState, admission};
use crate::accept;
use crate::acl::{self, Access, Resource, Token};
use crate::read::{Consistency, Options};
use crate::store::Index;

// Made once: a header that is asked for by its text is checked and folded on every request.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
pub(super) const NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Paths outside namespaces, which ignore a given one.
const UNNAMESPACED: [&str; 4] =
    ["/v1/catalog/nodes", "/v1/catalog/datacenters", "/v1/coordinate/", "/v1/txn"];

/// A request on its way to its handler. Handlers take out what they need and drop the rest before
/// they wait: what sleeps must be small.
pub(crate) struct Request {
    pub(crate) app: Arc<AppState>,
    pub(crate) params: Params,
    pub(crate) token: Token,
    pub(crate) layout: Layout,
    pub(crate) headers: HeaderMap,
    /// Decoded.
    pub(super) path: String,
    /// Length of the route's part of the path.
    pub(super) route_len: usize,
    /// Address of the client; `None` on a Unix socket, and for a request that another agent received.
    pub(super) peer: Option<IpAddr>,
    pub(super) via: Via,
    /// The answer that a question of a stream of many is about to follow.
    pub(super) known: Option<Known>,
    pub(super) body: RequestBody,
}

/// The answer that is known already: the next one is another, or comes after so long a wait. It is a value of its own
/// rather than a part of the URL, so that nothing in the URL can hide or change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) position: Position,
    pub(crate) wait: Duration,
}

/// Position of an answer: anything else is an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    Index(Index),
    /// The hash of what was answered, as the client or the agent wrote it.
    Hash(String),
}

impl Known {
    /// As the parameters of a request say it.
    pub(super) fn parameters(&self) -> String {
        let wait = format_duration(self.wait);
        match &self.position {
            Position::Index(index) => format!("index={index}&wait={wait}"),
            Position::Hash(hash) => format!("hash={}&wait={wait}", params::escape(hash)),
        }
    }
}

/// Whoever hands a request to the interface, and for whom. An extension of every request.
#[derive(Clone)]
pub(super) struct RequestContext {
    pub(super) app: Arc<AppState>,
    /// Address of the client; `None` on a Unix socket, and for a request that another agent received.
    pub(super) peer: Option<IpAddr>,
    /// The body, which also somebody else holds who reads what is left of it.
    pub(super) body: RequestBody,
    pub(super) via: Via,
    pub(super) known: Option<Known>,
}

/// The way on which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// A connection of its client.
    Connection,
    /// A stream of many questions, `/v1/watch`.
    Watch,
    /// Another agent, which received it, and admitted it already.
    Agent,
}

/// Every handler gets its request by this one way: with its token, and only if this agent admits it.
impl FromRequestParts<Route> for Request {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, route: &Route) -> Result<Request, Error> {
        let context = parts.extensions.remove::<RequestContext>();
        let RequestContext { app, peer, body, via, known } =
            context.ok_or(Error::Status(StatusCode::INTERNAL_SERVER_ERROR))?;
        let path = params::unescape(parts.uri.path());
        let path = path.ok_or(Error::Status(StatusCode::BAD_REQUEST))?;
        let params = Params::parse(parts.uri.query().unwrap_or_default());
        let params = params.ok_or_else(|| match via {
            Via::Connection => Error::Status(StatusCode::INTERNAL_SERVER_ERROR),
            Via::Watch => {
                let uri = &parts.uri;
                Error::invalid(format!("`{uri}` has a parameter with a wrong escape"))
            }
            Via::Agent => Error::Status(StatusCode::BAD_REQUEST),
        })?;
        match via {
            Via::Connection => admission::admit_client(&app, peer, parts, &path)?,
            Via::Watch => admission::admit(&app, peer, &parts.method, &path)?,
            Via::Agent => {}
        }
        let headers = std::mem::take(&mut parts.headers);
        let pretty = app.settings.pretty || params.has("pretty");
        Ok(Request {
            token: token(&params, &headers),
            layout: if pretty { Layout::Pretty } else { Layout::Compact },
            route_len: route.path.len(),
            app,
            params,
            headers,
            path,
            peer,
            via,
            known,
            body,
        })
    }
}

impl Request {
    /// Rest of the path after the route: the key, the name, the id.
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
        self.app.is_here(self.params.get("dc").unwrap_or_default())
    }

    /// `?index`, `?wait`, `?stale`, `?consistent`, ... with the reference's texts for wrong ones.
    pub(crate) fn read_options(&self) -> Result<ReadOptions, Error> {
        let max_stale = self.app.settings.discovery_max_stale;
        let mut read = read_options(&self.params, &self.headers, &self.path, max_stale)?;
        (read.options.index, read.options.wait) = self.index_and_wait()?;
        Ok(read)
    }

    /// Namespaces are refused where the reference refuses them, rather than silently ignored.
    pub(crate) fn no_namespace(&self) -> Result<(), Error> {
        no_namespace(&self.params, &self.headers)
    }

    /// `?index` and `?wait`, or what a question has in their place.
    pub(crate) fn index_and_wait(&self) -> Result<(Index, Duration), Error> {
        match &self.known {
            None => index_and_wait(&self.params),
            Some(Known { position: Position::Index(index), wait }) => Ok((*index, *wait)),
            Some(Known { position: Position::Hash(_), wait }) => Ok((0, *wait)),
        }
    }

    /// `?hash`, or what a question has in its place.
    pub(crate) fn hash(&self) -> &str {
        match &self.known {
            Some(Known { position: Position::Hash(hash), .. }) => hash,
            _ => self.params.get("hash").unwrap_or_default(),
        }
    }

    /// Does the client want a stream of events rather than one answer?
    pub(crate) fn wants_events(&self) -> bool {
        accept::prefers_events(self.headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes))
    }

    /// The index after which a resumed event stream goes on.
    pub(crate) fn last_event(&self) -> Option<Index> {
        self.headers.get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok()
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

/// Parses the read options. Discovery may be as stale as `discovery_max_stale` if nothing else is said.
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
    if headers.get(NAMESPACE).is_some_and(|name| !name.is_empty()) {
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

/// Options of a read.
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

/// The token of a request: `?token=`, `X-Consul-Token`, `Authorization: Bearer`, in this order. Blanks around it do not
/// belong to it, and an empty one is none.
pub(super) fn token(params: &Params, headers: &HeaderMap) -> Token {
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let bearer = || {
        let (scheme, secret) = header(AUTHORIZATION)?.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(secret)
    };
    let given = |secret: &&str| !secret.is_empty();
    params
        .get("token")
        .map(str::trim)
        .filter(given)
        .or_else(|| header(TOKEN).map(str::trim).filter(given))
        .or_else(|| bearer().map(str::trim).filter(given))
        .map_or_else(Token::default, Token::new)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let check = |query: &str, header: Option<&str>, bearer: Option<&str>, expected: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(TOKEN, header), (AUTHORIZATION, bearer)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_str(value).unwrap());
                }
            }
            let found = token(&Params::parse(query).unwrap(), &headers);
            assert!(found == Token::new(expected), "{query} {header:?} {bearer:?}");
        };
        check("", None, None, "");
        check("", None, Some("Bearer b"), "b");
        check("", None, Some(" bEaReR   b "), "b");
        check("", None, Some("Basic b"), "");
        check("", None, Some("Bearer"), "");
        check("", None, Some("Bearer  "), "");
        check("", Some("h"), Some("Bearer b"), "h");
        check("", Some(" h\t"), None, "h");
        check("", Some(""), Some("Bearer b"), "b");
        check("", Some("  "), Some("Bearer b"), "b");
        check("token=p", Some("h"), Some("Bearer b"), "p");
        check("token=+p%20", Some("h"), None, "p");
        check("token=", Some("h"), None, "h");
        check("token=%20", None, Some("Bearer b"), "b");
        check("token", Some(" "), None, "");
    }
}
