//! Sockets and connections.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::service::Connection;
use super::{AppState, Forwarder, Limits, Parts, Settings};
use crate::http::write_coalesce::WriteCoalescer;
use crate::telemetry::Seldom;

/// Time for connections to finish what they are writing when the agent stops.
const GRACE: Duration = Duration::from_millis(250);
/// Time for ends of connections to come in before a client has too many.
const CROWD_WAIT: Duration = Duration::from_millis(50);
/// Interval of dropping shared answers that nobody wants.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A socket that is listened on.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed when the listener goes.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on a TCP address.
    pub async fn tcp(address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener::Tcp(TcpListener::bind(address).await?))
    }

    /// Listens on a Unix socket. A socket file that a dead agent left is replaced.
    pub fn unix(path: impl Into<PathBuf>) -> io::Result<Listener> {
        use std::os::unix::fs::FileTypeExt;
        let path = path.into();
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_socket()) {
            std::fs::remove_file(&path)?;
        }
        Ok(Listener::Unix(UnixListener::bind(&path)?, path))
    }

    /// Gives the file of a Unix socket to this user and group, with these rights.
    pub fn owned_by(
        self,
        user: Option<u32>,
        group: Option<u32>,
        mode: Option<u32>,
    ) -> io::Result<Listener> {
        use std::os::unix::fs::PermissionsExt as _;
        if let Listener::Unix(_, path) = &self {
            if user.is_some() || group.is_some() {
                std::os::unix::fs::chown(path, user, group)?;
            }
            if let Some(mode) = mode {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(self)
    }

    /// The TCP address, if it is one: tests listen on port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            // Nothing is lost if it is gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Serves until `shutdown`; open connections then get a short grace.
pub async fn serve(
    listeners: Vec<Listener>,
    parts: Parts,
    settings: Settings,
    shutdown: CancellationToken,
) {
    serve_door(listeners, AppState::new(parts, settings), shutdown).await;
}

/// As [`serve`], and gives the interface for requests that other agents pass on: `node` puts it where those come in.
pub fn serve_passing(
    listeners: Vec<Listener>,
    parts: Parts,
    settings: Settings,
    shutdown: CancellationToken,
) -> (Forwarder, impl Future<Output = ()> + Send) {
    let app = AppState::new(parts, settings);
    (Forwarder::new(Arc::clone(&app)), serve_door(listeners, app, shutdown))
}

async fn serve_door(listeners: Vec<Listener>, app: Arc<AppState>, shutdown: CancellationToken) {
    let server = Arc::new(Server {
        clients: Clients { limits: app.settings.limits.clone(), open: Mutex::default() },
        app,
        connections: TaskTracker::new(),
        shutdown,
        ending: Ending::default(),
    });
    let ending = EndsConnections(Arc::clone(&server));
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(Arc::clone(&server).accept(listener)))
        .collect();
    let listening = super::event::listen(Arc::clone(&server.app));
    let mut listening = std::pin::pin!(listening);
    let mut listens = true;
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                if let Some(reader) = server.app.parts.backend.reader() {
                    reader.forget_idle_answers();
                    let (coordinates, pools) = (&server.app.coordinates, &server.app.parts.pools);
                    coordinates.learn(pools, &reader.consensus().store());
                }
            }
            () = &mut listening, if listens => listens = false,
            () = server.shutdown.cancelled() => break,
        }
    }
    drop(ending);
    for task in accepting {
        let _ = task.await;
    }
    server.connections.close();
    server.connections.wait().await;
}

