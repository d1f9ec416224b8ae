//! An engine and an agent that are small enough to be understood: real HTTP over real sockets,
//! the few answers that matter, and a way to break them.

pub(crate) mod agent;
pub(crate) mod engine;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

pub(crate) fn reply(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
    response
}

/// A running server; dropping it cuts every connection.
pub(crate) struct Server {
    tasks: JoinSet<()>,
}

impl Server {
    /// Serves every connection that `accept` yields by `answer`.
    pub(crate) fn start<A, S, F, H, R>(accept: A, answer: H) -> Self
    where
        A: Fn() -> F + Send + 'static,
        F: Future<Output = std::io::Result<S>> + Send,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(stream) = accept().await {
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request| {
                    let answer = Arc::clone(&answer);
                    async move { Ok::<_, Infallible>(answer(request).await) }
                });
                connections.spawn(async move {
                    // A connection that breaks is part of the game.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { tasks }
    }

    /// Stops and waits until the listener is closed.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Waits until `condition` holds; fails after ten seconds with `what`.
#[track_caller]
pub(crate) fn eventually(
    what: &str,
    condition: impl Fn() -> bool,
) -> impl Future<Output = Duration> {
    let caller = std::panic::Location::caller();
    async move {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{caller}: never: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        begin.elapsed()
    }
}
