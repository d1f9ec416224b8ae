//! `/v1/catalog/`: what is registered where.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::body;
use super::decode::{Malformed, Object};
use super::encode;
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later, now};
use super::payload::{self, BODY_BYTES_MAX};
use super::reply::Reply;
use super::routing::{self, Routes};
use super::rows::{CatalogServiceRow, Empty, NodeRow, Rows, ServiceRow};
use super::select::{Selection, row_name};
use crate::acl::{self, Access, Resource};
use crate::filter::rows::Placed;
use crate::filter::schema;
use crate::http::read::{self, Family};
use crate::read::{Body, Query};
use crate::store::{Change, Deregister, Found, Index, Node, Register, Scope, Service, Store};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/catalog/register", routing::put(register))
        .route("/v1/catalog/deregister", routing::put(deregister))
        .route("/v1/catalog/datacenters", routing::get(datacenters))
        .route("/v1/catalog/nodes", routing::get(nodes).waits())
        .route("/v1/catalog/services", routing::get(services).waits())
        .route("/v1/catalog/service/", routing::get(service).waits())
        .route("/v1/catalog/node/", routing::get(node).waits())
        .route("/v1/catalog/node-services/", routing::get(node_services).waits())
}

/// A question about the catalog.
#[derive(Debug)]
struct CatalogQuery {
    what: What,
    select: Selection,
}

#[derive(Debug)]
enum What {
    Nodes,
    Services,
    Service(String),
    /// A node with its services by id.
    Node(String),
    /// A node with its services in a list.
    NodeServices(String),
}

impl Query for CatalogQuery {
    fn index(&self, store: &Store) -> Option<Index> {
        let catalog = store.catalog();
        Some(match &self.what {
            What::Nodes => catalog.nodes_index(),
            What::Services if self.select.looks_at_nodes() => catalog.services_by_node_index(),
            What::Services => catalog.services_index(),
            What::Service(name) => catalog.service_nodes_index(name),
            What::Node(name) | What::NodeServices(name) => catalog.node_index(name, true),
        })
    }

    fn evaluate(&self, store: &Store) -> Found<Body> {
        match &self.what {
            What::Nodes => self.nodes(store),
            What::Services => self.services(store),
            What::Service(name) => self.service(store, name),
            What::Node(name) | What::NodeServices(name) => self.node(store, name),
        }
    }
}

impl CatalogQuery {
    fn nodes(&self, store: &Store) -> Found<Body> {
        let mut found = store.catalog().nodes();
        found
            .rows
            .retain(|node| self.select.wants_meta(&node.meta) && self.select.holds_for(&**node));
        let (rows, next) = self.select.page.cut(&found.rows, |node| node.name.to_lowercase());
        let mut rows = rows.to_vec();
        self.select.sort_near(&mut rows, |node| &node.name);
        let rows = Rows(rows.iter().map(|node| NodeRow::from(&**node)));
        let body = Body::new(encode::json(&rows, self.select.layout)).with_next(next);
        Found { rows: body, index: found.index, scopes: found.scopes }
    }

    fn services(&self, store: &Store) -> Found<Body> {
        let found = if self.select.looks_at_nodes() {
            store.catalog().services(&|node| self.select.wants_meta(&node.meta))
        } else {
            store.catalog().all_services()
        };
        let rows: Vec<(Arc<str>, Vec<String>)> = found.rows.into_iter().collect();
        let (rows, next) = self.select.page.cut(&rows, |(name, _)| name.to_string());
        let shown: BTreeMap<&str, &[String]> =
            rows.iter().map(|(name, tags)| (&**name, tags.as_slice())).collect();
        let body = Body::new(encode::json(&shown, self.select.layout)).with_next(next);
        Found { rows: body, index: found.index, scopes: found.scopes }
    }

    fn service(&self, store: &Store, name: &str) -> Found<Body> {
        let mut found = store.catalog().service(name);
        found.rows.retain(|(node, service)| {
            self.select.wants_service(node, service)
                && self.select.holds_for(&Placed { node, service })
        });
        let (rows, next) =
            self.select.page.cut(&found.rows, |(node, service)| row_name(&node.name, &service.id));
        let mut rows = rows.to_vec();
        self.select.sort_near(&mut rows, |(node, _)| &node.name);
        let rows = Rows(rows.iter().map(|(node, service)| CatalogServiceRow::new(node, service)));
        let body = Body::new(encode::json(&rows, self.select.layout)).with_next(next);
        Found { rows: body, index: found.index, scopes: found.scopes }
    }

    fn node(&self, store: &Store, name: &str) -> Found<Body> {
        let mut found = store.catalog().node_services(name);
        let mut any = false;
        if let Some((_, services)) = &mut found.rows {
            any = !services.is_empty();
            services.retain(|service| self.select.holds_for(&**service));
        }
        let as_list = matches!(self.what, What::NodeServices(_));
        let bytes = match &found.rows {
            None if as_list => {
                encode::json(&NodeList { node: None, services: None }, self.select.layout)
            }
            None => encode::json(&(), self.select.layout),
            Some((node, services)) if as_list => {
                // A node without services has `null`; one of which the filter leaves none, `[]`.
                let services = (any || !services.is_empty()).then_some(services.as_slice());
                encode::json(&NodeList { node: Some(node), services }, self.select.layout)
            }
            Some((node, services)) => encode::json(&NodeMap { node, services }, self.select.layout),
        };
        Found { rows: Body::new(bytes), index: found.index, scopes: found.scopes }
    }
}

/// A node and its services by id.
struct NodeMap<'a> {
    node: &'a Node,
    services: &'a [Arc<Service>],
}

