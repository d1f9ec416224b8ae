//! The sockets: several for UDP, so that several cores take packets, and a bounded number of
//! connections by TCP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::datagram::{Datagrams, Peer, Sharing};
use super::write::{Chance, Transport};
use crate::dns::handler::{Handled, Handler};

/// Sockets for UDP on one address: more than the cores that take packets help nobody.
const UDP_SOCKETS_MAX: usize = 4;
/// Packets in a row before other tasks get their turn.
const PACKETS_IN_A_ROW: usize = 64;
/// Queries that wait for a leader, a server or a recursor; more are told that it failed.
const WAITING_MAX: usize = 2048;
/// Connections, and those of one address.
const CONNECTIONS_MAX: usize = 1024;
const CONNECTIONS_PER_CLIENT_MAX: usize = 128;
/// Idle time-out of a connection; and the one while connections are scarce.
const IDLE_MAX: Duration = Duration::from_secs(10);
const IDLE_MAX_WHEN_SCARCE: Duration = Duration::from_secs(1);
/// Time-out for writing an answer to a client.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// An address that is listened on.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    udp: Vec<Datagrams>,
    tcp: TcpListener,
}

impl Listener {
    /// Listens on `address`, by UDP and TCP. With port 0 both get the same one.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        // Sockets that share a port would also share it with a stranger. A lone one first: it
        // fails if anybody is there.
        drop(Datagrams::bind(address, Sharing::Alone)?);
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let udp = (0..count.min(UDP_SOCKETS_MAX))
            .map(|_| Datagrams::bind(address, Sharing::Shared))
            .collect::<io::Result<_>>()?;
        Ok(Listener { address, udp, tcp })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until `shutdown`.
pub async fn serve(listeners: Vec<Listener>, handler: Arc<Handler>, shutdown: CancellationToken) {
    let server = Arc::new(Server {
        handler,
        waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        clients: Mutex::default(),
        tasks: TaskTracker::new(),
        shutdown,
    });
    let mut sockets = Vec::new();
    for Listener { udp, tcp, .. } in listeners {
        for socket in udp {
            sockets.push(tokio::spawn(Arc::clone(&server).packets(Arc::new(socket))));
        }
        sockets.push(tokio::spawn(Arc::clone(&server).accept(tcp)));
    }
    server.shutdown.cancelled().await;
    for socket in sockets {
        let _ = socket.await;
    }
    server.tasks.close();
    server.tasks.wait().await;
}

/// Sends, and waits once if the queue is full. A client that is gone is no error of ours.
async fn send(socket: &Datagrams, packet: &[u8], peer: Peer) {
    let full = |sent: io::Result<usize>| {
        sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    if full(socket.send(packet, peer)) && socket.writable().await.is_ok() {
        let _ = socket.send(packet, peer);
    }
}

struct Server {
    handler: Arc<Handler>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    clients: Mutex<HashMap<IpAddr, usize>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Server {
    /// Takes packets from one socket and answers them.
    async fn packets(self: Arc<Self>, socket: Arc<Datagrams>) {
        let mut chance = Chance::new(rand::random());
        let mut packet = vec![0; usize::from(u16::MAX)];
        let mut out = Vec::with_capacity(4096);
        loop {
            let ready = tokio::select! {
                () = self.shutdown.cancelled() => return,
                ready = socket.readable() => ready,
            };
            if let Err(error) = ready {
                tracing::warn!(%error, "a DNS socket failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
            for _ in 0..PACKETS_IN_A_ROW {
                match socket.receive(&mut packet) {
                    Ok((length, peer)) => {
                        if self.packet(&socket, &packet[..length], peer, &mut chance, &mut out) {
                            send(&socket, &out, peer).await;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Somebody we answered is gone: nothing to do with the next packet.
                    Err(error) => {
                        tracing::trace!(%error, "a packet was not received");
                        break;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Deals with one packet; `true`: what `out` holds is to be sent.
    fn packet(
        self: &Arc<Self>,
        socket: &Arc<Datagrams>,
        packet: &[u8],
        peer: Peer,
        chance: &mut Chance,
        out: &mut Vec<u8>,
    ) -> bool {
        out.clear();
        let client = peer.address.ip();
        let later = match self.handler.now(packet, Transport::Udp, client, chance, out) {
            Handled::Silence => return false,
            Handled::Answered => return true,
            Handled::Later(later) => later,
        };
        let Ok(seat) = Arc::clone(&self.waiting).try_acquire_owned() else {
            later.give_up(out);
            return true;
        };
        let (server, socket) = (Arc::clone(self), Arc::clone(socket));
        self.tasks.spawn(async move {
            let mut out = Vec::new();
            let mut chance = Chance::new(rand::random());
            tokio::select! {
                () = server.shutdown.cancelled() => return,
                () = server.handler.later(*later, &mut chance, &mut out) => {}
            }
            send(&socket, &out, peer).await;
            drop(seat);
        });
        false
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a DNS connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let peer = peer.ip().to_canonical();
            // Whoever is over the bound is closed at once; resolvers ask again.
            let Ok(seat) = Arc::clone(&self.connections).try_acquire_owned() else { continue };
            if !self.enter(peer) {
                continue;
            }
            let server = Arc::clone(&self);
            self.tasks.spawn(async move {
                tokio::select! {
                    () = server.shutdown.cancelled() => {}
                    // An error is the client's: it went away, or said half of something.
                    _ = server.connection(stream, peer) => {}
                }
                server.leave(peer);
                drop(seat);
            });
        }
    }

    fn enter(&self, peer: IpAddr) -> bool {
        let mut clients = self.clients.lock();
        let count = clients.entry(peer).or_default();
        if *count >= CONNECTIONS_PER_CLIENT_MAX {
            return false;
        }
        *count += 1;
        true
    }

    /// Have half of all connections, or half of this client's, been taken?
    fn scarce(&self, peer: IpAddr) -> bool {
        let clients = self.clients.lock();
        let own = clients.get(&peer).copied().unwrap_or_default();
        own > CONNECTIONS_PER_CLIENT_MAX / 2
            || self.connections.available_permits() < CONNECTIONS_MAX / 2
    }

    fn leave(&self, peer: IpAddr) {
        let mut clients = self.clients.lock();
        if let Some(count) = clients.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&peer);
            }
        }
    }

    /// One query after the other, each with its length before it.
    async fn connection(&self, mut stream: TcpStream, peer: IpAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut chance = Chance::new(rand::random());
        let mut packet = Vec::new();
        let mut out = Vec::new();
        loop {
            let scarce = self.scarce(peer);
            let patience = if scarce { IDLE_MAX_WHEN_SCARCE } else { IDLE_MAX };
            packet.clear();
            let reading = async {
                let length = u64::from(stream.read_u16().await?);
                // Room grows with what comes, not with what is announced.
                (&mut stream)
                    .take(length)
                    .read_to_end(&mut packet)
                    .await
                    .map(|read| u64::try_from(read).is_ok_and(|read| read == length))
            };
            if !tokio::time::timeout(patience, reading).await?? {
                return Ok(());
            }
            out.clear();
            out.extend_from_slice(&[0, 0]);
            match self.handler.now(&packet, Transport::Tcp, peer, &mut chance, &mut out) {
                Handled::Answered => {}
                Handled::Silence => return Ok(()),
                Handled::Later(later) => match self.waiting.try_acquire() {
                    Ok(_seat) => self.handler.later(*later, &mut chance, &mut out).await,
                    Err(_) => later.give_up(&mut out),
                },
            }
            let length = u16::try_from(out.len() - 2).map_err(io::Error::other)?;
            out[..2].copy_from_slice(&length.to_be_bytes());
            tokio::time::timeout(WRITE_MAX, stream.write_all(&out)).await??;
            // An answer can be large; thousands of idle connections must not keep theirs.
            out.shrink_to(4096);
            packet.shrink_to(4096);
        }
    }
}
