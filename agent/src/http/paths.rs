//! Rules of the reference's router that come before any route: escapes are undone once, paths with characters that
//! cannot be printed are refused, and unclean ones (`//`, `.`, `..`) are redirected. Also which paths are whose.

use std::borrow::Cow;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::extract::Request as HttpRequest;
use axum::response::{IntoResponse as _, Response};
use futures::future::Either;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use tower::{Layer, Service};

use super::params::{self, Params};
use super::reply::Reply;

/// Has only clean paths reach a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct CleanPaths {
    /// Accept paths with characters that cannot be printed.
    pub(super) unprintable: bool,
}

impl<S> Layer<S> for CleanPaths {
    type Service = CleanPath<S>;

    fn layer(&self, inner: S) -> CleanPath<S> {
        CleanPath { rules: *self, inner }
    }
}

/// A service behind [`CleanPaths`].
#[derive(Debug, Clone)]
pub(super) struct CleanPath<S> {
    rules: CleanPaths,
    inner: S,
}

impl<S> Service<HttpRequest> for CleanPath<S>
where
    S: Service<HttpRequest, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        match self.rules.check(&mut request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(reply) => Either::Left(ready(Ok(reply.into_response()))),
        }
    }
}

impl CleanPaths {
    #[expect(clippy::result_large_err, reason = "the error is the answer, moved once")]
    fn check(self, request: &mut HttpRequest) -> Result<(), Reply> {
        let uri = request.uri();
        let path = params::unescaped(uri.path())
            .ok_or_else(|| Reply::text(StatusCode::BAD_REQUEST, "400 Bad Request"))?;
        if !self.unprintable && !is_printable(&path) {
            return Err(Reply::status(StatusCode::BAD_REQUEST));
        }
        if let Some(clean) = cleaned(&path) {
            return Err(redirect(request.method(), &clean, uri.query().unwrap_or_default()));
        }
        if let Cow::Owned(path) = path {
            let routed = routed(&path, uri.query())
                .ok_or_else(|| Reply::status(StatusCode::URI_TOO_LONG))?;
            *request.uri_mut() = routed;
        }
        Ok(())
    }
}

/// The URI by which a path is routed. Routes are found by what a path means, not by how it is written, so no more of it
/// is escaped than has to be. `None` if it is too long.
pub(super) fn routed(path: &str, query: Option<&str>) -> Option<Uri> {
    const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'#')
        .add(b'%')
        .add(b'<')
        .add(b'>')
        .add(b'?')
        .add(b'[')
        .add(b'\\')
        .add(b']')
        .add(b'^')
        .add(b'`')
        .add(b'{')
        .add(b'|')
        .add(b'}');
    let mut text = percent_encoding::utf8_percent_encode(path, ESCAPED).to_string();
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).ok().map(Uri::from)
}

/// Is this path answered by the agent that is asked, server or not? All others are about the cluster.
pub(super) fn is_own(path: &str) -> bool {
    // Access control is refused by what the agent is told, not by what the cluster knows.
    // Events are heard by each agent for itself.
    // Many questions on one stream are asked one by one, of whoever answers each.
    path == WATCH
        || ["/v1/agent/", "/v1/acl/", "/v1/event/"].iter().any(|own| path.starts_with(own))
}

/// Questions on one stream.
const WATCH: &str = "/v1/watch";

