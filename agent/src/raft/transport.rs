//! Transport to other servers: the library's messages as calls.
//!
//! Every message names its cluster and its addressee. An address may have been given to another
//! server since, and what two clusters tell each other must never count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::types::{LogId, Server, ServerId, Types, Vote};
use crate::raft::membership::known_servers::KnownServers;
use crate::raft::membership::promise::Promises;
use crate::raft::snapshot::files::Image;
use crate::raft::snapshot::transfer;
use crate::rpc::{self, Class, Method, Pool};

/// Messages with entries that are under way to one follower.
const PIPELINED_MAX: usize = 32;

/// A follower may take this long to write what it was sent. A broken connection is found sooner.
const APPEND_MAX: Duration = Duration::from_secs(10);

/// Between attempts to reach a server that is not there.
const RETRY: Duration = Duration::from_millis(100);

/// A message of one server to another of the same cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) cluster: Uuid,
    pub(super) from: ServerId,
    pub(super) to: ServerId,
    pub(super) body: T,
}

/// Makes connections to other servers.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) me: ServerId,
    pub(super) pool: Pool,
    pub(super) known_servers: watch::Receiver<KnownServers>,
    pub(super) promises: Arc<Promises>,
}

impl Network {
    /// The address of a server: what is known of it today, else what the log says.
    pub(super) fn address(&self, id: ServerId, server: &Server) -> Result<SocketAddr, String> {
        if let Some(address) = self.known_servers.borrow().address(id) {
            return Ok(address);
        }
        let Server { name, address } = server;
        address.parse().map_err(|_| format!("server `{name}` has no usable address: `{address}`"))
    }

    /// A message of this server's cluster.
    pub(super) fn envelope<T>(&self, to: ServerId, body: T) -> Result<Envelope<T>, String> {
        let promise = self.promises.now().ok_or("this server is in no cluster")?;
        Ok(Envelope { cluster: promise.cluster, from: self.me, to, body })
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: ServerId, node: &Server) -> Peer {
        Peer { network: self.clone(), id: target, server: node.clone() }
    }
}

/// One other server.
#[derive(Debug)]
pub(super) struct Peer {
    network: Network,
    id: ServerId,
    server: Server,
}

impl Peer {
    fn envelope<T>(&self, body: T) -> Result<(SocketAddr, Envelope<T>), Unreachable<Types>> {
        let address = self.network.address(self.id, &self.server);
        let address = address.map_err(Unreachable::from_string)?;
        let envelope = self.network.envelope(self.id, body).map_err(Unreachable::from_string)?;
        Ok((address, envelope))
    }

    async fn call<Q, A>(
        &self,
        method: Method,
        body: Q,
        within: Duration,
    ) -> Result<A, RPCError<Types>>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let (address, envelope) = self.envelope(body)?;
        let deadline = Instant::now() + within;
        self.network.pool.call(address, method, &envelope, deadline).await.map_err(translate)
    }

    /// Sends what `input` yields without waiting for the answers, which come in the same order.
    async fn pipeline<S>(
        &mut self,
        input: S,
        within: Duration,
    ) -> Result<AppendResults<'_>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        let (address, _) = self.envelope(())?;
        let deadline = Instant::now() + within;
        let connection =
            self.network.pool.ordered(address, Class::Raft, deadline).await.map_err(translate)?;
        let state = Pipeline { connection, input: Some(input), waiting: FuturesOrdered::new() };
        let peer = &*self;
        Ok(futures::stream::unfold(Some(state), move |state| async move {
            let mut pipeline = state?;
            let answer = pipeline.next(peer).await?;
            // After any other answer what is under way is void: the library begins anew.
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some(pipeline)))
        })
        .boxed())
    }
}

type AppendResults<'a> = BoxStream<'a, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// Messages on their way to one follower.
struct Pipeline<S> {
    connection: rpc::Ordered,
    /// `None` once it has ended.
    input: Option<S>,
    waiting: FuturesOrdered<Waiting>,
}

type Waiting =
    futures::future::BoxFuture<'static, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    async fn next(
        &mut self,
        peer: &Peer,
    ) -> Option<Result<StreamAppendResult<Types>, RPCError<Types>>> {
        loop {
            let Some(input) = self.input.as_mut() else {
                return self.waiting.next().await;
            };
            let request = if self.waiting.is_empty() {
                input.next().await
            } else if self.waiting.len() >= PIPELINED_MAX {
                return self.waiting.next().await;
            } else {
                tokio::select! {
                    biased;
                    answer = self.waiting.next() => return answer,
                    request = input.next() => request,
                }
            };
            match request {
                None => self.input = None,
                Some(request) => match send(&self.connection, peer, request).await {
                    Ok(waiting) => self.waiting.push_back(waiting),
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}

async fn send(
    connection: &rpc::Ordered,
    peer: &Peer,
    request: AppendEntriesRequest<Types>,
) -> Result<Waiting, RPCError<Types>> {
    let (prev, last) = (request.prev_log_id, last_of(&request));
    let (_, envelope) = peer.envelope(request)?;
    let deadline = Instant::now() + APPEND_MAX;
    let answer = connection
        .begin::<_, AppendEntriesResponse<Types>>(Method::Append, &envelope, deadline)
        .await
        .map_err(translate)?;
    Ok(async move { Ok(answer.await.map_err(translate)?.into_stream_result(prev, last)) }.boxed())
}

fn last_of(request: &AppendEntriesRequest<Types>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// From what a call says to what the library does about it.
pub(super) fn translate(error: rpc::Error) -> RPCError<Types> {
    match error {
        error @ (rpc::Error::Unreachable { .. } | rpc::Error::Refused { .. }) => {
            Unreachable::new(&error).into()
        }
        error @ rpc::Error::Lost { .. } => NetworkError::new(&error).into(),
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(Method::Append, request, option.hard_ttl()).await
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Result<AppendResults<'_>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // A first connection may take longer than a heart-beat.
        let within = option.hard_ttl().max(Duration::from_secs(1));
        Box::pin(self.pipeline(input, within))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Method::Vote, request, option.hard_ttl()).await
    }

    // The default grants whatever is asked, which would let a server cut off from all others
    // raise its term for ever.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Method::PreVote, request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Image>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => sent,
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(Method::Transfer, request, option.hard_ttl().max(Duration::from_secs(1))).await
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY)))
    }
}

impl Peer {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Image>,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut outgoing = transfer::Outgoing::open(vote, snapshot)
            .await
            .map_err(|error| Unreachable::new(&error))?;
        loop {
            let piece = outgoing.piece().await.map_err(|error| Unreachable::new(&error))?;
            match self.call(Method::Snapshot, piece, outgoing.patience()).await {
                Ok(transfer::Received::Wants { offset }) => {
                    outgoing.seek(offset).map_err(|error| Unreachable::new(&error))?;
                }
                Ok(transfer::Received::Installed(response)) => return Ok(response),
                Err(error) => return Err(streaming(error)),
            }
        }
    }
}

fn streaming(error: RPCError<Types>) -> StreamingError<Types> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(error) => Unreachable::new(&error).into(),
    }
}
