//! Lists of rows, read so that a row which makes no sense costs itself alone.
//!
//! The types of [`crate::types`] take whatever a catalog accepts. What is still not to be read (a
//! list where a text belongs, a number beyond every bound) comes from a proxy, an agent of another
//! make or a fault: that row is left out and named, and every other row is used.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::transport::accepted;
use crate::types::{AgentService, CatalogNode, Node};
use crate::{Client, Error, Raw, ReadOptions, Response};

/// Names and reasons are cut here: they come from outside and go into logs.
const TEXT_BYTES_MAX: usize = 256;

/// A row that was left out of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddRow {
    /// Its key in a map of rows, uncut; its place in a list, from 0 on.
    pub key: String,
    /// The name or id that the row gives itself; empty if it gives none that is a text.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for OddRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { cut(&self.key) } else { &self.name };
        write!(f, "row `{}`: {}", name.escape_debug(), self.why.escape_debug())
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Rows that were read, and those that could not be.
pub type Read<R> = (R, Vec<OddRow>);

/// Lists that the API answers with.
pub trait Rows: Sized {
    /// Reads the body of an answer. An error: it is no list at all.
    fn read(body: &[u8]) -> serde_json::Result<Read<Self>>;
}

impl<T: DeserializeOwned> Rows for Vec<T> {
    fn read(body: &[u8]) -> serde_json::Result<Read<Self>> {
        // Nearly always all is well, and then nothing is held twice.
        if let Ok(rows) = serde_json::from_slice::<Option<Vec<T>>>(body) {
            return Ok((rows.unwrap_or_default(), Vec::new()));
        }
        let values: Option<Vec<Value>> = serde_json::from_slice(body)?;
        let values = values.unwrap_or_default();
        let (mut rows, mut odd) = (Vec::with_capacity(values.len()), Vec::new());
        for (place, value) in values.into_iter().enumerate() {
            match T::deserialize(&value) {
                Ok(row) => rows.push(row),
                Err(error) => odd.push(odd_row(place.to_string(), &value, &error)),
            }
        }
        Ok((rows, odd))
    }
}

impl<T: DeserializeOwned> Rows for BTreeMap<String, T> {
    fn read(body: &[u8]) -> serde_json::Result<Read<Self>> {
        if let Ok(rows) = serde_json::from_slice::<Option<BTreeMap<String, T>>>(body) {
            return Ok((rows.unwrap_or_default(), Vec::new()));
        }
        let values: Option<BTreeMap<String, Value>> = serde_json::from_slice(body)?;
        Ok(one_by_one(values))
    }
}

/// A node with its services, each of which is a row of its own; `None` if there is no such node.
impl Rows for Option<CatalogNode> {
    fn read(body: &[u8]) -> serde_json::Result<Read<Self>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Parts {
            node: Option<Node>,
            services: Option<BTreeMap<String, Value>>,
        }
        if let Ok(found) = serde_json::from_slice::<Option<CatalogNode>>(body) {
            return Ok((found, Vec::new()));
        }
        let Some(parts) = serde_json::from_slice::<Option<Parts>>(body)? else {
            return Ok((None, Vec::new()));
        };
        let (services, odd) = one_by_one::<AgentService>(parts.services);
        Ok((Some(CatalogNode { node: parts.node.unwrap_or_default(), services }), odd))
    }
}

impl Client {
    /// `GET` of a list from any path. Rows that make no sense are left out and named in
    /// [`Meta::odd_rows`](crate::Meta::odd_rows); every status but 200 is an error.
    pub async fn rows<R: Rows>(
        &self,
        path: &str,
        mut query: Vec<(&str, String)>,
        options: &ReadOptions,
    ) -> Result<Response<R>, Error> {
        options.append(&mut query);
        let raw = self.call(Method::GET, path, &query, Bytes::new(), options.patience()).await?;
        read(path, &accepted(raw)?)
    }

    /// The same, where 404 means "there are none".
    pub(crate) async fn find_rows<R: Rows + Default>(
        &self,
        path: &str,
        mut query: Vec<(&str, String)>,
        options: &ReadOptions,
    ) -> Result<Response<R>, Error> {
        options.append(&mut query);
        let raw = self.call(Method::GET, path, &query, Bytes::new(), options.patience()).await?;
        if raw.status == StatusCode::NOT_FOUND {
            return Ok(Response { value: R::default(), meta: raw.meta() });
        }
        read(path, &accepted(raw)?)
    }
}

fn read<R: Rows>(path: &str, raw: &Raw) -> Result<Response<R>, Error> {
    let mut meta = raw.meta();
    let (value, odd_rows) =
        R::read(&raw.body).map_err(|source| Error::Decode { path: path.to_owned(), source })?;
    meta.odd_rows = odd_rows;
    Ok(Response { value, meta })
}

fn one_by_one<T: DeserializeOwned>(
    values: Option<BTreeMap<String, Value>>,
) -> Read<BTreeMap<String, T>> {
    let (mut rows, mut odd) = (BTreeMap::new(), Vec::new());
    for (key, value) in values.unwrap_or_default() {
        match T::deserialize(&value) {
            Ok(row) => {
                rows.insert(key, row);
            }
            Err(error) => odd.push(odd_row(key, &value, &error)),
        }
    }
    (rows, odd)
}

fn odd_row(key: String, value: &Value, error: &serde_json::Error) -> OddRow {
    // What tells rows apart, the most telling first.
    const NAMES: [&str; 7] =
        ["/Service/ID", "/ServiceID", "/CheckID", "/Key", "/ID", "/Node", "/Name"];
    let name = NAMES
        .iter()
        .filter_map(|place| value.pointer(place)?.as_str())
        .find(|name| !name.is_empty())
        .unwrap_or_default();
    OddRow { key, name: cut(name).to_owned(), why: cut(&error.to_string()).to_owned() }
}

/// Names a few of many, for a line of a log.
pub(crate) fn listed(odd: &[OddRow]) -> String {
    const NAMED_MAX: usize = 5;
    let mut text: Vec<String> = odd.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if odd.len() > NAMED_MAX {
        text.push(format!("{} more", odd.len() - NAMED_MAX));
    }
    text.join("; ")
}
