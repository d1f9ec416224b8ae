//! One connection as its caller sees it: calls in, answers out, each found again by its id.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, Outgoing, WITHOUT_LIMIT, codec};
use super::outbox::{Outbox, Queue, Queued, write_all};
use super::pool::Socket;
use super::{Class, Error};

/// Parts that a streaming peer may send before it is given more credit.
pub(super) const WINDOW: u32 = 8;

/// A connection nobody has used for so long is closed.
const IDLE_MAX: Duration = Duration::from_mins(5);

/// A peer that is silent is pinged after this, and given up after three times as long. Agreement
/// cannot wait for the system to notice that a host has vanished, so it looks often.
fn ping_after(class: Class) -> Duration {
    match class {
        Class::Raft => Duration::from_millis(500),
        Class::Forward | Class::Snapshot => Duration::from_secs(5),
    }
}

/// Room for what arrives with one read.
pub(super) const READ_BYTES: usize = 32 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    peer: SocketAddr,
    class: Class,
    outbox: Outbox,
    calls: Mutex<Calls>,
    close: CancellationToken,
    born: Instant,
    /// Milliseconds after `born` when the peer was last heard, and when a call last began.
    heard: AtomicU64,
    used: AtomicU64,
}

#[derive(Debug, Default)]
struct Calls {
    /// Reason why there are no more calls.
    ended: Option<String>,
    next: u32,
    waiting: HashMap<u32, Waiting>,
}

/// A waiter for the answer to an id.
#[derive(Debug)]
enum Waiting {
    Answer(oneshot::Sender<Result<Bytes, Error>>),
    /// The number is what the peer may still send: more is a breach of the protocol, and would
    /// fill the memory.
    Parts(mpsc::UnboundedSender<Result<Bytes, Error>>, u32),
}

impl Connection {
    /// Starts the connection's task. It ends with [`Connection::close`], or when the peer does.
    pub(super) fn start(peer: SocketAddr, class: Class, socket: Socket) -> Arc<Connection> {
        let (outbox, queue) = Outbox::new();
        let connection = Arc::new(Connection {
            peer,
            class,
            outbox,
            calls: Mutex::default(),
            close: CancellationToken::new(),
            born: Instant::now(),
            heard: AtomicU64::new(0),
            used: AtomicU64::new(0),
        });
        tokio::spawn(Arc::clone(&connection).run(socket, queue));
        connection
    }

    pub(super) fn is_open(&self) -> bool {
        self.calls().ended.is_none()
    }

    pub(super) fn close(&self) {
        self.close.cancel();
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock()
    }

    fn since_birth(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn unreachable(&self, why: impl Into<String>) -> Error {
        Error::Unreachable { peer: self.peer, why: why.into() }
    }

    fn lost(&self, why: impl Into<String>) -> Error {
        Error::Lost { peer: self.peer, why: why.into() }
    }

    /// Sends a call with one answer. Calls begin at the peer in the order of these.
    pub(super) async fn begin(
        self: &Arc<Self>,
        request: Outgoing,
        deadline: Instant,
    ) -> Result<Pending, Error> {
        let (tell, answer) = oneshot::channel();
        let sent = self.send(request, Some(deadline), Waiting::Answer(tell));
        let place = tokio::time::timeout_at(deadline, sent)
            .await
            .map_err(|_| self.unreachable("the connection is congested"))??;
        Ok(Pending { place, answer, deadline })
    }

    /// Sends a call whose answer comes in parts.
    pub(super) async fn begin_stream(
        self: &Arc<Self>,
        request: Outgoing,
        deadline: Option<Instant>,
    ) -> Result<(CallSlot, mpsc::UnboundedReceiver<Result<Bytes, Error>>), Error> {
        let (tell, parts) = mpsc::unbounded_channel();
        let place = self.send(request, deadline, Waiting::Parts(tell, WINDOW)).await?;
        Ok((place, parts))
    }

    async fn send(
        self: &Arc<Self>,
        request: Outgoing,
        deadline: Option<Instant>,
        waiting: Waiting,
    ) -> Result<CallSlot, Error> {
        let room = self.outbox.room_for(&request).await;
        let room = room.map_err(|_| self.unreachable("the connection has ended"))?;
        let within = deadline.map_or(WITHOUT_LIMIT, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            u32::try_from(left).unwrap_or(WITHOUT_LIMIT - 1).min(WITHOUT_LIMIT - 1)
        });
        self.used.store(self.since_birth(), Ordering::Relaxed);
        let mut calls = self.calls();
        if let Some(why) = &calls.ended {
            return Err(self.unreachable(why));
        }
        let mut id = calls.next;
        while calls.waiting.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        calls.next = id.wrapping_add(1);
        // Queued under the lock: ids and frames are in the same order.
        if self.outbox.push(request.send_as(id, within), room).is_err() {
            return Err(self.unreachable("the connection has ended"));
        }
        calls.waiting.insert(id, waiting);
        drop(calls);
        Ok(CallSlot { connection: Arc::clone(self), id, over: false })
    }

