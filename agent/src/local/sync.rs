//! Anti-entropy: the catalog is corrected until it holds what this agent claims.
//!
//! ```text
//!   a claim changed  ─▶ partial: write what is not settled
//!   60 s x scale     ─▶ full:    read the catalog, compare everything, then as above
//!   a write failed   ─▶ again after 15 s x scale; without a leader as soon as there is one
//!   name not free    ─▶ again as soon as it is
//!   servers are back ─▶ full, within 3 s x scale
//! ```
//!
//! Times are spread at random, over more the larger the cluster: a thousand agents must not come
//! at once when a new leader is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant as Deadline, sleep_until};
use tokio_util::sync::CancellationToken;

use super::catalog::Unavailable;
use super::diff::{self, CatalogWrite};
use super::{Local, chance};
use crate::checks::Status;
use crate::store::Reply;

/// Pause after a write that failed, before it is scaled and spread.
const RETRY: Duration = Duration::from_secs(15);
/// Pause after a round that nobody answered; it doubles up to this many times itself, and is spread.
const LEADER_POLL: Duration = Duration::from_millis(100);
const LEADER_POLL_GROWTH_MAX: u32 = 32;
/// Part of the store's words for a name that another node has.
const NAME_TAKEN: &str = "is reserved by node ";
/// Between two looks at who has this node's name.
const NAME_POLL: Duration = Duration::from_millis(250);
/// After servers came back everything is compared within this time, before it is scaled.
const RETURN_SPREAD: Duration = Duration::from_secs(3);
/// Writes under way at one time.
const WRITES_MAX: usize = 32;
/// The cluster size from which intervals grow.
const SCALE_FROM: usize = 128;

/// Result of a round of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    NoLeader,
    Failed,
    /// Another node has this one's name.
    NameTaken,
}

/// Corrects the catalog until `shutdown`.
pub(super) async fn run(local: &Local, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = correct(local) => {}
    }
}

