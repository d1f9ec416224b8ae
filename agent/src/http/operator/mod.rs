//! `/v1/operator/`: the servers, and the rules by which the leader looks after them.

mod autopilot;
mod health;
mod keyring;
mod raft;
mod segment;

use super::routing::{self, Routes};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route(
            "/v1/operator/keyring",
            routing::get(keyring::list)
                .post(keyring::install)
                .put(keyring::switch)
                .delete(keyring::remove),
        )
        .route(
            "/v1/operator/autopilot/configuration",
            routing::get(autopilot::configuration).put(autopilot::set_configuration),
        )
        .route("/v1/operator/autopilot/health", routing::get(health::health))
        .route("/v1/operator/autopilot/state", routing::get(health::state))
        .route("/v1/operator/raft/configuration", routing::get(raft::configuration))
        .route("/v1/operator/raft/peer", routing::delete(raft::remove_peer))
        .route(
            "/v1/operator/raft/transfer-leader",
            routing::post(raft::transfer_leader).put(raft::transfer_leader),
        )
        .route("/v1/operator/segment", routing::get(segment::list))
}