impl Serialize for NodeMap<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let services: BTreeMap<&str, ServiceRow> = self
            .services
            .iter()
            .map(|service| (&*service.id, ServiceRow::new(service, Empty::List)))
            .collect();
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("Node", &NodeRow::from(self.node))?;
        map.serialize_entry("Services", &services)?;
        map.end()
    }
}

/// A node and its services in a list, each `null` if there is none.
struct NodeList<'a> {
    node: Option<&'a Node>,
    services: Option<&'a [Arc<Service>]>,
}

impl Serialize for NodeList<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let rows = self.services.map(|services| {
            Rows(services.iter().map(|service| ServiceRow::new(service, Empty::List)))
        });
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("Node", &self.node.map(NodeRow::from))?;
        map.serialize_entry("Services", &rows)?;
        map.end()
    }
}

fn nodes(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    request.authorize(Resource::Node(""), Access::List)?;
    let select = Selection::of(&request)?.with_filter(&request, &schema::NODE)?;
    request.read(CatalogQuery { what: What::Nodes, select }, read, Family::Uncached)
}

fn services(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    request.authorize(Resource::Service(""), Access::List)?;
    let select = Selection::of(&request)?;
    request.read(CatalogQuery { what: What::Services, select }, read, Family::Discovery)
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
        .with_filter(&request, &schema::CATALOG_SERVICE)?;
    request.read(CatalogQuery { what: What::Service(name), select }, read, Family::Discovery)
}

fn node(request: Request) -> Result<Answer, Error> {
    node_with(request, What::Node)
}

fn node_services(request: Request) -> Result<Answer, Error> {
    node_with(request, What::NodeServices)
}

fn node_with(request: Request, what: fn(String) -> What) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let name = request.rest().to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Missing node name"));
    }
    request.authorize(Resource::Node(&name), Access::Read)?;
    let select = Selection::of(&request)?.with_filter(&request, &schema::SERVICE)?;
    request.read(CatalogQuery { what: what(name), select }, read, Family::Uncached)
}

/// The datacenters that are known: this one.
fn datacenters(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let mut reply = request.json(&[&request.app.parts.datacenter]);
    let hit = read.cached.then(|| request.app.note_datacenters_cached());
    read::cache_headers(&mut reply, hit);
    now(reply)
}

fn register(request: Request) -> Result<Answer, Error> {
    write(request, registration)
}

fn deregister(request: Request) -> Result<Answer, Error> {
    write(request, deregistration)
}

/// A change and what it is about, as a body defines it.
pub(super) type Definition = Result<(Change, Touched), Malformed>;

/// Resources that a write to the catalog touches, to be authorised.
pub(super) struct Touched {
    datacenter: String,
    node: String,
    service: Option<String>,
}

/// Reads what a registration defines.
pub(super) fn registration(body: &[u8], door_datacenter: &str) -> Definition {
    let mut from = Object::parse(body)?;
    let _ = from.take("Token");
    let given = from.string("Datacenter")?;
    let mut checks = from.objects("Checks")?;
    checks.extend(from.object("Check")?);
    let register = Register {
        node: Node {
            id: from.string("ID")?,
            name: from.string("Node")?.into(),
            address: from.string("Address")?,
            datacenter: door_datacenter.to_owned(),
            tagged_addresses: from.pairs("TaggedAddresses")?.into_iter().collect(),
            meta: from.pairs("NodeMeta")?.into_iter().collect(),
            create_index: 0,
            modify_index: 0,
        },
        skip_node_update: from.flag("SkipNodeUpdate")?,
        service: from.object("Service")?.map(body::service).transpose()?,
        checks: checks.into_iter().map(body::check).collect::<Result<_, _>>()?,
    };
    from.finish()?;
    let touched = Touched {
        datacenter: given,
        node: register.node.name.to_string(),
        service: register.service.as_ref().map(|service| service.name.to_string()),
    };
    Ok((Change::Register(Box::new(register)), touched))
}

/// Reads what a deregistration names.
pub(super) fn deregistration(body: &[u8], _: &str) -> Definition {
    let mut from = Object::parse(body)?;
    let _ = (from.take("Token"), from.take("Address"));
    let some = |text: String| (!text.is_empty()).then_some(text);
    let given = from.string("Datacenter")?;
    let deregister = Deregister {
        node: from.string("Node")?,
        service_id: some(from.string("ServiceID")?),
        check_id: some(from.string("CheckID")?),
    };
    from.finish()?;
    let touched = Touched { datacenter: given, node: deregister.node.clone(), service: None };
    Ok((Change::Deregister(deregister), touched))
}

/// Reads a definition from the body and has the cluster agree on it.
fn write(request: Request, read: fn(&[u8], &str) -> Definition) -> Result<Answer, Error> {
    request.no_namespace()?;
    let token = request.token.clone();
    let app = Arc::clone(&request.app);
    let layout = request.layout;
    let body = request.into_body();
    later(async move {
        let body = payload::collect(body, BODY_BYTES_MAX).await?;
        let (change, touched) = read(&body, &app.parts.datacenter)
            .map_err(|error| Error::invalid(format!("Request decode failed: {error}")))?;
        // As in the reference, the body alone says where; `?dc` is ignored.
        app.is_here(&touched.datacenter)?;
        acl::authorize(&token, Resource::Node(&touched.node), Access::Write)?;
        if let Some(service) = &touched.service {
            acl::authorize(&token, Resource::Service(service), Access::Write)?;
        }
        app.propose(change).await?;
        Ok(Reply::json(&true, layout))
    })
}

/// Scopes of an answer that also depends on the rows of nodes.
pub(super) fn with_nodes(mut scopes: Vec<Scope>) -> Vec<Scope> {
    if !scopes.contains(&Scope::Nodes) {
        scopes.push(Scope::Nodes);
    }
    scopes
}
