//! From a request to its handler, and from its answer to the wire: the rules of every path.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;

use super::encode::Layout;
use super::error::Error;
use super::extract::{self, Request};
use super::params::{self, Params};
use super::payload::RequestBody;
use super::reply::{self, Outgoing, Reply};
use super::routes::{self, Answer, PendingReply, Route};
use super::{AppState, Backend, debug, forward, origin};
use crate::telemetry::metrics::Timing;

/// The head of a request, as much of it as the HTTP engine takes.
const HEAD_BYTES_MAX: usize = 408 << 10;

/// Body of the refusal for pages that may not write.
const FOREIGN_PAGE: &str = "writes from this page's origin are not allowed\n\
    hint: list the origin in http_config.allow_origins";

/// One connection's view of the interface.
pub(super) struct Dispatch {
    pub(super) app: Arc<AppState>,
    pub(super) peer: Option<IpAddr>,
}

impl Service<http::Request<Incoming>> for Dispatch {
    type Response = Response<Outgoing>;
    type Error = std::convert::Infallible;
    type Future = Finishing;

    /// Takes the request apart at once, so that a sleeping one keeps nothing of it.
    fn call(&self, request: http::Request<Incoming>) -> Finishing {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body, &self.app, self.peer);
        let (reply, reply_options) = match self.handle(head, body.clone()) {
            Ok((Answer::Later(pending), reply_options)) => {
                return Finishing::Later {
                    pending,
                    reply_options,
                    begun,
                    app: Arc::clone(&self.app),
                };
            }
            Ok((Answer::Now(reply), reply_options)) | Err((reply, reply_options)) => {
                (reply, reply_options)
            }
        };
        if body.is_left() {
            let pending = Box::pin(async move {
                body.drain().await;
                Ok(reply)
            });
            return Finishing::Later { pending, reply_options, begun, app: Arc::clone(&self.app) };
        }
        reply_options.note(begun);
        Finishing::Done(Some(finish(reply, reply_options, &self.app)))
    }
}

/// Options of a reply.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReplyOptions {
    /// Part of the API, with the headers that all of it carries.
    api: bool,
    gzip: bool,
    /// Metric for the time that it took.
    times: Option<&'static Timing>,
}

impl ReplyOptions {
    fn note(self, begun: Instant) {
        if let Some(times) = self.times {
            times.since(begun);
        }
    }
}

