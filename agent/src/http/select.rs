//! Which rows of the catalog a request wants, and in which order: tags, node meta, health, filter,
//! distance, page. Used by every list of catalog and health.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::coordinate::Coordinates;
use super::encode::Layout;
use super::error::Error;
use super::extract::Request;
use super::page::Page;
use crate::acl::Authority;
use crate::filter::schema::Schema;
use crate::filter::{Filter, Row};
use crate::store::{Instance, Node, Service, Store};

/// The conditions of a request. Its `Debug` is part of the key of shared answers.
#[derive(Debug)]
pub(crate) struct Selection {
    /// All of them, in any case; `None`: not asked for.
    tags: Option<Vec<String>>,
    /// Of several values for one name the last one counts, as in the reference.
    node_meta: BTreeMap<String, String>,
    /// Only instances without a check that is not passing.
    passing: bool,
    /// Rows say how what they are about is on the whole.
    effective: bool,
    filter: Option<Condition>,
    near: Option<Near>,
    pub(crate) page: Page,
    pub(crate) layout: Layout,
    #[allow(
        dead_code,
        reason = "part of the key of shared answers, which is the `Debug` of the whole"
    )]
    authority: Authority,
}

/// A filter with its text, by which equal ones are known.
struct Condition {
    text: String,
    filter: Filter,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The filter says what the text says.
        let Condition { text, filter: _ } = self;
        text.fmt(f)
    }
}

/// Order by round-trip time from a node.
struct Near {
    node: String,
    coordinates: Arc<Coordinates>,
    /// Of the coordinates: answers in an older order are not shared.
    version: u64,
}

impl fmt::Debug for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The version stands for all coordinates.
        let Near { node, coordinates: _, version } = self;
        write!(f, "{node:?} {version}")
    }
}

impl Selection {
    /// Reads the conditions of a request. `?tag`, `?passing` are read where they have a meaning.
    pub(crate) fn of(request: &Request) -> Result<Selection, Error> {
        let params = &request.params;
        let node_meta = params
            .all("node-meta")
            .map(|pair| pair.split_once(':').unwrap_or((pair, "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let near = params.get("near").filter(|node| !node.is_empty()).map(|node| {
            let parts = &request.app.parts;
            let node = if node == "_agent" { parts.node_name.as_str() } else { node };
            let coordinates = Arc::clone(&request.app.coordinates);
            Near { node: node.to_owned(), version: coordinates.version(), coordinates }
        });
        Ok(Selection {
            tags: None,
            node_meta,
            passing: false,
            effective: false,
            filter: None,
            near,
            page: Page::of(params)?,
            layout: request.layout,
            authority: request.token.authority(),
        })
    }

    /// With the tags that the request names.
    pub(crate) fn with_tags(mut self, request: &Request) -> Selection {
        if request.params.has("tag") {
            self.tags = Some(request.params.all("tag").map(str::to_owned).collect());
        }
        self
    }

    /// With the filter that the request names, for rows of this kind.
    pub(crate) fn with_filter(
        mut self,
        request: &Request,
        schema: &Schema,
    ) -> Result<Selection, Error> {
        if let Some(text) = request.params.get("filter").filter(|text| !text.is_empty()) {
            let filter = Filter::parse(text, schema)?;
            self.filter = Some(Condition { text: text.to_owned(), filter });
        }
        Ok(self)
    }

    /// Does the filter hold for this row?
    pub(crate) fn holds_for(&self, row: &dyn Row) -> bool {
        self.filter.as_ref().is_none_or(|it| it.filter.matches(row))
    }

    /// With the health that the request asks for.
    pub(crate) fn with_passing(mut self, request: &Request) -> Result<Selection, Error> {
        self.passing = switch(request, "passing")?;
        Ok(self)
    }

    /// With the status of the whole in each row, if the request asks for it: `?effective`.
    pub(crate) fn with_effective(mut self, request: &Request) -> Result<Selection, Error> {
        self.effective = switch(request, "effective")?;
        Ok(self)
    }

    /// Do rows say how what they are about is on the whole?
    pub(crate) fn is_effective(&self) -> bool {
        self.effective
    }

    /// Does the answer depend on the rows of nodes beyond those that are in it anyway?
    pub(crate) fn looks_at_nodes(&self) -> bool {
        !self.node_meta.is_empty()
    }

    /// Is a node with this meta wanted?
    pub(crate) fn wants_meta(&self, meta: &BTreeMap<String, String>) -> bool {
        self.node_meta.iter().all(|(key, value)| meta.get(key) == Some(value))
    }

    /// Is something on this node wanted?
    pub(crate) fn wants_node_named(&self, store: &Store, name: &str) -> bool {
        self.node_meta.is_empty()
            || store.catalog().node_named(name).is_some_and(|node| self.wants_meta(&node.meta))
    }

    /// Is this instance wanted, as far as its definition goes?
    pub(crate) fn wants_service(&self, node: &Node, service: &Service) -> bool {
        let tagged = self
            .tags
            .as_ref()
            .is_none_or(|wanted| wanted.iter().all(|wanted| has_tag(&service.tags, wanted)));
        tagged && self.wants_meta(&node.meta)
    }

    /// Is this instance wanted, its health included?
    pub(crate) fn wants_instance(&self, instance: &Instance) -> bool {
        self.wants_service(&instance.node, &instance.service)
            && !(self.passing && instance.checks.iter().any(|check| check.status != "passing"))
            && self.holds_for(instance)
    }

    /// Sorts rows by the distance of their nodes, the unknown ones last; otherwise as they are.
    pub(crate) fn sort_near<T>(&self, rows: &mut [T], node: impl Fn(&T) -> &str) {
        if let Some(near) = &self.near {
            near.coordinates.sort_from(&near.node, rows, node);
        }
    }

    /// Rows must be sorted by distance.
    pub(crate) fn is_near(&self) -> bool {
        self.near.is_some()
    }
}

/// Is a parameter there, and does it not say no?
fn switch(request: &Request, name: &str) -> Result<bool, Error> {
    match request.params.get(name) {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(_) => Err(Error::invalid(format!("Invalid value for ?{name}"))),
    }
}

fn has_tag(tags: &[String], wanted: &str) -> bool {
    tags.iter().any(|tag| {
        tag.eq_ignore_ascii_case(wanted)
            || (!tag.is_ascii() && tag.to_lowercase() == wanted.to_lowercase())
    })
}

/// The name by which pages of rows that belong to nodes go on: nodes first, then ids, in the form
/// in which they are sorted.
pub(crate) fn row_name(node: &str, id: &str) -> String {
    format!("{}\0{}", node.to_lowercase(), id.to_lowercase())
}
