//! Anti-entropy: the catalog is corrected until it holds what this agent claims.
//!
//! ```text
//!   a claim changed  ─▶ partial: write what is not settled
//!   60 s x scale     ─▶ full:    read the catalog, compare everything, then as above
//!   a write failed   ─▶ again after 15 s x scale; without a leader as soon as there is one
//! ```
//!
//! Times are spread at random, over more the larger the cluster: a thousand agents must not come
//! at once when a new leader is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::time::{Instant as Deadline, sleep_until};
use tokio_util::sync::CancellationToken;

use super::diff::{self, Held, Step};
use super::{Local, chance};
use crate::raft;
use crate::store::Reply;

/// Pause after a write that failed, before it is scaled and spread.
const RETRY: Duration = Duration::from_secs(15);
/// How often a leader is looked for while there is none.
const LEADER_POLL: Duration = Duration::from_millis(100);
/// Writes under way at one time.
const WRITES_MAX: usize = 32;
/// The cluster size from which intervals grow.
const SCALE_FROM: usize = 128;

/// What became of a round of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Done,
    NoLeader,
    Failed,
}

/// Corrects the catalog until `shutdown`.
pub(super) async fn run(local: &Local, shutdown: &CancellationToken) {
    let mut full_at = Deadline::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = leader_known(local) => {}
        }
        let is_full = Deadline::now() >= full_at;
        if is_full {
            audit(local);
        }
        let outputs_at = local.claims().release_outputs(Instant::now());
        let round = tokio::select! {
            () = shutdown.cancelled() => return,
            round = push(local) => round,
        };
        let spread = || chance() * f64::from(scale(local));
        let retry_at = match round {
            Round::NoLeader => {
                // `leader_known` may be ahead of the news that there is none.
                tokio::time::sleep(LEADER_POLL).await;
                continue;
            }
            Round::Failed => Some(Deadline::now() + RETRY + RETRY.mul_f64(spread())),
            Round::Done => None,
        };
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
            () = shutdown.cancelled() => return,
            () = local.inner.nudge.notified() => {}
            () = sleep_until(full_at) => {}
            () = until_output => {}
            () = until_retry => {}
        }
    }
}

/// Resolves as soon as somebody leads.
async fn leader_known(local: &Local) {
    let consensus = &local.inner.consensus;
    while consensus.leader().is_none() {
        tokio::select! {
            () = consensus.leadership_changed(false) => {}
            () = tokio::time::sleep(LEADER_POLL) => {}
        }
    }
}

/// Compares everything with the catalog.
fn audit(local: &Local) {
    let store = local.inner.consensus.store();
    let catalog = store.catalog();
    let node = local.node();
    let held = match catalog.node_services(&node.name).rows {
        None => Held::default(),
        Some((row, services)) => {
            Held { node: Some(row), services, checks: catalog.node_checks(&node.name).rows }
        }
    };
    let mut claims = local.claims();
    diff::audit(&mut claims, node, &held);
}

/// Writes everything that is not settled.
async fn push(local: &Local) -> Round {
    // A copy: nobody waits for these writes to change a claim.
    let claims = local.claims().clone();
    let mut steps = diff::steps(&claims, local.node());
    let mut worst = Round::Done;
    if !claims.node_settled() && !steps.is_empty() {
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
            Round::Failed => worst = round,
            Round::Done => {}
        }
    }
    worst
}

async fn write(local: &Local, step: Step) -> Round {
    let reply = local.inner.consensus.propose(step.change).await;
    let what =
        || step.settles.iter().map(|(subject, _)| format!("{subject:?}")).collect::<Vec<_>>();
    match reply {
        Ok((Reply::Refused(reason), _)) => {
            tracing::warn!(what = what().join(" "), reason, "the catalog refused a registration");
            Round::Failed
        }
        Ok(_) => {
            let mut claims = local.claims();
            for (subject, version) in &step.settles {
                claims.settle(subject, *version);
            }
            tracing::debug!(what = what().join(" "), "synced");
            Round::Done
        }
        Err(raft::Error::NoLeader) => Round::NoLeader,
        Err(error) => {
            let error: Arc<dyn std::error::Error + Send + Sync> = Arc::new(error);
            tracing::warn!(what = what().join(" "), error = %error, "the catalog could not be corrected");
            Round::Failed
        }
    }
}

/// How many times longer intervals are in a cluster of this size: 1 up to 128 nodes, and one more
/// for each doubling.
fn scale_of(nodes: usize) -> u32 {
    let doublings = nodes.max(1).next_power_of_two().ilog2();
    doublings.saturating_sub(SCALE_FROM.ilog2()) + 1
}

fn scale(local: &Local) -> u32 {
    scale_of(local.inner.consensus.store().catalog().node_count())
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