async fn correct(local: &Local) {
    let catalog = &local.inner.catalog;
    let mut returns = catalog.returns();
    let mut full_at = Deadline::now();
    // Rounds in a row that nobody answered.
    let mut unanswered = 0;
    loop {
        catalog.reachable().await;
        let is_full = Deadline::now() >= full_at;
        let mut round = if is_full { audit(local).await } else { Round::Done };
        let outputs_at = local.registrations().release_outputs(Instant::now());
        if round == Round::Done {
            round = push(local).await;
        }
        if round == Round::Done {
            local.note_trouble(None);
        }
        let spread = || chance() * f64::from(local.scale());
        let retry_at = match round {
            Round::NoLeader => {
                // Nothing was compared, or not all written: the next round does it all.
                let pause = LEADER_POLL * 2_u32.pow(unanswered).min(LEADER_POLL_GROWTH_MAX);
                unanswered = (unanswered + 1).min(10);
                tokio::time::sleep(pause.mul_f64(0.5 + chance() / 2.0)).await;
                continue;
            }
            Round::Failed | Round::NameTaken => {
                Some(Deadline::now() + RETRY + RETRY.mul_f64(spread()))
            }
            Round::Done => None,
        };
        unanswered = 0;
        if is_full {
            let interval = local.settings().sync_interval;
            full_at = Deadline::now() + interval + interval.mul_f64(spread());
        }
        let until_output = async {
            match outputs_at {
                Some(at) => sleep_until(Deadline::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        let until_retry = async {
            match retry_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = local.inner.nudge.notified() => {}
            () = sleep_until(full_at) => {}
            () = until_output => {}
            () = until_retry => {}
            () = name_is_free(local), if round == Round::NameTaken => {}
            () = returned(&mut returns) => {
                full_at = full_at.min(Deadline::now() + RETURN_SPREAD.mul_f64(spread()));
            }
        }
    }
}

/// Resolves when those that keep the catalog came back.
async fn returned(returns: &mut watch::Receiver<u64>) {
    if returns.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Resolves when the row of this node's name is its own, or that of a node that is gone. A machine that
/// was built anew need not wait for its next attempt by then.
async fn name_is_free(local: &Local) {
    let (catalog, own) = (&local.inner.catalog, local.node().id.clone());
    let mut mark = 0;
    loop {
        let Ok(held) = catalog.held(Arc::clone(&local.inner.name), mark).await else {
            // The next attempt comes by itself.
            return std::future::pending().await;
        };
        let is_taken = held.node.as_ref().is_some_and(|row| !row.id.is_empty() && row.id != own)
            && held.checks.iter().any(|check| {
                &*check.id == diff::LEADER_CHECK && check.status != Status::Critical.as_str()
            });
        if !is_taken {
            return;
        }
        mark = held.mark;
        // A row that changes all the time is not read more often than this.
        tokio::time::sleep(NAME_POLL).await;
    }
}

/// Compares everything with the catalog.
async fn audit(local: &Local) -> Round {
    let name = Arc::clone(&local.inner.name);
    let read_at = local.registrations().version();
    match local.inner.catalog.held(name, 0).await {
        Ok(held) => {
            local.inner.cluster_size.store(held.nodes, Ordering::Relaxed);
            let mut registrations = local.registrations();
            // Read under the same lock: a reload may have changed it since.
            diff::audit(&mut registrations, &local.node(), &held, read_at);
            Round::Done
        }
        Err(error) => {
            let round = unavailable(&error);
            if round == Round::Failed {
                tracing::warn!(%error, "the catalog could not be read");
            }
            local.note_trouble(Some(error.to_string()));
            round
        }
    }
}

fn unavailable(error: &Unavailable) -> Round {
    match error {
        Unavailable::NoLeader(_) => Round::NoLeader,
        Unavailable::Failed(_) => Round::Failed,
    }
}

/// Writes everything that is not settled.
async fn push(local: &Local) -> Round {
    // A copy: nobody waits for these writes to change a claim.
    let registrations = local.registrations().clone();
    let mut steps = diff::steps(&registrations, &local.node());
    let mut worst = Round::Done;
    if !registrations.node_settled() && !steps.is_empty() {
        // The rest stands on the node's row.
        worst = write(local, steps.remove(0)).await;
        if worst != Round::Done {
            return worst;
        }
    }
    let mut rounds =
        futures::stream::iter(steps).map(|step| write(local, step)).buffer_unordered(WRITES_MAX);
    while let Some(round) = rounds.next().await {
        match round {
            Round::NoLeader => return round,
            Round::Failed | Round::NameTaken => worst = round,
            Round::Done => {}
        }
    }
    worst
}

async fn write(local: &Local, step: CatalogWrite) -> Round {
    let reply = local.inner.catalog.propose(step.change).await;
    let what =
        || step.settles.iter().map(|(subject, _)| format!("{subject:?}")).collect::<Vec<_>>();
    match reply {
        Ok(Reply::Refused(reason)) => {
            tracing::warn!(what = what().join(" "), reason, "the catalog refused a registration");
            let round = if reason.contains(NAME_TAKEN) { Round::NameTaken } else { Round::Failed };
            local.note_trouble(Some(reason));
            round
        }
        Ok(_) => {
            let mut registrations = local.registrations();
            for (subject, version) in &step.settles {
                registrations.settle(subject, *version);
            }
            tracing::debug!(what = what().join(" "), "synced");
            Round::Done
        }
        Err(error) => {
            let round = unavailable(&error);
            if round == Round::Failed {
                tracing::warn!(what = what().join(" "), %error, "the catalog could not be corrected");
            }
            local.note_trouble(Some(error.to_string()));
            round
        }
    }
}

/// Factor of intervals in a cluster of this size: 1 up to 128 nodes, and one more
/// for each doubling.
fn scale_of(nodes: usize) -> u32 {
    let doublings = nodes.max(1).next_power_of_two().ilog2();
    doublings.saturating_sub(SCALE_FROM.ilog2()) + 1
}

impl Local {
    fn scale(&self) -> u32 {
        scale_of(self.inner.cluster_size.load(Ordering::Relaxed))
    }

    /// Keeps what went wrong for whoever asks; `None`: all is well.
    fn note_trouble(&self, trouble: Option<String>) {
        *self.inner.trouble.lock() = trouble;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_with_the_cluster() {
        let rows = [
            (0, 1),
            (1, 1),
            (128, 1),
            (129, 2),
            (256, 2),
            (512, 3),
            (1024, 4),
            (2048, 5),
            (4096, 6),
            (8192, 7),
            (16384, 8),
        ];
        for (nodes, expected) in rows {
            assert_eq!(scale_of(nodes), expected, "{nodes}");
        }
    }
}
