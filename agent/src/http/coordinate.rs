//! `/v1/coordinate/`: where nodes are in the network, by their round-trip times.
//!
//! A coordinate is a point of eight dimensions, a height above them (the node's own access line)
//! and an adjustment (Vivaldi, as the reference uses it). The distance of two points estimates the
//! round-trip time. What nodes report is kept in memory by the server that hears it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use super::decode::{Malformed, Object, wrong_type};
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later, now};
use super::payload::{self, BODY_BYTES_MAX};
use super::reply::Reply;
use super::routing::{self, Routes};
use crate::acl::{Access, Resource};
use crate::gossip::{Pools, SEGMENT_NAME_MAX, SEGMENTS_MAX, vivaldi};
use crate::http::read;
use crate::store::Store;

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/coordinate/datacenters", routing::get(datacenters))
        .route("/v1/coordinate/nodes", routing::get(nodes).waits())
        .route("/v1/coordinate/node/", routing::get(node).waits())
        .route("/v1/coordinate/update", routing::put(update))
}

const DIMENSIONS: usize = 8;
const ERROR_START: f64 = 1.5;
const HEIGHT_MIN: f64 = 10.0e-6;
/// Reports of more nodes are not kept.
const NODES_MAX: usize = 100_000;
/// Places of one node: those of a server in as many segments as there may be, and in the default one.
const PLACES_MAX: usize = SEGMENTS_MAX + 1;

/// A place in the network. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Coordinate {
    vec: [f64; DIMENSIONS],
    error: f64,
    adjustment: f64,
    height: f64,
}

impl Coordinate {
    /// Coordinate of a node that has heard of nobody.
    const ORIGIN: Coordinate = Coordinate {
        vec: [0.0; DIMENSIONS],
        error: ERROR_START,
        adjustment: 0.0,
        height: HEIGHT_MIN,
    };

    fn distance(&self, other: &Coordinate) -> f64 {
        let squares: f64 = self.vec.iter().zip(&other.vec).map(|(a, b)| (a - b).powi(2)).sum();
        let raw = squares.sqrt() + self.height + other.height;
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    fn read(mut from: Object) -> Result<Option<Coordinate>, Malformed> {
        let number = |from: &mut Object, name: &str| match from.take(name) {
            None => Ok(0.0),
            Some(value) => value.as_f64().ok_or_else(|| wrong_type(name, &value, "float64")),
        };
        let vec: Vec<f64> = from
            .list("Vec")?
            .iter()
            .map(|value| value.as_f64().ok_or_else(|| wrong_type("Vec", value, "float64")))
            .collect::<Result<_, _>>()?;
        let (error, adjustment, height) = (
            number(&mut from, "Error")?,
            number(&mut from, "Adjustment")?,
            number(&mut from, "Height")?,
        );
        from.finish()?;
        let vec: Result<[f64; DIMENSIONS], _> = vec.try_into();
        Ok(vec.ok().map(|vec| Coordinate { vec, error, adjustment, height }))
    }
}

/// Coordinates of a node, by network segment. Servers are in several; distances have a meaning within
/// one of them only.
#[derive(Debug, Clone, Default)]
struct Places(BTreeMap<Arc<str>, Coordinate>);

impl Places {
    /// Distance between two nodes, in the segment that both are in. A node in one segment only is no
    /// server, and its segment is what counts; two servers compare in the default one.
    fn distance(&self, other: &Places) -> Option<f64> {
        let single = |places: &Places| {
            let only = || places.0.keys().next().cloned();
            (places.0.len() == 1).then(only).flatten()
        };
        let segment = single(other).or_else(|| single(self)).unwrap_or_else(|| Arc::from(""));
        Some(self.0.get(&segment)?.distance(other.0.get(&segment)?))
    }
}

/// Coordinates that nodes reported.
#[derive(Debug)]
pub(crate) struct Coordinates {
    known: Mutex<BTreeMap<String, Places>>,
    version: watch::Sender<u64>,
}

impl From<&vivaldi::Coordinate> for Coordinate {
    fn from(place: &vivaldi::Coordinate) -> Coordinate {
        let vivaldi::Coordinate { vec, error, adjustment, height } = *place;
        Coordinate { vec, error, adjustment, height }
    }
}

impl Coordinates {
    /// Knows of nobody.
    pub(super) fn new() -> Coordinates {
        Coordinates { known: Mutex::default(), version: watch::Sender::new(1) }
    }

