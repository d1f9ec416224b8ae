//! Parsers of the HTTP interface, as functions of bytes: see [`crate::fuzzing`].

use http::{HeaderMap, HeaderName, HeaderValue};

use super::decode::Object;
use super::extract;
use super::page::Page;
use super::params::{self, Params};
use super::{body, catalog, kv, paths, session, txn};
use crate::store::Service;

/// A request without a body: its target, then a line for each header.
pub(crate) fn request(text: &str) {
    let mut lines = text.lines();
    let target = lines.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.take(100).filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let Some(path) = params::unescape(path) else { return };
    let _ = (paths::is_printable(&path), paths::escape_path(&path));
    if let Some(clean) = paths::cleaned(&path) {
        assert_eq!(paths::cleaned(&clean), None, "{path:?} is not clean after all");
    }
    let _ = (extract::accepts_gzip(&headers), extract::accepts(&headers, "text/event-stream"));
    let Some(params) = Params::parse(query) else { return };
    assert!(Params::parse(&params.encoded()).is_some(), "{query:?} cannot be sent back");
    let _ = extract::token(&params, &headers);
    let _ = (Page::of(&params).is_ok(), kv::verb(&params).is_ok());
    let _ = extract::read_options(&params, &headers, &path, std::time::Duration::ZERO).is_ok();
}

/// The body of `/v1/txn`.
pub(crate) fn transaction(body: &[u8]) {
    if let Err(error) = txn::operations(body, 1 << 10, "dc1") {
        assert!(error.status().is_client_error(), "a body is the client's: {error}");
    }
}

/// The bodies of `/v1/catalog/register` and `/deregister`, and of `/v1/session/create`.
pub(crate) fn catalog(body: &[u8]) {
    let _ =
        (catalog::registration(body, "dc1").is_ok(), catalog::deregistration(body, "dc1").is_ok());
    let _ = session::definition(body, "node").is_ok();
}

/// A row for filters to judge.
pub(crate) fn service() -> Service {
    const BODY: &[u8] = br#"{"ID": "web1", "Service": "web", "Tags": ["a", "b"], "Port": 80,
        "Meta": {"k": "v"}, "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}}}"#;
    let body = Object::parse(BODY).and_then(body::service);
    body.expect("a service as the API knows it")
}
