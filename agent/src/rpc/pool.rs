//! Connections to other agents, kept and shared.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connection::{Connection, ReplyStream};
use super::frame::{Outgoing, VERSION};
use super::serve::{FULL, WELCOME};
use super::{Class, Error, Method};

/// A peer that has not answered a new connection by then is not there. The system would repeat its
/// own attempt ever more slowly; a fresh one finds a returning peer sooner.
const CONNECT_MAX: Duration = Duration::from_millis(1500);

/// Both directions of a connection.
pub struct Socket {
    /// Bytes from the peer.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes to the peer.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Socket {
        // Frames are gathered before they are written: waiting for more only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY: {error}");
        }
        let (reader, writer) = stream.into_split();
        Socket { reader: Box::new(reader), writer: Box::new(writer) }
    }

    /// Of anything that reads and writes.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Socket {
        let (reader, writer) = tokio::io::split(stream);
        Socket { reader: Box::new(reader), writer: Box::new(writer) }
    }
}

/// Opens connections: plain, with TLS, or in memory.
pub trait Dial: Send + Sync + 'static {
    /// Connects.
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Socket>>;
}

/// Plain TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Socket>> {
        async move { TcpStream::connect(to).await.map(Socket::tcp) }.boxed()
    }
}

/// Calls other agents; one per agent, cheap to clone. Connections are made when they are needed
/// and close when the last clone is dropped.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    dial: Box<dyn Dial>,
    connections: Arc<Connections>,
}

type Connections = Mutex<HashMap<(SocketAddr, Class), State>>;
type Dialed = Result<Arc<Connection>, String>;

enum State {
    Open(Arc<Connection>),
    /// Callers wait for the same attempt, which goes on when they give up.
    Dialing(Shared<BoxFuture<'static, Dialed>>),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections: Vec<_> = lock(&self.inner.connections).keys().copied().collect();
        f.debug_struct("Pool").field("connections", &connections).finish()
    }
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::new(Tcp)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for state in lock(&self.connections).drain() {
            if let State::Open(connection) = state.1 {
                connection.close();
            }
        }
    }
}

fn lock(connections: &Connections) -> MutexGuard<'_, HashMap<(SocketAddr, Class), State>> {
    connections.lock()
}

impl Pool {
    /// A pool whose connections are made by `dial`.
    pub fn new(dial: impl Dial) -> Pool {
        Pool { inner: Arc::new(Inner { dial: Box::new(dial), connections: Arc::default() }) }
    }

    /// Asks and waits for the answer. Dropping the future cancels the call, if it still can.
    pub async fn call<Q, A>(
        &self,
        to: SocketAddr,
        method: Method,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, Error>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let request = encode(to, method, request)?;
        let connection = self.connect_before(to, method.class(), Some(deadline)).await?;
        connection.begin(request, deadline).await?.answer().await
    }

