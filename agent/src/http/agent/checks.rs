//! Checks of this agent, and the reports of their owners.

use std::collections::BTreeMap;

use serde::Serialize;

use super::body;
use crate::acl::{self, Access, Resource, Token};
use crate::checks::Status;
use crate::filter::{Filter, schema};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later, now};
use crate::http::reply::Reply;
use crate::http::rows::{CheckRow, Empty};
use crate::http::time::rfc3339;
use crate::json::Object;
use crate::local::{Local, Source};

/// All checks by id.
pub(super) fn list(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    // Alone among all lists, this one says what is wrong with a selector without a preface.
    let filter = match request.params.get("filter").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match Filter::parse(text, &schema::CHECK) {
            Err(error @ crate::filter::Error::Selector(_)) => {
                return Err(Error::refused(error.to_string()));
            }
            parsed => Some(parsed.map_err(super::no_filter)?),
        },
    };
    let checks = request.app.parts.local.checks();
    let rows: BTreeMap<&str, CheckRow<'_>> = checks
        .iter()
        .filter(|(_, check)| {
            let node = &request.app.parts.node_name;
            may(&request.token, node, &check.service_name, Access::Read).is_ok()
                && filter.as_ref().is_none_or(|filter| filter.matches(&**check))
        })
        .map(|(id, check)| (&**id, CheckRow::new(check, Empty::List)))
        .collect();
    if !request.params.has("times") {
        return now(request.json(&rows));
    }
    let times = request.app.parts.local.check_times();
    let timed = |(id, row)| {
        let times = times.get(id).copied().unwrap_or_default();
        (
            id,
            Timed { row, last_run: times.reported.map(rfc3339), since: times.changed.map(rfc3339) },
        )
    };
    let rows: BTreeMap<&str, Timed<'_>> = rows.into_iter().map(timed).collect();
    now(request.json(&rows))
}

/// A check with the times that `?times` asks for: an addition to the reference's rows.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Timed<'a> {
    #[serde(flatten)]
    row: CheckRow<'a>,
    /// Its last run, or the last report to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<String>,
    /// When its status became what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// A check belongs to its service, or else to the node.
fn may(token: &Token, node: &str, service: &str, access: Access) -> Result<(), acl::Denied> {
    let resource =
        if service.is_empty() { Resource::Node(node) } else { Resource::Service(service) };
    acl::authorize(token, resource, access)
}

/// May the request change this check, if there is one?
fn may_write(request: &Request, id: &str) -> Result<(), Error> {
    let parts = &request.app.parts;
    match parts.local.check(id) {
        None => Ok(()),
        Some(check) => {
            Ok(may(&request.token, &parts.node_name, &check.service_name, Access::Write)?)
        }
    }
}

/// Takes a check over.
pub(super) fn register(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let local = request.app.parts.local.clone();
    let (token, node) = (request.token.clone(), request.app.parts.node_name.clone());
    later(async move {
        let definition = local.parse_check(body(request).await?, Source::Api)?;
        let service = definition.service_id.as_deref().and_then(|id| local.service(id));
        let name = service.as_ref().map_or("", |service| &service.name);
        may(&token, &node, name, Access::Write)?;
        local.register_check(&definition).await?;
        Ok(Reply::empty())
    })
}

/// Gives a check up. One that is not there is given up already.
pub(super) fn deregister(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let id = request.rest().to_owned();
    may_write(&request, &id)?;
    let local = request.app.parts.local.clone();
    drop(request);
    later(async move {
        local.deregister_check(&id).await?;
        Ok(Reply::empty())
    })
}

/// Its owner says: passing.
pub(super) fn pass(request: Request) -> Result<Answer, Error> {
    noted(request, Status::Passing)
}

/// Its owner says: warning.
pub(super) fn warn(request: Request) -> Result<Answer, Error> {
    noted(request, Status::Warning)
}

/// Its owner says: critical.
pub(super) fn fail(request: Request) -> Result<Answer, Error> {
    noted(request, Status::Critical)
}

fn noted(request: Request, status: Status) -> Result<Answer, Error> {
    request.no_namespace()?;
    let id = request.rest().to_owned();
    may_write(&request, &id)?;
    let note = request.params.get("note").unwrap_or_default().to_owned();
    let local = request.app.parts.local.clone();
    drop(request);
    later(report(local, id, status, note))
}

async fn report(local: Local, id: String, status: Status, note: String) -> Result<Reply, Error> {
    local.update_ttl(&id, status, &note).await?;
    Ok(Reply::empty())
}

/// Its owner says how it is in a body, which may be longer than a URL.
pub(super) fn update(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let id = request.rest().to_owned();
    may_write(&request, &id)?;
    let local = request.app.parts.local.clone();
    later(async move {
        let malformed = |error: crate::json::Malformed| {
            Error::invalid(format!("Request decode failed: {error}"))
        };
        let mut object = Object::from(body(request).await?, "body").map_err(malformed)?;
        let status = object.string("Status").map_err(malformed)?;
        let output = object.string("Output").map_err(malformed)?;
        object.finish().map_err(malformed)?;
        let Some(status) = Status::parse(&status) else {
            return Err(Error::invalid(format!("Invalid check status: '{status}'")));
        };
        report(local, id, status, output).await
    })
}
