//! Locks over sessions: a bounded number of holders, who learn in time that they hold no longer.
//!
//! The protocols are the ones of the reference's own clients, so that both can compete: the holder
//! of a lock has its session on the key ([`LOCK_FLAGS`]); the holders of a semaphore are listed in
//! a key that is changed by compare-and-set ([`SEMAPHORE_FLAGS`]).
//!
//! A session lives as long as it is renewed; when its holder dies or is cut off, the servers end it
//! between one and two lifetimes later. The holder gives up earlier: once it could not renew for
//! one lifetime, [`Held::lost`] tells, before anybody else can be granted the lock.
//!
//! A lock guards what its holder does only as far as the holder looks at `lost`. Where that is not
//! enough, send [`Held::fence`] along: it grows with every holder, so that the guarded thing can
//! refuse whoever comes too late.

mod exclusive;
mod held;
mod semaphore;

use std::time::Duration;

use bytes::Bytes;

use crate::{Consistency, Error, ReadOptions};

pub use held::Held;

/// The flags of a key that is a lock: a number that the clients of the API have agreed on.
pub const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;
/// The same for the keys of a semaphore.
pub const SEMAPHORE_FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

/// How long one look at a key waits for a change.
const WAIT: Duration = Duration::from_secs(15);
/// Pause after a refusal, for example while the lock-delay of the last holder passes.
const RETRY: Duration = Duration::from_secs(1);

/// What to lock and how.
#[derive(Debug, Clone)]
pub struct LockSettings {
    /// The key; of a semaphore, the prefix of its keys.
    pub key: String,
    /// Written by the holder, for others to read.
    pub value: Bytes,
    /// Name of the session, for people.
    pub session_name: String,
    /// Lifetime of the session: 10 s to a day. Shorter ones find a dead holder sooner.
    pub ttl: Duration,
    /// Give up when it is not ours after this; `None` waits for ever.
    pub patience: Option<Duration>,
}

impl LockSettings {
    /// A lock on a key with a lifetime of 15 s.
    pub fn new(key: impl Into<String>) -> LockSettings {
        let key = key.into();
        LockSettings {
            session_name: format!("Lock on {key}"),
            key,
            value: Bytes::new(),
            ttl: Duration::from_secs(15),
            patience: None,
        }
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The agent failed or refused.
    #[error("cannot take the lock on `{key}`")]
    Api {
        /// The key.
        key: String,
        /// What happened.
        #[source]
        source: Error,
    },
    /// Somebody uses the key for something else.
    #[error("another program uses `{key}`: it is not a lock of this kind")]
    NotALock {
        /// The key.
        key: String,
    },
    /// Others compete for another number of holders.
    #[error("`{key}` is for {theirs} holders, not for {ours}")]
    OtherLimit {
        /// The key.
        key: String,
        /// What others ask for.
        theirs: u32,
        /// What this call asks for.
        ours: u32,
    },
    /// The patience is over.
    #[error("the lock on `{key}` was not free in time")]
    NotInTime {
        /// The key.
        key: String,
    },
    /// The session ended while the lock was waited for.
    #[error("the session ended before the lock on `{key}` was free")]
    SessionLost {
        /// The key.
        key: String,
    },
}

/// How to look at a key: as a majority sees it, waiting for changes where there is an index.
fn look(index: Option<u64>) -> ReadOptions {
    ReadOptions {
        index,
        wait: Some(WAIT),
        consistency: Consistency::Consistent,
        ..ReadOptions::default()
    }
}

/// The index to wait on next. One that went back comes from another history: look again at once.
fn follow(old: Option<u64>, new: u64) -> Option<u64> {
    Some(new).filter(|new| old.is_none_or(|old| *new >= old))
}
