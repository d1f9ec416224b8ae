//! How long to wait.

use std::time::Duration;

/// `base` doubled with every failure up to `max`, with jitter.
pub(super) fn backoff(base: Duration, max: Duration, failures: u32, salt: &str) -> Duration {
    let doubled = base.saturating_mul(1 << failures.saturating_sub(1).min(16));
    jitter(doubled.min(max), salt, failures.into())
}

/// Takes up to a quarter off, evenly spread over salts and rounds, and the same each time: the
/// reconciler knows no randomness.
pub(super) fn jitter(duration: Duration, salt: &str, round: u64) -> Duration {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ round;
    for byte in salt.bytes().chain(round.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let share = u32::try_from(hash >> 40).unwrap_or_default() % 1_000;
    duration.saturating_sub(duration / 4_000 * share)
}
