//! The segments of the network.

use crate::acl::{Access, Resource};
use crate::gossip::Members;
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, now};

/// The names of the segments that the server is in; the default one has none, and comes first.
pub(super) fn list(request: Request) -> Result<Answer, Error> {
    request.datacenter_is_here()?;
    request.authorize(Resource::Operator, Access::Read)?;
    let mut names: Vec<&str> =
        request.app.parts.pools.each().iter().map(Members::segment).collect();
    names.sort_unstable();
    now(request.json(&names))
}
