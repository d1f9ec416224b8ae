//! Upstream of a client agent: servers answer its requests.
//!
//! ```text
//!   http ─▶ message.rs  a whole request ─▶ sharing.rs  equal waiting reads: one call ─┐
//!   dns  ─▶ a look-up                                                                 ├─▶ ask ─▶ rpc
//!   local ▶ catalog.rs  rows of the own node, changes ────────────────────────────────┘    │
//!                                                         router.rs  whom to ask ◀─────────┘
//! ```
//!
//! Requests go to one server until it fails or the time has come to give another one its share. What surely never
//! reached a server, and what only reads, is tried elsewhere for as long as [`Settings::hold`]; what may have
//! happened is not repeated. Nothing of the catalog is kept here.

mod catalog;
mod limit;
mod message;
mod router;
mod sharing;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use rand::RngExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use catalog::answer_claims;
pub use limit::Rate;
pub use message::{
    Agent, BODY_BYTES_MAX, Body, CHUNK_BYTES, ForwardedReply, Head, Part, Piece, Pieces, Request,
};
pub use router::Server;

use crate::read::Waits;
use crate::rpc::{self, Method, Pool, Reason};
use crate::telemetry::metrics::names;
use limit::{Exceeded, Limit};
use router::Router;
use sharing::Sharing;

/// Time-out of a call that does not wait for a change. A server's own wait for an election is well below.
const CALL_MAX: Duration = Duration::from_mins(1);
/// For the answer of a server that leaves to what may not be repeated.
const LEAVING_MAX: Duration = Duration::from_secs(2);
/// Pause before the next attempt when there is no other server to try; doubled up to four times, and spread.
const RETRY: Duration = Duration::from_millis(25);
const RETRY_DOUBLINGS: u32 = 4;

/// Settings of the upstream.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For how long a request is tried again after its first failure (`rpc_hold_timeout`).
    pub hold: Duration,
    /// Rate limit (`limits.rpc_rate`); `None` is no limit.
    pub rate: Option<Rate>,
    /// Times of requests that wait for changes.
    pub waits: Waits,
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody to ask. The words are the reference's; programs look for them.
    #[error("No known Consul servers")]
    NoServers,
    /// The request reached nobody.
    #[error("rpc error getting client: failed to get conn: {0}")]
    Unreachable(rpc::Error),
    /// More than this agent may ask of servers. The words are the reference's.
    #[error("RPC rate limit exceeded")]
    Exceeded {
        /// When there will be room for a request.
        retry_after: Duration,
    },
    /// It was sent, and failed.
    #[error("rpc error making call: {0}")]
    Call(rpc::Error),
}

impl From<rpc::Error> for Error {
    fn from(error: rpc::Error) -> Error {
        match error {
            rpc::Error::Unreachable { .. } => Error::Unreachable(error),
            other => Error::Call(other),
        }
    }
}

/// May a request that was sent and never answered be sent again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It only reads, or does the same thing twice.
    Safe,
    /// It may have happened.
    Never,
}

/// Handle on the servers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    router: Router,
    hold: Duration,
    waits: Waits,
    limit: Limit,
    sharing: Sharing,
}

impl Upstream {
    /// The way to the servers that `servers` names from now on.
    pub fn new(pool: Pool, servers: watch::Receiver<Vec<Server>>, settings: Settings) -> Upstream {
        let router = Router::new(servers);
        let Settings { hold, rate, waits } = settings;
        let (limit, sharing) = (Limit::new(rate), Sharing::default());
        Upstream { inner: Arc::new(Inner { pool, router, hold, waits, limit, sharing }) }
    }

    /// From now on this much may be asked.
    pub fn set_rate(&self, rate: Option<Rate>) {
        self.inner.limit.set(rate);
    }

    /// Counts a request, whatever becomes of it.
    fn admit(&self) -> Result<(), Error> {
        names::CLIENT_RPC.add();
        self.inner.limit.take().map_err(|Exceeded { retry_after }| {
            names::CLIENT_RPC_EXCEEDED.add();
            Error::Exceeded { retry_after }
        })
    }

