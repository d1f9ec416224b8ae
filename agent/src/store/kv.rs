//! Keys, values, locks and the tombstones of deleted keys.
//!
//! A deleted key leaves a tombstone with the index of its end, so that the index of a prefix
//! never slides back when its newest key goes. The leader has old tombstones reaped; from then on
//! every prefix answers at least with the highest index reaped, which keeps that promise at the
//! price of one early answer to a reader that was far behind.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::scope::ApplyContext;
use super::{Found, Index, Scope, SessionId};

/// One key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Full path, no leading slash of its own.
    pub key: Arc<str>,
    /// Opaque bytes.
    pub value: Bytes,
    /// Opaque number of the user.
    pub flags: u64,
    /// Number of times the lock was taken since the last plain write (which sets it to 0, as the
    /// reference does).
    pub lock_index: u64,
    /// The session that holds the lock.
    pub session: Option<SessionId>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

impl Entry {
    /// The entry by which a transaction describes a key that does not exist.
    pub(super) fn absent(key: &str) -> Entry {
        Entry {
            key: key.into(),
            value: Bytes::new(),
            flags: 0,
            lock_index: 0,
            session: None,
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// The key-value table.
#[derive(Debug, Clone, Default)]
pub struct Kv {
    entries: OrdMap<Arc<str>, Arc<Entry>>,
    /// Deleted keys that do not exist again, with the index of their end.
    tombstones: OrdMap<Arc<str>, Index>,
    /// Locked keys by holder: exactly those whose entry names the session.
    held: OrdSet<(SessionId, Arc<str>)>,
    /// Of the last change of any key.
    index: Index,
    /// Highest index of a tombstone that was reaped: no prefix answers with less.
    reaped: Index,
    /// Nothing answers with less: highest index that clients saw before an older state was
    /// restored.
    floor: Index,
}

/// Effect of a write on the lock of its key.
enum Lock {
    /// The holder stays.
    Keep,
    /// This session holds it from now on, for the n-th time.
    Take(SessionId, u64),
    /// Nobody holds it; taken n times so far.
    Free(u64),
}

/// More deleted keys than this are announced by their common prefix.
const ANNOUNCED_MAX: usize = 256;

impl Kv {
    /// One key. Its index is the key's ModifyIndex, or the table's when it does not exist.
    pub fn get(&self, key: &str) -> Found<Option<Arc<Entry>>> {
        let entry = self.entries.get(key).cloned();
        let (index, key) = match &entry {
            Some(entry) => (entry.modify_index.max(self.floor), entry.key.clone()),
            None => (self.index(), key.into()),
        };
        Found { rows: entry, index, scopes: vec![Scope::Key(key)] }
    }

    /// Every entry whose key starts with `prefix`, in byte order. The index is the newest change
    /// or end of a key under the prefix; the table's if there never was one.
    pub fn list(&self, prefix: &str) -> Found<Vec<Arc<Entry>>> {
        let rows: Vec<_> = self.under(prefix).cloned().collect();
        self.found(prefix, rows)
    }

    /// Keys under `prefix`, cut after the first `separator` beyond it (empty: not cut), each once.
    pub fn keys(&self, prefix: &str, separator: &str) -> Found<Vec<Arc<str>>> {
        let mut rows: Vec<Arc<str>> = Vec::new();
        for entry in self.under(prefix) {
            let cut = match separator {
                "" => None,
                _ => entry.key[prefix.len()..].find(separator),
            };
            match cut {
                None => rows.push(entry.key.clone()),
                Some(at) => {
                    let folder = &entry.key[..prefix.len() + at + separator.len()];
                    if rows.last().is_none_or(|last| &**last != folder) {
                        rows.push(folder.into());
                    }
                }
            }
        }
        self.found(prefix, rows)
    }

    /// Index of the whole table: of the last change of any key.
    pub fn index(&self) -> Index {
        self.index.max(self.floor)
    }

    /// Index of one key: equal to `get(key).index`.
    pub fn key_index(&self, key: &str) -> Index {
        self.entries.get(key).map_or(self.index(), |entry| entry.modify_index.max(self.floor))
    }

    /// Index of a prefix: equal to `list(prefix).index` and `keys(prefix, _).index`. Walks the
    /// keys without collecting them; at once for the empty prefix.
    pub fn list_index(&self, prefix: &str) -> Index {
        if prefix.is_empty() {
            return self.index();
        }
        let entries = self.under(prefix).map(|entry| entry.modify_index).max();
        let stones = from(&self.tombstones, prefix).map(|(_, index)| *index).max();
        match entries.max(stones) {
            Some(index) => index.max(self.reaped).max(self.floor),
            None => self.index(),
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is there no key at all?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of tombstones.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Keys whose lock `session` holds, in byte order.
    pub fn held_by(&self, session: &str) -> Vec<Arc<str>> {
        self.held
            .range::<_, (SessionId, Arc<str>)>((session.into(), "".into())..)
            .take_while(|(holder, _)| &**holder == session)
            .map(|(_, key)| key.clone())
            .collect()
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        from(&self.entries, prefix).map(|(_, entry)| entry)
    }

    fn found<T>(&self, prefix: &str, rows: T) -> Found<T> {
        let index = self.list_index(prefix);
        Found { rows, index, scopes: vec![Scope::Prefix(prefix.into())] }
    }
}

/// Everything in `map` whose key starts with `prefix`.
fn from<'a, V: Clone>(
    map: &'a OrdMap<Arc<str>, V>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a V)> + 'a {
    map.range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

/// Writes. Each returns whether it did what was asked; what it touched is noted in the step.
impl Kv {
    pub(super) fn set(&mut self, context: &mut ApplyContext, key: &str, value: &[u8], flags: u64) {
        self.put(context, key, value, flags, Lock::Keep);
    }

    /// `expected` 0 means: must not exist.
    pub(super) fn cas(
        &mut self,
        context: &mut ApplyContext,
        key: &str,
        value: &[u8],
        flags: u64,
        expected: Index,
    ) -> bool {
        let current = self.entries.get(key).map_or(0, |entry| entry.modify_index);
        if current != expected {
            return false;
        }
        self.put(context, key, value, flags, Lock::Keep);
        true
    }

    /// Takes the lock for a session that the caller has found to be alive.
    pub(super) fn lock(
        &mut self,
        context: &mut ApplyContext,
        key: &str,
        value: &[u8],
        flags: u64,
        session: &SessionId,
    ) -> bool {
        let count = match self.entries.get(key) {
            None => 1,
            Some(entry) => match &entry.session {
                None => entry.lock_index + 1,
                Some(holder) if holder == session => entry.lock_index,
                Some(_) => return false,
            },
        };
        self.put(context, key, value, flags, Lock::Take(session.clone(), count));
        true
    }

    pub(super) fn unlock(
        &mut self,
        context: &mut ApplyContext,
        key: &str,
        value: &[u8],
        flags: u64,
        session: &str,
    ) -> bool {
        match self.entries.get(key) {
            Some(entry) if entry.session.as_deref() == Some(session) => {
                let count = entry.lock_index;
                self.put(context, key, value, flags, Lock::Free(count));
                true
            }
            _ => false,
        }
    }

    /// Takes the lock away from whoever holds it; value and flags stay.
    pub(super) fn release(&mut self, context: &mut ApplyContext, key: &str) {
        if let Some(entry) = self.entries.get(key).cloned() {
            self.put(context, key, &entry.value, entry.flags, Lock::Free(entry.lock_index));
        }
    }

    pub(super) fn delete(&mut self, context: &mut ApplyContext, key: &str) {
        if let Some(key) = self.remove(context.index, key) {
            context.touch(Scope::Key(key));
        }
    }

    /// `true` also for a key that does not exist, as in the reference.
    pub(super) fn delete_cas(
        &mut self,
        context: &mut ApplyContext,
        key: &str,
        expected: Index,
    ) -> bool {
        match self.entries.get(key) {
            None => true,
            Some(entry) if entry.modify_index == expected => {
                self.delete(context, key);
                true
            }
            Some(_) => false,
        }
    }

    pub(super) fn delete_tree(&mut self, context: &mut ApplyContext, prefix: &str) {
        let keys: Vec<Arc<str>> = self.under(prefix).map(|entry| entry.key.clone()).collect();
        if keys.len() > ANNOUNCED_MAX {
            context.touch(Scope::Prefix(prefix.into()));
        }
        for key in &keys {
            self.remove(context.index, key);
            if keys.len() <= ANNOUNCED_MAX {
                context.touch(Scope::Key(key.clone()));
            }
        }
    }

    pub(super) fn reap(&mut self, up_to: Index) {
        let old: Vec<(Arc<str>, Index)> = self
            .tombstones
            .iter()
            .filter(|(_, index)| **index <= up_to)
            .map(|(key, index)| (key.clone(), *index))
            .collect();
        for (key, index) in old {
            self.tombstones.remove(&key);
            self.reaped = self.reaped.max(index);
        }
    }

    pub(super) fn raise(&mut self, floor: Index) {
        self.floor = self.floor.max(floor);
    }

    fn put(&mut self, context: &mut ApplyContext, key: &str, value: &[u8], flags: u64, lock: Lock) {
        let old = self.entries.get(key).cloned();
        let (session, lock_index) = match lock {
            Lock::Keep => (old.as_ref().and_then(|entry| entry.session.clone()), 0),
            Lock::Take(session, count) => (Some(session), count),
            Lock::Free(count) => (None, count),
        };
        if let Some(old) = &old
            && *old.value == *value
            && old.flags == flags
            && old.session == session
            && old.lock_index == lock_index
        {
            return;
        }
        let key = old.as_ref().map_or_else(|| key.into(), |entry| entry.key.clone());
        let value = match &old {
            Some(entry) if *entry.value == *value => entry.value.clone(),
            // A copy of its own: what came may be a slice of a large buffer, kept alive by it.
            _ => Bytes::copy_from_slice(value),
        };
        let entry = Arc::new(Entry {
            key: key.clone(),
            value,
            flags,
            lock_index,
            session,
            create_index: old.as_ref().map_or(context.index, |entry| entry.create_index),
            modify_index: context.index,
        });
        if let Some(holder) = old.as_ref().and_then(|entry| entry.session.clone())
            && entry.session.as_ref() != Some(&holder)
        {
            self.held.remove(&(holder, key.clone()));
        }
        self.index = self.index.max(context.index);
        context.touch(Scope::Key(key));
        self.place(entry);
    }

    /// Puts a row as it is. A living key needs no tombstone: its own index is newer.
    fn place(&mut self, entry: Arc<Entry>) {
        if let Some(holder) = &entry.session {
            self.held.insert((holder.clone(), entry.key.clone()));
        }
        if !self.tombstones.is_empty() {
            self.tombstones.remove(&entry.key);
        }
        self.entries.insert(entry.key.clone(), entry);
    }

    fn remove(&mut self, index: Index, key: &str) -> Option<Arc<str>> {
        let entry = self.entries.remove(key)?;
        let key = entry.key.clone();
        if let Some(holder) = &entry.session {
            self.held.remove(&(holder.clone(), key.clone()));
        }
        self.tombstones.insert(key.clone(), index);
        self.index = self.index.max(index);
        Some(key)
    }
}

/// Indexes of the table that its rows do not tell, as a snapshot keeps them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct KvIndexes {
    index: Index,
    reaped: Index,
    floor: Index,
}

impl KvIndexes {
    /// All of them.
    pub(super) fn all(&self) -> [Index; 3] {
        [self.index, self.reaped, self.floor]
    }
}

/// Rows for snapshots.
impl Kv {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    pub(super) fn stones(&self) -> impl Iterator<Item = (&Arc<str>, &Index)> {
        self.tombstones.iter()
    }

    pub(super) fn indexes(&self) -> KvIndexes {
        KvIndexes { index: self.index, reaped: self.reaped, floor: self.floor }
    }

    pub(super) fn restore_entry(&mut self, entry: Entry) {
        self.place(Arc::new(entry));
    }

    pub(super) fn restore_tombstone(&mut self, key: Arc<str>, index: Index) {
        self.tombstones.insert(key, index);
    }

    pub(super) fn restore_indexes(&mut self, indexes: &KvIndexes) {
        self.index = indexes.index;
        self.reaped = indexes.reaped;
        self.floor = indexes.floor;
    }
}
