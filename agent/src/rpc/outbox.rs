//! Queue of frames to write on a connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Class;
use super::frame::Outgoing;
use super::quota::{Entered, Held};

/// Bytes that wait to be written on one connection, at most: two of the largest frames. Who has
/// more to send waits.
const QUEUED_KIB_MAX: usize = 32 << 10;

/// Bytes of frames that do not wait for room. A peer that reads never has so many of them before it: one that lets
/// them pile up is given up.
const SMALL_BYTES_MAX: usize = 1 << 20;

/// Approximate size of a small frame beside its bytes: its entry in the queue and the allocator's share.
const SMALL_OVERHEAD: usize = 96;

/// Answers of one connection that are encoded and wait for room. The others wait before they are encoded, since most
/// of them share what they are made of.
const ENCODED_MAX: usize = 8;

/// Frames are gathered up to this many bytes and written at once.
const GATHERED_BYTES: usize = 64 << 10;

/// Frames taken from the queue at once.
const GATHERED_FRAMES: usize = 256;

/// A peer must take this many bytes, [`GATHERED_BYTES`], within so long. One that has stopped is pinged and given up
/// sooner by whoever waits for it; this bounds what is held for one that reads nothing, or next to nothing.
const WRITE_MAX: Duration = Duration::from_secs(20);

/// The queue before the writer. It has no length: its bytes are bounded instead. A few frames do not wait for room
/// (refusals, cancellations, pings, credit); when these pile up, the peer does not read, and the connection ends.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    small: Arc<AtomicUsize>,
    turns: Arc<Semaphore>,
    overflown: CancellationToken,
    class: Class,
    /// Counter of the peer's share, if it has one.
    client: Option<Arc<Entered>>,
}

/// A frame with the room it takes.
#[derive(Debug)]
pub(super) struct Queued(pub(super) Outgoing, pub(super) Room);

/// Room in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _own: Option<OwnedSemaphorePermit>,
    _share: Option<Held>,
    _small: Option<SmallRoom>,
}

#[derive(Debug)]
struct SmallRoom {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for SmallRoom {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The other end of an [`Outbox`].
pub(super) type Queue = mpsc::UnboundedReceiver<Queued>;

/// Leave to encode an answer; kept until it is queued.
#[derive(Debug)]
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _share: Option<Held>,
}

/// The connection has ended.
#[derive(Debug)]
pub(super) struct Closed;

impl Outbox {
    /// Of a connection that this agent made.
    pub(super) fn new() -> (Outbox, Queue) {
        Outbox::of(Class::Forward, None)
    }

    /// Of one that an agent made which has a share of what is held.
    pub(super) fn of(class: Class, client: Option<Arc<Entered>>) -> (Outbox, Queue) {
        let (queue, frames) = mpsc::unbounded_channel();
        let outbox = Outbox {
            queue,
            room: Arc::new(Semaphore::new(QUEUED_KIB_MAX)),
            small: Arc::default(),
            turns: Arc::new(Semaphore::new(ENCODED_MAX)),
            overflown: CancellationToken::new(),
            class,
            client,
        };
        (outbox, frames)
    }

    /// Waits until an answer may be encoded.
    pub(super) async fn turn(&self) -> Result<Turn, Closed> {
        let own = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Closed)?;
        let share = match &self.client {
            // Answers to servers about agreement are small, and must not wait for those of others.
            Some(client) if self.class == Class::Forward => client.turn().await,
            _ => None,
        };
        Ok(Turn { _own: own, _share: share })
    }

    /// Waits for room.
    pub(super) async fn room_for(&self, frame: &Outgoing) -> Result<Room, Closed> {
        let bytes = frame.bytes().len();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let own = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| Closed)?;
        let share = match &self.client {
            None => None,
            Some(client) => client.leaving(bytes).await,
        };
        Ok(Room { _own: Some(own), _share: share, _small: None })
    }

    /// Queues a frame that has room.
    pub(super) fn push(&self, frame: Outgoing, room: Room) -> Result<(), Closed> {
        self.queue.send(Queued(frame, room)).map_err(|_| Closed)
    }

    /// Waits for room and queues.
    pub(super) async fn send(&self, frame: Outgoing) -> Result<(), Closed> {
        let room = self.room_for(&frame).await?;
        self.push(frame, room)
    }

    /// Queues one of the small frames that wait for nothing. A closed connection needs none.
    pub(super) fn send_small(&self, frame: Outgoing) {
        let bytes = frame.bytes().len() + SMALL_OVERHEAD;
        let before = self.small.fetch_add(bytes, Ordering::Relaxed);
        let small = SmallRoom { taken: Arc::clone(&self.small), bytes };
        if before + bytes > SMALL_BYTES_MAX {
            self.overflown.cancel();
            return;
        }
        let room = Room { _own: None, _share: None, _small: Some(small) };
        let _ = self.queue.send(Queued(frame, room));
    }

    /// Resolves when the peer lets small frames pile up; the connection should end.
    pub(super) async fn overflown(&self) -> &'static str {
        self.overflown.cancelled().await;
        "the peer does not read its answers"
    }

    /// Waiters are never woken after this: what has ended takes no frame.
    pub(super) fn close(&self) {
        self.room.close();
        self.turns.close();
    }
}

/// Writes until the queue ends or the connection breaks: all that is queued with one write, since
/// a write costs more than what it carries. A peer that does not read is an error after [`WRITE_MAX`].
pub(super) async fn write_all(
    queue: &mut Queue,
    socket: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut frames = Vec::with_capacity(GATHERED_FRAMES);
    let mut gathered = Vec::with_capacity(GATHERED_BYTES);
    while queue.recv_many(&mut frames, GATHERED_FRAMES).await > 0 {
        for Queued(frame, room) in frames.drain(..) {
            if frame.bytes().len() > GATHERED_BYTES {
                write_gathered(&mut gathered, socket).await?;
                for piece in frame.bytes().chunks(GATHERED_BYTES) {
                    in_time(socket.write_all(piece)).await?;
                }
            } else {
                gathered.extend_from_slice(frame.bytes());
                if gathered.len() >= GATHERED_BYTES {
                    write_gathered(&mut gathered, socket).await?;
                }
            }
            drop(room);
        }
        write_gathered(&mut gathered, socket).await?;
        in_time(socket.flush()).await?;
    }
    Ok(())
}

async fn write_gathered(
    gathered: &mut Vec<u8>,
    socket: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    if !gathered.is_empty() {
        in_time(socket.write_all(gathered)).await?;
        gathered.clear();
    }
    Ok(())
}

async fn in_time(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(WRITE_MAX, write).await.unwrap_or_else(|_| {
        let text = format!("the peer has not read for {WRITE_MAX:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}
