//! Rate limits of one client, and of all of them together. A reload changes the numbers while
//! connections stay open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// Burst, in seconds' worth of requests.
const BURST_SECONDS: f64 = 10.0;

/// Paths that an operator needs when all else is too much.
const EXEMPT: [&str; 3] = ["/v1/agent/", "/v1/status/", "/v1/operator/"];

/// Rates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    /// Treatment of requests above the rates.
    pub mode: Mode,
    /// Reads in a second; `None` is no limit.
    pub reads: Option<f64>,
    /// Writes in a second; `None` is no limit.
    pub writes: Option<f64>,
}

/// Treatment of a request above the rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is counted.
    #[default]
    Disabled,
    /// It is answered, and the log says that it was one too many.
    Permissive,
    /// It is refused.
    Enforcing,
}

/// The handle that a reload turns. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    connections_per_client: AtomicUsize,
    rates: ArcSwap<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    rates: Rates,
    reads: Mutex<Bucket>,
    writes: Mutex<Bucket>,
}

/// Tokens that requests take and time brings back.
#[derive(Debug, Default)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
    /// When the log last spoke of this.
    said: Option<Instant>,
}

/// One request too many: when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany {
    pub(super) retry_after: Duration,
}

impl Limits {
    /// Limits as configured.
    pub fn new(connections_per_client: usize, rates: Rates) -> Limits {
        let limits = Limits::default();
        limits.set(connections_per_client, rates);
        limits
    }

    /// From now on these hold. Equal rates keep what they have counted.
    pub fn set(&self, connections_per_client: usize, rates: Rates) {
        self.inner.connections_per_client.store(connections_per_client, Ordering::Relaxed);
        if self.inner.rates.load().rates != rates {
            self.inner.rates.store(Arc::new(Buckets { rates, ..Buckets::default() }));
        }
    }

    /// Open connections of one source address; 0 is no limit.
    pub(super) fn connections_per_client(&self) -> usize {
        self.inner.connections_per_client.load(Ordering::Relaxed)
    }

    /// Counts a request.
    pub(super) fn admit(&self, path: &str, reads: bool) -> Result<(), TooMany> {
        let buckets = self.inner.rates.load();
        if buckets.rates.mode == Mode::Disabled || EXEMPT.iter().any(|it| path.starts_with(it)) {
            return Ok(());
        }
        let (rate, bucket) = if reads {
            (buckets.rates.reads, &buckets.reads)
        } else {
            (buckets.rates.writes, &buckets.writes)
        };
        let Some(rate) = rate else { return Ok(()) };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let Err(too_many) = bucket.take(rate, now) else { return Ok(()) };
        if bucket.said.is_none_or(|said| now.saturating_duration_since(said).as_secs() >= 1) {
            bucket.said = Some(now);
            let refused = buckets.rates.mode == Mode::Enforcing;
            tracing::warn!(rate, reads, refused, "more requests than limits.request_limits allows");
        }
        if buckets.rates.mode == Mode::Enforcing { Err(too_many) } else { Ok(()) }
    }
}

impl Bucket {
    fn take(&mut self, rate: f64, now: Instant) -> Result<(), TooMany> {
        let full = (rate * BURST_SECONDS).max(1.0);
        self.tokens = match self.filled {
            None => full,
            Some(filled) => {
                let passed = now.saturating_duration_since(filled).as_secs_f64();
                (self.tokens + passed * rate).min(full)
            }
        };
        self.filled = Some(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // A rate of zero never lets anybody in; a minute is as good as any other answer.
        let seconds = ((1.0 - self.tokens) / rate).clamp(1.0, 60.0);
        Err(TooMany { retry_after: Duration::from_secs_f64(seconds.ceil()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(bucket.take(2.0, start), Ok(()));
        }
        let refused = bucket.take(2.0, start).expect_err("the burst is over");
        assert_eq!(refused.retry_after, Duration::from_secs(1));
        let later = start + Duration::from_secs(1);
        assert!(bucket.take(2.0, later).is_ok() && bucket.take(2.0, later).is_ok());
        assert!(bucket.take(2.0, later).is_err());
        assert!(Bucket::default().take(0.0, start).is_ok());
    }

    #[test]
    fn only_enforcing_refuses_and_operators_are_let_in() {
        let rates = |mode| Rates { mode, reads: Some(0.1), writes: None };
        let limits = Limits::new(0, rates(Mode::Permissive));
        for _ in 0..5 {
            assert_eq!(limits.admit("/v1/kv/a", true), Ok(()));
        }
        limits.set(0, rates(Mode::Enforcing));
        assert_eq!(limits.admit("/v1/kv/a", true), Ok(()));
        assert!(limits.admit("/v1/kv/a", true).is_err());
        assert_eq!(limits.admit("/v1/kv/a", false), Ok(()));
        assert_eq!(limits.admit("/v1/agent/self", true), Ok(()));
        limits.set(0, Rates::default());
        assert_eq!(limits.admit("/v1/kv/a", true), Ok(()));
    }
}