    /// Grows with every change.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Sorts rows by the distance of their nodes from `origin`. Nodes of unknown place come last,
    /// in their order; so do all if `origin`'s place is unknown.
    pub(crate) fn sort_from<T>(&self, origin: &str, rows: &mut [T], node: impl Fn(&T) -> &str) {
        let known = self.known();
        let Some(from) = find(&known, origin) else { return };
        rows.sort_by_cached_key(|row| {
            let distance =
                find(&known, node(row)).and_then(|at| from.distance(at)).unwrap_or(f64::INFINITY);
            // Distances are not negative: their bits sort as they do.
            distance.to_bits()
        });
    }

    /// Takes over where members say they are, as far as the catalog has their nodes.
    pub(super) fn learn(&self, pools: &Pools, store: &Store) {
        for pool in pools.each() {
            let vitals = pool.vitals();
            let others = vitals.places.iter().map(|(name, place)| (&**name, place));
            for (name, place) in others.chain([(pool.name(), &vitals.coordinate)]) {
                if let Some(node) = store.catalog().node_named(name) {
                    self.set(&node.name, pool.segment(), place.into());
                }
            }
        }
    }

    fn set(&self, node: &str, segment: &str, coordinate: Coordinate) {
        let mut known = self.known();
        if known.len() >= NODES_MAX && !known.contains_key(node) {
            return;
        }
        let places = known.entry(node.to_owned()).or_default();
        if places.0.get(segment) == Some(&coordinate) {
            return;
        }
        if places.0.len() < PLACES_MAX || places.0.contains_key(segment) {
            places.0.insert(segment.into(), coordinate);
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Places>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of nodes have no case.
fn find<'a>(known: &'a BTreeMap<String, Places>, node: &str) -> Option<&'a Places> {
    known.get(node).or_else(|| {
        known.iter().find(|(name, _)| name.eq_ignore_ascii_case(node)).map(|(_, place)| place)
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    node: &'a str,
    segment: &'a str,
    coord: Coordinate,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Area<'a> {
    datacenter: &'a str,
    #[serde(rename = "AreaID")]
    id: &'static str,
    coordinates: Vec<Row<'a>>,
}

/// The servers of all datacenters in the wide area: of this one, this server.
fn datacenters(request: Request) -> Result<Answer, Error> {
    let parts = &request.app.parts;
    let own = Row { node: parts.local.node_name(), segment: "", coord: Coordinate::ORIGIN };
    let area = Area { datacenter: &parts.datacenter, id: "wan", coordinates: vec![own] };
    now(request.json(&[area]))
}

/// Nodes of this datacenter.
fn nodes(request: Request) -> Result<Answer, Error> {
    request.read_options()?;
    request.authorize(Resource::Node(""), Access::List)?;
    once_changed(request, |request| list(request, |_| true))
}

/// One node; 404 if nothing is known of it.
fn node(request: Request) -> Result<Answer, Error> {
    request.read_options()?;
    let name = request.rest().to_owned();
    request.authorize(Resource::Node(&name), Access::Read)?;
    once_changed(request, move |request| {
        let is_there = |places: &Places| match segment(request) {
            None => true,
            Some(segment) => places.0.contains_key(segment),
        };
        if !find(&request.app.coordinates.known(), &name).is_some_and(is_there) {
            return Ok(Reply::status(http::StatusCode::NOT_FOUND));
        }
        list(request, |node| node.eq_ignore_ascii_case(&name))
    })
}

/// Answers at once, or, for a client that knows the current version, after the next change or at the end of its wait.
fn once_changed(
    request: Request,
    answer: impl FnOnce(&Request) -> Result<Reply, Error> + Send + 'static,
) -> Result<Answer, Error> {
    let (index, wait) = request.index_and_wait()?;
    if index != request.app.coordinates.version() {
        return now(answer(&request)?);
    }
    let wait = request.app.settings.waits.with_jitter(wait);
    later(async move {
        let mut version = request.app.coordinates.version.subscribe();
        // At the deadline the answer is what it was.
        let _ = timeout(wait, version.wait_for(|version| *version != index)).await;
        answer(&request)
    })
}

/// The segment of the network that is meant, if one is: without a name, the default one.
fn segment(request: &Request) -> Option<&str> {
    request.params.get("segment")
}

fn list(request: &Request, keep: impl Fn(&str) -> bool) -> Result<Reply, Error> {
    if let Err(error) = request.datacenter_is_here() {
        return Ok(read::failed(error, read::Family::Plain));
    }
    let coordinates = &request.app.coordinates;
    // Read first: a change in between only costs the client another look.
    let version = coordinates.version();
    let (known, wanted) = (coordinates.known().clone(), segment(request));
    let rows: Vec<Row> = known
        .iter()
        .filter(|(node, _)| keep(node))
        .flat_map(|(node, places)| places.0.iter().map(move |place| (node, place)))
        .filter(|(_, (name, _))| wanted.is_none_or(|wanted| wanted == &***name))
        .map(|(node, (segment, coord))| Row { node, segment, coord: *coord })
        .collect();
    let consensus = request.app.reader()?.consensus();
    let mut reply = request.json(&rows);
    let contact = consensus.last_contact().as_millis();
    reply.meta(version, consensus.leader().is_some(), contact);
    Ok(reply)
}

/// A node's own report.
fn update(request: Request) -> Result<Answer, Error> {
    let datacenter = request.datacenter_is_here();
    let token = request.token.clone();
    let app = Arc::clone(&request.app);
    let body = request.into_body();
    later(async move {
        let body = payload::collect(body, BODY_BYTES_MAX).await?;
        let read = || {
            let mut from = Object::parse(&body)?;
            let node = from.string("Node")?;
            let segment = from.string("Segment")?;
            let _ = (from.take("Datacenter"), from.take("Token"));
            let coordinate = from.object("Coord")?.map(Coordinate::read).transpose()?;
            from.finish()?;
            Ok((node, segment, coordinate.flatten()))
        };
        let (node, segment, coordinate) = read().map_err(|error: Malformed| {
            Error::invalid(format!("Request decode failed: {error}"))
        })?;
        datacenter?;
        crate::acl::authorize(&token, Resource::Node(&node), Access::Write)?;
        let Some(coordinate) = coordinate else {
            return Err(Error::refused("incompatible coordinate"));
        };
        if segment.len() > SEGMENT_NAME_MAX {
            return Err(Error::refused("invalid segment: its name has more than 64 letters"));
        }
        let all = coordinate.vec.iter().chain([
            &coordinate.error,
            &coordinate.adjustment,
            &coordinate.height,
        ]);
        if !all.into_iter().all(|number| number.is_finite()) {
            return Err(Error::refused("invalid coordinate"));
        }
        // Reports of nodes that are not in the catalog are dropped without a word.
        let store = app.reader()?.consensus().store();
        if let Some(known) = store.catalog().node_named(&node) {
            app.coordinates.set(&known.name, &segment, coordinate);
        }
        Ok(Reply::empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f64) -> Coordinate {
        let mut coordinate = Coordinate::ORIGIN;
        coordinate.vec[0] = x;
        coordinate
    }

    #[test]
    fn rows_are_sorted_by_distance_and_the_unknown_come_last() {
        let coordinates = Coordinates::new();
        coordinates.set("a", "", at(0.0));
        coordinates.set("b", "", at(0.3));
        coordinates.set("c", "", at(0.1));
        let mut rows = ["x", "b", "c", "a", "y"];
        coordinates.sort_from("A", &mut rows, |row| row);
        assert_eq!(rows, ["a", "c", "b", "x", "y"]);
        let mut rows = ["b", "a"];
        coordinates.sort_from("nobody", &mut rows, |row| row);
        assert_eq!(rows, ["b", "a"]);
    }

    #[test]
    fn distances_are_of_one_segment() {
        let coordinates = Coordinates::new();
        for (segment, x) in [("", 0.0), ("alpha", 0.5), ("beta", 0.9)] {
            coordinates.set("server", segment, at(x));
            coordinates.set("server2", segment, at(x + 0.01));
        }
        coordinates.set("a1", "alpha", at(0.6));
        coordinates.set("a2", "alpha", at(0.3));
        coordinates.set("b1", "beta", at(0.6));
        let mut rows = ["b1", "a2", "server", "a1"];
        coordinates.sort_from("a1", &mut rows, |row| row);
        assert_eq!(rows, ["a1", "server", "a2", "b1"]);
        let mut rows = ["a2", "b1", "a1", "server2"];
        coordinates.sort_from("server", &mut rows, |row| row);
        assert_eq!(rows, ["server2", "a1", "a2", "b1"]);
    }

    #[test]
    fn no_reports_fill_the_memory() {
        let coordinates = Coordinates::new();
        for number in 0..2 * PLACES_MAX {
            coordinates.set("a", &number.to_string(), at(0.0));
        }
        assert_eq!(coordinates.known()["a"].0.len(), PLACES_MAX);
    }

    #[test]
    fn negative_adjustments_do_not_make_distances_negative() {
        let mut near = at(0.001);
        near.adjustment = -1.0;
        assert!(near.distance(&Coordinate::ORIGIN) > 0.0);
    }
}
