//! Judges the indexes of a state that comes from outside: a saved one, or one of another server.

use super::snapshot::Error;
use super::{Index, Store};

/// The highest index that is believed. The log counts from where a state stands, so one near the end of the range
/// would run over it, and whoever waits for the next index would wait for ever.
pub const INDEX_MAX: Index = 1 << 62;

impl Store {
    /// An error if its index is above [`INDEX_MAX`], or below that of one of its rows: a row of the future would never
    /// change in the eyes of whoever waits for it.
    pub fn judge(&self) -> Result<(), Error> {
        // A count of locks goes on from where it stands, too.
        let locks = self.kv.entries().map(|row| row.lock_index).max();
        let told = self.index.max(self.ahead).max(locks.unwrap_or(0));
        if told > INDEX_MAX {
            return Err(Error::Index { index: told, max: INDEX_MAX });
        }
        let own = self.tables().max(self.rows()).unwrap_or(0).max(self.acl.highest());
        if own > self.index {
            return Err(Error::Below { index: self.index, row: own });
        }
        Ok(())
    }

    /// The highest index of a table.
    fn tables(&self) -> Option<Index> {
        let catalog = self.catalog.indexes().all();
        let others = self.kv.indexes().all().into_iter().chain([self.sessions.index()]);
        catalog.into_iter().chain(others).max()
    }

    /// The highest index of a row.
    fn rows(&self) -> Option<Index> {
        let (catalog, kv) = (&self.catalog, &self.kv);
        let nodes = catalog.node_rows().map(|row| row.create_index.max(row.modify_index));
        let checks = catalog.check_rows().map(|row| row.create_index.max(row.modify_index));
        let services = catalog.service_rows().map(|row| row.create_index.max(row.modify_index));
        let names = catalog.service_indexes().map(|(_, index)| *index);
        let keys = kv.entries().map(|row| row.create_index.max(row.modify_index));
        let stones = kv.stones().map(|(_, index)| *index);
        let sessions = self.sessions.rows().map(|row| row.create_index.max(row.modify_index));
        let autopilot = self.autopilot.iter().map(|row| row.create_index.max(row.modify_index));
        let catalog = nodes.chain(checks).chain(services).chain(names);
        catalog.chain(keys).chain(stones).chain(sessions).chain(autopilot).max()
    }
}