    async fn run(self: Arc<Self>, socket: Socket, mut queue: Queue) {
        let Socket { reader, mut writer } = socket;
        let why = tokio::select! {
            why = self.read(reader) => why,
            written = write_all(&mut queue, &mut writer) => match written {
                Err(error) => format!("cannot write: {error}"),
                Ok(()) => "nobody writes any more".to_owned(),
            },
            why = self.watch() => why,
            why = self.outbox.overflown() => why.to_owned(),
            () = self.close.cancelled() => "the connection was closed on this side".to_owned(),
        };
        tracing::debug!(peer = %self.peer, class = ?self.class, "connection ended: {why}");
        self.outbox.close();
        queue.close();
        let waiting = {
            let mut calls = self.calls();
            calls.ended = Some(why.clone());
            let mut waiting = std::mem::take(&mut calls.waiting);
            drop(calls);
            // What was never taken by the writer cannot have reached the peer.
            while let Ok(Queued(frame, ..)) = queue.try_recv() {
                if let Some(id) = frame.request_id()
                    && let Some(call) = waiting.remove(&id)
                {
                    call.fail(self.unreachable(&why));
                }
            }
            waiting
        };
        for call in waiting.into_values() {
            call.fail(self.lost(&why));
        }
    }

    /// Returns why nothing more can be read.
    async fn read(&self, reader: impl tokio::io::AsyncRead + Unpin) -> String {
        let mut frames = FramedRead::with_capacity(reader, codec(), READ_BYTES);
        while let Some(frame) = frames.next().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return format!("cannot read: {error}"),
            };
            self.heard.store(self.since_birth(), Ordering::Relaxed);
            if !Frame::parse(frame).is_some_and(|frame| self.take(frame)) {
                return "the peer does not keep to the protocol".to_owned();
            }
        }
        "the peer closed the connection".to_owned()
    }

    /// `false`: the peer breaks the protocol.
    fn take(&self, frame: Frame) -> bool {
        let mut calls = self.calls();
        // Whoever gave up does not wait any more: an unknown id means nothing.
        match frame {
            Frame::Answer { id, body } => match calls.waiting.remove(&id) {
                Some(Waiting::Answer(tell)) => {
                    let _ = tell.send(Ok(body));
                }
                Some(Waiting::Parts(..)) => return false,
                None => {}
            },
            Frame::Part { id, body } => match calls.waiting.get_mut(&id) {
                Some(Waiting::Parts(tell, credit)) => {
                    let Some(left) = credit.checked_sub(1) else {
                        return false;
                    };
                    *credit = left;
                    let _ = tell.send(Ok(body));
                }
                Some(Waiting::Answer(_)) => return false,
                None => {}
            },
            Frame::End { id } => {
                calls.waiting.remove(&id);
            }
            Frame::Refused { id, refusal } => {
                if let Some(call) = calls.waiting.remove(&id) {
                    call.fail(Error::Refused { peer: self.peer, refusal });
                }
            }
            // Calls in flight are still answered; new ones find another way.
            Frame::Leaving => {
                calls.ended.get_or_insert_with(|| "the agent goes away".to_owned());
            }
            Frame::Pong | Frame::Unknown => {}
            Frame::Ping => self.outbox.send_small(Outgoing::pong()),
            Frame::Request { .. } | Frame::Cancel { .. } | Frame::Credit { .. } => return false,
        }
        true
    }

    /// Returns why the connection should end.
    async fn watch(&self) -> String {
        let ping_after = ping_after(self.class);
        loop {
            tokio::time::sleep(ping_after).await;
            let now = self.since_birth();
            let since = |moment: &AtomicU64| {
                Duration::from_millis(now.saturating_sub(moment.load(Ordering::Relaxed)))
            };
            let silent = since(&self.heard);
            if silent >= 3 * ping_after {
                return format!("nothing was heard for {silent:?}");
            }
            if since(&self.used) >= IDLE_MAX && self.calls().waiting.is_empty() {
                return "the connection was idle".to_owned();
            }
            if silent >= ping_after / 2 {
                self.outbox.send_small(Outgoing::ping());
            }
        }
    }
}

