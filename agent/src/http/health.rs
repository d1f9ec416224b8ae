//! `/v1/health/`: how nodes and services are.

use std::sync::Arc;

use super::catalog::with_nodes;
use super::encode;
use super::error::Error;
use super::extract::Request;
use super::handler::Answer;
use super::routing::{self, Routes};
use super::rows::{CheckRow, Empty, InstanceRow, Rows};
use super::select::{Selection, row_name};
use crate::acl::{Access, Resource};
use crate::filter::schema;
use crate::http::read::Family;
use crate::read::{Body, Query};
use crate::store::{Check, Found, Index, Instance, Scope, Store};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/health/service/", routing::get(service).waits())
        .route("/v1/health/node/", routing::get(node).waits())
        .route("/v1/health/checks/", routing::get(checks).waits())
        .route("/v1/health/state/", routing::get(state).waits())
}

/// A question about health.
#[derive(Debug)]
struct HealthQuery {
    what: What,
    select: Selection,
}

#[derive(Debug)]
enum What {
    /// Instances of a service with all that bears on them.
    Service(String),
    /// Checks of a node.
    Node(String),
    /// Checks of a service.
    Checks(String),
    /// Checks in a state.
    State(String),
}

impl Query for HealthQuery {
    fn index(&self, store: &Store) -> Option<Index> {
        let catalog = store.catalog();
        let index = match &self.what {
            What::Service(name) => catalog.service_index(name),
            What::Node(_) | What::Checks(_) | What::State(_) => catalog.checks_index(),
        };
        Some(self.index_with_nodes(store, index))
    }

    fn evaluate(&self, store: &Store) -> Found<Body> {
        match &self.what {
            What::Service(name) => self.service(store, name),
            What::Node(_) | What::Checks(_) | What::State(_) => self.checks(store),
        }
    }
}

impl HealthQuery {
    /// Lists of checks that are chosen by their nodes' rows change with those too.
    fn index_with_nodes(&self, store: &Store, index: Index) -> Index {
        let whole = matches!(self.what, What::Checks(_) | What::State(_));
        if whole && self.select.looks_at_nodes() {
            index.max(store.catalog().nodes_index())
        } else {
            index
        }
    }

    fn service(&self, store: &Store, name: &str) -> Found<Body> {
        let mut found = store.catalog().instances(name);
        found.rows.retain(|instance| self.select.wants_instance(instance));
        let (rows, next) = self
            .select
            .page
            .cut(&found.rows, |instance| row_name(&instance.node.name, &instance.service.id));
        let (layout, effective) = (self.select.layout, self.select.is_effective());
        let encode = |rows: &[Arc<Instance>]| {
            let rows = rows.iter().map(|instance| InstanceRow { instance, effective });
            encode::json(&Rows(rows), layout)
        };
        let bytes = if self.select.is_near() {
            let mut rows = rows.to_vec();
            self.select.sort_near(&mut rows, |instance| &instance.node.name);
            encode(&rows)
        } else {
            encode(rows)
        };
        let body = Body::new(bytes).with_next(next);
        Found { rows: body, index: found.index, scopes: found.scopes }
    }

    /// Scope of the effective status, beyond the scopes that the rows themselves depend on.
    fn borne_on(&self) -> Option<Scope> {
        match &self.what {
            // Instances know all checks that bear on them; those of a node are all read anyway.
            What::Service(_) | What::Node(_) => None,
            What::Checks(name) => Some(Scope::Service(name.to_lowercase().into())),
            // A check in one state says nothing of the others on its node.
            What::State(_) => Some(Scope::Checks),
        }
    }

    fn checks(&self, store: &Store) -> Found<Body> {
        let catalog = store.catalog();
        let mut found = match &self.what {
            What::Node(name) => catalog.node_checks(name),
            What::Checks(name) => catalog.service_checks(name),
            What::State(state) => catalog.checks_in_state(state),
            What::Service(_) => unreachable!("instances are not read as checks"),
        };
        found.index = self.index_with_nodes(store, found.index);
        if self.select.looks_at_nodes() {
            found.rows.retain(|check| self.select.wants_node_named(store, &check.node));
            found.scopes = with_nodes(found.scopes);
        }
        found.rows.retain(|check| self.select.holds_for(&**check));
        let (rows, next) =
            self.select.page.cut(&found.rows, |check| row_name(&check.node, &check.id));
        let mut rows = rows.to_vec();
        self.select.sort_near(&mut rows, |check| &check.node);
        let effective = self.select.is_effective();
        if effective {
            // What is said of the rows depends on checks that are not among them.
            found.scopes.extend(self.borne_on());
        }
        let whole = |check: &Check| {
            effective.then(|| catalog.effective_status(&check.node, &check.service_id))
        };
        let row = |check| CheckRow::new(check, Empty::List).with_effective(whole(check));
        let rows = Rows(rows.iter().map(|check| row(check)));
        let body = Body::new(encode::json(&rows, self.select.layout)).with_next(next);
        Found { rows: body, index: found.index, scopes: found.scopes }
    }
}

/// Reads the conditions that all lists of checks know.
fn of_checks(request: &Request) -> Result<Selection, Error> {
    Selection::of(request)?.with_effective(request)?.with_filter(request, &schema::CHECK)
}

fn service(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let name = request.rest().to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Missing service name"));
    }
    request.authorize(Resource::Service(&name), Access::Read)?;
    let select = Selection::of(&request)?
        .with_tags(&request)
        .with_passing(&request)?
        .with_effective(&request)?
        .with_filter(&request, &schema::SERVICE_ENTRY)?;
    request.read(HealthQuery { what: What::Service(name), select }, read, Family::Discovery)
}

fn node(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let name = request.rest().to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Missing node name"));
    }
    request.authorize(Resource::Node(&name), Access::Read)?;
    let select = of_checks(&request)?;
    request.read(HealthQuery { what: What::Node(name), select }, read, Family::Uncached)
}

fn checks(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let name = request.rest().to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Missing service name"));
    }
    request.authorize(Resource::Service(&name), Access::Read)?;
    let select = of_checks(&request)?;
    request.read(HealthQuery { what: What::Checks(name), select }, read, Family::Uncached)
}

fn state(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let state = request.rest().to_owned();
    if state.is_empty() {
        return Err(Error::invalid("Missing check state"));
    }
    request.authorize(Resource::Node(""), Access::List)?;
    let select = of_checks(&request)?;
    request.read(HealthQuery { what: What::State(state), select }, read, Family::Uncached)
}
