//! The interface as a service: what connections, `/v1/watch` and other agents hand their requests to.
//!
//! ```text
//! connection ─▶ Drained ─▶ CleanPath ─▶ axum's router ─▶ handler
//! /v1/watch, other agents ──────────────────▲
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, Uri};
use hyper::body::Incoming;
use tower::{Layer, Service, ServiceBuilder};

use super::error::Error;
use super::extract::{Known, RequestContext, Via};
use super::paths::{CleanPath, CleanPaths};
use super::payload::RequestBody;
use super::{AppState, params, paths, routing};

/// One connection's view of the interface.
pub(super) struct Connection {
    app: Arc<AppState>,
    peer: Option<IpAddr>,
    service: Drained<CleanPath<Router>>,
}

impl Connection {
    /// The view of a client at this address; `None` for a Unix socket.
    pub(super) fn new(app: Arc<AppState>, peer: Option<IpAddr>) -> Connection {
        let service = ServiceBuilder::new()
            .layer(DrainBodies)
            .layer(CleanPaths { unprintable: app.settings.unprintable_paths })
            .service(app.router.clone());
        Connection { app, peer, service }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = <Drained<CleanPath<Router>> as Service<HttpRequest>>::Future;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let body = RequestBody::new(body, &self.app, self.peer);
        let (app, peer) = (Arc::clone(&self.app), self.peer);
        head.extensions.insert(RequestContext {
            app,
            peer,
            body,
            via: Via::Connection,
            known: None,
        });
        self.service.clone().call(HttpRequest::from_parts(head, Body::empty()))
    }
}

/// Reads and throws away what nobody took of a request's body before the answer goes out: clients that still write would
/// miss the answer for a broken pipe.
#[derive(Debug, Clone, Copy)]
struct DrainBodies;

impl<S> Layer<S> for DrainBodies {
    type Service = Drained<S>;

    fn layer(&self, inner: S) -> Drained<S> {
        Drained { inner }
    }
}

/// A service behind [`DrainBodies`].
#[derive(Debug, Clone)]
pub(super) struct Drained<S> {
    inner: S,
}

impl<S> Service<HttpRequest> for Drained<S>
where
    S: Service<HttpRequest, Response = Response>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Draining<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let context = request.extensions().get::<RequestContext>();
        let body = context.map_or_else(RequestBody::none, |context| context.body.clone());
        Draining { answering: self.inner.call(request), body, drain: None }
    }
}

/// The future of an answer, and then of draining what is left of the request.
pub(super) struct Draining<F> {
    answering: F,
    body: RequestBody,
    drain: Option<Pin<Box<dyn Future<Output = Response> + Send>>>,
}

impl<F, E> Future for Draining<F>
where
    F: Future<Output = Result<Response, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.drain.is_none() {
            let response = ready!(Pin::new(&mut self.answering).poll(context))?;
            if !self.body.is_left() {
                return Poll::Ready(Ok(response));
            }
            let body = self.body.clone();
            self.drain = Some(Box::pin(async move {
                body.drain().await;
                response
            }));
        }
        match &mut self.drain {
            Some(drain) => drain.as_mut().poll(context).map(Ok),
            None => Poll::Pending,
        }
    }
}

/// Answers one question of many as if its GET had come alone, where that can wait for another answer.
pub(super) async fn ask(
    app: &Arc<AppState>,
    peer: Option<IpAddr>,
    path_and_query: &str,
    known: Option<Known>,
    headers: HeaderMap,
) -> Response {
    let answering = match question(app, path_and_query) {
        Ok(uri) => {
            let mut router = app.router.clone();
            let (app, body) = (Arc::clone(app), RequestBody::none());
            let context = RequestContext { app, peer, body, via: Via::Watch, known };
            router.call(request(Method::GET, uri, headers, context))
        }
        Err(error) => return error.into_response(),
    };
    routing::response(answering.await)
}

/// The URI of a question.
fn question(app: &AppState, path_and_query: &str) -> Result<Uri, Error> {
    let wrong = |why: &str| Error::invalid(format!("`{path_and_query}` {why}"));
    let uri: Uri =
        path_and_query.parse().map_err(|_| wrong("is no path: escape what is not plain text"))?;
    // The rest behind `#` would be dropped in silence.
    if path_and_query.contains('#') {
        return Err(wrong("is no path: write `%23` for `#`"));
    }
    if uri.authority().is_some() || !path_and_query.starts_with('/') {
        return Err(wrong("is no path: begin with `/v1/`"));
    }
    let path = params::unescape(uri.path()).ok_or_else(|| wrong("has a wrong escape"))?;
    if !app.settings.unprintable_paths && !paths::is_printable(&path) {
        return Err(wrong("has characters that cannot be printed"));
    }
    if paths::cleaned(&path).is_some() {
        return Err(Error::NotFound(format!("no path `{path}`")));
    }
    paths::routed(&path, uri.query()).ok_or_else(|| wrong("is too long"))
}

/// Runs the handler of a request that another agent took and passed on, once it was admitted. The agent may be of
/// another version, and know other paths.
pub(super) fn passed(
    app: Arc<AppState>,
    method: Method,
    (path, query): (&str, &str),
    headers: HeaderMap,
    body: RequestBody,
) -> impl Future<Output = Response> + Send + use<> {
    let query = Some(query).filter(|query| !query.is_empty());
    let uri = params::unescape(path).and_then(|path| paths::routed(&path, query));
    let nothing = || Error::NotFound(String::new()).into_response();
    let answering = uri.ok_or_else(nothing).map(|uri| {
        let mut router = app.router.clone();
        let context = RequestContext { app, peer: None, body, via: Via::Agent, known: None };
        router.call(request(method, uri, headers, context))
    });
    async move {
        match answering {
            Ok(answering) => routing::response(answering.await),
            Err(response) => response,
        }
    }
}

fn request(method: Method, uri: Uri, headers: HeaderMap, context: RequestContext) -> HttpRequest {
    let mut request = HttpRequest::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request.extensions_mut().insert(context);
    request
}
