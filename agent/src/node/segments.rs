//! Servers find each other in every segment: the default pool, by which they know each other, tells where.
//!
//! Otherwise each server would be a member of a pool of its own in a segment, until some client joins two
//! of them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::gossip::{Members, Pools, Status};

/// Begins tags of servers, as in the reference: in which segment they listen, and where.
pub(super) const AT: &str = "sl_";

/// Pause before an unreachable member is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Interval of looking for servers that are missing in a segment but present in the default one.
const INTERVAL: Duration = Duration::from_mins(1);

/// Meets the other servers in all segments that they share with this one, until `stop`.
pub(super) async fn meet_servers(pools: Pools, stop: CancellationToken) {
    let mut member_list = pools.own().watch();
    loop {
        // Whatever changes from here on is looked at in the next round.
        member_list.mark_unchanged();
        let mut pause = INTERVAL;
        for (pool, name, address) in missing(&pools) {
            let met = tokio::select! {
                () = stop.cancelled() => return,
                met = pool.join(address) => met,
            };
            let segment = pool.segment();
            match met {
                Ok(()) => info!(server = name, segment, "met a server in its segment"),
                Err(error) => {
                    warn!(server = name, segment, error, "a server could not be met in a segment");
                    pause = RETRY;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = member_list.changed() => if changed.is_err() { return stop.cancelled().await },
        }
    }
}

/// The servers that are there but not known in a segment that they say they are in.
fn missing(pools: &Pools) -> Vec<(&Members, String, SocketAddr)> {
    let is_there = |status| matches!(status, Status::Alive | Status::Leaving);
    let member_list = pools.own().member_list();
    let servers: Vec<_> = member_list
        .values()
        .filter(|member| member.is_server() && member.status == Status::Alive)
        .filter(|member| *member.details.name != *pools.name())
        .collect();
    let mut missing = Vec::new();
    for pool in &pools.each()[1..] {
        let (known, key) = (pool.member_list(), format!("{AT}{}", pool.segment()));
        for server in &servers {
            let name = &server.details.name;
            let Some(address) = server.tag(&key).and_then(|text| text.parse().ok()) else {
                continue;
            };
            if !known.get(name).is_some_and(|member| is_there(member.status)) {
                missing.push((pool, name.to_string(), address));
            }
        }
    }
    missing
}
