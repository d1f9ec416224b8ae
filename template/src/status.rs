//! The interface through which others see how the daemon is: four read-only pages over plain HTTP.
//!
//! | path            | answer                                                                        |
//! |-----------------|-------------------------------------------------------------------------------|
//! | `/healthz`      | 200 as long as the daemon runs                                                |
//! | `/readyz`       | 200 when everything known is served and up to date, else 503 with the reasons |
//! | `/v1/templates` | the whole state, as JSON                                                      |
//! | `/metrics`      | counters, as Prometheus reads them                                            |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::runner::Report;

/// Connections at a time; more wait. A status page has few readers.
const CONNECTIONS_MAX: usize = 64;

/// How long a reader may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens on `address`.
///
/// # Errors
/// The address cannot be used.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves the state for ever.
pub async fn serve(listener: TcpListener, report: watch::Receiver<Arc<Report>>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or the like: go on, but not in a hot loop.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let report = report.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let report = Arc::clone(&report.borrow());
                async move {
                    Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &report))
                }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a reader of the status left");
            }
            drop(slot);
        });
    }
}

/// The page at `path`.
fn answer(method: &Method, path: &str, report: &Report) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match path {
        _ if method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned())
        }
        "/healthz" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => match report.unready() {
            reasons if reasons.is_empty() => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            reasons => (StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
        },
        "/v1/templates" => match serde_json::to_string_pretty(report) {
            Ok(body) => (StatusCode::OK, "application/json", body + "\n"),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", report.metrics()),
        _ => (StatusCode::NOT_FOUND, TEXT, "no such page\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let away = Report {
            catalog_reachable: Some(false),
            catalog_error: Some("refused".into()),
            ..Report::default()
        };
        for (method, path, report, expected) in [
            (Method::GET, "/healthz", &away, 200),
            (Method::GET, "/readyz", &away, 503),
            (Method::GET, "/readyz", &Report::default(), 200),
            (Method::GET, "/v1/templates", &away, 200),
            (Method::GET, "/metrics", &away, 200),
            (Method::GET, "/nope", &away, 404),
            (Method::PUT, "/healthz", &away, 405),
        ] {
            let response = answer(&method, path, report);
            assert_eq!(response.status().as_u16(), expected, "{method} {path}");
        }
    }
}