struct Server {
    app: Arc<AppState>,
    clients: Clients,
    connections: TaskTracker,
    shutdown: CancellationToken,
    ending: Ending,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = accept_one(&listener) => accepted,
            };
            match accepted {
                Ok((Socket::Tcp(stream), peer)) => self.tcp(stream, peer),
                Ok((Socket::Unix(stream), _)) => {
                    let connection = Arc::clone(&self).connection(stream, None, None);
                    self.connections.spawn(connection);
                }
                Err(error) => {
                    static NOT_ACCEPTED: Seldom = Seldom::new();
                    if let Some(times) = NOT_ACCEPTED.due() {
                        tracing::warn!(%error, times, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn tcp(self: &Arc<Self>, stream: TcpStream, peer: Option<IpAddr>) {
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(self);
        match peer.map(|address| self.permit(address)).transpose() {
            Ok(permit) => self.connections.spawn(server.connection(stream, peer, permit)),
            Err(Full(address)) => self.connections.spawn(server.crowded(stream, address)),
        };
    }

    fn permit(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPermit, Full> {
        self.clients.enter(address)?;
        Ok(ConnectionPermit { server: Arc::clone(self), address })
    }

    /// Refuses a connection of a client that has too many, unless one of those turns out to be closed already: its end
    /// may come in at the same time.
    async fn crowded(self: Arc<Self>, mut stream: TcpStream, address: IpAddr) {
        static TOO_MANY_OF_ONE: Seldom = Seldom::new();
        tokio::time::sleep(CROWD_WAIT).await;
        if let Ok(permit) = self.permit(address) {
            return self.connection(stream, Some(address), Some(permit)).await;
        }
        if let Some(times) = TOO_MANY_OF_ONE.due() {
            tracing::warn!(peer = %address, times, "too many connections of one client");
        }
        let refusal = stream.write_all(TOO_MANY);
        let _ = tokio::time::timeout(GRACE, refusal).await;
    }

    async fn connection<S>(
        self: Arc<Self>,
        stream: S,
        peer: Option<IpAddr>,
        permit: Option<ConnectionPermit>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _seat = permit;
        let asked = AtomicBool::new(false);
        let service = Connection::new(Arc::clone(&self.app), peer);
        let service = Noting { service, asked: &asked };
        // Pinned where it is made: a connection is large, and a second place for it would be carried
        // by every one of them.
        let mut connection =
            std::pin::pin!(http1::Builder::new().title_case_headers(true).serve_connection(
                TokioIo::new(WriteCoalescer::new(stream, self.app.settings.stall_max)),
                service
            ));
        // An error here is the client's: a line that is no request, or one that went away.
        let patience = self.app.settings.first_head_max;
        let begun = tokio::time::timeout(patience, self.ending.before(connection.as_mut())).await;
        let outcome = match begun {
            Ok(outcome) => outcome,
            Err(_) if asked.load(Ordering::Relaxed) => {
                self.ending.before(connection.as_mut()).await
            }
            Err(_) => {
                tracing::debug!(?peer, "a connection asked for nothing in time");
                return;
            }
        };
        match outcome {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::trace!(%error, "connection ended early"),
            None => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GRACE, connection).await;
            }
        }
    }
}

/// Notes that a connection asked for something.
struct Noting<'a> {
    service: Connection,
    asked: &'a AtomicBool,
}

impl Service<hyper::Request<Incoming>> for Noting<'_> {
    type Response = <Connection as Service<hyper::Request<Incoming>>>::Response;
    type Error = <Connection as Service<hyper::Request<Incoming>>>::Error;
    type Future = <Connection as Service<hyper::Request<Incoming>>>::Future;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        self.service.call(request)
    }
}

/// The end of serving, as connections see it. A token would be asked on every turn of each of them, and takes two
/// locks that all share.
#[derive(Default)]
struct Ending {
    begun: AtomicBool,
    token: CancellationToken,
}

impl Ending {
    fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Runs `work`; `None` if the end comes first.
    async fn before<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        let mut ended = std::pin::pin!(self.token.cancelled());
        // Whom the token wakes. As long as that is who polls, the token need not be asked again.
        let mut told: Option<Waker> = None;
        std::future::poll_fn(move |context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            if !told.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                if ended.as_mut().poll(context).is_ready() {
                    return Poll::Ready(None);
                }
                told = Some(context.waker().clone());
            }
            if self.begun.load(Ordering::Acquire) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

/// However serving ends, its connections do, too.
struct EndsConnections(Arc<Server>);

impl Drop for EndsConnections {
    fn drop(&mut self) {
        self.0.ending.begin();
    }
}

/// Reply to a client above its number of connections.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
Content-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nConnection: close\r\n\
Content-Length: 82\r\n\r\n\
Your IP is issuing too many concurrent connections, please rate limit your calls\n\n";

enum Socket {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept_one(listener: &Listener) -> io::Result<(Socket, Option<IpAddr>)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            Ok((Socket::Tcp(stream), Some(peer.ip().to_canonical())))
        }
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            Ok((Socket::Unix(stream), None))
        }
    }
}

/// Open connections by source address.
struct Clients {
    limits: Limits,
    open: Mutex<HashMap<IpAddr, usize>>,
}

struct Full(IpAddr);

impl Clients {
    fn enter(&self, address: IpAddr) -> Result<(), Full> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let max = self.limits.connections_per_client();
        let count = open.entry(address).or_default();
        if max > 0 && *count >= max {
            return Err(Full(address));
        }
        *count += 1;
        Ok(())
    }

    fn leave(&self, address: IpAddr) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&address);
            }
        }
    }
}

/// One connection's place; given back on drop.
struct ConnectionPermit {
    server: Arc<Server>,
    address: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.server.clients.leave(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_by_itself_or_with_the_end_of_serving() {
        let ending = Ending::default();
        let done = ending.before(std::pin::pin!(std::future::ready(1))).await;
        assert_eq!(done, Some(1));
        let never = std::pin::pin!(std::future::pending::<u8>());
        let (cut, ()) = tokio::join!(ending.before(never), async {
            tokio::task::yield_now().await;
            ending.begin();
        });
        assert_eq!(cut, None);
        // Who comes later hears of it too.
        assert_eq!(ending.before(std::pin::pin!(std::future::pending::<u8>())).await, None);
    }
}
