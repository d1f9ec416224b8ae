//! Handlers by method: a table that `node` fills.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rmp_serde::decode::Error as Malformed;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::draining::Draining;
use super::frame::Outgoing;
use super::outbox::{Outbox, Turn};
use super::quota::{Clients, Entered};
use super::{Method, Refusal};
use crate::net::Full;

/// The caller, and its deadline.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Address of the caller.
    pub peer: SocketAddr,
    /// The handler is stopped then. A call without a limit has one far away.
    pub deadline: Instant,
}

/// Limits on what other agents may ask.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections from one address (`limits.rpc_max_conns_per_client`).
    pub connections_per_client: usize,
    /// Connections from all addresses. Beyond it those that are idle give way.
    pub connections_total: usize,
    /// Time for a connection to say what it is (`limits.rpc_handshake_timeout`).
    pub handshake: Duration,
    /// Bytes that one address can make this agent hold, of each kind: of frames that arrive, of calls, of answers.
    pub bytes_per_client: usize,
    /// The same of all addresses together.
    pub bytes_total: usize,
    /// Calls in flight on one connection; beyond it they are refused. Blocking queries of a whole
    /// agent are parked here.
    pub calls_per_connection: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_per_client: 100,
            connections_total: 1024,
            handshake: Duration::from_secs(5),
            bytes_per_client: 96 << 20,
            bytes_total: 512 << 20,
            calls_per_connection: 16 << 10,
        }
    }
}

/// An answer, and the turn in which it was encoded.
pub(super) type Answer = (Outgoing, Turn);

type Once =
    dyn Fn(Bytes, Caller, Outbox) -> BoxFuture<'static, Result<Answer, Refusal>> + Send + Sync;
type Many = dyn Fn(Bytes, Caller, Sender) -> BoxFuture<'static, Result<(), Refusal>> + Send + Sync;

#[derive(Clone)]
pub(super) enum Handler {
    Once(Arc<Once>),
    Many(Arc<Many>),
}

/// Handlers by method. Cheap to clone.
#[derive(Clone)]
pub struct Handlers {
    table: Arc<HashMap<Method, Handler>>,
    limits: Limits,
    /// Of all ports that these handlers answer on.
    clients: Arc<Clients>,
    knows: Arc<Knows>,
    draining: Arc<Draining>,
}

/// Is this the address of a member?
type Knows = dyn Fn(IpAddr) -> bool + Send + Sync;

impl Default for Handlers {
    fn default() -> Handlers {
        let limits = Limits::default();
        Handlers {
            table: Arc::default(),
            limits,
            clients: Arc::new(Clients::new(limits)),
            knows: Arc::new(|_| false),
            draining: Arc::default(),
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.keys()).finish()
    }
}

impl Handlers {
    /// Answers [`Method::Ping`] only.
    pub fn new() -> Handlers {
        Handlers::default().on(Method::Ping, |(): (), _| async { Ok(()) })
    }

    /// Sets the limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Handlers {
        Handlers { limits, clients: Arc::new(Clients::new(limits)), ..self }
    }

    /// Keeps places for connections of those who are known, as `knows` tells for each connection.
    #[must_use]
    pub fn with_known(self, knows: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Handlers {
        Handlers { knows: Arc::new(knows), ..self }
    }

    /// A place for a connection from an address.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Entered, Full> {
        self.clients.enter(address, (self.knows)(address))
    }

    /// The same, with an end of its own: for one port.
    pub(super) fn of_one_port(self) -> Handlers {
        Handlers { draining: Arc::default(), ..self }
    }

    pub(super) fn draining(&self) -> &Arc<Draining> {
        &self.draining
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn get(&self, method: Method) -> Option<Handler> {
        self.table.get(&method).cloned()
    }

    /// Answers a method. The handler is dropped at its caller's deadline and when the caller gives
    /// up; until its first wait it holds up the calls behind it, so that calls begin in order.
    #[must_use]
    pub fn on<Q, A, F, R>(self, method: Method, handler: F) -> Handlers
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Fn(Q, Caller) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Refusal>> + Send + 'static,
    {
        self.with(
            method,
            Handler::Once(Arc::new(move |body, caller, outbox| match decode(&body) {
                Ok(request) => {
                    let answer = handler(request, caller);
                    async move {
                        let answer = answer.await?;
                        let turn = outbox.turn().await.map_err(|_| Refusal::failed(Gone))?;
                        Outgoing::answer(&answer).map(|it| (it, turn)).map_err(Refusal::failed)
                    }
                    .boxed()
                }
                Err(refusal) => std::future::ready(Err(refusal)).boxed(),
            })),
        )
    }

    /// Answers a method in parts, for large and for endless answers: the stream ends when the
    /// handler returns.
    #[must_use]
    pub fn on_stream<Q, A, F, R>(self, method: Method, handler: F) -> Handlers
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + 'static,
        F: Fn(Q, Caller, Parts<A>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        self.with(
            method,
            Handler::Many(Arc::new(move |body, caller, sender| match decode(&body) {
                Ok(request) => {
                    handler(request, caller, Parts { sender, kind: PhantomData }).boxed()
                }
                Err(refusal) => std::future::ready(Err(refusal)).boxed(),
            })),
        )
    }

    fn with(mut self, method: Method, handler: Handler) -> Handlers {
        Arc::make_mut(&mut self.table).insert(method, handler);
        self
    }
}

fn decode<Q: DeserializeOwned>(body: &[u8]) -> Result<Q, Refusal> {
    rmp_serde::from_slice(body).map_err(|error| {
        let why = match error {
            Malformed::InvalidMarkerRead(_) | Malformed::InvalidDataRead(_) => {
                "it ends too early".to_owned()
            }
            Malformed::TypeMismatch(_) => "a value is of another kind than it should be".to_owned(),
            other => other.to_string(),
        };
        Refusal::malformed(format!("its body of {} bytes cannot be read: {why}", body.len()))
    })
}

/// The caller takes no more parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller has gone")]
pub struct Gone;

/// Sending end for the parts of a handler's answer.
pub struct Parts<A> {
    sender: Sender,
    kind: PhantomData<fn(A)>,
}

/// Parts of one call, before they have a type.
pub(super) struct Sender {
    pub(super) id: u32,
    pub(super) outbox: Outbox,
    /// One permit for each part that the caller is ready to take.
    pub(super) credit: Arc<Semaphore>,
}

impl<A> fmt::Debug for Parts<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("id", &self.sender.id).finish_non_exhaustive()
    }
}

impl<A: Serialize> Parts<A> {
    /// Sends one part once the caller is ready for it. A part of more than
    /// [`super::PART_BYTES_MAX`] is refused: it would hold up the others on the connection.
    pub async fn send(&self, part: &A) -> Result<(), Refusal> {
        let gone = |_| Refusal::failed(Gone);
        self.sender.credit.acquire().await.map_err(|_| Refusal::failed(Gone))?.forget();
        // Encoded only when it is this part's turn: until then it may be shared with others.
        let _turn = self.sender.outbox.turn().await.map_err(gone)?;
        let part = Outgoing::part(part).map_err(Refusal::failed)?;
        self.sender.outbox.send(part.finish(self.sender.id)).await.map_err(gone)
    }
}
