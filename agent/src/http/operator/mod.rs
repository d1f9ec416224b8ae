//! `/v1/operator/`: the servers, and the rules by which the leader looks after them.

mod autopilot;
mod health;
mod keyring;
mod raft;
mod segment;

use super::routes::{Route, route};

pub(super) const ROUTES: &[Route] = &[
    route(
        "/v1/operator/keyring",
        &["GET", "POST", "PUT", "DELETE"],
        &[keyring::list, keyring::install, keyring::switch, keyring::remove],
    ),
    route(
        "/v1/operator/autopilot/configuration",
        &["GET", "PUT"],
        &[autopilot::configuration, autopilot::set_configuration],
    ),
    route("/v1/operator/autopilot/health", &["GET"], &[health::health]),
    route("/v1/operator/autopilot/state", &["GET"], &[health::state]),
    route("/v1/operator/raft/configuration", &["GET"], &[raft::configuration]),
    route("/v1/operator/raft/peer", &["DELETE"], &[raft::remove_peer]),
    route(
        "/v1/operator/raft/transfer-leader",
        &["POST", "PUT"],
        &[raft::transfer_leader, raft::transfer_leader],
    ),
    route("/v1/operator/segment", &["GET"], &[segment::list]),
];
