//! Routes: from a path and its handlers to an axum router.
//!
//! Each family of paths is one file with one [`Routes`], and `routes.rs` merges them. A path that ends with a slash
//! takes all that lies below it; the longest one wins, as in the reference. Every path answers OPTIONS with its
//! methods, and refuses the methods that it does not have.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::extract::FromRequestParts as _;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use futures::FutureExt as _;
use http::Method;
use http::header::ALLOW;
use http::request::Parts;

use super::error::Error;
use super::extract::{self, Request, RequestContext, Via};
use super::handler::{Answer, Handler, PendingReply, now};
use super::reply::{self, Behind, Content, Reply};
use super::{AppState, Backend, forward, page, paths};
use crate::telemetry::metrics::{self, Timing};

/// The routes of a family of paths.
pub(crate) struct Routes {
    pub(super) router: Router,
    /// As registered.
    pub(super) paths: Vec<&'static str>,
}

impl Routes {
    /// No routes yet.
    pub(crate) fn new() -> Routes {
        Routes { router: Router::new(), paths: Vec::new() }
    }

    /// Adds a path: with a slash at its end, all that lie below it.
    pub(crate) fn route(mut self, path: &'static str, methods: Methods) -> Routes {
        self.paths.push(path);
        let methods = methods.router(path);
        if let Some(below) = below(path) {
            self.router = self.router.route(&below, methods.clone());
        }
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds those of another family.
    pub(super) fn merge(mut self, other: Routes) -> Routes {
        self.paths.extend(other.paths);
        Routes { router: self.router.merge(other.router), paths: self.paths }
    }
}

/// The pattern of all that lies below a path; the path itself is not among it.
pub(super) fn below(path: &str) -> Option<String> {
    path.ends_with('/').then(|| format!("{path}{{*rest}}"))
}

/// The methods of a path, in the order in which `Allow` lists them.
pub(crate) struct Methods {
    handlers: Vec<(&'static str, Handler)>,
    waits: bool,
}

/// A path that answers GET.
pub(crate) fn get(handler: Handler) -> Methods {
    Methods { handlers: Vec::new(), waits: false }.get(handler)
}

/// A path that answers POST.
pub(crate) fn post(handler: Handler) -> Methods {
    Methods { handlers: Vec::new(), waits: false }.post(handler)
}

/// A path that answers PUT.
pub(crate) fn put(handler: Handler) -> Methods {
    Methods { handlers: Vec::new(), waits: false }.put(handler)
}

/// A path that answers DELETE.
pub(crate) fn delete(handler: Handler) -> Methods {
    Methods { handlers: Vec::new(), waits: false }.delete(handler)
}

impl Methods {
    fn with(mut self, method: &'static str, handler: Handler) -> Methods {
        self.handlers.push((method, handler));
        self
    }

    /// Adds GET.
    pub(crate) fn get(self, handler: Handler) -> Methods {
        self.with("GET", handler)
    }

    /// Adds POST.
    pub(crate) fn post(self, handler: Handler) -> Methods {
        self.with("POST", handler)
    }

    /// Adds PUT.
    pub(crate) fn put(self, handler: Handler) -> Methods {
        self.with("PUT", handler)
    }

    /// Adds DELETE.
    pub(crate) fn delete(self, handler: Handler) -> Methods {
        self.with("DELETE", handler)
    }

    /// Says that a GET can wait for another answer.
    pub(crate) fn waits(self) -> Methods {
        Methods { waits: true, ..self }
    }

    /// All methods, those that are refused included: axum would answer HEAD by GET.
    fn router(self, path: &'static str) -> MethodRouter {
        let methods = self.handlers.iter().map(|(method, _)| *method).collect();
        let route = Arc::new(Route::new(path, methods, self.waits));
        let endpoint = |action| Endpoint { route: Arc::clone(&route), action };
        let mut router = MethodRouter::new()
            .fallback(endpoint(Action::Refuse))
            .on(MethodFilter::OPTIONS, endpoint(Action::Describe))
            .on(MethodFilter::HEAD, endpoint(Action::Refuse));
        for (method, handler) in self.handlers {
            let filter = match method {
                "GET" => MethodFilter::GET,
                "POST" => MethodFilter::POST,
                "PUT" => MethodFilter::PUT,
                _ => MethodFilter::DELETE,
            };
            router = router.on(filter, endpoint(Action::Handle(handler)));
        }
        router
    }
}

/// One path with its metrics.
pub(super) struct Route {
    /// As in the URL.
    pub(super) path: &'static str,
    methods: Vec<&'static str>,
    waits: bool,
    /// Metrics of request times, for each of [`TIMED`].
    times: [&'static Timing; TIMED.len()],
}

/// The methods whose requests are timed, those that are refused included. Others do not reach a handler anywhere.
const TIMED: [&str; 6] = ["GET", "PUT", "DELETE", "POST", "HEAD", "OPTIONS"];

impl Route {
    fn new(path: &'static str, methods: Vec<&'static str>, waits: bool) -> Route {
        // As dashboards for the reference know it: what lies below a path is `_`.
        let name = path.trim_start_matches('/').replace('/', ".");
        let name = if name.ends_with('.') { name + "_" } else { name };
        let times = TIMED.map(|method| metrics::named(&format!("http.{method}.{name}")));
        Route { path, methods, waits, times }
    }

