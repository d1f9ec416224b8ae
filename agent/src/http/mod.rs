//! The HTTP door: parses, authorises, calls, formats. It knows no rule of the catalog.
//!
//! ```text
//! server.rs   sockets and connections ─▶ dispatch.rs  path, method, token, limits
//!                                             │
//!     routes.rs  the table of paths ◀─────────┘────▶ one file per family: kv.rs, health.rs, ...
//!                                                        │ a Query           │ a Change
//!     reply.rs, encode.rs, stream.rs ◀── read path ◀─────┘      raft ◀───────┘
//! ```
//!
//! A handler is an ordinary function from [`extract::Request`] to [`routes::Answer`]: it takes what
//! it needs from the request, checks it with the reference's words, and gives back either an answer
//! or a small future. Only `error.rs` knows which error has which status code.

mod dispatch;
mod encode;
mod error;
mod extract;
mod kv;
mod reading;
mod reply;
mod routes;
mod server;
mod settings;
mod status;
mod stream;

use std::sync::Arc;

pub use error::Error;
pub use server::{Listener, serve};
pub use settings::{Network, NotANetwork, Settings};

pub(crate) use crate::json as decode;
use crate::raft;
use crate::read::Reader;
use crate::store::{Change, Index, Reply as Applied};

/// The handles that the door needs.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The read path, and through it the cluster.
    pub reader: Reader,
    /// Which datacenter this agent belongs to.
    pub datacenter: String,
    /// This agent's node in the catalog.
    pub node_name: String,
}

/// Everything that all requests share.
pub(crate) struct Door {
    pub(crate) parts: Parts,
    pub(crate) settings: Settings,
    router: routes::Router,
    /// Checked once: `response_headers` as they go out.
    response_headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

impl Door {
    fn new(parts: Parts, settings: Settings) -> Arc<Door> {
        let response_headers = settings
            .response_headers
            .iter()
            .filter_map(|(name, value)| {
                let pair = (name.parse().ok()?, value.parse().ok()?);
                Some(pair)
            })
            .collect();
        Arc::new(Door { parts, settings, router: routes::Router::new(), response_headers })
    }

    /// Fails if `datacenter` is named and is another than this one.
    pub(crate) fn is_here(&self, datacenter: &str) -> Result<(), Error> {
        if datacenter.is_empty() || datacenter == self.parts.datacenter {
            Ok(())
        } else {
            Err(Error::UnknownDatacenter)
        }
    }

    /// Has the cluster agree on a change; waits out an election. What the store refuses is an error.
    pub(crate) async fn propose(&self, change: Change) -> Result<(Applied, Index), Error> {
        const RETRY: std::time::Duration = std::time::Duration::from_millis(50);
        let consensus = self.parts.reader.consensus();
        let deadline = tokio::time::Instant::now() + self.parts.reader.leader_wait();
        loop {
            match consensus.propose(change.clone()).await {
                Err(raft::Error::NoLeader) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                Ok((Applied::Refused(text), _)) => return Err(Error::Refused(text)),
                done => return Ok(done?),
            }
        }
    }
}
