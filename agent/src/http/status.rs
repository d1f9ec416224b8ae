//! `/v1/status/`: who leads, who takes part.

use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, now};
use super::routing::{self, Routes};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/status/leader", routing::get(leader))
        .route("/v1/status/peers", routing::get(peers))
}

/// The leader's address, or an empty text.
fn leader(request: Request) -> Result<Answer, Error> {
    request.datacenter_is_here()?;
    let leader = request.app.reader()?.consensus().leader().unwrap_or_default();
    now(request.json(&leader))
}

/// The addresses of all servers.
fn peers(request: Request) -> Result<Answer, Error> {
    request.datacenter_is_here()?;
    let peers = request.app.reader()?.consensus().peers();
    now(request.json(&peers))
}
