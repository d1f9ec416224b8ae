//! `/v1/kv/`: keys and values.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};

use super::encode::{self, Layout};
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later};
use super::page::Page;
use super::params::{Params, go_unsigned};
use super::payload;
use super::reply::Reply;
use super::routing::{self, Routes};
use super::rows::{EntryRow, Rows};
use crate::acl::{Access, Authority, Resource};
use crate::http::read::Family;
use crate::read::{Body, Query, ReadResult};
use crate::store::{Change, Found, Index, KvChange, KvVerb, Reply as Applied, Store};

pub(super) fn routes() -> Routes {
    Routes::new().route("/v1/kv/", routing::get(get).put(put).delete(delete).waits())
}

/// A question about keys.
#[derive(Debug)]
struct Keys {
    what: What,
    page: Page,
    layout: Layout,
    #[allow(
        dead_code,
        reason = "part of the key of shared answers, which is the `Debug` of the whole"
    )]
    authority: Authority,
}

#[derive(Debug)]
enum What {
    /// One key; its bare value if `raw`.
    One { key: String, raw: bool },
    /// Every key that starts so, with values.
    Below { prefix: String },
    /// Names alone.
    Names { prefix: String, separator: String },
}

impl Query for Keys {
    fn is_cheap(&self) -> bool {
        matches!(self.what, What::One { .. })
    }

    fn index(&self, store: &Store) -> Option<Index> {
        match &self.what {
            What::One { key, .. } => Some(store.kv().key_index(key)),
            // A prefix would have to be walked: no cheaper than to answer.
            What::Below { prefix } | What::Names { prefix, .. } if prefix.is_empty() => {
                Some(store.kv().list_index(""))
            }
            What::Below { .. } | What::Names { .. } => None,
        }
    }

    fn evaluate(&self, store: &Store) -> Found<Body> {
        match &self.what {
            What::One { key, raw } => {
                let found = store.kv().get(key);
                let body = match &found.rows {
                    None => Body::missing(),
                    Some(entry) if *raw => Body::new(entry.value.clone()),
                    Some(entry) => {
                        let row = [EntryRow::new(entry, true)];
                        // The names of the columns and three numbers; the value grows by a third.
                        let about = 192 + key.len() + entry.value.len() * 3 / 2;
                        Body::new(encode::json_of(&row, self.layout, about))
                    }
                };
                Found { rows: body, index: found.index, scopes: found.scopes }
            }
            What::Below { prefix } => {
                let found = store.kv().list(prefix);
                let (rows, next) = self.page.cut(&found.rows, |entry| entry.key.to_string());
                let body = if rows.is_empty() {
                    Body::missing()
                } else {
                    let rows = Rows(rows.iter().map(|entry| EntryRow::new(entry, true)));
                    Body::new(encode::json(&rows, self.layout)).with_next(next)
                };
                Found { rows: body, index: found.index, scopes: found.scopes }
            }
            What::Names { prefix, separator } => {
                let found = store.kv().keys(prefix, separator);
                let (rows, next) = self.page.cut(&found.rows, ToString::to_string);
                // At the root an empty list is an answer; below it, a path that does not exist.
                let body = if rows.is_empty() && !prefix.is_empty() {
                    Body::missing()
                } else {
                    Body::new(encode::json(rows, self.layout)).with_next(next)
                };
                Found { rows: body, index: found.index, scopes: found.scopes }
            }
        }
    }
}

fn get(request: Request) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let params = &request.params;
    let path = request.rest();
    let what = if params.has("keys") {
        request.authorize(Resource::KeyPrefix(path), Access::List)?;
        // The misspelt one is older, and lives on in scripts.
        let separator = ["separator", "seperator"]
            .iter()
            .find_map(|name| params.get(name).filter(|text| !text.is_empty()));
        What::Names { prefix: path.to_owned(), separator: separator.unwrap_or_default().to_owned() }
    } else if params.has("recurse") {
        request.authorize(Resource::KeyPrefix(path), Access::Read)?;
        What::Below { prefix: path.to_owned() }
    } else {
        if path.is_empty() {
            return Err(Error::invalid("Missing key name"));
        }
        request.authorize(Resource::Key(path), Access::Read)?;
        What::One { key: path.to_owned(), raw: params.has("raw") }
    };
    let raw = matches!(what, What::One { raw: true, .. });
    if raw && request.wants_events() {
        return Err(Error::invalid("Cannot stream ?raw values, an event stream carries text."));
    }
    let query = Keys {
        what,
        page: Page::of(params)?,
        layout: request.layout,
        authority: request.token.authority(),
    };
    request.read_with(query, read, Family::Keys, if raw { present_raw } else { Reply::outcome })
}

