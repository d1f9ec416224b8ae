//! Paths to handlers: one table, and the rules around it that every path shares.
//!
//! The rules are those of the reference's router: the longest matching path wins, a path that ends
//! with a slash matches all below it, unclean paths (`//`, `.`, `..`) and a missing last slash are
//! redirected.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use super::error::Error;
use super::extract::Request;
use super::params::Params;
use super::reply::Reply;
use crate::telemetry::metrics::{self, Timing};

/// Result of a handler: a reply, or a future of one.
pub(crate) enum Answer {
    /// At once.
    Now(Reply),
    /// After waiting for something.
    Later(PendingReply),
}

/// An answer that takes time.
pub(crate) type PendingReply = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

/// Handles the requests of one path and method.
pub(crate) type Handler = fn(Request) -> Result<Answer, Error>;

/// An answer that `work` will give.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of handlers")]
pub(crate) fn later(
    work: impl Future<Output = Result<Reply, Error>> + Send + 'static,
) -> Result<Answer, Error> {
    Ok(Answer::Later(Box::pin(work)))
}

/// An answer that is there.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of handlers")]
pub(crate) fn now(reply: Reply) -> Result<Answer, Error> {
    Ok(Answer::Now(reply))
}

/// One path: with a slash at its end, all that lie below it.
pub(crate) struct Route {
    /// As in the URL.
    pub(crate) path: &'static str,
    /// Names of the methods, in the order in which `Allow` lists them.
    pub(crate) methods: &'static [&'static str],
    /// One for each method.
    pub(crate) handlers: &'static [Handler],
    /// Can a GET wait for another answer?
    pub(crate) waits: bool,
}

impl Route {
    /// A route whose GET can wait for another answer.
    pub(crate) const fn waits(self) -> Route {
        Route { waits: true, ..self }
    }
}

/// A route. `methods` and `handlers` belong together by position.
pub(crate) const fn route(
    path: &'static str,
    methods: &'static [&'static str],
    handlers: &'static [Handler],
) -> Route {
    assert!(methods.len() == handlers.len(), "a handler for each method");
    Route { path, methods, handlers, waits: false }
}

/// All routes of the API, collected from the files that define them.
fn table() -> impl Iterator<Item = &'static Route> {
    [
        super::acl::ROUTES,
        super::agent::ROUTES,
        super::catalog::ROUTES,
        super::coordinate::ROUTES,
        super::event::ROUTES,
        super::health::ROUTES,
        super::kv::ROUTES,
        super::operator::ROUTES,
        super::session::ROUTES,
        super::snapshot::ROUTES,
        super::status::ROUTES,
        super::txn::ROUTES,
        super::watch::ROUTES,
    ]
    .into_iter()
    .flatten()
}

/// The table, ready for look-ups: a handful of routes for each name that can follow `/v1/`.
pub(super) struct Router {
    /// Longest first: a path that is a route itself is found before those that it lies below.
    families: HashMap<&'static str, Vec<MeasuredRoute>>,
}

/// A route with its figures.
#[derive(Clone, Copy)]
pub(super) struct MeasuredRoute {
    pub(super) route: &'static Route,
    /// Metrics of request times, for each of [`METHODS`].
    times: [&'static Timing; METHODS.len()],
}

/// The methods whose requests are timed, those that are refused included. Others do not reach a handler anywhere.
const METHODS: [&str; 6] = ["GET", "PUT", "DELETE", "POST", "HEAD", "OPTIONS"];

impl MeasuredRoute {
    fn new(route: &'static Route) -> MeasuredRoute {
        // As dashboards for the reference know it: what lies below a path is `_`.
        let path = route.path.trim_start_matches('/').replace('/', ".");
        let path = if path.ends_with('.') { path + "_" } else { path };
        let times = METHODS.map(|method| metrics::named(&format!("http.{method}.{path}")));
        MeasuredRoute { route, times }
    }

    /// Metric for the time of a request.
    pub(super) fn times(&self, method: &http::Method) -> Option<&'static Timing> {
        let position = METHODS.iter().position(|name| *name == method.as_str())?;
        Some(self.times[position])
    }
}

impl Router {
    pub(super) fn new() -> Router {
        let mut families: HashMap<_, Vec<MeasuredRoute>> = HashMap::new();
        for route in table() {
            families.entry(family(route.path)).or_default().push(MeasuredRoute::new(route));
        }
        for routes in families.values_mut() {
            routes.sort_by_key(|known| std::cmp::Reverse(known.route.path.len()));
        }
        Router { families }
    }

    fn family_of(&self, path: &str) -> &[MeasuredRoute] {
        self.families.get(family(path)).map_or(&[], Vec::as_slice)
    }

    /// The route of a path.
    pub(super) fn find(&self, path: &str) -> Option<MeasuredRoute> {
        let is_it = |known: &&MeasuredRoute| {
            path.strip_prefix(known.route.path)
                .is_some_and(|rest| rest.is_empty() || known.route.path.ends_with('/'))
        };
        self.family_of(path).iter().find(is_it).copied()
    }

    /// Would the path be a route with a slash at its end?
    pub(super) fn wants_slash(&self, path: &str) -> bool {
        self.family_of(path).iter().any(|known| known.route.path.strip_suffix('/') == Some(path))
    }
}

/// First segment after `/v1/`. All routes begin that way.
fn family(path: &str) -> &str {
    let rest = path.strip_prefix("/v1/").unwrap_or_default();
    rest.split_once('/').map_or(rest, |(family, _)| family)
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_path_has_one_route() {
        let mut seen = std::collections::HashSet::new();
        for route in table() {
            assert!(seen.insert(route.path), "{} twice", route.path);
            assert!(route.path.starts_with("/v1/"), "{}", route.path);
        }
    }

    #[test]
    fn the_longest_route_wins() {
        let router = Router::new();
        let rows = [
            ("/v1/kv/", Some("/v1/kv/")),
            ("/v1/kv/v1/catalog/nodes", Some("/v1/kv/")),
            ("/v1/kv", None),
            ("/v1/catalog/node/a/b", Some("/v1/catalog/node/")),
            ("/v1/catalog/nodes", Some("/v1/catalog/nodes")),
            ("/v1/catalog/nodes/", None),
            ("/v1/txn", Some("/v1/txn")),
            ("/v1/txn/", None),
            ("/v1/agent/check/register", Some("/v1/agent/check/register")),
            ("/v1/", None),
            ("/v2/kv/a", None),
            ("/kv/a", None),
            ("/", None),
        ];
        for (path, expected) in rows {
            assert_eq!(router.find(path).map(|known| known.route.path), expected, "{path}");
        }
        assert!(router.wants_slash("/v1/kv") && router.wants_slash("/v1/health/service"));
        assert!(
            !router.wants_slash("/v1/txn") && !router.wants_slash("/v1") && !router.wants_slash("")
        );
        for route in table() {
            assert_eq!(router.find(route.path).map(|found| found.route.path), Some(route.path));
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
