//! Answers of servers, kept by an agent without a catalog for as long as an operator allows
//! (`dns_config.use_cache`), and a little longer while no server can be reached.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::dns::lookup::{Lookup, Rows};
use crate::dns::settings::Settings;

/// Look-ups that are kept. A full table is emptied: what is asked for often is back at once.
const KEPT_MAX: usize = 1024;
/// Bytes of their rows, of all together.
const BYTES_MAX: usize = 32 << 20;
/// Without a bound of the operator's own.
const AGE_DEFAULT: Duration = Duration::from_secs(1);

/// Rows by look-up, with the time they came.
#[derive(Debug, Default)]
pub(super) struct StaleCache {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<Lookup, (Instant, Rows)>,
    bytes: usize,
}

impl Table {
    fn remove(&mut self, lookup: &Lookup) {
        if let Some((lookup, (_, rows))) = self.rows.remove_entry(lookup) {
            self.bytes -= lookup.bytes() + rows.bytes();
        }
    }
}

impl StaleCache {
    /// Rows that are young enough.
    pub(super) fn fresh(&self, lookup: &Lookup, settings: &Settings) -> Option<Rows> {
        let bound = settings.cache_max_age;
        self.younger_than(lookup, if bound.is_zero() { AGE_DEFAULT } else { bound }, settings)
    }

    /// Rows for want of a server: as old as an answer may be at all.
    pub(super) fn last_resort(&self, lookup: &Lookup, settings: &Settings) -> Option<Rows> {
        let may = settings.allow_stale;
        may.then(|| self.younger_than(lookup, settings.max_stale, settings)).flatten()
    }

    fn younger_than(&self, lookup: &Lookup, age: Duration, settings: &Settings) -> Option<Rows> {
        if !settings.use_cache {
            return None;
        }
        let table = self.table.lock();
        let (came, rows) = table.rows.get(lookup)?;
        (came.elapsed() <= age).then(|| rows.clone())
    }

    /// Keeps what a server told. That a name is absent is not kept: names could be invented.
    pub(super) fn put(&self, lookup: &Lookup, rows: &Rows, settings: &Settings) {
        let mut table = self.table.lock();
        table.remove(lookup);
        let bytes = lookup.bytes() + rows.bytes();
        if rows.is_absent() || !settings.use_cache || bytes > BYTES_MAX {
            return;
        }
        if table.rows.len() >= KEPT_MAX || table.bytes + bytes > BYTES_MAX {
            *table = Table::default();
        }
        table.bytes += bytes;
        table.rows.insert(lookup.clone(), (Instant::now(), rows.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_told_is_kept_where_that_is_wanted() {
        let lookup = Lookup::Service { name: "web".into(), tag: None };
        let rows = Rows::Owner(Some(super::super::OwnerRow::Node("n1".into())));
        let off = Settings::default();
        let on = Settings { use_cache: true, ..Settings::default() };
        let kept = StaleCache::default();
        kept.put(&lookup, &rows, &off);
        assert_eq!(kept.fresh(&lookup, &on), None);
        kept.put(&lookup, &rows, &on);
        assert_eq!(kept.fresh(&lookup, &on).as_ref(), Some(&rows));
        assert_eq!(kept.fresh(&lookup, &off), None);
        assert_eq!(kept.last_resort(&lookup, &on).as_ref(), Some(&rows));
        let strict = Settings { allow_stale: false, ..on.clone() };
        assert_eq!(kept.last_resort(&lookup, &strict), None);
        kept.put(&lookup, &Rows::Owner(None), &on);
        assert_eq!(kept.last_resort(&lookup, &on), None);
    }
    #[test]
    fn every_byte_of_what_is_kept_counts() {
        let settings = Settings { use_cache: true, ..Settings::default() };
        let kept = StaleCache::default();
        for n in 0..3000 {
            let lookup = Lookup::Service { name: format!("web{}", n % 700), tag: None };
            let row = Rows::Owner(Some(super::super::OwnerRow::Node("x".repeat(100_000).into())));
            kept.put(&lookup, &row, &settings);
            let table = kept.table.lock();
            let held: usize =
                table.rows.iter().map(|(key, (_, rows))| key.bytes() + rows.bytes()).sum();
            assert_eq!(held, table.bytes);
            assert!(held <= BYTES_MAX);
        }
    }
}