/// A bare value, guarded against being taken for a page.
fn present_raw(outcome: ReadResult<Body>) -> Reply {
    let exists = outcome.found.rows.exists();
    let reply = Reply::outcome(outcome);
    if !exists {
        return reply;
    }
    reply
        .with(CONTENT_TYPE, HeaderValue::from_static("text/plain"))
        .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .with(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"))
}

/// Fails if more than one of these parameters is given.
fn check_conflicts(params: &Params, names: &[&str]) -> Result<(), Error> {
    if names.iter().filter(|name| params.has(name)).count() > 1 {
        let flags = params.encoded();
        return Err(Error::invalid(format!("Conflicting flags: {flags}")));
    }
    Ok(())
}

/// A parameter that is a number. Its errors are the number parser's, as in the reference.
fn number(params: &Params, name: &str) -> Result<Option<u64>, Error> {
    params.get(name).map(|text| go_unsigned(text).map_err(Error::Refused)).transpose()
}

/// Parses the kind of write, and the flags.
pub(super) fn verb(params: &Params) -> Result<(KvVerb, u64), Error> {
    let flags = number(params, "flags")?.unwrap_or(0);
    let verb = if let Some(index) = number(params, "cas")? {
        KvVerb::Cas(index)
    } else if let Some(session) = params.get("acquire") {
        KvVerb::Lock(session.into())
    } else if let Some(session) = params.get("release") {
        KvVerb::Unlock(session.into())
    } else {
        KvVerb::Set
    };
    Ok((verb, flags))
}

fn put(request: Request) -> Result<Answer, Error> {
    let key = request.rest().to_owned();
    request.read_options()?;
    if key.is_empty() {
        return Err(Error::invalid("Missing key name"));
    }
    check_conflicts(&request.params, &["cas", "acquire", "release"])?;
    request.authorize(Resource::Key(&key), Access::Write)?;
    let (verb, flags) = verb(&request.params)?;
    let limit = request.app.settings.kv_value_bytes_max;
    let announced = request.content_length();
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(announced.unwrap_or(0), limit));
    }
    request.datacenter_is_here()?;
    let app = request.app.clone();
    let layout = request.layout;
    let body = request.into_body();
    later(async move {
        let value = match payload::collect(body, limit).await {
            // Sent in chunks of unknown number: all that is known is that they are too many.
            Err(Error::TooLarge(_)) => return Err(too_large(limit.saturating_add(1), limit)),
            other => other?,
        };
        // The request's buffer may be much larger than the value: keep a copy of its own size.
        let value = Bytes::copy_from_slice(&value);
        let change = Change::Kv(KvChange { verb, key, value, flags });
        Ok(decided(app.propose(change).await?.0, layout))
    })
}

fn too_large(found: u64, limit: u64) -> Error {
    Error::TooLarge(format!(
        "Request body({found} bytes) too large, max size: {limit} bytes. See \
         https://www.consul.io/docs/agent/options.html#kv_max_value_size."
    ))
}

fn delete(request: Request) -> Result<Answer, Error> {
    let key = request.rest().to_owned();
    request.read_options()?;
    check_conflicts(&request.params, &["recurse", "cas"])?;
    let verb = if request.params.has("recurse") {
        request.authorize(Resource::KeyPrefix(&key), Access::Write)?;
        KvVerb::DeleteTree
    } else {
        if key.is_empty() {
            return Err(Error::invalid("Missing key name"));
        }
        request.authorize(Resource::Key(&key), Access::Write)?;
        match number(&request.params, "cas")? {
            Some(index) => KvVerb::DeleteCas(index),
            None => KvVerb::Delete,
        }
    };
    request.datacenter_is_here()?;
    let app = request.app.clone();
    let layout = request.layout;
    drop(request);
    later(async move {
        let change = Change::Kv(KvChange { verb, key, value: Bytes::new(), flags: 0 });
        Ok(decided(app.propose(change).await?.0, layout))
    })
}

/// `true`, or `false` for a lost compare-and-set and a lock that another holds.
fn decided(applied: Applied, layout: Layout) -> Reply {
    Reply::json(&!matches!(applied, Applied::Decided(false)), layout)
}
