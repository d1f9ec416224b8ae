//! Requests that one agent takes and another one answers: an agent that is no server passes on all that is not its
//! own, and a server runs the handlers for it.
//!
//! What goes over is what handlers see and what they give back. Connections, compression and the headers of every
//! answer are the business of the agent that was asked, and only its. Rates, sizes and blocked paths are those of both:
//! whoever can reach a server's port for agents can do no more there than at its HTTP port.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::HttpBody as _;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::http::error::Error;
use crate::http::extract::{self, Known, Request};
use crate::http::handler::{Answer, later};
use crate::http::params::Params;
use crate::http::payload::{self, RequestBody};
use crate::http::reply::{Content, Reply};
use crate::http::{AppState, Settings, admission, paths, service};
use crate::rpc::{Parts, Refusal};
use crate::upstream::{self, Body, Head, Part, Piece, Upstream};

/// Pieces of a body between who sends and who takes them.
const PIECES: usize = 4;

/// The headers that handlers look at.
const LOOKED_AT: [HeaderName; 7] = [
    ACCEPT,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_LENGTH,
    extract::LAST_EVENT_ID,
    extract::NAMESPACE,
    extract::TOKEN,
];

/// Has a server answer a request.
pub(super) fn pass_on(
    request: Request,
    method: &Method,
    uri: &Uri,
    upstream: Upstream,
) -> Result<Answer, Error> {
    let Request { app, headers: given, known, body, .. } = request;
    let mut headers = Vec::new();
    for name in LOOKED_AT {
        for value in given.get_all(&name) {
            headers.push((name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        }
    }
    drop(given);
    let mut request = upstream::Request {
        method: method.as_str().to_owned(),
        path: uri.path().to_owned(),
        query: query(uri, known.as_ref()),
        headers,
        body: Bytes::new(),
        cut: false,
        upload: None,
        agent: upstream::Agent {
            node_name: app.parts.node_name.clone(),
            kv_value_bytes_max: app.settings.kv_value_bytes_max,
            txn_body_bytes_max: app.settings.txn_body_bytes_max,
            discovery_max_stale: app.settings.discovery_max_stale,
        },
    };
    drop(app);
    let is_large = *method == Method::PUT && uri.path() == "/v1/snapshot";
    if is_large {
        return later(async move {
            let (hand, taken) = mpsc::channel(PIECES);
            let (answer, ()) =
                tokio::join!(upstream.upload(request, taken), payload::pour(body, hand));
            Ok(reply(answer?))
        });
    }
    later(async move {
        match payload::collect(body, upstream::BODY_BYTES_MAX).await {
            Ok(body) => request.body = body,
            // What is too large for every end point is refused by the one it was meant for, in its own words.
            Err(Error::TooLarge(_)) => request.cut = true,
            Err(error) => return Err(error),
        }
        Ok(reply(upstream.http(request).await?))
    })
}

/// The query of a URI with what else the request knows: between agents it is a part of the text.
fn query(uri: &Uri, known: Option<&Known>) -> String {
    let given = uri.query().unwrap_or_default();
    match known.map(Known::parameters) {
        None => given.to_owned(),
        Some(parameters) if given.is_empty() => parameters,
        Some(parameters) => format!("{given}&{parameters}"),
    }
}

fn reply(answer: upstream::ForwardedReply) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut reply = Reply::status(status);
    reply.headers = header_map(&answer.headers);
    reply.content = match answer.body {
        Body::Whole(bytes) => Content::Bytes(bytes),
        Body::Pieces(length, pieces) => Content::Passed(length, pieces),
    };
    reply
}

/// Invalid headers are left out: agents send none.
fn header_map(headers: &[(String, Bytes)]) -> HeaderMap {
    let pair = |(name, value): &(String, Bytes)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    let mut map = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers.iter().filter_map(pair) {
        map.append(name, value);
    }
    map
}

/// A server's interface for requests that other agents pass on. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    app: Arc<AppState>,
    uploads: Arc<Uploads>,
}

/// Bodies that come in pieces, and who reads them.
#[derive(Default)]
struct Uploads(Mutex<HashMap<Uuid, mpsc::Sender<io::Result<Bytes>>>>);

impl Uploads {
    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, mpsc::Sender<io::Result<Bytes>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body in pieces, for as long as its request is answered.
struct Upload {
    uploads: Arc<Uploads>,
    id: Uuid,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.uploads.open().remove(&self.id);
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing").field("node", &self.app.parts.node_name).finish_non_exhaustive()
    }
}

impl Forwarder {
    pub(super) fn new(app: Arc<AppState>) -> Forwarder {
        Forwarder { app, uploads: Arc::default() }
    }