impl Waiting {
    fn fail(self, error: Error) {
        // Whoever waited may have gone.
        match self {
            Waiting::Answer(tell) => {
                let _ = tell.send(Err(error));
            }
            Waiting::Parts(tell, _) => {
                let _ = tell.send(Err(error));
            }
        }
    }
}

/// A call's place among those that wait; dropping it before the end cancels the call.
#[derive(Debug)]
pub(super) struct CallSlot {
    connection: Arc<Connection>,
    id: u32,
    over: bool,
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        if !self.over && self.connection.calls().waiting.remove(&self.id).is_some() {
            self.connection.outbox.send_small(Outgoing::cancel(self.id));
        }
    }
}

/// A call that was sent and has one answer.
#[derive(Debug)]
pub(super) struct Pending {
    place: CallSlot,
    answer: oneshot::Receiver<Result<Bytes, Error>>,
    deadline: Instant,
}

impl Pending {
    pub(super) async fn answer<A: DeserializeOwned>(mut self) -> Result<A, Error> {
        let answer = tokio::time::timeout_at(self.deadline, &mut self.answer).await;
        let connection = &self.place.connection;
        let body = match answer {
            Ok(Ok(Ok(body))) => body,
            Ok(Ok(Err(error))) => {
                self.place.over = true;
                return Err(error);
            }
            Ok(Err(_)) => return Err(connection.lost("the answer was not awaited")),
            Err(_) => return Err(connection.lost("no answer in time")),
        };
        self.place.over = true;
        decode(connection.peer, &body)
    }
}

fn decode<A: DeserializeOwned>(peer: SocketAddr, body: &[u8]) -> Result<A, Error> {
    rmp_serde::from_slice(body)
        .map_err(|error| Error::Lost { peer, why: format!("the answer is malformed: {error}") })
}

/// An answer in parts. Dropping it cancels the call.
#[derive(Debug)]
pub struct ReplyStream<A> {
    place: CallSlot,
    parts: mpsc::UnboundedReceiver<Result<Bytes, Error>>,
    /// Parts taken since the peer was last given credit.
    taken: u32,
    deadline: Option<Instant>,
    kind: PhantomData<fn() -> A>,
}

impl<A: DeserializeOwned> ReplyStream<A> {
    pub(super) fn new(
        place: CallSlot,
        parts: mpsc::UnboundedReceiver<Result<Bytes, Error>>,
        deadline: Option<Instant>,
    ) -> ReplyStream<A> {
        ReplyStream { place, parts, taken: 0, deadline, kind: PhantomData }
    }

    /// The next part; `None` after the last one. After an error there is no more.
    pub async fn next(&mut self) -> Option<Result<A, Error>> {
        let connection = &self.place.connection;
        let part = match self.deadline {
            None => self.parts.recv().await,
            Some(deadline) => {
                let part = tokio::time::timeout_at(deadline, self.parts.recv()).await;
                part.unwrap_or_else(|_| {
                    self.parts.close();
                    Some(Err(connection.lost("the answer was not complete in time")))
                })
            }
        };
        let body = match part? {
            Ok(body) => body,
            Err(error) => return Some(Err(error)),
        };
        self.taken += 1;
        if self.taken >= WINDOW / 2 {
            self.give_credit();
        }
        Some(decode(self.place.connection.peer, &body))
    }

    fn give_credit(&mut self) {
        let connection = &self.place.connection;
        let mut calls = connection.calls();
        if let Some(Waiting::Parts(_, credit)) = calls.waiting.get_mut(&self.place.id) {
            *credit += self.taken;
            connection.outbox.send_small(Outgoing::credit(self.place.id, self.taken));
        }
        drop(calls);
        self.taken = 0;
    }
}
