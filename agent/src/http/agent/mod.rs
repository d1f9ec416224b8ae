//! `/v1/agent/`: this agent itself, what it claims, and how it is.
//!
//! Nothing here waits for the cluster: all answers come from the agent's own state, so they are
//! there when no server is.

#![expect(clippy::needless_pass_by_value, reason = "all handlers have one form")]

mod checks;
mod content_hash;
mod departure;
mod health;
mod host;
mod identity;
mod member;
mod metrics;
mod monitor;
mod reload;
mod rows;
mod services;

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

pub use departure::Departure;
pub use reload::{Reload, ReloadRequest};

use super::error::Error;
use super::extract::Request;
use super::payload;
use super::routing::{self, Routes};
use crate::json;
use crate::local;

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/agent/self", routing::get(identity::myself))
        .route("/v1/agent/version", routing::get(identity::version))
        .route("/v1/agent/live", routing::get(identity::live))
        .route("/v1/agent/ready", routing::get(identity::ready))
        .route("/v1/agent/host", routing::get(host::host))
        .route("/v1/agent/metrics", routing::get(metrics::metrics))
        .route("/v1/agent/monitor", routing::get(monitor::monitor))
        .route("/v1/agent/reload", routing::put(reload::reload))
        .route("/v1/agent/leave", routing::put(member::leave))
        .route("/v1/agent/members", routing::get(member::members))
        .route("/v1/agent/join/", routing::put(member::join))
        .route("/v1/agent/force-leave/", routing::put(member::force_leave))
        .route("/v1/agent/token/", routing::put(identity::token))
        .route("/v1/agent/maintenance", routing::put(services::node_maintenance))
        .route("/v1/agent/services", routing::get(services::list))
        .route("/v1/agent/service/", routing::get(services::one).waits())
        .route("/v1/agent/service/register", routing::put(services::register))
        .route("/v1/agent/service/deregister/", routing::put(services::deregister))
        .route("/v1/agent/service/maintenance/", routing::put(services::maintenance))
        .route("/v1/agent/checks", routing::get(checks::list))
        .route("/v1/agent/check/register", routing::put(checks::register))
        .route("/v1/agent/check/deregister/", routing::put(checks::deregister))
        .route("/v1/agent/check/pass/", routing::put(checks::pass))
        .route("/v1/agent/check/warn/", routing::put(checks::warn))
        .route("/v1/agent/check/fail/", routing::put(checks::fail))
        .route("/v1/agent/check/update/", routing::put(checks::update))
        .route("/v1/agent/health/service/id/", routing::get(health::by_id))
        .route("/v1/agent/health/service/name/", routing::get(health::by_name))
}

/// Identity that this agent shows.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The version of the API that it speaks: clients decide by it what they may ask.
    pub version: String,
    /// This build.
    pub build: String,
    /// Server mode.
    pub server: bool,
    /// It may elect itself.
    pub bootstrap: bool,
    /// Under which address others reach it.
    pub address: String,
    /// The same for other datacenters.
    pub address_wan: String,
    /// Between servers.
    pub server_port: u16,
    /// Gossip in the datacenter.
    pub serf_lan_port: u16,
    /// Gossip between datacenters, if on.
    pub serf_wan_port: Option<u16>,
    /// The running configuration.
    pub config: Shown,
}

/// The running configuration as `/v1/agent/self` shows it, without secrets. Cheap to clone; a reload changes what all
/// clones show.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<ArcSwap<Value>>);

impl Shown {
    /// Shows this from now on.
    pub fn set(&self, config: Value) {
        self.0.store(Arc::new(config));
    }

    fn now(&self) -> Arc<Value> {
        self.0.load_full()
    }
}

impl From<local::Error> for Error {
    fn from(error: local::Error) -> Error {
        match error {
            local::Error::Malformed(_) | local::Error::Invalid(_) => {
                Error::Invalid(error.to_string())
            }
            local::Error::UnknownService(_) => Error::NotFound(error.to_string()),
            // Of what could not be kept the log has heard already.
            local::Error::Refused(_)
            | local::Error::NotKept(_)
            | local::Error::ReportNotKept { .. } => Error::Refused(error.to_string()),
            local::Error::Configured { .. }
            | local::Error::Authority(_)
            | local::Error::Persistence(_) => {
                tracing::error!(%error, "the agent's own state could not be changed");
                Error::Refused(error.to_string())
            }
        }
    }
}

/// The JSON value of a request's body.
async fn body(request: Request) -> Result<Value, Error> {
    let bytes = payload::collect(request.into_body(), payload::BODY_BYTES_MAX).await?;
    json::value(&bytes)
        .map_err(|malformed| Error::Invalid(format!("Request decode failed: {malformed}")))
}

/// A filter that is none for the rows. Without the headers of a read: nothing was read.
fn no_filter(error: crate::filter::Error) -> Error {
    Error::refused(format!("Failed to create boolean expression evaluator: {error}"))
}

/// `?enable` of the maintenance end points.
fn enable(request: &Request) -> Result<bool, Error> {
    match request.params.get("enable") {
        None => Err(Error::invalid("Missing value for enable")),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error::invalid(format!("Invalid value for enable: {other:?}"))),
    }
}