    /// Takes a piece of a body; does anybody want more?
    pub async fn piece(&self, piece: Piece) -> bool {
        let Some(bytes) = piece.bytes else {
            self.uploads.open().remove(&piece.upload);
            return false;
        };
        let reader = self.uploads.open().get(&piece.upload).cloned();
        match reader {
            Some(reader) => reader.send(Ok(bytes)).await.is_ok(),
            None => false,
        }
    }

    /// Answers a request: its head with the beginning of the body, then the rest.
    pub async fn answer(
        &self,
        request: upstream::Request,
        parts: Parts<Part>,
    ) -> Result<(), Refusal> {
        // The agent that asks tries the next server: one of them leads.
        let params = Params::parse(&request.query).unwrap_or_default();
        if paths::is_the_leaders(&request.path, &params) && self.app.follows() {
            return Err(Refusal::busy("this server does not lead"));
        }
        let response = self.response(request).await;
        // The length is that of what the other agent makes of it.
        let headers = response.headers().iter().filter(|(name, _)| **name != CONTENT_LENGTH);
        let headers = headers
            .map(|(name, value)| {
                (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))
            })
            .collect();
        let status = response.status().as_u16();
        let head = |length, body| Part::Head(Head { status, headers, length, body });
        let mut body = response.into_body();
        let Some(length) = body.size_hint().exact() else {
            parts.send(&head(None, Bytes::new())).await?;
            while let Some(Ok(frame)) = body.frame().await {
                send(&parts, frame.into_data().unwrap_or_default()).await?;
            }
            return Ok(());
        };
        // What has a length is one piece.
        let mut whole = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) | None => Bytes::new(),
        };
        let first = whole.split_to(whole.len().min(upstream::CHUNK_BYTES));
        parts.send(&head(Some(length), first)).await?;
        send(&parts, whole).await
    }

    async fn response(&self, request: upstream::Request) -> Response {
        let upstream::Request { method, path, query, headers, body, cut, upload, agent } = request;
        let Ok(method) = Method::from_bytes(method.as_bytes()) else {
            return Reply::status(StatusCode::BAD_REQUEST).into_response();
        };
        let cut = cut || body.len() as u64 > upstream::BODY_BYTES_MAX;
        let mut uploading = None;
        let body = match upload {
            None => RequestBody::passed((!cut).then_some(body)),
            Some(id) => {
                let (hand, taken) = mpsc::channel(PIECES);
                self.uploads.open().insert(id, hand);
                uploading = Some(Upload { uploads: Arc::clone(&self.uploads), id });
                RequestBody::uploaded(taken)
            }
        };
        // What this server forbids it forbids to whoever asks, and for whom: an agent's word on its own limits binds
        // that agent alone.
        let head = [&path, &query, &agent.node_name].iter().map(|it| it.len()).sum::<usize>()
            + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if let Err(error) = admission::admit_passed(&self.app, &method, &path, head) {
            return error.into_response();
        }
        let app = self.app.of(agent);
        let response = service::passed(app, method, (&path, &query), header_map(&headers), body);
        drop((path, query, headers));
        let response = response.await;
        drop(uploading);
        response
    }
}

/// A body in pieces that do not hold up others on their way.
async fn send(parts: &Parts<Part>, mut body: Bytes) -> Result<(), Refusal> {
    while !body.is_empty() {
        let piece = body.split_to(body.len().min(upstream::CHUNK_BYTES));
        parts.send(&Part::Body(piece)).await?;
    }
    Ok(())
}

impl AppState {
    /// This interface as another agent would have it if it were a server itself: with its name and its limits, as far as
    /// they do not exceed this server's. What goes out is for that agent to dress.
    fn of(&self, agent: upstream::Agent) -> Arc<AppState> {
        let mut parts = self.parts.clone();
        parts.node_name = agent.node_name;
        Arc::new(AppState {
            parts,
            settings: Settings {
                kv_value_bytes_max: agent.kv_value_bytes_max.min(self.settings.kv_value_bytes_max),
                txn_body_bytes_max: agent.txn_body_bytes_max.min(self.settings.txn_body_bytes_max),
                discovery_max_stale: agent.discovery_max_stale,
                session_ttl_min: self.settings.session_ttl_min,
                body_idle_max: self.settings.body_idle_max,
                stall_max: self.settings.stall_max,
                ..Settings::default()
            },
            coordinates: Arc::clone(&self.coordinates),
            events: Arc::clone(&self.events),
            snapshots: Arc::clone(&self.snapshots),
            watching: Arc::clone(&self.watching),
            intake: Arc::clone(&self.intake),
            datacenters_cached: Arc::clone(&self.datacenters_cached),
            router: self.router.clone(),
            response_headers: Vec::new(),
        })
    }
}
