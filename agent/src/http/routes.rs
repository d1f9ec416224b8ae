//! All paths of the interface, merged from the families of paths, and the answer for what none of them has.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request as HttpRequest;
use axum::response::{IntoResponse as _, Response};
use http::{Method, StatusCode};

use super::error::Error;
use super::extract::{RequestContext, Via};
use super::reply::Reply;
use super::routing::Routes;
use super::{AppState, admission, debug, params, paths};

/// The routes of all families.
fn families() -> Routes {
    Routes::new()
        .merge(super::acl::routes())
        .merge(super::agent::routes())
        .merge(super::catalog::routes())
        .merge(super::coordinate::routes())
        .merge(super::event::routes())
        .merge(super::health::routes())
        .merge(super::kv::routes())
        .merge(super::operator::routes())
        .merge(super::session::routes())
        .merge(super::snapshot::routes())
        .merge(super::status::routes())
        .merge(super::txn::routes())
        .merge(super::watch::routes())
}

/// The router of the interface. Requests carry a [`RequestContext`].
pub(super) fn router() -> Router {
    let Routes { router, paths } = families();
    let folders: Arc<[&str]> = paths.iter().filter_map(|path| path.strip_suffix('/')).collect();
    let outside = move |request| {
        let response = outside(&folders, request);
        async move { response }
    };
    router.fallback(outside).with_state(())
}

/// Answers for paths without a route. `folders` are those that have all below them, without their last slash.
fn outside(folders: &[&str], mut request: HttpRequest) -> Response {
    let context = request.extensions_mut().remove::<RequestContext>();
    let path = params::unescape(request.uri().path());
    let Some((context, path)) = context.zip(path) else {
        return Error::Status(StatusCode::BAD_REQUEST).into_response();
    };
    match context.via {
        Via::Watch => return Error::NotFound(format!("no path `{path}`")).into_response(),
        Via::Agent => return Error::NotFound(String::new()).into_response(),
        Via::Connection => {}
    }
    let (head, _) = request.into_parts();
    if folders.contains(&path.as_str()) {
        let query = head.uri.query().unwrap_or_default();
        return paths::redirect(&head.method, &format!("{path}/"), query).into_response();
    }
    let app = &context.app;
    if let Some(reply) = debug::answer(&head.method, &path, app.settings.debug) {
        let refused = admission::admit_client(app, context.peer, &head, &path).err();
        return refused.map_or(reply, Reply::from).into_response();
    }
    outside_the_api(app, &head.method, &path).into_response()
}

/// `/` says who is here; all else does not exist.
fn outside_the_api(app: &AppState, method: &Method, path: &str) -> Reply {
    if path != "/" {
        return Reply::status(StatusCode::NOT_FOUND);
    }
    match &app.settings.ui_path {
        Some(ui) => paths::redirect(method, ui, ""),
        None => Reply::text(StatusCode::OK, "Consul Agent"),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::routing;

    /// The real paths, each answered by its own name.
    fn named() -> (Vec<&'static str>, Router) {
        let paths = families().paths;
        let mut router: Router = Router::new().fallback(async || "");
        for path in &paths {
            let name = *path;
            for pattern in [Some(name.to_owned()), routing::below(name)].into_iter().flatten() {
                router = router.route(&pattern, axum::routing::any(async move || name));
            }
        }
        (paths, router.with_state(()))
    }

    async fn route_of(router: &Router, path: &str) -> String {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = routing::response(router.clone().oneshot(request).await);
        let body = axum::body::to_bytes(response.into_body(), 1 << 10).await.unwrap();
        String::from_utf8(body.into()).unwrap()
    }

    #[test]
    fn every_path_has_one_route() {
        let mut seen = std::collections::HashSet::new();
        for path in families().paths {
            assert!(seen.insert(path), "{path} twice");
            assert!(path.starts_with("/v1/"), "{path}");
        }
    }

    #[tokio::test]
    async fn the_longest_route_wins() {
        let (paths, router) = named();
        let rows = [
            ("/v1/kv/", "/v1/kv/"),
            ("/v1/kv/v1/catalog/nodes", "/v1/kv/"),
            ("/v1/kv/{*rest}", "/v1/kv/"),
            ("/v1/kv", ""),
            ("/v1/catalog/node/a/b", "/v1/catalog/node/"),
            ("/v1/catalog/nodes", "/v1/catalog/nodes"),
            ("/v1/catalog/nodes/", ""),
            ("/v1/txn", "/v1/txn"),
            ("/v1/txn/", ""),
            ("/v1/agent/check/register", "/v1/agent/check/register"),
            ("/v1/acl/policy/namex", "/v1/acl/policy/"),
            ("/v1/acl/policy/name", "/v1/acl/policy/"),
            ("/v1/", ""),
            ("/v2/kv/a", ""),
            ("/kv/a", ""),
            ("/", ""),
        ];
        for (path, expected) in rows {
            assert_eq!(route_of(&router, path).await, expected, "{path}");
        }
        // The rule itself, for whatever can be made of the paths.
        let longest = |path: &str| {
            let matches = |route: &&&str| {
                let rest = path.strip_prefix(**route);
                rest.is_some_and(|rest| rest.is_empty() || route.ends_with('/'))
            };
            paths.iter().filter(matches).max_by_key(|route| route.len()).copied()
        };
        for path in &paths {
            let parts = path.trim_end_matches('/').to_owned();
            for made in ["", "/", "x", "/x", "/x/", "/x/y", "/name/x", "/self", "/register/"] {
                let path = parts.clone() + made;
                let expected = longest(&path).unwrap_or_default();
                assert_eq!(route_of(&router, &path).await, expected, "{path}");
            }
        }
    }
}