/// Does a request only read? Questions on one stream do, although they come as a POST.
pub(super) fn only_reads(method: &http::Method, path: &str) -> bool {
    use http::Method;
    path == WATCH || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Is this answered by the leader alone, whatever server is asked? Who takes part is for it to say.
/// A leader that hands over is not asked that way: by the time it answers it is another.
pub(super) fn is_the_leaders(path: &str, params: &Params) -> bool {
    let elsewhere =
        ["/v1/operator/keyring", "/v1/operator/raft/transfer-leader", "/v1/operator/segment"];
    let operates = path.starts_with("/v1/operator/")
        && !elsewhere.iter().any(|elsewhere| path.starts_with(elsewhere));
    operates && !params.has("stale")
}

/// The path without empty, `.` and `..` elements; `None` if it is clean already.
pub(super) fn cleaned(path: &str) -> Option<String> {
    // Nearly all paths are clean, which one look shows: no slash is followed by another or by a dot.
    let suspicious = |pair: &[u8]| pair[0] == b'/' && matches!(pair[1], b'/' | b'.');
    if path.starts_with('/') && !path.as_bytes().windows(2).any(suspicious) {
        return None;
    }
    let dirty = path.contains("//")
        || path.contains("/./")
        || path.contains("/../")
        || path.ends_with("/.")
        || path.ends_with("/..")
        || !path.starts_with('/');
    if !dirty {
        return None;
    }
    let mut elements: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => {
                elements.pop();
            }
            name => elements.push(name),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for element in &elements {
        clean.push('/');
        clean.push_str(element);
    }
    if elements.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    Some(clean)
}

/// Escapes a path for a `Location` header.
pub(super) fn escape_path(path: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b',')
        .remove(b'/')
        .remove(b':')
        .remove(b';')
        .remove(b'=')
        .remove(b'@');
    percent_encoding::utf8_percent_encode(path, KEEP).to_string()
}

/// Can every character of the path be printed?
pub(super) fn is_printable(path: &str) -> bool {
    if path.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return true;
    }
    path.chars().all(|c| match c {
        ' '..='~' => true,
        _ if c.is_control() || c.is_whitespace() => false,
        // Soft hyphen, marks of direction and width, private use: nothing that shows.
        '\u{ad}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{e000}'..='\u{f8ff}'
        | '\u{feff}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{fffe}'..='\u{ffff}'
        | '\u{e0000}'..='\u{e0fff}'
        | '\u{f0000}'..='\u{10ffff}' => false,
        _ => true,
    })
}

pub(super) fn redirect(method: &Method, path: &str, query: &str) -> Reply {
    let mut location = escape_path(path);
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    let mut reply = Reply::status(StatusCode::MOVED_PERMANENTLY);
    if *method == Method::GET || *method == Method::HEAD {
        let shown = location
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        let page = format!("<a href=\"{shown}\">Moved Permanently</a>.\n\n");
        reply = Reply::text(StatusCode::MOVED_PERMANENTLY, page)
            .with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    match HeaderValue::from_str(&location) {
        Ok(location) => reply.with(LOCATION, location),
        // The query holds a byte that no header can: such a request leads nowhere.
        Err(_) => Reply::status(StatusCode::BAD_REQUEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn routed_paths_mean_what_they_meant(path in "/\\PC{0,40}|/([%?#{}/.+ ]|[0-9a-f]{1,2}){0,20}") {
            for query in [None, Some("a=%2F&b")] {
                let uri = routed(&path, query).expect("a short path");
                proptest::prop_assert_eq!(params::unescape(uri.path()), Some(path.clone()));
                proptest::prop_assert_eq!(uri.query(), query);
            }
        }
    }

    #[test]
    fn paths_are_cleaned_as_the_reference_does() {
        let rows = [
            ("/v1/kv/a", None),
            ("/v1/kv/", None),
            ("/", None),
            ("/v1/kv//a", Some("/v1/kv/a")),
            ("/v1/kv/a/../b", Some("/v1/kv/b")),
            ("/v1/kv/a/..", Some("/v1/kv")),
            ("/v1/kv/./a/", Some("/v1/kv/a/")),
            ("/..", Some("/")),
            ("//", Some("/")),
            ("/v1/kv/a..b", None),
            ("", Some("/")),
        ];
        for (path, expected) in rows {
            assert_eq!(cleaned(path).as_deref(), expected, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn clean_paths_stay_clean(path in "(/|\\.|a|b|%){0,20}") {
            if let Some(clean) = cleaned(&path) {
                proptest::prop_assert_eq!(cleaned(&clean), None, "{} became {}", path, clean);
            }
        }
    }

    #[test]
    fn unprintable_paths_are_recognised() {
        for (path, expected) in
            [("/a b~", true), ("/\u{fc}", true), ("/\0", false), ("/\n", false), ("/\u{ad}", false)]
        {
            assert_eq!(is_printable(path), expected, "{path:?}");
        }
    }
}
