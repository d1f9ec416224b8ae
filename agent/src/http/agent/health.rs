//! Health of this agent's services, as one word and one status code: for load balancers that can
//! ask, but not understand.

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;

use super::rows::ServiceRow;
use crate::acl::{Access, Resource};
use crate::checks::Status;
use crate::http::encode::Layout;
use crate::http::error::Error;
use crate::http::extract::{self, Request};
use crate::http::handler::{Answer, now};
use crate::http::reply::Reply;
use crate::http::rows::CheckRow;
use crate::local::{NODE_MAINTENANCE, SERVICE_MAINTENANCE};
use crate::store::{Check, Service};

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");

/// The worst of all checks, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Verdict {
    fn of<'a>(checks: impl Iterator<Item = &'a Check>) -> Verdict {
        checks.map(Verdict::from).max().unwrap_or(Verdict::Passing)
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Passing => "passing",
            Verdict::Warning => "warning",
            Verdict::Critical => "critical",
            Verdict::Maintenance => "maintenance",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Verdict::Passing => StatusCode::OK,
            Verdict::Warning => StatusCode::TOO_MANY_REQUESTS,
            Verdict::Critical | Verdict::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<&Check> for Verdict {
    fn from(check: &Check) -> Verdict {
        if &*check.id == NODE_MAINTENANCE || check.id.starts_with(SERVICE_MAINTENANCE) {
            return Verdict::Maintenance;
        }
        match Status::parse(&check.status) {
            Some(Status::Passing) => Verdict::Passing,
            Some(Status::Warning) => Verdict::Warning,
            Some(Status::Critical) | None => Verdict::Critical,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    aggregated_status: &'static str,
    service: Option<ServiceRow<'a>>,
    checks: Option<Vec<CheckRow<'a>>>,
}

/// The checks that bear on a service: its own and the node's.
fn bearing<'a>(
    checks: &'a [Arc<Check>],
    service: &'a Service,
) -> impl Iterator<Item = &'a Check> + Clone {
    checks
        .iter()
        .map(|check| &**check)
        .filter(|check| check.service_id.is_empty() || *check.service_id == *service.id)
}

fn row<'a>(checks: &'a [Arc<Check>], service: &'a Service) -> (Verdict, Row<'a>) {
    let bearing = bearing(checks, service);
    let verdict = Verdict::of(bearing.clone());
    let row = Row {
        aggregated_status: verdict.word(),
        service: Some(ServiceRow::from(service)),
        checks: Some(bearing.map(CheckRow::in_part).collect()),
    };
    (verdict, row)
}

fn wants_text(request: &Request) -> bool {
    request.params.get("format") == Some("text")
        || (!request.params.has("format") && extract::accepts(&request.headers, "text/plain"))
}

fn reply<T: Serialize + ?Sized>(
    request: &Request,
    status: StatusCode,
    reason: &str,
    body: &T,
) -> Reply {
    let mut reply = if wants_text(request) {
        let mut reply = Reply::text(status, reason.to_owned());
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        reply
    } else {
        request.json(body)
    };
    reply.status = status;
    with_reason(reply, reason)
}

fn with_reason(reply: Reply, reason: &str) -> Reply {
    // A name may hold what a header must not.
    match HeaderValue::from_str(reason) {
        Ok(value) => reply.with(REASON, value),
        Err(_) => reply,
    }
}

/// One service, by id.
pub(super) fn by_id(request: Request) -> Result<Answer, Error> {
    let id = request.rest();
    if id.is_empty() {
        return Err(Error::refused("Bad request: Missing serviceID"));
    }
    request.no_namespace()?;
    let local = &request.app.parts.local;
    let Some(service) = local.service(id) else {
        let reason = format!("ServiceId {id} not found");
        // The text form of this one answer is a JSON text in the reference.
        let reply = if wants_text(&request) {
            Reply::json(&reason, Layout::Pretty)
        } else {
            let nothing = Row { aggregated_status: "critical", service: None, checks: None };
            request.json(&nothing)
        };
        let mut reply = with_reason(reply, &reason);
        reply.status = StatusCode::NOT_FOUND;
        return now(reply);
    };
    request.authorize(Resource::Service(&service.name), Access::Read)?;
    let checks: Vec<_> = local.checks().into_values().collect();
    let (verdict, row) = row(&checks, &service);
    now(reply(&request, verdict.status(), verdict.word(), &row))
}

/// All services of a name; the worst of them decides.
pub(super) fn by_name(request: Request) -> Result<Answer, Error> {
    let name = request.rest();
    if name.is_empty() {
        return Err(Error::refused("Bad request: Missing service Name"));
    }
    request.no_namespace()?;
    request.authorize(Resource::Service(name), Access::Read)?;
    let local = &request.app.parts.local;
    let mut services: Vec<_> = local.services().into_values().collect();
    services.retain(|service| &*service.name == name);
    let checks: Vec<_> = local.checks().into_values().collect();
    let rows: Vec<_> = services.iter().map(|service| row(&checks, service)).collect();
    let Some(worst) = rows.iter().map(|(verdict, _)| *verdict).max() else {
        let reason = format!("ServiceName {name} Not Found");
        let nothing: [Row<'_>; 0] = [];
        return now(reply(&request, StatusCode::NOT_FOUND, &reason, &nothing));
    };
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    now(reply(&request, worst.status(), worst.word(), &rows))
}
