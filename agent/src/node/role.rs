//! Role of an agent: a server that holds the state with others, or a client that asks servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::known::KnownAddresses;
use super::start::start_part;
use super::{Error, descriptors, servers};
use crate::config::Config;
use crate::dns::{self, Freshness, Lookup, Rows, Unavailable};
use crate::gossip::{MemberList, Members, Pools, Status};
use crate::http::{self, Forwarder};
use crate::local::CatalogAccess;
use crate::raft::{self, Consensus};
use crate::read::Reader;
use crate::rpc::{self, Handlers, Method, Pool, Refusal};
use crate::sessions::Lifetimes;
use crate::tombstones;
use crate::upstream::{self, Repeat, Server, Upstream, answer_claims};

/// Time-out of a look-up for DNS: clients have given up by then.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Handles that the other parts need of it.
pub(super) struct Role {
    /// Only of a server.
    pub(super) consensus: Option<Consensus>,
    /// For HTTP.
    pub(super) backend: http::Backend,
    /// For what the agent claims.
    pub(super) catalog: Arc<dyn CatalogAccess>,
    /// For DNS.
    pub(super) names: dns::Source,
}

impl Role {
    /// Takes part in agreement, with the housekeeping that a leader does.
    pub(super) async fn server(
        config: &Config,
        node_id: &str,
        members: &Members,
        tasks: &mut JoinSet<&'static str>,
        shutdown: &CancellationToken,
    ) -> Result<Role, Error> {
        let links = servers::links(config, members, tasks, shutdown);
        let pool = links.pool.clone();
        let settings = raft::Settings { node_id: node_id.to_owned(), ..config.raft.clone() };
        let consensus = Consensus::start_among(settings, links).await?;
        let reader = Reader::new(consensus.clone(), config.read);
        let lifetimes = Lifetimes::new(pool.clone());
        let timers = lifetimes.clone().run(consensus.clone(), shutdown.child_token());
        start_part(tasks, "sessions", timers);
        let reaper = tombstones::run(consensus.clone(), shutdown.child_token());
        start_part(tasks, "tombstones", reaper);
        // A server asks the one that leads as often as it has to.
        let unlimited = upstream::Settings { rate: None, ..config.upstream };
        let leader = Upstream::new(pool, servers::leader(&consensus, tasks, shutdown), unlimited);
        start_part(tasks, "way to the leader", leader.clone().run(shutdown.child_token()));
        Ok(Role {
            catalog: Arc::new(consensus.clone()),
            names: dns::Source::Own(reader.clone()),
            backend: http::Backend::Here { reader, lifetimes, leader: Some(leader) },
            consensus: Some(consensus),
        })
    }

    /// Asks the servers among the members.
    pub(super) fn client(
        config: &Config,
        members: &Members,
        tasks: &mut JoinSet<&'static str>,
        shutdown: &CancellationToken,
    ) -> Role {
        let known = servers::among(members, ("servers", reachable), config, tasks, shutdown);
        let upstream = Upstream::new(Pool::default(), known, config.upstream);
        let router = upstream.clone().run(shutdown.child_token());
        start_part(tasks, "upstream", router);
        Role {
            consensus: None,
            backend: http::Backend::Elsewhere(upstream.clone()),
            catalog: Arc::new(upstream.clone()),
            names: dns::Source::Remote(Arc::new(Names(upstream))),
        }
    }
}

/// The servers of a datacenter that are there, with the address that other agents ask them at.
fn reachable(member_list: &MemberList, datacenter: &str) -> Vec<Server> {
    let there = member_list.values().filter(|member| {
        member.status == Status::Alive && member.is_server() && member.tag("dc") == Some(datacenter)
    });
    there
        .filter_map(|member| {
            let port = member.tag("port")?.parse().ok()?;
            Some(Server {
                name: member.details.name.to_string(),
                address: SocketAddr::new(member.details.address.ip(), port),
            })
        })
        .collect()
}

/// Serves the calls of other agents, until `stop`.
pub(super) fn answer(
    listeners: Vec<TcpListener>,
    consensus: &Consensus,
    (reader, lifetimes): (&Reader, &Lifetimes),
    forwarder: Forwarder,
    (config, pools): (&Config, Pools),
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let names = reader.clone();
    let pieces = forwarder.clone();
    let limits = rpc::Limits { connections_total: connections_max(), ..config.rpc_limits };
    let members = KnownAddresses::of(pools);
    let handlers = Handlers::new().with_limits(limits).with_known(move |it| members.contains(it));
    let handlers = consensus.answer(handlers);
    let handlers = answer_claims(handlers, consensus.clone(), config.upstream.hold);
    let handlers = lifetimes
        .answer(handlers, consensus)
        .on(Method::Piece, move |piece, _| {
            let forwarder = pieces.clone();
            async move { Ok(forwarder.piece(piece).await) }
        })
        .on_stream(Method::Http, move |request, _, parts| {
            let forwarder = forwarder.clone();
            async move { forwarder.answer(request, parts).await }
        })
        .on(Method::Lookup, move |(lookup, freshness): (Lookup, Freshness), _| {
            let reader = names.clone();
            async move { dns::find(&reader, &lookup, freshness).await.map_err(Refusal::failed) }
        });
    let serving = listeners
        .into_iter()
        .map(move |listener| rpc::serve(listener, handlers.clone(), stop.clone()));
    let serving = futures::future::join_all(serving);
    async move { drop(serving.await) }
}

/// Connections of other agents in all: a quarter of what may be open. HTTP, DNS, gossip and the disk have to go on,
/// whatever comes to this port.
fn connections_max() -> usize {
    /// More agents than ask one server.
    const MAX: usize = 8192;
    (descriptors::limit() / 4).clamp(16, MAX)
}

/// Names, looked up by a server.
struct Names(Upstream);

#[async_trait]
impl dns::Remote for Names {
    async fn find(&self, lookup: &Lookup, freshness: Freshness) -> Result<Rows, Unavailable> {
        let wanted = (lookup, freshness);
        let found = self.0.ask(Method::Lookup, &wanted, Repeat::Safe, LOOKUP_MAX);
        found.await.map_err(|error| {
            tracing::debug!(%error, "a name was not looked up");
            Unavailable
        })
    }
}
