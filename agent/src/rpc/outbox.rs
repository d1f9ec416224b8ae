//! What is to be written on a connection.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::frame::Outgoing;

/// Bytes that wait to be written on one connection, at most: two of the largest frames. Who has
/// more to send waits.
const QUEUED_KIB_MAX: usize = 32 << 10;

/// Frames are gathered up to this many bytes and written at once.
const GATHERED_BYTES: usize = 64 << 10;

/// Frames taken from the queue at once.
const GATHERED_FRAMES: usize = 256;

/// The queue before the writer. It has no length: its bytes are bounded instead, and the few
/// frames that do not wait for room (cancellations, pings, credit) are bounded by the calls.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
}

/// A frame with the room it takes.
#[derive(Debug)]
pub(super) struct Queued(pub(super) Outgoing, pub(super) Option<OwnedSemaphorePermit>);

/// The other end of an [`Outbox`].
pub(super) type Queue = mpsc::UnboundedReceiver<Queued>;

/// The connection has ended.
#[derive(Debug)]
pub(super) struct Closed;

impl Outbox {
    pub(super) fn new() -> (Outbox, Queue) {
        let (queue, frames) = mpsc::unbounded_channel();
        (Outbox { queue, room: Arc::new(Semaphore::new(QUEUED_KIB_MAX)) }, frames)
    }

    /// Waits for room.
    pub(super) async fn room_for(&self, frame: &Outgoing) -> Result<OwnedSemaphorePermit, Closed> {
        let kib = u32::try_from(frame.bytes().len() / 1024 + 1).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| Closed)
    }

    /// Queues a frame that has room.
    pub(super) fn push(&self, frame: Outgoing, room: OwnedSemaphorePermit) -> Result<(), Closed> {
        self.queue.send(Queued(frame, Some(room))).map_err(|_| Closed)
    }

    /// Waits for room and queues.
    pub(super) async fn send(&self, frame: Outgoing) -> Result<(), Closed> {
        let room = self.room_for(&frame).await?;
        self.push(frame, room)
    }

    /// Queues one of the small frames that are bounded otherwise. A closed connection needs none.
    pub(super) fn send_small(&self, frame: Outgoing) {
        let _ = self.queue.send(Queued(frame, None));
    }

    /// Whoever waits for room waits in vain.
    pub(super) fn close(&self) {
        self.room.close();
    }
}

/// Writes until the queue ends or the connection breaks: all that is queued with one write, since
/// a write costs more than what it carries.
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
                socket.write_all(frame.bytes()).await?;
            } else {
                gathered.extend_from_slice(frame.bytes());
                if gathered.len() >= GATHERED_BYTES {
                    write_gathered(&mut gathered, socket).await?;
                }
            }
            drop(room);
        }
        write_gathered(&mut gathered, socket).await?;
        socket.flush().await?;
    }
    Ok(())
}

async fn write_gathered(
    gathered: &mut Vec<u8>,
    socket: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    if !gathered.is_empty() {
        socket.write_all(gathered).await?;
        gathered.clear();
    }
    Ok(())
}
