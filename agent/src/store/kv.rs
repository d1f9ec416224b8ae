//! Keys, values, locks and the tombstones of deleted keys.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Found, Index, SessionId};

/// One key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Full path, no leading slash of its own.
    pub key: Arc<str>,
    /// Opaque bytes.
    pub value: Bytes,
    /// Opaque number of the user.
    pub flags: u64,
    /// How often the lock was taken.
    pub lock_index: u64,
    /// Who holds the lock.
    pub session: Option<SessionId>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

/// The key-value table.
#[derive(Debug, Clone, Default)]
pub struct Kv {}

impl Kv {
    /// One key. Its index is the key's ModifyIndex, or the table's when it does not exist.
    pub fn get(&self, key: &str) -> Found<Option<Arc<Entry>>> {
        let _ = key;
        todo!("owner: store")
    }
    /// Every entry whose key starts with `prefix`, in byte order.
    pub fn list(&self, prefix: &str) -> Found<Vec<Arc<Entry>>> {
        let _ = prefix;
        todo!("owner: store")
    }
    /// Keys under `prefix`, cut after the first `separator` beyond it (empty: not cut), each once.
    pub fn keys(&self, prefix: &str, separator: &str) -> Found<Vec<Arc<str>>> {
        let _ = (prefix, separator);
        todo!("owner: store")
    }
}
