//! `GET /healthz`: for orchestrators and people.
//!
//! 200 while engine and agent answer, 503 otherwise; the body says how things stand:
//! `{"engine":true,"agent":true,"containers":5,"services":5,"pending":0}`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::reconcile::Status;

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, status: watch::Receiver<Status>) -> std::io::Result<()> {
    let app = Router::new().route("/healthz", get(healthz)).with_state(status);
    axum::serve(listener, app).await
}

async fn healthz(State(status): State<watch::Receiver<Status>>) -> Response {
    let status = status.borrow().clone();
    let code = if status.engine && status.agent {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::to_string(&status).unwrap_or_default();
    (code, [("content-type", "application/json")], body).into_response()
}
