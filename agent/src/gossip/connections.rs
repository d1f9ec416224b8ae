//! Connections of others: their number, and how much memory they take.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::net::{
    ConnectionLimiter, ConnectionLimits, ConnectionPermit, Familiarity, FullSource, Source,
};

/// One address may have this part of all connections.
const PER_ADDRESS: usize = 4;
/// Bytes of questions and answers under way at once, of all connections together.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes are counted by this many.
pub(super) const UNIT: usize = 64 * 1024;
/// Long questions and answers that are read at once: what is read takes several times what came.
const READ_AT_ONCE: usize = 2;

/// All of one pool.
#[derive(Debug)]
pub(super) struct Connections {
    limiter: Arc<ConnectionLimiter>,
    bytes: Arc<Semaphore>,
    turns: Semaphore,
}

impl Connections {
    /// At most `max` connections.
    pub(super) fn new(max: usize) -> Connections {
        let total = max.max(PER_ADDRESS);
        Connections {
            limiter: Arc::new(ConnectionLimiter::new(ConnectionLimits {
                total,
                unknown: total,
                per_source: (total / PER_ADDRESS).max(1),
                full_source: FullSource::CloseIdle,
            })),
            bytes: Arc::new(Semaphore::new(BYTES_MAX / UNIT)),
            turns: Semaphore::new(READ_AT_ONCE),
        }
    }

    /// A permit for a connection that came just now; `None` if there are too many and none is idle. Nobody is known:
    /// newcomers come this way.
    pub(super) fn admit(&self, from: IpAddr, now: Instant) -> Option<ConnectionPermit> {
        self.limiter.admit(Source::new(from, Familiarity::Unknown), now).ok()
    }

    /// Waits until so many bytes more may be under way.
    pub(super) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = bytes.div_ceil(UNIT).min(BYTES_MAX / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).acquire_many_owned(units).await;
        permit.expect("the semaphore is never closed")
    }

    /// Waits until another long question or answer may be read.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("the semaphore is never closed")
    }
}