    /// Follows the list of servers and changes between them now and then, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let pool = self.inner.pool.clone();
        let ping = move |server| {
            let pool = pool.clone();
            async move {
                let deadline = Instant::now() + router::PING_MAX;
                pool.call::<_, ()>(server, Method::Ping, &(), deadline).await.is_ok()
            }
            .boxed()
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.inner.router.run(ping) => {}
        }
    }

    /// Number of known servers.
    pub fn servers(&self) -> usize {
        self.inner.router.len()
    }

    /// Has a server answer a whole HTTP request.
    pub async fn http(&self, request: Request) -> Result<ForwardedReply, Error> {
        self.admit()?;
        match request.waits() {
            Some((index, wait)) if request.may_be_shared() => {
                self.wait_together(request, index, wait).await
            }
            Some((index, wait)) => self.pass(&request, self.wait(index, wait)).await,
            None if request.is_endless() => self.pass(&request, Timeout::Endless).await,
            None => self.pass(&request, Timeout::Call).await,
        }
    }

    /// Passes a request on whose body comes in pieces: to one server, and only once.
    pub async fn upload(
        &self,
        mut request: Request,
        mut body: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<ForwardedReply, Error> {
        self.admit()?;
        let server = self.inner.router.current().ok_or(Error::NoServers)?;
        let upload = Uuid::new_v4();
        request.upload = Some(upload);
        let pool = &self.inner.pool;
        // Calls begin in the order in which they are sent: no piece comes before this.
        let parts = pool.stream(server, Method::Http, &request, None).await?;
        let send = async |bytes| {
            let deadline = Instant::now() + CALL_MAX;
            pool.call(server, Method::Piece, &Piece { upload, bytes }, deadline).await
        };
        let feed = async {
            while let Some(Ok(mut piece)) = body.recv().await {
                while !piece.is_empty() {
                    let bytes = piece.split_to(piece.len().min(CHUNK_BYTES));
                    if !send(Some(bytes)).await? {
                        // Who reads has seen enough.
                        return Ok(());
                    }
                }
            }
            send(None).await.map(|_: bool| ())
        };
        let answer = ForwardedReply::receive(server, parts);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => Ok(answer?),
            fed = feed => match fed {
                Ok(()) => Ok(answer.await?),
                Err(error) => Err(rpc::Error::into(error)),
            },
        }
    }

    /// Patience with a wait as a client asks for it.
    fn wait(&self, index: u64, asked: Duration) -> Timeout {
        let waits = self.inner.waits;
        let decided = waits.decide(asked);
        let wait = if decided { waits.bounded(asked) } else { waits.longest() };
        Timeout::Wait { index, until: Instant::now() + wait, decided }
    }

    /// Passes a request on. A server that knows no leader may be cut off from the others: it is asked again elsewhere.
    async fn pass(&self, request: &Request, patience: Timeout) -> Result<ForwardedReply, Error> {
        let repeat = if request.only_reads() { Repeat::Safe } else { Repeat::Never };
        let pass = |server, deadline| self.pass_to(server, request, patience, deadline);
        let deadline = || patience.deadline(self.inner.waits);
        let (server, answer) = self.attempt(repeat, deadline(), pass).await?;
        if !answer.says_no_leader() {
            return Ok(answer);
        }
        self.inner.router.failed(server);
        if repeat == Repeat::Never || self.inner.router.current() == Some(server) {
            return Ok(answer);
        }
        Ok(self.attempt(repeat, deadline(), pass).await?.1)
    }

    async fn pass_to(
        &self,
        server: SocketAddr,
        request: &Request,
        patience: Timeout,
        deadline: Option<Instant>,
    ) -> Result<(SocketAddr, ForwardedReply), rpc::Error> {
        let waiting = match patience {
            // Only what is left of the wait, should this not be the first server.
            Timeout::Wait { index, until, decided } => {
                let left = decided.then(|| until.saturating_duration_since(Instant::now()));
                Some(request.waiting(Some((index, left))))
            }
            Timeout::Call | Timeout::Endless => None,
        };
        let request = waiting.as_ref().unwrap_or(request);
        let parts = self.inner.pool.stream(server, Method::Http, request, deadline).await?;
        Ok((server, ForwardedReply::receive(server, parts).await?))
    }

    /// Asks a server.
    pub async fn ask<Q, A>(
        &self,
        method: Method,
        request: &Q,
        repeat: Repeat,
        limit: Duration,
    ) -> Result<A, Error>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        self.admit()?;
        let until = Instant::now() + limit;
        let call = |server, _| self.inner.pool.call(server, method, request, until);
        self.attempt(repeat, Some(until), call).await
    }

    /// Tries one server after the other, as far as that is safe, until one answers or patience ends.
    async fn attempt<A, F>(
        &self,
        repeat: Repeat,
        deadline: Option<Instant>,
        call: impl Fn(SocketAddr, Option<Instant>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<A, rpc::Error>>,
    {
        let router = &self.inner.router;
        let mut backoff = Backoff::default();
        loop {
            let Some(server) = router.current() else {
                if backoff.give_up.is_none_or(|at| Instant::now() >= at) {
                    return Err(Error::NoServers);
                }
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let begun = Instant::now();
            let done = tokio::select! {
                done = call(server, deadline) => done,
                () = after_leaving(router, server, repeat) => {
                    Err(rpc::Error::Lost { peer: server, why: "it has left, or failed".into() })
                }
            };
            let error = match done {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            names::CLIENT_RPC_FAILED.add();
            router.failed(server);
            tracing::debug!(%server, %error, "a server did not answer");
            let may_repeat = match &error {
                rpc::Error::Unreachable { .. } => true,
                rpc::Error::Lost { .. } => repeat == Repeat::Safe,
                rpc::Error::Refused { refusal, .. } => refusal.reason == Reason::Busy,
            };
            let over = deadline.is_some_and(|at| Instant::now() >= at);
            if !may_repeat || over || !backoff.goes_on(begun, self.inner.hold) {
                return Err(error.into());
            }
            if router.current() == Some(server) || backoff.failures as usize > router.len() {
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}

/// Resolves when a server that is no member any more will not answer. One that leaves finishes what it
/// began, and what may have happened cannot be asked of another.
async fn after_leaving(router: &Router, server: SocketAddr, repeat: Repeat) {
    router.gone(server).await;
    if repeat == Repeat::Never {
        tokio::time::sleep(LEAVING_MAX).await;
    }
}

/// Time-out of an answer.
#[derive(Debug, Clone, Copy)]
enum Timeout {
    /// It is made at once.
    Call,
    /// It comes with a change after this index, or after this time.
    Wait {
        index: u64,
        until: Instant,
        /// This agent knows how long the wait is; else the server chooses.
        decided: bool,
    },
    /// It may never end.
    Endless,
}

impl Timeout {
    fn deadline(self, waits: Waits) -> Option<Instant> {
        match self {
            Timeout::Call => Some(Instant::now() + CALL_MAX),
            // Servers prolong waits by a part of them.
            Timeout::Wait { until, .. } => Some(until + waits.longest() / 16 + CALL_MAX),
            Timeout::Endless => None,
        }
    }
}

/// Failures of one request so far, and the pause before the next attempt.
#[derive(Debug, Default)]
struct Backoff {
    give_up: Option<Instant>,
    failures: u32,
}

impl Backoff {
    /// Counts the failure of an attempt; is it worth another one?
    fn goes_on(&mut self, begun: Instant, hold: Duration) -> bool {
        let now = Instant::now();
        if now - begun >= hold {
            // That server was there for a good while: patience begins anew.
            *self = Backoff::default();
        }
        self.failures += 1;
        now < *self.give_up.get_or_insert(now + hold)
    }

    fn pause(&self) -> Duration {
        let pause = RETRY * 2_u32.pow(self.failures.min(RETRY_DOUBLINGS));
        pause.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0)
    }
}
