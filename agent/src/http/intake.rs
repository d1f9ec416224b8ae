//! The memory that bodies of requests may take together while they come in and are worked on.
//!
//! What most requests bring is free: it is bounded by the number of connections. Whoever brings more waits a moment for
//! room, and is refused when there is none. One client never has more than half of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::error::Error;

/// Bytes of all bodies together, beyond what is free.
const BYTES_MAX: usize = 64 << 20;
/// Of these, bytes of one client's.
const CLIENT_BYTES_MAX: usize = BYTES_MAX / 2;
/// Bytes of each body that are not counted.
pub(super) const FREE_BYTES: usize = 64 << 10;
/// Longer than any body takes that moves, unless there are very many.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// Memory that bodies take now.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Time that a body waits for memory.
    room_wait: Duration,
    held: Mutex<Held>,
    freed: Notify,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake { room_wait: ROOM_WAIT, held: Mutex::default(), freed: Notify::new() }
    }
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    /// All users of a Unix socket count as one client.
    clients: HashMap<Option<IpAddr>, usize>,
}

impl Intake {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_take(&self, client: Option<IpAddr>, bytes: usize) -> bool {
        let mut held = self.held();
        let own = held.clients.get(&client).copied().unwrap_or(0);
        let fits = held.total + bytes <= BYTES_MAX && own + bytes <= CLIENT_BYTES_MAX;
        if fits {
            held.total += bytes;
            held.clients.insert(client, own + bytes);
        }
        fits
    }

    fn give_back(&self, client: Option<IpAddr>, bytes: usize) {
        let mut held = self.held();
        held.total -= bytes;
        if let Some(own) = held.clients.get_mut(&client) {
            *own -= bytes;
            if *own == 0 {
                held.clients.remove(&client);
            }
        }
        drop(held);
        self.freed.notify_waiters();
    }
}

/// Share of one body; given back on drop.
pub(super) struct Share {
    intake: Arc<Intake>,
    client: Option<IpAddr>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub(super) fn new(intake: Arc<Intake>, client: Option<IpAddr>) -> Share {
        Share { intake, client, bytes: 0 }
    }

    /// Makes this a share for a body of so many bytes. Waits for room, but not for long.
    pub(super) async fn grow(&mut self, body_bytes: usize) -> Result<(), Error> {
        let more = body_bytes.saturating_sub(FREE_BYTES).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let room = async {
            loop {
                let mut freed = std::pin::pin!(self.intake.freed.notified());
                // From here on nothing that is given back is missed.
                freed.as_mut().enable();
                if self.intake.try_take(self.client, more) {
                    return;
                }
                freed.await;
            }
        };
        if tokio::time::timeout(self.intake.room_wait, room).await.is_err() {
            return Err(Error::Taken {
                text: "too many large request bodies are under way",
                retry_after: ROOM_WAIT,
            });
        }
        self.bytes += more;
        Ok(())
    }

    /// The body, which has its share for as long as somebody holds it.
    pub(super) fn bytes(self, body: Bytes) -> Bytes {
        if self.bytes == 0 {
            return body;
        }
        Bytes::from_owner(Kept { body, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.intake.give_back(self.client, self.bytes);
        }
    }
}

/// Bytes and their share.
struct Kept {
    body: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_client_never_has_it_all_and_everything_is_given_back() {
        const BODY: usize = 8 << 20;
        let intake = Arc::new(Intake { room_wait: Duration::from_millis(50), ..Intake::default() });
        let client = |last| Some(IpAddr::from([10, 0, 0, last]));
        let share = async |last| {
            let mut share = Share::new(Arc::clone(&intake), client(last));
            share.grow(BODY).await.map(|()| share)
        };
        let mut first = Vec::new();
        while let Ok(share) = share(1).await {
            first.push(share.bytes(Bytes::from_static(b"x")));
        }
        assert_eq!(first.len(), CLIENT_BYTES_MAX / (BODY - FREE_BYTES));
        // Others still have room, until all of it is taken; small bodies always do.
        let mut second = Vec::new();
        while let Ok(share) = share(2).await {
            second.push(share);
        }
        assert!(second.len() >= 3, "{}", second.len());
        assert!(Share::new(Arc::clone(&intake), client(1)).grow(FREE_BYTES).await.is_ok());
        // Who waits gets what is given back.
        let (late, ()) = tokio::join!(share(1), async { drop(first.pop()) });
        assert!(late.is_ok());
        drop((first, second, late));
        let held = intake.held();
        assert_eq!((held.total, held.clients.len()), (0, 0));
    }
}
