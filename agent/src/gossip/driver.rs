//! Sockets, clocks and tasks around the core.
//!
//! One task owns the core. Datagrams come straight to it; each connection has a small task of its
//! own, which reads, opens, asks the core's task and writes. What cannot be read is counted and
//! dropped: it changes nothing.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connections::{Connections, UNIT};
use super::core::{Core, Input, Notice, Output, PACKET_ROOM, Timing, Token, Unanswered};
use super::keyring::Keyring;
use super::member::{Details, Name, TIME_AT_START, Tags, Time, UserEvent};
use super::members::{Feed, Members, Stats};
use super::message::{Message, Request, Response};
use super::validate::Unfit;
use super::wire;
use crate::net::{ConnectionPermit, Network};

/// Datagrams are not longer.
const DATAGRAM_MAX: usize = 64 * 1024;
/// Datagrams that are taken before anything else gets its turn: about as many as wait in the system's
/// buffer when this process was stopped for a while.
const BURST: usize = 1024;
/// Wishes and connections' questions that wait for the core.
const INBOX: usize = 256;
/// Longest time for a connection's question to come and its answer to go, from when it was accepted.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Longest time until the first bytes of a question come: who connects has it ready.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Settings of a member of a pool.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address that it listens on.
    pub bind: SocketAddr,
    /// Address at which others reach it; port 0 is the one it listens on.
    pub advertise: SocketAddr,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Uuid,
    /// Tags that it announces.
    pub tags: Tags,
    /// The pool's paces.
    pub timing: Timing,
    /// The pool's keys.
    pub keyring: Keyring,
    /// File of the keyring, if it is kept.
    pub keyring_file: Option<PathBuf>,
    /// Networks that are listened to, as base and number of bits; all if empty.
    pub allowed: Vec<Network>,
    /// Connections of others that may be open at once.
    pub connections_max: usize,
}

/// A member could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else has the port, or this host has no such address.
    #[error("cannot listen for gossip on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Its own statement would reach others over connections only, now and then.
    #[error(
        "what this agent says of itself takes {bytes} bytes, and a datagram has room for {PACKET_ROOM}\n\
         hint: shorten `node_name`, or the names in `segments`, or take some of these out"
    )]
    TooLong {
        /// Size in bytes.
        bytes: usize,
    },
    /// Others would not believe it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Command to the core's task.
#[derive(Debug)]
pub(super) enum Command {
    Asked(Request, oneshot::Sender<Response>),
    Answered(Token, Result<Response, Unanswered>),
    Join(SocketAddr, oneshot::Sender<Result<(), String>>),
    Leave(oneshot::Sender<()>),
    ForceLeave(Name, bool),
    Fire(UserEvent, oneshot::Sender<u64>),
    SetTags(Tags),
}

/// Listens, and becomes a member of a pool of one. The future drives it until `stop`.
pub async fn start(
    settings: Settings,
    stop: CancellationToken,
) -> Result<(Members, impl Future<Output = ()> + Send + 'static), Error> {
    let failed = |source| Error::Listen { address: settings.bind, source };
    let (listener, socket) = listen(settings.bind).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let mut address = settings.advertise;
    if address.port() == 0 {
        address.set_port(bound.port());
    }
    let me = Details {
        name: settings.name.as_str().into(),
        id: settings.id,
        address,
        incarnation: first_incarnation(),
        tags: settings.tags.clone(),
    };
    let bytes = Message::Alive(Arc::new(me.clone())).size();
    if bytes > PACKET_ROOM {
        return Err(Error::TooLong { bytes });
    }
    me.validate()?;
    let core = Core::new(TIME_AT_START, me, settings.timing.clone(), rand::random());
    let (commands, inbox) = mpsc::channel(INBOX);
    let shared = Arc::new(Shared {
        keyring: settings.keyring,
        keyring_file: settings.keyring_file,
        stats: Arc::default(),
        allowed: settings.allowed,
        commands: commands.clone(),
        connections: Arc::new(Connections::new(settings.connections_max)),
    });
    let (members, feed) = Members::new(&core, commands, Arc::clone(&shared));
    let driver = Driver {
        core,
        began: Instant::now(),
        socket,
        shared: Arc::clone(&shared),
        feed,
        asked: HashMap::new(),
        joins: HashMap::new(),
        leaving: Vec::new(),
        token: 0,
    };
    let run = async move {
        let interfaces = accept(listener, shared, stop.child_token());
        tokio::join!(driver.run(inbox, stop), interfaces);
    };
    Ok((members, run))
}

