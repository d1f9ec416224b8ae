//! Waiting for a condition with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Between two looks. Short against every deadline here, long against the cost of a look.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it gives a value, and returns that value and how long it took.
///
/// # Errors
/// After `limit`: what was waited for, and why the last look was not content.
pub fn eventually<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(why) if start.elapsed() >= limit => {
                return Err(anyhow!("not within {limit:?}: {what}: {why:#}"));
            }
            Err(_) => pause(PAUSE),
        }
    }
}

/// Lets time pass: between two looks, or between two requests of a paced load. Never a substitute for a condition.
#[expect(clippy::disallowed_methods, reason = "the one place where a test lets time pass")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn gives_the_value_or_the_last_reason() {
        let mut looks = 0;
        let (value, _) = eventually(Duration::from_secs(5), "three looks", || {
            looks += 1;
            ensure!(looks == 3, "only {looks}");
            Ok(looks)
        })
        .unwrap();
        assert_eq!(value, 3);

        let error = eventually(Duration::ZERO, "the impossible", || Err::<(), _>(anyhow!("no")))
            .unwrap_err();
        assert_eq!(error.to_string(), "not within 0ns: the impossible: no");
    }
}
