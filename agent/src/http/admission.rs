//! Requests that configuration forbids: blocked paths, rates, sources that may not write, pages of foreign origins.

use std::net::IpAddr;

use http::request::Parts;
use http::{Method, StatusCode};

use super::error::Error;
use super::{AppState, origin, params, paths};

/// The head of a request, as much of it as the HTTP engine takes.
const HEAD_BYTES_MAX: usize = 408 << 10;

/// Body of the refusal for pages that may not write.
const FOREIGN_PAGE: &str = "writes from this page's origin are not allowed\n\
    hint: list the origin in http_config.allow_origins";

/// Refuses what configuration forbids, and the writes of foreign pages.
pub(super) fn admit_client(
    app: &AppState,
    peer: Option<IpAddr>,
    head: &Parts,
    path: &str,
) -> Result<(), Error> {
    admit(app, peer, &head.method, path)?;
    let (node, listed) = (&app.parts.node_name, &app.settings.allow_origins);
    let may = || origin::may_write(&head.uri, &head.headers, node, listed);
    if paths::only_reads(&head.method, path) || may() {
        Ok(())
    } else {
        Err(Error::Forbidden(FOREIGN_PAGE))
    }
}

/// Refuses what configuration forbids.
pub(super) fn admit(
    app: &AppState,
    peer: Option<IpAddr>,
    method: &Method,
    path: &str,
) -> Result<(), Error> {
    let settings = &app.settings;
    if settings.block_endpoints.iter().any(|prefix| path.starts_with(prefix.as_str())) {
        return Err(Error::Forbidden("Endpoint is blocked by agent configuration"));
    }
    let reads = paths::only_reads(method, path);
    if let Err(too_many) = settings.limits.admit(path, reads) {
        return Err(Error::TooMany { retry_after: too_many.retry_after });
    }
    let allowed = &settings.allow_write_from;
    if !reads && !allowed.is_empty() {
        // Whoever can open the socket's file is on this machine.
        let welcome = peer.is_none_or(|peer| allowed.iter().any(|network| network.contains(peer)));
        if !welcome {
            return Err(Error::Forbidden("Access is restricted"));
        }
    }
    Ok(())
}

/// Refuses what configuration forbids in a request that another agent took, with a head of so many bytes.
pub(super) fn admit_passed(
    app: &AppState,
    method: &Method,
    path: &str,
    head: usize,
) -> Result<(), Error> {
    if head > HEAD_BYTES_MAX {
        return Err(Error::Status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let unescaped = params::unescape(path);
    let printable = |path: &String| app.settings.unprintable_paths || paths::is_printable(path);
    let path = unescaped.filter(printable).ok_or(Error::Status(StatusCode::BAD_REQUEST))?;
    admit(app, None, method, &path)
}
