//! Leadership, as this server knows it.

use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use crate::raft::Presence;
use crate::raft::autopilot::Assessment;
use crate::raft::consensus::Consensus;
use crate::raft::types::{Server, ServerId};

/// Since a leader was heard, if none ever was: more than any `max_stale`.
const NEVER: Duration = Duration::from_hours(24 * 365);

impl Consensus {
    /// Is a leader known?
    pub fn knows_leader(&self) -> bool {
        let status = self.inner.status.borrow();
        match status.leader {
            Some(leader) if leader == self.inner.id => status.leading,
            Some(leader) => status.servers.contains_key(&leader),
            None => false,
        }
    }

    /// Is this server, caught up, the only voter there is? Then `read_barrier` has nothing to wait
    /// for.
    pub fn leads_alone(&self) -> bool {
        let now = self.inner.roles.borrow_watched();
        let voters = now.membership_config.membership().voter_ids();
        now.state == ServerState::Leader && voters.eq([self.inner.id]) && self.is_leader()
    }

    /// `ip:port` of the leader, if one is known.
    pub fn leader(&self) -> Option<String> {
        let status = self.inner.status.borrow();
        let leader = status.leader?;
        if leader == self.inner.id {
            // Its own address may be newer than what the log says. Until it has caught up with
            // what was acknowledged before, it cannot serve as leader.
            return status.leading.then(|| self.inner.server.address.clone());
        }
        status.servers.get(&leader).map(|server| server.address.clone())
    }

    /// Does this server lead (and hold its lease)? It has then applied everything that was
    /// acknowledged before.
    pub fn is_leader(&self) -> bool {
        self.inner.status.borrow().leading
    }

    /// Resolves with `leader()` when that is another than `known`.
    pub async fn leader_other_than(&self, known: Option<&str>) -> Option<String> {
        let mut status = self.inner.status.clone();
        loop {
            status.mark_unchanged();
            let now = self.leader();
            if now.as_deref() != known {
                return now;
            }
            if status.changed().await.is_err() {
                // Nothing changes any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when `is_leader()` differs from `now`.
    pub async fn leadership_changed(&self, now: bool) {
        let mut status = self.inner.status.clone();
        if status.wait_for(|status| status.leading != now).await.is_err() {
            // Nothing changes any more.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when agreement has ended on this server without [`Consensus::shutdown`], with the
    /// reason. The process should end: what it serves grows old.
    pub async fn failed(&self) -> String {
        let mut status = self.inner.status.clone();
        if let Ok(status) = status.wait_for(|status| status.failed.is_some()).await
            && let Some(failed) = &status.failed
        {
            return failed.clone();
        }
        std::future::pending().await
    }

    /// Time since the leader was heard; zero on the leader, and very long if never.
    pub fn last_contact(&self) -> Duration {
        if self.is_leader() {
            return Duration::ZERO;
        }
        self.inner.contact.age().unwrap_or(NEVER)
    }

    /// Raft addresses of all servers.
    pub fn peers(&self) -> Vec<String> {
        let status = self.inner.status.borrow();
        let address = |(id, server): (&ServerId, &Server)| {
            let own = *id == self.inner.id;
            if own { self.inner.server.address.clone() } else { server.address.clone() }
        };
        status.servers.iter().map(address).collect()
    }

    /// The last entry of the log that readers see.
    pub fn applied(&self) -> u64 {
        self.inner.published.applied()
    }

    /// Health of the servers, as this server sees them while it leads; nothing if it does not, and
    /// until it has looked.
    pub fn assessment(&self) -> Option<Assessment> {
        self.inner.assessed.borrow().clone()
    }

    /// Reason why there is no leader, for people: the awaited condition, present and missing servers. Nothing
    /// if a leader is known.
    pub fn leaderless_because(&self) -> Option<String> {
        if self.knows_leader() {
            return None;
        }
        if let Some(failed) = &self.inner.status.borrow().failed {
            return Some(format!("agreement has ended on this server: {failed}"));
        }
        let waiting = self.inner.waiting.borrow().clone();
        if !waiting.is_empty() {
            return Some(waiting);
        }
        let metrics = self.raft().metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let known_servers = self.inner.network.known_servers.borrow();
        let voters = membership.voter_ids().map(|id| {
            let listed = known_servers.servers.get(&id);
            let known = listed.map(|listed| listed.name.clone());
            let name = known.or_else(|| membership.get_node(&id).map(|node| node.name.clone()));
            let own = id == self.inner.id;
            let presence =
                if own { Some(Presence::Alive) } else { listed.map(|listed| listed.presence) };
            (name.unwrap_or_else(|| id.to_string()), presence)
        });
        Some(explain(&voters.collect::<Vec<_>>()))
    }
}

/// Explains why these voters have no leader, as far as one of them can tell.
fn explain(voters: &[(String, Option<Presence>)]) -> String {
    if voters.is_empty() {
        return "this server does not take part: it waits for the leader to invite it".to_owned();
    }
    let (mut there, mut away) = (Vec::new(), Vec::new());
    for (name, presence) in voters {
        match presence {
            Some(Presence::Alive) => there.push(name.as_str()),
            Some(Presence::Failed) => away.push(format!("{name} (failed)")),
            Some(Presence::Left) => away.push(format!("{name} (left)")),
            None => away.push(format!("{name} (not heard of)")),
        }
    }
    let (needed, have) = (voters.len() / 2 + 1, there.join(", "));
    if there.len() >= needed {
        let count = voters.len();
        return format!("waiting for an election: have {have} of {count} voters, {needed} suffice");
    }
    format!(
        "waiting for {} of {} servers: have {have}; away: {}; {needed} are needed to agree",
        needed - there.len(),
        voters.len(),
        away.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_is_told() {
        use Presence::{Alive, Failed, Left};
        let check = |voters: &[(&str, Option<Presence>)], expected: &str| {
            let voters = voters.iter().map(|(name, presence)| ((*name).to_owned(), *presence));
            assert_eq!(explain(&voters.collect::<Vec<_>>()), expected);
        };
        check(&[], "this server does not take part: it waits for the leader to invite it");
        check(
            &[("s1", Some(Alive)), ("s2", Some(Failed)), ("s3", None)],
            "waiting for 1 of 3 servers: have s1; away: s2 (failed), s3 (not heard of); 2 are needed to agree",
        );
        check(
            &[("s1", Some(Alive)), ("s2", Some(Left))],
            "waiting for 1 of 2 servers: have s1; away: s2 (left); 2 are needed to agree",
        );
        check(
            &[("s1", Some(Alive)), ("s2", Some(Alive)), ("s3", None)],
            "waiting for an election: have s1, s2 of 3 voters, 2 suffice",
        );
    }
}
