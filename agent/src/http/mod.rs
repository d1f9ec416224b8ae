//! The HTTP interface: parses, authorises, calls, formats. It knows no rule of the catalog.
//!
//! ```text
//! server.rs   sockets and connections ─▶ service.rs  tower layers: paths.rs, ...
//!                                             │
//!     routes.rs  axum's router ◀──────────────┘────▶ one file per family: kv.rs, health.rs, ...
//!     routing.rs, extract.rs, admission.rs               │ a Query           │ a Change
//!     reply.rs, encode.rs, stream.rs ◀── read path ◀─────┘      raft ◀───────┘
//! ```
//!
//! On an agent that is no server, only its own end points are answered so; `forward.rs` has servers answer all others,
//! where the same handlers run for it.
//!
//! `watch/` asks many questions for one client, each as if it had come alone.
//!
//! A handler is an ordinary function from `extract::Request` to `handler::Answer`: it takes what
//! it needs from the request, checks it with the reference's words, and gives back either an answer
//! or a small future. Only `error.rs` knows which error has which status code.

#![expect(clippy::needless_pass_by_value, reason = "handlers have one form: they own the request")]

mod acl;
mod admission;
mod agent;
mod body;
mod catalog;
mod coordinate;
mod debug;
mod encode;
mod error;
mod event;
mod extract;
mod forward;
pub(crate) mod fuzzing;
mod handler;
mod health;
mod intake;
mod kv;
mod limits;
mod operator;
mod origin;
mod page;
mod params;
mod paths;
mod payload;
mod read;
mod reply;
mod routes;
mod routing;
mod rows;
#[cfg(test)]
mod rows_are_read;
mod select;
mod server;
mod service;
mod session;
mod settings;
mod snapshot;
mod status;
mod stream;
mod time;
mod txn;
mod watch;
mod write_coalesce;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use agent::{Departure, Identity, Reload, ReloadRequest, Shown};
pub use error::Error;
pub use forward::Forwarder;
pub use limits::{Limits, Mode, Rates};
pub use origin::{NotAnOrigin, Origin};
pub use server::{Listener, serve, serve_passing};
pub use settings::Settings;

pub(crate) use crate::json as decode;

use crate::gossip::Pools;
use crate::local::Local;
use crate::raft;
use crate::read::Reader;
use crate::sessions::Lifetimes;
use crate::store::{Change, Index, Reply as Applied};
use crate::upstream::Upstream;

/// The handles that the interface needs.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Access to catalog, keys and sessions.
    pub backend: Backend,
    /// Registrations of this agent.
    pub local: Local,
    /// Identity that this agent shows.
    pub identity: Arc<Identity>,
    /// The gossip pools.
    pub pools: Pools,
    /// Asks for the configuration to be read anew.
    pub reload: Reload,
    /// Asks this agent to leave.
    pub leave: Departure,
    /// Which datacenter this agent belongs to.
    pub datacenter: String,
    /// The node of the agent that a request came to.
    pub node_name: String,
}

/// Access to catalog, keys and sessions.
#[derive(Debug, Clone)]
pub enum Backend {
    /// This agent is a server.
    Here {
        /// The read path, and through it the cluster.
        reader: Reader,
        /// The timers of sessions, which renewals restart.
        lifetimes: Lifetimes,
        /// The way to the server that leads, for what only that one knows.
        leader: Option<Upstream>,
    },
    /// Servers have it, and are asked.
    Elsewhere(Upstream),
}

impl Backend {
    /// The read path, if this agent is a server.
    pub fn reader(&self) -> Option<&Reader> {
        match self {
            Backend::Here { reader, .. } => Some(reader),
            Backend::Elsewhere(_) => None,
        }
    }
}

/// Everything that all requests share.
pub(crate) struct AppState {
    pub(crate) parts: Parts,
    pub(crate) settings: Settings,
    pub(crate) coordinates: Arc<coordinate::Coordinates>,
    pub(crate) events: Arc<event::Events>,
    pub(crate) snapshots: Arc<snapshot::Gate>,
    /// Questions on streams of many.
    watching: Arc<watch::Places>,
    intake: Arc<intake::Intake>,
    /// Were the datacenters asked for with `?cached` before?
    datacenters_cached: Arc<AtomicBool>,
    router: axum::Router,
    /// Checked once: `response_headers` as they go out.
    response_headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

impl AppState {
    fn new(parts: Parts, settings: Settings) -> Arc<AppState> {
        let response_headers = settings
            .response_headers
            .iter()
            .filter_map(|(name, value)| {
                let pair = (name.parse().ok()?, value.parse().ok()?);
                Some(pair)
            })
            .collect();
        Arc::new(AppState {
            coordinates: Arc::new(coordinate::Coordinates::new()),
            events: Arc::new(event::Events::new()),
            snapshots: Arc::default(),
            watching: Arc::default(),
            intake: Arc::default(),
            datacenters_cached: Arc::default(),
            router: routes::router(),
            response_headers,
            parts,
            settings,
        })
    }

    /// Adds the headers that all answers of the API carry.
    fn dress(&self, headers: &mut http::HeaderMap) {
        reply::vary(headers);
        for (name, value) in &self.response_headers {
            headers.insert(name.clone(), value.clone());
        }
        if self.settings.translate_addresses {
            const TRANSLATED: http::HeaderName =
                http::HeaderName::from_static("x-consul-translate-addresses");
            headers.insert(TRANSLATED, http::HeaderValue::from_static("true"));
        }
    }

    /// Remembers that the datacenters were asked for with `?cached`; says whether they already were.
    pub(crate) fn note_datacenters_cached(&self) -> bool {
        self.datacenters_cached.swap(true, Ordering::Relaxed)
    }

    /// Fails if `datacenter` is named and is another than this one.
    pub(crate) fn is_here(&self, datacenter: &str) -> Result<(), Error> {
        if datacenter.is_empty() || datacenter == self.parts.datacenter {
            Ok(())
        } else {
            Err(Error::UnknownDatacenter)
        }
    }

    /// Is this a server that follows another?
    fn follows(&self) -> bool {
        let consensus = self.parts.backend.reader().map(Reader::consensus);
        consensus.is_some_and(|consensus| !consensus.is_leader() && consensus.knows_leader())
    }

    /// The read path. Whoever asks for it answers what only servers do.
    pub(crate) fn reader(&self) -> Result<&Reader, Error> {
        self.parts.backend.reader().ok_or(Error::NoServer)
    }

    /// Has the cluster agree on a change; waits out an election. What the store refuses is an error.
    pub(crate) async fn propose(&self, change: Change) -> Result<(Applied, Index), Error> {
        const RETRY: std::time::Duration = std::time::Duration::from_millis(50);
        let reader = self.reader()?;
        let consensus = reader.consensus();
        let deadline = tokio::time::Instant::now() + reader.leader_wait();
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
