//! Addresses of members, looked up for each connection of another agent.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::gossip::{MemberList, Pools, Status};

/// An address that is missed is looked for anew after this: floods of strangers must not cost a walk through all
/// members each.
const FRESH: Duration = Duration::from_millis(100);

/// Addresses of those that have not left.
pub(super) struct KnownAddresses {
    pools: Pools,
    seen: Mutex<(Option<Instant>, HashSet<IpAddr>)>,
}

impl KnownAddresses {
    pub(super) fn of(pools: Pools) -> KnownAddresses {
        KnownAddresses { pools, seen: Mutex::default() }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let mut seen = self.seen.lock();
        if seen.0.is_none_or(|at| at.elapsed() >= FRESH) {
            *seen = (Some(Instant::now()), addresses(&self.pools.member_list()));
        }
        seen.1.contains(&address.to_canonical())
    }
}

fn addresses(member_list: &MemberList) -> HashSet<IpAddr> {
    // A failed one may come back by this very connection.
    let there = member_list.values().filter(|member| member.status != Status::Left);
    there.map(|member| member.details.address.ip().to_canonical()).collect()
}
