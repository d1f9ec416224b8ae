//! Figures of agreement, in the reference's names.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::consensus::Consensus;
use super::types::LogId;

impl Consensus {
    /// Figures for `/v1/agent/self` (`Stats.raft`): name and value.
    pub fn stats(&self) -> Vec<(&'static str, String)> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let term = |id: Option<LogId>| id.map_or(0, |id| id.leader_id.term);
        let last_log = self.inner.raft.data_metrics().borrow_watched().last_log;
        let applied = index(metrics.last_applied);
        let committed = index(metrics.local_committed);
        let membership = metrics.membership_config.membership();
        let servers: Vec<String> = membership
            .nodes()
            .map(|(id, server)| {
                let voter = membership.voter_ids().any(|voter| voter == *id);
                let suffrage = if voter { "Voter" } else { "Nonvoter" };
                format!("{{Suffrage:{suffrage} ID:{id} Address:{}}}", server.address)
            })
            .collect();
        let peers = membership.voter_ids().filter(|id| *id != self.inner.id).count();
        let contact = match (self.is_leader(), metrics.current_leader) {
            (true, _) => "0".to_owned(),
            (false, Some(_)) => format!("{:?}", self.last_contact()),
            (false, None) => "never".to_owned(),
        };
        let state = match metrics.state {
            ServerState::Leader => "Leader",
            ServerState::Candidate => "Candidate",
            ServerState::Follower | ServerState::Learner => "Follower",
            ServerState::Shutdown => "Shutdown",
        };
        let mut figures = vec![
            ("applied_index", applied.to_string()),
            ("commit_index", committed.to_string()),
            ("fsm_pending", committed.saturating_sub(applied).to_string()),
            ("last_contact", contact),
            ("last_log_index", metrics.last_log_index.unwrap_or(0).to_string()),
            ("last_log_term", term(last_log).to_string()),
            ("last_snapshot_index", index(metrics.snapshot).to_string()),
            ("last_snapshot_term", term(metrics.snapshot).to_string()),
            ("latest_configuration", format!("[{}]", servers.join(" "))),
            ("latest_configuration_index", index(*metrics.membership_config.log_id()).to_string()),
            ("num_peers", peers.to_string()),
            ("protocol_version", "3".to_owned()),
            ("protocol_version_max", "3".to_owned()),
            ("protocol_version_min", "0".to_owned()),
            ("snapshot_version_max", "1".to_owned()),
            ("snapshot_version_min", "0".to_owned()),
            ("state", state.to_owned()),
            ("term", metrics.current_term.to_string()),
        ];
        // An addition, there only while there is something to explain.
        figures.extend(self.leaderless_because().map(|why| ("no_leader_because", why)));
        figures
    }
}