#[expect(clippy::disallowed_methods, reason = "who starts later is believed before who was there")]
fn first_incarnation() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Both sockets on one port.
async fn listen(bind: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    /// A port that is free for connections may be taken for datagrams.
    const TRIES: u32 = 16;
    let mut tries = 0;
    loop {
        let listener = TcpListener::bind(bind).await?;
        match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(_) if bind.port() == 0 && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// State shared by all tasks of a member.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) keyring: Keyring,
    pub(super) keyring_file: Option<PathBuf>,
    pub(super) stats: Arc<Stats>,
    allowed: Vec<Network>,
    commands: mpsc::Sender<Command>,
    connections: Arc<Connections>,
}

impl Shared {
    fn is_allowed(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        self.allowed.is_empty() || self.allowed.iter().any(|network| network.contains(from))
    }

    /// Asks somebody over a connection.
    pub(super) async fn ask(
        &self,
        to: SocketAddr,
        request: &Request,
        patience: Duration,
    ) -> Result<Response, Unanswered> {
        let meeting = async {
            let said = |error: io::Error| Unanswered {
                refused: error.kind() == io::ErrorKind::ConnectionRefused,
                reason: format!("dial tcp {to}: {}", plain(&error)),
            };
            let mut stream = TcpStream::connect(to).await.map_err(said)?;
            let text = |error: io::Error| plain(&error);
            let (asked, of_keys) = (wire::question(request), matches!(request, Request::Keys(_)));
            let asked =
                if of_keys { self.keyring.seal_always(asked) } else { self.keyring.seal(asked) };
            send(&mut stream, asked).await.map_err(text)?;
            let heard = self.receive(&mut stream).await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    "the other side closed the connection without an answer: its keys may be others, or it has too many connections".to_owned()
                }
                _ => plain(&error),
            })?;
            let (heard, _bytes) = heard;
            let trusted = !of_keys || self.keyring.may_tell_of_keys(&heard);
            let heard = self.keyring.open(heard).filter(|_| trusted);
            let heard = heard.ok_or("the answer is not sealed with a key of ours")?;
            let _turn = self.turn(&heard).await;
            Ok(read(heard, wire::read_answer).await.map_err(|error| error.to_string())?)
        };
        match timeout(patience, meeting).await {
            Ok(result) => result,
            Err(_) => Err(format!("dial tcp {to}: i/o timeout").into()),
        }
    }

    /// Serves one connection.
    async fn serve(&self, mut stream: TcpStream, permit: &ConnectionPermit) {
        let asked = timeout(SILENCE_MAX, stream.peek(&mut [0])).await;
        if !matches!(asked, Ok(Ok(1..))) {
            self.stats.garbage();
            return;
        }
        permit.waits(Instant::now());
        let Ok((heard, bytes)) = self.receive(&mut stream).await else {
            self.stats.garbage();
            return;
        };
        permit.works();
        let Some(answer) = self.answer(heard).await else { return };
        drop(bytes);
        let _bytes = self.connections.reserve(answer.len()).await;
        permit.waits(Instant::now());
        // Who does not take its answer goes without.
        let _ = send(&mut stream, answer).await;
    }

    /// The answer to a question, both as they go over a connection.
    async fn answer(&self, heard: Vec<u8>) -> Option<Vec<u8>> {
        let trusted = self.keyring.may_tell_of_keys(&heard);
        let Some(opened) = self.keyring.open(heard) else {
            self.stats.garbage();
            return None;
        };
        // Until the core has taken it over: what was read takes several times what came.
        let turn = self.turn(&opened).await;
        let Ok(request) = read(opened, wire::read_question).await else {
            self.stats.garbage();
            return None;
        };
        let answer = match request {
            Request::Keys(_) if !trusted => {
                self.stats.garbage();
                Response::Refused(
                    "orders to the keyring are taken only if they are encrypted".into(),
                )
            }
            Request::Keys(order) => {
                let report = Response::Keys(self.obey(&order).await);
                return Some(self.keyring.seal_always(wire::answer(&report)));
            }
            request => {
                let (reply, answer) = oneshot::channel();
                self.commands.send(Command::Asked(request, reply)).await.ok()?;
                answer.await.ok()?
            }
        };
        drop(turn);
        Some(self.keyring.seal(wire::answer(&answer)))
    }

    /// Waits for its turn if it takes much more memory to read than it has bytes.
    async fn turn(&self, heard: &[u8]) -> Option<SemaphorePermit<'_>> {
        if wire::is_heavy(heard) { Some(self.connections.turn().await) } else { None }
    }

    /// One frame of a connection. Memory grows with what comes, not with what is announced, and what all connections
    /// together take is bounded: the permit counts for as long as it is kept.
    async fn receive(
        &self,
        stream: &mut TcpStream,
    ) -> io::Result<(Vec<u8>, Option<OwnedSemaphorePermit>)> {
        use tokio::io::AsyncReadExt;
        let length = stream.read_u32().await? as usize;
        if length > wire::STREAM_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
        }
        let (mut bytes, mut reserved) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while bytes.len() < length {
            if !bytes.is_empty() {
                let more = self.connections.reserve(UNIT).await;
                match &mut reserved {
                    Some(reserved) => reserved.merge(more),
                    None => reserved = Some(more),
                }
            }
            let part = UNIT.min(length - bytes.len());
            let before = bytes.len();
            (&mut *stream).take(part as u64).read_to_end(&mut bytes).await?;
            if bytes.len() - before < part {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((bytes, reserved))
    }
}

