//! `/v1/acl/`: tokens, policies, roles. Access control is off: every path says so.

use super::error::Error;
use super::extract::Request;
use super::handler::Answer;
use super::routing::{self, Routes};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/acl/bootstrap", routing::put(off))
        .route("/v1/acl/login", routing::post(off))
        .route("/v1/acl/logout", routing::post(off))
        .route("/v1/acl/replication", routing::get(off))
        .route("/v1/acl/policies", routing::get(off))
        .route("/v1/acl/policy", routing::put(off))
        .route("/v1/acl/policy/", routing::get(off).put(off).delete(off))
        .route("/v1/acl/policy/name/", routing::get(off))
        .route("/v1/acl/roles", routing::get(off))
        .route("/v1/acl/role", routing::put(off))
        .route("/v1/acl/role/", routing::get(off).put(off).delete(off))
        .route("/v1/acl/role/name/", routing::get(off))
        .route("/v1/acl/binding-rules", routing::get(off))
        .route("/v1/acl/binding-rule", routing::put(off))
        .route("/v1/acl/binding-rule/", routing::get(off).put(off).delete(off))
        .route("/v1/acl/auth-methods", routing::get(off))
        .route("/v1/acl/auth-method", routing::put(off))
        .route("/v1/acl/auth-method/", routing::get(off).put(off).delete(off))
        .route("/v1/acl/tokens", routing::get(off))
        .route("/v1/acl/token", routing::put(off))
        .route("/v1/acl/token/", routing::get(off).put(off).delete(off))
        .route("/v1/acl/token/self", routing::get(off))
        .route("/v1/acl/create", routing::put(off))
        .route("/v1/acl/update", routing::put(off))
        .route("/v1/acl/destroy/", routing::put(off))
        .route("/v1/acl/info/", routing::get(off))
        .route("/v1/acl/clone/", routing::put(off))
        .route("/v1/acl/list", routing::get(off))
        .route("/v1/acl/rules/translate", routing::post(off))
        .route("/v1/acl/rules/translate/", routing::get(off))
        .route("/v1/internal/acl/authorize", routing::post(off))
}

fn off(_: Request) -> Result<Answer, Error> {
    Err(Error::Disabled("ACL support disabled"))
}
