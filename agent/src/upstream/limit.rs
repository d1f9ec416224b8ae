//! Rate limit of a client agent's requests to servers (`limits.rpc_rate`): a bucket of tokens, kept as the time at
//! which it will be full again, so that asking takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// Rate and burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests in a second; above zero.
    pub per_second: f64,
    /// Requests that may come at once.
    pub burst: u32,
}

impl Rate {
    /// Requests that may come at once unless it is said otherwise, as in the reference.
    pub const BURST: u32 = 1000;
}

/// One request too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// When there will be room for one.
    pub(super) retry_after: Duration,
}

/// The limit as it is now; a reload changes it.
#[derive(Debug)]
pub(super) struct Limit {
    bucket: ArcSwap<Option<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Between two tokens, in nanoseconds.
    interval: u64,
    began: Instant,
    /// When it is full again, in nanoseconds since `began`.
    full: AtomicU64,
    /// The second in which the log spoke of it last.
    said: AtomicU64,
}

impl Limit {
    pub(super) fn new(rate: Option<Rate>) -> Limit {
        Limit { bucket: ArcSwap::from_pointee(rate.map(Bucket::new)) }
    }

    /// From now on this holds. An equal rate keeps what it has counted.
    pub(super) fn set(&self, rate: Option<Rate>) {
        if self.bucket.load().as_ref().as_ref().map(|bucket| bucket.rate) != rate {
            self.bucket.store(Arc::new(rate.map(Bucket::new)));
        }
    }

    /// Takes a token.
    pub(super) fn take(&self) -> Result<(), Exceeded> {
        let bucket = self.bucket.load();
        let Some(bucket) = bucket.as_ref() else { return Ok(()) };
        let now = bucket.began.elapsed();
        let Err(exceeded) = bucket.take(now) else { return Ok(()) };
        // Seconds are counted from 1: nothing was said yet.
        let second = now.as_secs() + 1;
        if bucket.said.swap(second, Ordering::Relaxed) != second {
            let Rate { per_second, burst } = bucket.rate;
            tracing::warn!(rate = per_second, burst, "RPC rate limit exceeded: limits.rpc_rate");
        }
        Err(exceeded)
    }
}

impl Bucket {
    fn new(rate: Rate) -> Bucket {
        // Beyond the range of time there is no second request, and below it no limit.
        let interval = Duration::try_from_secs_f64(1.0 / rate.per_second).unwrap_or(Duration::MAX);
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let (full, said) = (AtomicU64::new(0), AtomicU64::new(0));
        Bucket { rate, interval, began: Instant::now(), full, said }
    }

    fn take(&self, now: Duration) -> Result<(), Exceeded> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let burst = u64::from(self.rate.burst).saturating_sub(1);
        let latest = now.saturating_add(self.interval.saturating_mul(burst));
        let taken = self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
            let full = full.max(now);
            (full <= latest).then(|| full.saturating_add(self.interval))
        });
        match taken {
            Ok(_) => Ok(()),
            Err(full) => {
                Err(Exceeded { retry_after: Duration::from_nanos(full.saturating_sub(latest)) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: f64, burst: u32) -> Bucket {
        Bucket::new(Rate { per_second, burst })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = bucket(2.0, 3);
        let at = Duration::from_millis;
        let passed = |time| (0..10).filter(|_| bucket.take(at(time)).is_ok()).count();
        assert_eq!(passed(1000), 3);
        assert_eq!(bucket.take(at(1000)), Err(Exceeded { retry_after: at(500) }));
        assert_eq!(passed(1499), 0);
        assert_eq!(passed(1500), 1);
        assert_eq!(passed(2600), 2);
        assert_eq!(passed(60_000), 3, "no more than the burst is saved up");
    }

    #[test]
    fn rates_beyond_all_measure_do_no_harm() {
        let slow = bucket(f64::MIN_POSITIVE, u32::MAX);
        for second in 0..5 {
            assert!(slow.take(Duration::from_secs(second)).is_ok());
        }
        let slow = bucket(1e-300, 1);
        assert!(slow.take(Duration::ZERO).is_ok());
        assert!(slow.take(Duration::from_hours(1 << 20)).is_err());
        let fast = bucket(f64::MAX, 1);
        assert!((0..1000).all(|_| fast.take(Duration::ZERO).is_ok()));
    }

    #[test]
    fn a_reload_counts_anew_only_what_is_new() {
        let rate = Some(Rate { per_second: 1e-6, burst: 1 });
        let limit = Limit::new(rate);
        assert!(limit.take().is_ok() && limit.take().is_err());
        limit.set(rate);
        assert!(limit.take().is_err());
        limit.set(Some(Rate { per_second: 1e-6, burst: 2 }));
        assert!(limit.take().is_ok());
        limit.set(None);
        assert!((0..1000).all(|_| limit.take().is_ok()));
    }
}