impl Dispatch {
    #[expect(clippy::result_large_err, reason = "both sides are answers, moved once")]
    fn handle(
        &self,
        head: http::request::Parts,
        body: RequestBody,
    ) -> Result<(Answer, ReplyOptions), (Reply, ReplyOptions)> {
        let outside = ReplyOptions::default();
        let Some(path) = params::unescape(head.uri.path()) else {
            return Err((Reply::text(StatusCode::BAD_REQUEST, "400 Bad Request"), outside));
        };
        if !self.app.settings.unprintable_paths && !routes::is_printable(&path) {
            return Err((Reply::status(StatusCode::BAD_REQUEST), outside));
        }
        let query = head.uri.query().unwrap_or_default();
        if let Some(clean) = routes::cleaned(&path) {
            return Err((redirect(&head.method, &clean, query), outside));
        }
        let Some(known) = self.app.router.find(&path) else {
            if self.app.router.wants_slash(&path) {
                return Err((redirect(&head.method, &format!("{path}/"), query), outside));
            }
            if let Some(reply) = debug::answer(&head.method, &path, self.app.settings.debug) {
                let refused = self.admit_client(&head, &path).err().map(Reply::from);
                return Err((refused.unwrap_or(reply), outside));
            }
            return Err((self.outside_the_api(&head.method, &path), outside));
        };

        let route = known.route;
        let mut reply_options = ReplyOptions {
            api: true,
            gzip: extract::accepts_gzip(&head.headers),
            times: known.times(&head.method),
        };
        let Some(params) = Params::parse(query) else {
            return Err((Reply::status(StatusCode::INTERNAL_SERVER_ERROR), reply_options));
        };
        self.admit_client(&head, &path).map_err(|error| (error.into(), reply_options))?;
        match Self::method(&head.method, route) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let reply = Reply::empty().with(http::header::ALLOW, reply::allow(route.methods));
                return Err((reply, reply_options));
            }
            Err(error) => {
                // A refused HEAD announces the text but must not carry it, not even compressed.
                reply_options.gzip &= head.method != Method::HEAD;
                return Err((error.into(), reply_options));
            }
        }
        match self.answer(head, path, route, params, body) {
            Ok(answer) => Ok((answer, reply_options)),
            Err(error) => Err((error.into(), reply_options)),
        }
    }

    /// Has a request answered by whoever is to answer it.
    fn answer(
        &self,
        head: http::request::Parts,
        path: String,
        route: &Route,
        params: Params,
        body: RequestBody,
    ) -> Result<Answer, Error> {
        let handler =
            Self::method(&head.method, route)?.ok_or_else(|| Error::NotFound(String::new()))?;
        match &self.app.parts.backend {
            Backend::Elsewhere(upstream) if !routes::is_own(&path) => {
                forward::pass_on(&self.app, upstream.clone(), head, body)
            }
            Backend::Here { leader: Some(leader), .. }
                if routes::is_the_leaders(&path, &params) && self.app.follows() =>
            {
                forward::pass_on(&self.app, leader.clone(), head, body)
            }
            _ => handler(self.request(head.headers, path, route, params, body)),
        }
    }

    /// Answers one question of many as if its GET had come alone, where that can wait for another answer.
    pub(super) fn ask(&self, path_and_query: &str, headers: HeaderMap) -> Result<Answer, Error> {
        let wrong = |why: &str| Error::invalid(format!("`{path_and_query}` {why}"));
        let uri: http::Uri = path_and_query
            .parse()
            .map_err(|_| wrong("is no path: escape what is not plain text"))?;
        // The rest behind `#` would be dropped in silence, the position in it, too.
        if path_and_query.contains('#') {
            return Err(wrong("is no path: write `%23` for `#`"));
        }
        if uri.authority().is_some() || !path_and_query.starts_with('/') {
            return Err(wrong("is no path: begin with `/v1/`"));
        }
        let path = params::unescape(uri.path()).ok_or_else(|| wrong("has a wrong escape"))?;
        if !self.app.settings.unprintable_paths && !routes::is_printable(&path) {
            return Err(wrong("has characters that cannot be printed"));
        }
        let known = self.app.router.find(&path).filter(|_| routes::cleaned(&path).is_none());
        let Some(known) = known else { return Err(Error::NotFound(format!("no path `{path}`"))) };
        let params = Params::parse(uri.query().unwrap_or_default())
            .ok_or_else(|| wrong("has a parameter with a wrong escape"))?;
        self.admit(&Method::GET, &path)?;
        Self::method(&Method::GET, known.route)?;
        if !known.route.waits {
            return Err(Error::invalid(format!("`{path}` has nothing to wait for: ask it alone")));
        }
        if params.has("raw") {
            return Err(Error::invalid("Cannot stream ?raw values, an event stream carries text."));
        }
        let mut head = http::Request::new(()).into_parts().0;
        head.uri = uri;
        head.headers = headers;
        self.answer(head, path, known.route, params, RequestBody::none())
    }

    fn request(
        &self,
        headers: HeaderMap,
        path: String,
        route: &Route,
        params: Params,
        body: RequestBody,
    ) -> Request {
        let pretty = self.app.settings.pretty || params.has("pretty");
        Request {
            app: Arc::clone(&self.app),
            token: extract::token(&params, &headers),
            layout: if pretty { Layout::Pretty } else { Layout::Compact },
            headers,
            path,
            route_len: route.path.len(),
            params,
            peer: self.peer,
            body,
        }
    }

    /// Runs the handler of a request that another agent took and passed on, once it was admitted. The agent may be of
    /// another version, and know other paths.
    pub(super) fn passed(
        &self,
        method: &Method,
        (path, query): (&str, &str),
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Answer, Error> {
        let nothing = || Error::NotFound(String::new());
        let path = params::unescape(path).ok_or_else(nothing)?;
        let known = self.app.router.find(&path).filter(|_| !routes::is_own(&path));
        let route = known.ok_or_else(nothing)?.route;
        let handler = Self::method(method, route)?.ok_or_else(nothing)?;
        let params = Params::parse(query).ok_or(Error::Status(StatusCode::BAD_REQUEST))?;
        handler(self.request(headers, path, route, params, body))
    }

    /// Refuses what configuration forbids in a request that another agent took, with a head of so many bytes.
    pub(super) fn admit_passed(
        &self,
        method: &Method,
        path: &str,
        head: usize,
    ) -> Result<(), Error> {
        if head > HEAD_BYTES_MAX {
            return Err(Error::Status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        let unescaped = params::unescape(path);
        let printable =
            |path: &String| self.app.settings.unprintable_paths || routes::is_printable(path);
        let path = unescaped.filter(printable).ok_or(Error::Status(StatusCode::BAD_REQUEST))?;
        self.admit(method, &path)
    }

    /// Refuses what configuration forbids, and the writes of foreign pages.
    fn admit_client(&self, head: &http::request::Parts, path: &str) -> Result<(), Error> {
        self.admit(&head.method, path)?;
        let (node, listed) = (&self.app.parts.node_name, &self.app.settings.allow_origins);
        let may = || origin::may_write(&head.uri, &head.headers, node, listed);
        if routes::only_reads(&head.method, path) || may() {
            Ok(())
        } else {
            Err(Error::Forbidden(FOREIGN_PAGE))
        }
    }

    /// Refuses what configuration forbids.
    fn admit(&self, method: &Method, path: &str) -> Result<(), Error> {
        let settings = &self.app.settings;
        if settings.block_endpoints.iter().any(|prefix| path.starts_with(prefix.as_str())) {
            return Err(Error::Forbidden("Endpoint is blocked by agent configuration"));
        }
        let reads = routes::only_reads(method, path);
        if let Err(too_many) = settings.limits.admit(path, reads) {
            return Err(Error::TooMany { retry_after: too_many.retry_after });
        }
        let allowed = &settings.allow_write_from;
        if !reads && !allowed.is_empty() {
            // Whoever can open the socket's file is on this machine.
            let welcome =
                self.peer.is_none_or(|peer| allowed.iter().any(|network| network.contains(peer)));
            if !welcome {
                return Err(Error::Forbidden("Access is restricted"));
            }
        }
        Ok(())
    }

    /// The handler of a method; `None` for OPTIONS.
    fn method(method: &Method, route: &Route) -> Result<Option<routes::Handler>, Error> {
        if *method == Method::OPTIONS {
            return Ok(None);
        }
        let position = route.methods.iter().position(|name| *name == method.as_str());
        match position {
            Some(position) => Ok(Some(route.handlers[position])),
            None => {
                Err(Error::MethodNotAllowed { method: method.to_string(), allowed: route.methods })
            }
        }
    }

    /// `/` says who is here; all else does not exist.
    fn outside_the_api(&self, method: &Method, path: &str) -> Reply {
        if path != "/" {
            return Reply::status(StatusCode::NOT_FOUND);
        }
        match &self.app.settings.ui_path {
            Some(ui) => redirect(method, ui, ""),
            None => Reply::text(StatusCode::OK, "Consul Agent"),
        }
    }
}

pub(super) fn redirect(method: &Method, path: &str, query: &str) -> Reply {
    let mut location = routes::escape_path(path);
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    let mut reply = Reply::status(StatusCode::MOVED_PERMANENTLY);
    if *method == Method::GET || *method == Method::HEAD {
        let shown = location
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        let page = format!("<a href=\"{shown}\">Moved Permanently</a>.\n\n");
        reply = Reply::text(StatusCode::MOVED_PERMANENTLY, page)
            .with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    match HeaderValue::from_str(&location) {
        Ok(location) => reply.with(LOCATION, location),
        // The query holds a byte that no header can: such a request leads nowhere.
        Err(_) => Reply::status(StatusCode::BAD_REQUEST),
    }
}

/// The future of one request: an answer that is there, or one that is waited for.
pub(super) enum Finishing {
    Done(Option<Response<Outgoing>>),
    Later { pending: PendingReply, reply_options: ReplyOptions, begun: Instant, app: Arc<AppState> },
}

impl Future for Finishing {
    type Output = Result<Response<Outgoing>, std::convert::Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Finishing::Done(response) => {
                Poll::Ready(Ok(response.take().expect("a finished future is not polled again")))
            }
            Finishing::Later { pending, reply_options, begun, app } => {
                pending.as_mut().poll(context).map(|outcome| {
                    reply_options.note(*begun);
                    let reply = outcome.unwrap_or_else(Reply::from);
                    Ok(finish(reply, *reply_options, app))
                })
            }
        }
    }
}

fn finish(mut reply: Reply, reply_options: ReplyOptions, app: &AppState) -> Response<Outgoing> {
    if reply_options.api {
        reply::vary(&mut reply.headers);
        for (name, value) in &app.response_headers {
            reply.headers.insert(name.clone(), value.clone());
        }
        if app.settings.translate_addresses {
            const TRANSLATED: HeaderName = HeaderName::from_static("x-consul-translate-addresses");
            reply.headers.insert(TRANSLATED, HeaderValue::from_static("true"));
        }
    }
    reply.finish(reply_options.gzip)
}
