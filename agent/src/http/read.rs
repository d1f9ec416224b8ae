//! Requests that read: from a question to its answer, at once, after a wait, or as a stream.

use std::sync::Arc;

use http::header::{AGE, HeaderName, HeaderValue};

use crate::http::error::Error;
use crate::http::extract::{ReadOptions, Request};
use crate::http::handler::{Answer, later, now};
use crate::http::page;
use crate::http::reply::Reply;
use crate::http::stream;
use crate::read::{Body, Query, ReadResult, Reader};

const CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Headers of the answers of a family of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Catalog and health: how the read was done, and that it may be cached.
    Discovery,
    /// Catalog and health, where `?cached` has no effect.
    Uncached,
    /// Sessions, coordinates.
    Plain,
    /// Keys, whose errors come without the headers of a read.
    Keys,
}

impl Request {
    /// Answers a question as the request wants it. Fails for another datacenter.
    pub(crate) fn read(
        self,
        query: impl Query + 'static,
        read: ReadOptions,
        family: Family,
    ) -> Result<Answer, Error> {
        self.read_with(query, read, family, Reply::outcome)
    }

    /// Like [`Request::read`], with a reply of the caller's making.
    pub(crate) fn read_with(
        self,
        query: impl Query + 'static,
        read: ReadOptions,
        family: Family,
        present: fn(ReadResult<Body>) -> Reply,
    ) -> Result<Answer, Error> {
        if let Err(error) = self.datacenter_is_here() {
            return now(failed(error, family));
        }
        let reader = self.app.reader()?.clone();
        if self.wants_events() {
            page::check_whole(&self.params)?;
            let after =
                self.last_event().or((read.options.index > 0).then_some(read.options.index));
            let consistency = read.options.consistency;
            drop(self);
            return now(stream::events(reader, Arc::new(query), consistency, after));
        }
        drop(self);
        let hit = (read.cached && family == Family::Discovery).then(|| reader.note_cached(&query));
        let dress = move |outcome: ReadResult<Body>| {
            let consistency = outcome.consistency;
            let mut reply = present(outcome);
            if matches!(family, Family::Discovery | Family::Uncached) {
                reply.effective(consistency);
            }
            cache_headers(&mut reply, hit);
            reply
        };
        if let Some(outcome) = reader.answer_now(read.options, &query) {
            return now(dress(outcome));
        }
        later(answer_later(reader, query, read, family, dress))
    }
}

/// The waiting half of a read, apart so that its future holds nothing else.
async fn answer_later(
    reader: Reader,
    query: impl Query + 'static,
    read: ReadOptions,
    family: Family,
    dress: impl FnOnce(ReadResult<Body>) -> Reply,
) -> Result<Reply, Error> {
    match reader.answer(read.options, &query).await {
        Ok(outcome) => Ok(dress(outcome)),
        Err(error) => Ok(failed(Error::Read(error), family)),
    }
}

/// `X-Cache` and `Age`. An answer from here is never older than the state it is read from.
pub(crate) fn cache_headers(reply: &mut Reply, hit: Option<bool>) {
    match hit {
        None => {}
        Some(false) => {
            reply.headers.insert(CACHE, HeaderValue::from_static("MISS"));
        }
        Some(true) => {
            reply.headers.insert(CACHE, HeaderValue::from_static("HIT"));
            reply.headers.insert(AGE, HeaderValue::from_static("0"));
        }
    }
}

/// A read that failed after its parameters were accepted: clients find the usual headers, saying
/// that nothing is known.
pub(crate) fn failed(error: Error, family: Family) -> Reply {
    let mut reply = Reply::from(error);
    if family != Family::Keys {
        reply.meta(1, false, 0);
    }
    reply
}