    /// Metric for the time of a request.
    fn times(&self, method: &Method) -> Option<&'static Timing> {
        let position = TIMED.iter().position(|name| *name == method.as_str())?;
        Some(self.times[position])
    }
}

/// One method of a path, as axum calls it.
#[derive(Clone)]
struct Endpoint {
    route: Arc<Route>,
    action: Action,
}

#[derive(Clone, Copy)]
enum Action {
    Handle(Handler),
    /// OPTIONS.
    Describe,
    /// A method that the path does not have.
    Refuse,
}

/// Marks [`Endpoint`] as a handler that takes a request whole. Axum's own adapter would keep the request's parts for as
/// long as the answer is waited for, and needs a future even for what is known at once.
struct Whole;

impl<S> axum::handler::Handler<Whole, S> for Endpoint {
    type Future = Answering;

    fn call(self, request: axum::extract::Request, _: S) -> Answering {
        let begun = Instant::now();
        let (mut parts, _) = request.into_parts();
        let reply_options = self.reply_options(&parts);
        match self.answer(&mut parts) {
            Ok(Answer::Later(pending)) => Answering::Later { pending, reply_options, begun },
            Ok(Answer::Now(reply)) => Answering::now(reply, &reply_options, begun),
            Err(error) => Answering::now(error.into(), &reply_options, begun),
        }
    }
}

impl Endpoint {
    fn answer(&self, parts: &mut Parts) -> Result<Answer, Error> {
        let request = Request::from_request_parts(parts, &*self.route).now_or_never();
        let request = request.expect("no part of a request has to be waited for")?;
        let handler = match self.action {
            Action::Handle(handler) => handler,
            Action::Describe if request.via == Via::Agent => {
                return Err(Error::NotFound(String::new()));
            }
            Action::Describe => {
                return now(Reply::empty().with(ALLOW, reply::allow(&self.route.methods)));
            }
            Action::Refuse => {
                let (method, allowed) = (parts.method.to_string(), self.route.methods.clone());
                return Err(Error::MethodNotAllowed { method, allowed });
            }
        };
        match request.via {
            Via::Connection => {}
            Via::Watch => self.check_question(&request)?,
            Via::Agent if paths::is_own(&request.path) => {
                return Err(Error::NotFound(String::new()));
            }
            Via::Agent => return handler(request),
        }
        let upstream = match &request.app.parts.backend {
            Backend::Elsewhere(upstream) if !paths::is_own(&request.path) => upstream,
            Backend::Here { leader: Some(leader), .. }
                if paths::is_the_leaders(&request.path, &request.params)
                    && request.app.follows() =>
            {
                leader
            }
            _ => return handler(request),
        };
        let upstream = upstream.clone();
        forward::pass_on(request, &parts.method, &parts.uri, upstream)
    }

    /// Refuses questions of a stream of many that have nothing to wait for.
    fn check_question(&self, request: &Request) -> Result<(), Error> {
        if !self.route.waits {
            let path = &request.path;
            return Err(Error::invalid(format!("`{path}` has nothing to wait for: ask it alone")));
        }
        if request.params.has("raw") {
            return Err(Error::invalid("Cannot stream ?raw values, an event stream carries text."));
        }
        page::check_whole(&request.params)
    }

    fn reply_options(&self, parts: &Parts) -> ReplyOptions {
        let context = parts.extensions.get::<RequestContext>();
        let behind = context.is_some_and(|context| context.via == Via::Watch);
        match context.filter(|context| context.via == Via::Connection) {
            None => ReplyOptions { gzip: false, times: None, api: None, behind },
            Some(context) => ReplyOptions {
                // A refused HEAD announces the text but must not carry it, not even compressed.
                gzip: parts.method != Method::HEAD && extract::accepts_gzip(&parts.headers),
                times: self.route.times(&parts.method),
                api: Some(Arc::clone(&context.app)),
                behind,
            },
        }
    }
}

/// Options of a reply.
struct ReplyOptions {
    gzip: bool,
    /// Metric for the time that it took.
    times: Option<&'static Timing>,
    /// The interface whose headers the reply gets; none if another one will add its own.
    api: Option<Arc<AppState>>,
    /// Give the answer behind the body, too: events of it share more than its bytes.
    behind: bool,
}

impl ReplyOptions {
    fn finish(&self, mut reply: Reply, begun: Instant) -> Response {
        if let Some(times) = self.times {
            times.since(begun);
        }
        if let Some(app) = &self.api {
            app.dress(&mut reply.headers);
        }
        let behind = match &reply.content {
            Content::Shared(found) if self.behind => Some(Behind(Arc::clone(found))),
            _ => None,
        };
        let mut response = reply.finish(self.gzip);
        if let Some(behind) = behind {
            response.extensions_mut().insert(behind);
        }
        response
    }
}

/// The future of one answer: one that is there, or one that is waited for. It keeps nothing of the request.
enum Answering {
    Done(Option<Response>),
    Later { pending: PendingReply, reply_options: ReplyOptions, begun: Instant },
}

impl Answering {
    fn now(reply: Reply, reply_options: &ReplyOptions, begun: Instant) -> Answering {
        Answering::Done(Some(reply_options.finish(reply, begun)))
    }
}

impl Future for Answering {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        match self.get_mut() {
            Answering::Done(response) => {
                Poll::Ready(response.take().expect("a finished future is not polled again"))
            }
            Answering::Later { pending, reply_options, begun } => pending
                .as_mut()
                .poll(context)
                .map(|outcome| reply_options.finish(outcome.unwrap_or_else(Reply::from), *begun)),
        }
    }
}

/// What a router gives back, which cannot fail.
pub(super) fn response(outcome: Result<Response, Infallible>) -> Response {
    match outcome {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
