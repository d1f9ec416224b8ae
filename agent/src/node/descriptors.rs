//! Limit on the files, connections and sockets that this process may have open.
//!
//! Systems start programs with a soft limit of 1024 for the sake of those that call `select`, and expect
//! whoever needs more to ask for it. A server with thousands of waiting clients and running checks does.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than this is not asked for. Where the hard limit says "any number", programs that checks run
/// and that close all they could have inherited would be busy for minutes.
const MAX: u64 = 1 << 20;

/// The soft limit, before and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raised {
    pub(super) before: u64,
    pub(super) now: u64,
}

/// Raises the soft limit as far as the hard one allows; never lowers it.
pub(super) fn raise() -> io::Result<Raised> {
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let now = wanted(before, hard);
    if now != before {
        setrlimit(Resource::RLIMIT_NOFILE, now, hard)?;
    }
    Ok(Raised { before, now })
}

/// Current limit.
pub(super) fn limit() -> usize {
    /// Usual soft limit of systems.
    const USUAL: u64 = 1024;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn wanted(soft: u64, hard: u64) -> u64 {
    hard.min(MAX).max(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_far_as_allowed_and_never_down() {
        let any = u64::MAX;
        for (soft, hard, now) in [
            (1024, 4096, 4096),
            (1024, 524_288, 524_288),
            (1024, any, MAX),
            (4096, 4096, 4096),
            (any, any, any),
            (MAX + 1, MAX + 2, MAX + 1),
        ] {
            assert_eq!(wanted(soft, hard), now, "{soft} {hard}");
        }
        let raised = raise().unwrap();
        assert_eq!(raise().unwrap(), Raised { before: raised.now, now: raised.now });
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, raised.now);
    }
}