    /// Asks for an answer in parts. Without a deadline the stream may be endless.
    pub async fn stream<Q, A>(
        &self,
        to: SocketAddr,
        method: Method,
        request: &Q,
        deadline: Option<Instant>,
    ) -> Result<ReplyStream<A>, Error>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let request = encode(to, method, request)?;
        let connection = self.connect_before(to, method.class(), deadline).await?;
        let (place, parts) = connection.begin_stream(request, deadline).await?;
        Ok(ReplyStream::new(place, parts, deadline))
    }

    /// A connection for calls that must begin in order. It breaks with the first lost connection.
    pub async fn ordered(
        &self,
        to: SocketAddr,
        class: Class,
        deadline: Instant,
    ) -> Result<Ordered, Error> {
        let connection = self.connect_before(to, class, Some(deadline)).await?;
        Ok(Ordered { peer: to, connection })
    }

    /// Closes the connections to an agent, for balance or because it is gone. Calls in flight are
    /// lost.
    pub fn forget(&self, peer: SocketAddr) {
        lock(&self.inner.connections).retain(|(address, _), state| {
            if let (true, State::Open(connection)) = (*address == peer, &*state) {
                connection.close();
            }
            *address != peer
        });
    }

    async fn connect_before(
        &self,
        to: SocketAddr,
        class: Class,
        deadline: Option<Instant>,
    ) -> Result<Arc<Connection>, Error> {
        let unreachable = |why: String| Error::Unreachable { peer: to, why };
        let connecting = self.connect(to, class);
        let connected = match deadline {
            None => connecting.await,
            Some(deadline) => tokio::time::timeout_at(deadline, connecting)
                .await
                .unwrap_or_else(|_| Err("no connection in time".to_owned())),
        };
        connected.map_err(unreachable)
    }

    async fn connect(&self, to: SocketAddr, class: Class) -> Dialed {
        let dialing = {
            let mut connections = lock(&self.inner.connections);
            match connections.get(&(to, class)) {
                Some(State::Open(connection)) if connection.is_open() => {
                    return Ok(Arc::clone(connection));
                }
                Some(State::Dialing(dialing)) => dialing.clone(),
                _ => {
                    let dialing = self.dial(to, class);
                    connections.insert((to, class), State::Dialing(dialing.clone()));
                    dialing
                }
            }
        };
        dialing.await
    }

    fn dial(&self, to: SocketAddr, class: Class) -> Shared<BoxFuture<'static, Dialed>> {
        let socket = self.inner.dial.dial(to);
        let connections = Arc::downgrade(&self.inner.connections);
        let task = tokio::spawn(async move {
            let dialed = match tokio::time::timeout(CONNECT_MAX, greet(socket, class)).await {
                Ok(Ok(socket)) => Ok(Connection::start(to, class, socket)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no connection within {CONNECT_MAX:?}")),
            };
            let Some(connections) = connections.upgrade() else {
                if let Ok(connection) = dialed {
                    connection.close();
                }
                return Err("this agent stops".to_owned());
            };
            let mut connections = lock(&connections);
            match &dialed {
                Ok(connection) => {
                    connections.insert((to, class), State::Open(Arc::clone(connection)));
                }
                Err(_) => {
                    connections.remove(&(to, class));
                }
            }
            dialed
        });
        async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared()
    }
}

/// Number of open connections.
#[cfg(test)]
pub(super) fn open(pool: &Pool) -> usize {
    let connections = lock(&pool.inner.connections);
    connections.values().filter(|it| matches!(it, State::Open(open) if open.is_open())).count()
}

/// Says what the connection is for, and waits to be welcome: only then a call counts as sent.
async fn greet(
    socket: impl Future<Output = io::Result<Socket>>,
    class: Class,
) -> io::Result<Socket> {
    let mut socket = socket.await?;
    socket.writer.write_all(&[class.byte(), VERSION]).await?;
    socket.writer.flush().await?;
    let mut greeting = [0; 2];
    socket.reader.read_exact(&mut greeting).await?;
    match greeting {
        [WELCOME, version] if version >= 1 => Ok(socket),
        [FULL, _] => Err(io::Error::other("it has too many connections from this address")),
        _ => Err(io::Error::other("it is not an agent")),
    }
}

fn encode<Q: Serialize + ?Sized>(
    peer: SocketAddr,
    method: Method,
    request: &Q,
) -> Result<Outgoing, Error> {
    Outgoing::request(method, request).map_err(|why| Error::Unreachable { peer, why })
}

/// Calls of one class to one peer that begin there in the order in which they are sent here.
#[derive(Debug)]
pub struct Ordered {
    peer: SocketAddr,
    connection: Arc<Connection>,
}

impl Ordered {
    /// Sends; what is returned waits for the answer.
    pub async fn begin<Q, A>(
        &self,
        method: Method,
        request: &Q,
        deadline: Instant,
    ) -> Result<impl Future<Output = Result<A, Error>> + Send + use<Q, A>, Error>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let request = encode(self.peer, method, request)?;
        Ok(self.connection.begin(request, deadline).await?.answer())
    }
}
