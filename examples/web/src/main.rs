//! A small web service to register and to put behind nginx: it says who answered, and it stops politely.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | `200`, `ok` |
//! | `GET` anything else | host name and address of this instance, one line |
//! | `POST` anything | the body it was sent, at most 1 MiB |
//!
//! Every answer carries `X-Instance: <host name>`, by which a test counts the instances it reached.
//!
//! On SIGTERM or SIGINT it goes on serving for a while, new connections included: the catalog and the proxies need a
//! moment to hear that it leaves, and what they send until then must be answered. Then it takes no more connections,
//! finishes the requests under way and ends.
//!
//! Usage: `muster-example-web [ADDRESS]`, `0.0.0.0:8000` when none is given. `DRAIN_SECONDS` (default 2) is how long
//! it goes on after the signal.

use std::{env, fs, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, State, connect_info::Connected},
    response::IntoResponse,
    routing::get,
    serve::IncomingStream,
};
use bytes::Bytes;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The address of this instance that the request came in on.
#[derive(Clone, Copy)]
struct Reached(Option<SocketAddr>);

impl Connected<IncomingStream<'_, TcpListener>> for Reached {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.io().local_addr().ok())
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "0.0.0.0:8000".to_owned());
    let drain = drain_time(env::var("DRAIN_SECONDS").ok().as_deref())?;
    let leave = leave_signal(drain)?;
    let listener = TcpListener::bind(&address).await?;
    axum::serve(listener, routes(host_name()).into_make_service_with_connect_info::<Reached>())
        .with_graceful_shutdown(leave)
        .await
}

fn routes(host: String) -> Router {
    Router::new()
        .route("/health", get(health).post(echo))
        .fallback(get(greet).post(echo))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::from(host))
}

type Host = State<Arc<str>>;

async fn health(State(host): Host) -> impl IntoResponse {
    ([("x-instance", host.to_string())], "ok\n")
}

async fn greet(
    State(host): Host,
    ConnectInfo(Reached(address)): ConnectInfo<Reached>,
) -> impl IntoResponse {
    let address = address.map_or_else(|| "-".to_owned(), |it| it.to_string());
    ([("x-instance", host.to_string())], format!("hello from {host} at {address}\n"))
}

async fn echo(State(host): Host, body: Bytes) -> impl IntoResponse {
    ([("x-instance", host.to_string())], body)
}

/// Resolves `drain` after the first SIGTERM or SIGINT.
fn leave_signal(drain: Duration) -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tokio::time::sleep(drain).await;
    })
}

fn drain_time(text: Option<&str>) -> io::Result<Duration> {
    let Some(text) = text else { return Ok(Duration::from_secs(2)) };
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("DRAIN_SECONDS: `{text}` is not a time"),
            )
        })
}

/// Docker puts the name of the container into HOSTNAME; elsewhere the file of the system has it.
fn host_name() -> String {
    env::var("HOSTNAME")
        .ok()
        .or_else(|| fs::read_to_string("/etc/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_times() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(drain_time(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        };
        check(None, Some(2000));
        check(Some("0"), Some(0));
        check(Some("0.25"), Some(250));
        check(Some("-1"), None);
        check(Some("soon"), None);
        check(Some("1e300"), None);
    }
}
