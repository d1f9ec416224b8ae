//! A question as a request, and an answer from what comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::{Answer, Query, WatchSettings};
use crate::transport::accepted;
use crate::types::{KvPair, Tags};
use crate::{Client, Error, Read, ReadOptions, Rows};

/// A query and how it is to be followed.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) query: Query,
    pub(super) settings: WatchSettings,
}

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// `None`: there is no such thing.
    pub(super) body: Option<Bytes>,
    /// 0 where the server cannot wait.
    pub(super) index: u64,
}

impl Question {
    /// Can a server wait for another answer?
    pub(super) fn can_wait(&self) -> bool {
        !matches!(self.query, Query::Datacenters)
    }

    fn path(&self) -> String {
        match &self.query {
            Query::Service { name, .. } => format!("/v1/health/service/{name}"),
            Query::Services => "/v1/catalog/services".to_owned(),
            Query::Nodes => "/v1/catalog/nodes".to_owned(),
            Query::Node { name } => format!("/v1/catalog/node/{name}"),
            Query::Key { path } => format!("/v1/kv/{path}"),
            Query::KeyPrefix { prefix } => format!("/v1/kv/{prefix}"),
            Query::Checks { state } => format!("/v1/health/state/{state}"),
            Query::Datacenters => "/v1/catalog/datacenters".to_owned(),
            Query::Path { path, .. } => path.clone(),
        }
    }

    fn options(&self, index: u64, wait: Duration) -> ReadOptions {
        if !self.can_wait() {
            return ReadOptions::default();
        }
        let settings = &self.settings;
        ReadOptions {
            index: (index > 0).then_some(index),
            wait: Some(wait),
            consistency: settings.consistency,
            datacenter: settings.datacenter.clone(),
            near: settings.near.clone(),
            filter: settings.filter.clone(),
            ..ReadOptions::default()
        }
    }

    fn parameters(&self, options: &ReadOptions) -> Vec<(&str, String)> {
        let mut parameters = Vec::new();
        match &self.query {
            Query::Service { query, .. } => {
                parameters.extend(query.tags.iter().map(|tag| ("tag", tag.clone())));
                if query.passing {
                    parameters.push(("passing", String::new()));
                }
            }
            Query::KeyPrefix { .. } => parameters.push(("recurse", String::new())),
            _ => {}
        }
        options.append(&mut parameters);
        if let Query::Path { parameters: given, .. } = &self.query {
            parameters.extend(given.iter().map(|(name, value)| (name.as_str(), value.clone())));
        }
        parameters
    }

    /// The path and query of the request for what is newer than `index`.
    pub(super) fn request(&self, client: &Client, index: u64) -> String {
        let options = self.options(index, self.settings.wait);
        client.path_and_query(&self.path(), &self.parameters(&options))
    }

    /// Asks for what is newer than `index`, waiting at most `wait` for it.
    pub(super) async fn ask(
        &self,
        client: &Client,
        index: u64,
        wait: Duration,
    ) -> Result<Found, Error> {
        let options = self.options(index, wait);
        let (path, query) = (self.path(), self.parameters(&options));
        let raw = client.call(Method::GET, &path, &query, Bytes::new(), options.patience()).await?;
        // Servers count from 1; a 0 here would be taken for "there is no index".
        let index = if self.can_wait() { raw.meta().index.max(1) } else { 0 };
        if raw.status == StatusCode::NOT_FOUND && self.may_be_missing() {
            return Ok(Found { body: None, index });
        }
        Ok(Found { body: Some(accepted(raw)?.body), index })
    }

    /// Does 404 mean that there is no such thing?
    fn may_be_missing(&self) -> bool {
        matches!(self.query, Query::Key { .. } | Query::KeyPrefix { .. } | Query::Path { .. })
    }

    /// What an event stream found, where `null` stands for what does not exist.
    pub(super) fn found(&self, datum: Bytes, index: u64) -> Found {
        let missing = self.may_be_missing() && &datum[..] == b"null";
        Found { body: (!missing).then_some(datum), index }
    }

    /// Decodes an answer, without the rows that make no sense.
    pub(super) fn answer(&self, body: Option<&Bytes>) -> Result<Read<Answer>, Error> {
        let with = |read: fn(&[u8]) -> serde_json::Result<Read<Answer>>| {
            let read = read(body.map_or(b"null", |body| body));
            read.map_err(|source| Error::Decode { path: self.path(), source })
        };
        match &self.query {
            Query::Service { .. } => with(|body| rows(body, Answer::Service)),
            Query::Services => with(|body| {
                rows(body, |services: BTreeMap<String, Tags>| {
                    Answer::Services(services.into_iter().map(|(name, it)| (name, it.0)).collect())
                })
            }),
            Query::Nodes => with(|body| rows(body, Answer::Nodes)),
            Query::Node { .. } => with(|body| rows(body, Answer::Node)),
            Query::Key { .. } => with(|body| {
                let (pairs, odd) = <Vec<KvPair>>::read(body)?;
                // A row that cannot be read is not an absent one.
                match (&*pairs, &*odd) {
                    ([], [odd, ..]) => Err(serde::de::Error::custom(odd)),
                    _ => Ok((Answer::Key(pairs.into_iter().next()), odd)),
                }
            }),
            Query::KeyPrefix { .. } => with(|body| rows(body, Answer::KeyPrefix)),
            Query::Checks { .. } => with(|body| rows(body, Answer::Checks)),
            Query::Datacenters => {
                with(|body| Ok((Answer::Datacenters(serde_json::from_slice(body)?), Vec::new())))
            }
            Query::Path { .. } => Ok((Answer::Path(body.cloned()), Vec::new())),
        }
    }
}

fn rows<R: Rows>(body: &[u8], answer: fn(R) -> Answer) -> serde_json::Result<Read<Answer>> {
    let (rows, odd) = R::read(body)?;
    Ok((answer(rows), odd))
}
