//! `/v1/acl/`: tokens, policies, roles. Access control is off: every path says so.

use super::error::Error;
use super::extract::Request;
use super::routes::{Answer, Handler, Route, route};

pub(super) const ROUTES: &[Route] = &[
    route("/v1/acl/bootstrap", PUT, OFF),
    route("/v1/acl/login", POST, OFF),
    route("/v1/acl/logout", POST, OFF),
    route("/v1/acl/replication", GET, OFF),
    route("/v1/acl/policies", GET, OFF),
    route("/v1/acl/policy", PUT, OFF),
    route("/v1/acl/policy/", ALL, ALL_OFF),
    route("/v1/acl/policy/name/", GET, OFF),
    route("/v1/acl/roles", GET, OFF),
    route("/v1/acl/role", PUT, OFF),
    route("/v1/acl/role/", ALL, ALL_OFF),
    route("/v1/acl/role/name/", GET, OFF),
    route("/v1/acl/binding-rules", GET, OFF),
    route("/v1/acl/binding-rule", PUT, OFF),
    route("/v1/acl/binding-rule/", ALL, ALL_OFF),
    route("/v1/acl/auth-methods", GET, OFF),
    route("/v1/acl/auth-method", PUT, OFF),
    route("/v1/acl/auth-method/", ALL, ALL_OFF),
    route("/v1/acl/tokens", GET, OFF),
    route("/v1/acl/token", PUT, OFF),
    route("/v1/acl/token/", ALL, ALL_OFF),
    route("/v1/acl/token/self", GET, OFF),
    route("/v1/acl/create", PUT, OFF),
    route("/v1/acl/update", PUT, OFF),
    route("/v1/acl/destroy/", PUT, OFF),
    route("/v1/acl/info/", GET, OFF),
    route("/v1/acl/clone/", PUT, OFF),
    route("/v1/acl/list", GET, OFF),
    route("/v1/acl/rules/translate", POST, OFF),
    route("/v1/acl/rules/translate/", GET, OFF),
    route("/v1/internal/acl/authorize", POST, OFF),
];

const GET: &[&str] = &["GET"];
const PUT: &[&str] = &["PUT"];
const POST: &[&str] = &["POST"];
const ALL: &[&str] = &["GET", "PUT", "DELETE"];
const OFF: &[Handler] = &[off];
const ALL_OFF: &[Handler] = &[off, off, off];

fn off(_: Request) -> Result<Answer, Error> {
    Err(Error::Disabled("ACL support disabled"))
}
