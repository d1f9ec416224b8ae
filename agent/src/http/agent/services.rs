//! Services of this agent, and maintenances.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::HeaderValue;
use tokio::time::Instant;

use super::rows::ServiceRow;
use super::{body, enable};
use crate::acl::{Access, Resource};
use crate::filter::{Filter, schema};
use crate::http::encode::Layout;
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later, now};
use crate::http::reply::{CONTENT_HASH, Reply};
use crate::local::{Existing, Local, Source};
use crate::store::Service;

/// All services by id.
pub(super) fn list(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let filter = filter(&request)?;
    let services = request.app.parts.local.services();
    let rows: BTreeMap<&str, ServiceRow<'_>> = services
        .iter()
        .filter(|(_, service)| {
            request.authorize(Resource::Service(&service.name), Access::Read).is_ok()
                && filter.as_ref().is_none_or(|filter| filter.matches(&**service))
        })
        .map(|(id, service)| (&**id, ServiceRow::from(&**service)))
        .collect();
    now(request.json(&rows))
}

fn filter(request: &Request) -> Result<Option<Filter>, Error> {
    let text = request.params.get("filter").filter(|text| !text.is_empty());
    let parsed = text.map(|text| Filter::parse(text, &schema::SERVICE)).transpose();
    parsed.map_err(super::no_filter)
}

/// One service, at once or when its hash is another than `?hash`.
pub(super) fn one(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let (_, wait) = request.index_and_wait()?;
    let id = request.rest().to_owned();
    let hash = request.hash().to_owned();
    let local = request.app.parts.local.clone();
    let layout = request.layout;
    let (token, app) = (request.token.clone(), Arc::clone(&request.app));
    let waits = app.settings.waits;
    let may = move |service: &Service| {
        let _ = &app;
        crate::acl::authorize(&token, Resource::Service(&service.name), Access::Read)
    };
    drop(request);
    if hash.is_empty() {
        let service = found(&local, &id)?;
        may(&service)?;
        return now(shown(&service, layout));
    }
    later(async move {
        let mut changes = local.changes();
        let deadline = Instant::now() + waits.with_jitter(wait);
        loop {
            changes.mark_unchanged();
            let service = found(&local, &id)?;
            may(&service)?;
            if ServiceRow::from(&*service).hashed().hash() != hash {
                return Ok(shown(&service, layout));
            }
            let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
            if changed.is_err() {
                return Ok(shown(&service, layout));
            }
        }
    })
}

fn found(local: &Local, id: &str) -> Result<Arc<Service>, Error> {
    local.service(id).ok_or_else(|| Error::NotFound(format!("unknown service ID: {id}")))
}

fn shown(service: &Service, layout: Layout) -> Reply {
    let row = ServiceRow::from(service).hashed();
    let hash = HeaderValue::from_str(row.hash()).expect("hexadecimal digits");
    Reply::json(&row, layout).with(CONTENT_HASH, hash)
}

/// Takes a service over.
pub(super) fn register(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let existing = match request.params.get("replace-existing-checks") {
        Some("" | "true") => Existing::Replace,
        _ => Existing::Keep,
    };
    let local = request.app.parts.local.clone();
    let token = request.token.clone();
    later(async move {
        let definition = local.parse_service(body(request).await?, Source::Api)?;
        crate::acl::authorize(&token, Resource::Service(&definition.name), Access::Write)?;
        let id = definition.id.as_deref().unwrap_or(&definition.name);
        if let Some(old) = local.service(id) {
            crate::acl::authorize(&token, Resource::Service(&old.name), Access::Write)?;
        }
        local.register_service(&definition, existing).await?;
        Ok(Reply::empty())
    })
}

/// Gives a service up. One that is not there is given up already.
pub(super) fn deregister(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let id = request.rest().to_owned();
    let local = request.app.parts.local.clone();
    if let Some(service) = local.service(&id) {
        request.authorize(Resource::Service(&service.name), Access::Write)?;
    }
    drop(request);
    later(async move {
        local.deregister_service(&id).await?;
        Ok(Reply::empty())
    })
}

/// Begins or ends the maintenance of a service.
pub(super) fn maintenance(request: Request) -> Result<Answer, Error> {
    let id = request.rest().to_owned();
    if id.is_empty() {
        return Err(Error::invalid("Missing service ID"));
    }
    let enable = enable(&request)?;
    request.no_namespace()?;
    let reason = request.params.get("reason").unwrap_or_default().to_owned();
    let local = request.app.parts.local.clone();
    if let Some(service) = local.service(&id) {
        request.authorize(Resource::Service(&service.name), Access::Write)?;
    }
    drop(request);
    later(async move {
        if enable {
            local.begin_service_maintenance(&id, &reason).await?;
        } else {
            local.end_service_maintenance(&id).await?;
        }
        Ok(Reply::empty())
    })
}

/// Begins or ends the maintenance of the node.
pub(super) fn node_maintenance(request: Request) -> Result<Answer, Error> {
    let enable = enable(&request)?;
    let reason = request.params.get("reason").unwrap_or_default().to_owned();
    let local = request.app.parts.local.clone();
    request.authorize(Resource::Node(&request.app.parts.node_name), Access::Write)?;
    drop(request);
    later(async move {
        if enable {
            local.begin_node_maintenance(&reason).await?;
        } else {
            local.end_node_maintenance().await?;
        }
        Ok(Reply::empty())
    })
}
