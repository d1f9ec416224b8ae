//! One kind of rows by key, with the index of the last change.

use std::sync::Arc;

use imbl::OrdMap;

use super::super::Index;
use super::rows::{AuthMethod, BindingRule, Policy, Role, Token};
use crate::store::scope::fold;

/// A row that has a key and indexes.
pub(super) trait Row: Clone {
    /// Its id, or its name if that is its id.
    fn key(&self) -> &str;
    /// The name that has to be unique beside the key.
    fn name(&self) -> Option<&str>;
    fn created(&self) -> Index;
    fn modified(&self) -> Index;
    fn set_indexes(&mut self, created: Index, modified: Index);
}

macro_rules! row {
    ($row:ty, $key:ident, $name:expr) => {
        impl Row for $row {
            fn key(&self) -> &str {
                &self.$key
            }
            fn name(&self) -> Option<&str> {
                let name: fn(&Self) -> Option<&str> = $name;
                name(self)
            }
            fn created(&self) -> Index {
                self.create_index
            }
            fn modified(&self) -> Index {
                self.modify_index
            }
            fn set_indexes(&mut self, created: Index, modified: Index) {
                (self.create_index, self.modify_index) = (created, modified);
            }
        }
    };
}

row!(Token, accessor, |_| None);
row!(Policy, id, |row| Some(&row.name));
row!(Role, id, |row| Some(&row.name));
row!(AuthMethod, name, |_| None);
row!(BindingRule, id, |_| None);

/// Rows by key and by name; both are compared without regard to case.
#[derive(Debug, Clone)]
pub(super) struct Table<R> {
    rows: OrdMap<Arc<str>, Arc<R>>,
    /// Name to key.
    names: OrdMap<Arc<str>, Arc<str>>,
    pub(super) index: Index,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Table { rows: OrdMap::new(), names: OrdMap::new(), index: 0 }
    }
}

impl<R: Row> Table<R> {
    pub(super) fn get(&self, key: &str) -> Option<&Arc<R>> {
        self.rows.get(&*fold(key))
    }

    pub(super) fn named(&self, name: &str) -> Option<&Arc<R>> {
        self.rows.get(self.names.get(&*fold(name))?)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Arc<R>> {
        self.rows.values()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Puts a row; its creation stays that of the row it replaces.
    pub(super) fn set(&mut self, index: Index, mut row: R) -> Arc<R> {
        let created = self.get(row.key()).map_or(index, |old| old.created());
        row.set_indexes(created, index);
        self.index = self.index.max(index);
        self.place(row)
    }

    /// Puts a row as it is.
    pub(super) fn place(&mut self, row: R) -> Arc<R> {
        let key: Arc<str> = fold(row.key()).into();
        if let Some(name) = self.rows.get(&key).and_then(|old| old.name()) {
            self.names.remove(&*fold(name));
        }
        if let Some(name) = row.name() {
            self.names.insert(fold(name).into(), key.clone());
        }
        let row = Arc::new(row);
        self.rows.insert(key, row.clone());
        row
    }

    pub(super) fn remove(&mut self, index: Index, key: &str) -> Option<Arc<R>> {
        let row = self.rows.remove(&*fold(key))?;
        if let Some(name) = row.name() {
            self.names.remove(&*fold(name));
        }
        self.index = self.index.max(index);
        Some(row)
    }

    /// The highest index of its rows and its own.
    pub(super) fn highest(&self) -> Index {
        let rows = self.rows().map(|row| row.created().max(row.modified())).max();
        rows.unwrap_or(0).max(self.index)
    }
}
