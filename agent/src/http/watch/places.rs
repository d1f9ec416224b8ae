//! Limit on queries that are followed on shared streams, for each client and in total.
//!
//! Each costs about as much memory as a blocking query that waits, without a connection whose number would bound it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::error::Error;

/// Questions of one source address.
const CLIENT_MAX: usize = 65_536;
/// Questions of all together.
const TOTAL_MAX: usize = 262_144;

/// Counts of followed queries.
#[derive(Debug, Default)]
pub(in super::super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// Those who come by a Unix socket count as one.
    by_client: HashMap<Option<IpAddr>, usize>,
    total: usize,
}

/// The right to follow some questions, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: Option<IpAddr>,
    count: usize,
}

impl Places {
    /// Takes places for `count` questions of a client.
    pub(super) fn enter(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        count: usize,
    ) -> Result<Place, Error> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        let (of, followed, max) = if own + count > CLIENT_MAX {
            ("this client", own, CLIENT_MAX)
        } else {
            ("all clients", taken.total, TOTAL_MAX)
        };
        if followed + count > max {
            return Err(Error::Busy(format!(
                "`{followed}` questions of {of} are followed already, `{count}` more are above {max}: \
                 end other streams first"
            )));
        }
        taken.by_client.insert(client, own + count);
        taken.total += count;
        drop(taken);
        Ok(Place { places: Arc::clone(self), client, count })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= self.count;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own -= self.count;
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_for_each_client_and_in_total() {
        let places = Arc::new(Places::default());
        let client = |number: u8| Some(IpAddr::from([10, 0, 0, number]));
        let first = places.enter(client(1), CLIENT_MAX).expect("there is room");
        let error = places.enter(client(1), 1).expect_err("its number is used up");
        assert_eq!(error.status(), http::StatusCode::TOO_MANY_REQUESTS);
        assert!(error.to_string().contains("this client"), "{error}");
        let others: Vec<_> =
            (2..5).map(|number| places.enter(client(number), CLIENT_MAX).expect("room")).collect();
        let error = places.enter(None, 1).expect_err("all are used up");
        assert!(error.to_string().contains("all clients"), "{error}");
        drop(first);
        places.enter(None, 1).expect("there is room again");
        drop(others);
        let taken = places.0.lock().expect("nobody panicked");
        assert!(taken.total == 0 && taken.by_client.is_empty());
    }
}