/// Reads a question or an answer; a long one beside the tasks, for it takes a while.
async fn read<T: Send + 'static>(
    bytes: Vec<u8>,
    read: fn(&[u8]) -> Result<T, wire::Malformed>,
) -> Result<T, wire::Malformed> {
    if !wire::is_heavy(&bytes) {
        return read(&bytes);
    }
    let read = tokio::task::spawn_blocking(move || read(&bytes));
    read.await.unwrap_or(Err(wire::Malformed))
}

/// Connections, each served by its own task.
async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    /// When the system has no room for a connection, it will not have any at once.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if !shared.is_allowed(from.ip()) {
            shared.stats.garbage();
            continue;
        }
        // One that comes when there are too many, and none is idle, is closed: it can come again. To let it wait would
        // take a file handle, which other interfaces need, too.
        let now = Instant::now();
        let Some(permit) = shared.connections.admit(from.ip(), now) else {
            shared.stats.garbage();
            continue;
        };
        // In a flood many more may come before its task has its turn.
        if SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|bytes| bytes > 0) {
            permit.waits(now);
        }
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = permit.ended() => shared.stats.garbage(),
                _ = timeout(CONNECTION_TIME, shared.serve(stream, &permit)) => {}
            }
        });
    }
}

struct Driver {
    core: Core,
    began: Instant,
    socket: UdpSocket,
    shared: Arc<Shared>,
    feed: Feed,
    asked: HashMap<Token, oneshot::Sender<Response>>,
    joins: HashMap<Token, oneshot::Sender<Result<(), String>>>,
    leaving: Vec<oneshot::Sender<()>>,
    token: Token,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut datagram = vec![0; DATAGRAM_MAX];
        let mut out = Vec::new();
        loop {
            let due = self.began + self.core.deadline().saturating_sub(TIME_AT_START);
            tokio::select! {
                () = stop.cancelled() => return,
                // It fails only if the system has none to tell of; the socket says so itself.
                _ = self.socket.readable() => {}
                Some(command) = inbox.recv() => self.command(command, &mut out),
                () = tokio::time::sleep_until(due) => {}
            }
            // What came is heard before anybody's time is up.
            for _ in 0..BURST {
                let Ok((length, from)) = self.socket.try_recv_from(&mut datagram) else { break };
                self.hear(from, &datagram[..length], &mut out);
            }
            if self.now() >= self.core.deadline() {
                self.step(Input::Tick, &mut out);
            }
            self.act(&mut out).await;
        }
    }

    fn now(&self) -> Time {
        TIME_AT_START + self.began.elapsed()
    }

    fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        let now = self.now();
        self.core.step(now, input, out);
    }

    fn hear(&mut self, from: SocketAddr, bytes: &[u8], out: &mut Vec<Output>) {
        let (stats, segment) = (&self.shared.stats, self.core.me().segment());
        stats.heard(bytes.len());
        let messages = self
            .shared
            .is_allowed(from.ip())
            .then(|| self.shared.keyring.open(bytes.to_vec()))
            .flatten()
            .and_then(|bytes| wire::read_datagram(segment, &bytes).ok());
        match messages {
            Some(messages) => self.step(Input::Packet(messages), out),
            None => stats.garbage(),
        }
    }

    fn command(&mut self, command: Command, out: &mut Vec<Output>) {
        self.token += 1;
        let token = self.token;
        let input = match command {
            Command::Asked(request, reply) => {
                self.asked.insert(token, reply);
                Input::Asked { token, request }
            }
            Command::Answered(token, result) => Input::Answered { token, result },
            Command::Join(address, done) => {
                self.joins.insert(token, done);
                Input::Join { token, address }
            }
            Command::Leave(done) => {
                self.leaving.push(done);
                Input::Leave
            }
            Command::ForceLeave(name, prune) => Input::ForceLeave { name, prune },
            Command::Fire(event, at) => {
                // Who fired may be gone.
                let _ = at.send(self.core.event_clock());
                Input::Fire(event)
            }
            Command::SetTags(tags) => Input::SetTags(tags),
        };
        self.step(input, out);
    }

    async fn act(&mut self, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send { to, messages } => {
                    let bytes = wire::datagram(self.core.me().segment(), &messages);
                    let bytes = self.shared.keyring.seal(bytes);
                    self.shared.stats.said(bytes.len());
                    // A datagram may get lost here as anywhere.
                    let _ = self.socket.send_to(&bytes, to).await;
                }
                Output::Ask { token, to, request, patience } => {
                    let shared = Arc::clone(&self.shared);
                    tokio::spawn(async move {
                        let result = shared.ask(to, &request, patience).await;
                        // The core may have stopped meanwhile.
                        let _ = shared.commands.send(Command::Answered(token, result)).await;
                    });
                }
                Output::Response { token, answer } => {
                    if let Some(reply) = self.asked.remove(&token) {
                        // Who asked may have gone.
                        let _ = reply.send(answer);
                    }
                }
                Output::Joined { token, result } => {
                    if let Some(done) = self.joins.remove(&token) {
                        // As above.
                        let _ = done.send(result);
                    }
                }
                Output::Notice(notice) => {
                    log(&notice, self.core.me().segment());
                    self.feed.notice(notice);
                }
                Output::Gone => {
                    for done in self.leaving.drain(..) {
                        // As above.
                        let _ = done.send(());
                    }
                }
            }
        }
        self.feed.publish(&self.core);
    }
}

/// Says what happened, and in which segment unless that is the default one.
fn log(notice: &Notice, segment: &str) {
    let segment = (!segment.is_empty()).then_some(segment);
    match notice {
        Notice::Joined(name) => tracing::info!(member = &**name, segment, "member joined"),
        Notice::Updated(name) => tracing::debug!(member = &**name, segment, "member changed"),
        Notice::Failed(name) => tracing::info!(member = &**name, segment, "member failed"),
        Notice::Left(name) => tracing::info!(member = &**name, segment, "member left"),
        Notice::Reaped(name) => tracing::info!(member = &**name, segment, "member forgotten"),
        Notice::Event(event) => {
            if let Some(payload) = event.leader() {
                tracing::info!(payload, segment, "New leader elected");
            } else {
                tracing::debug!(name = event.name, segment, "user event");
            }
        }
        Notice::Warning(text) => tracing::warn!(segment, "{text}"),
    }
}

/// An error of the system without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
        io::ErrorKind::UnexpectedEof => "EOF".into(),
        _ => error.to_string(),
    }
}

async fn send(stream: &mut TcpStream, bytes: Vec<u8>) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}
