//! The leader's duty towards members: their nodes are in the catalog, with their health, and servers
//! with the service `consul`.
//!
//! A server that stands alone is its own only member. What it writes is what the reference's leader
//! writes, and nothing is written while it is there.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::diff::{LEADER_CHECK, LEADER_SERVICE};
use crate::checks::Status;
use crate::raft::Consensus;
use crate::store::{Change, Check, Node, Register, Reply, Service, Store, Weights};

/// The whole is compared at this interval, as the reference does.
const INTERVAL: Duration = Duration::from_mins(1);
/// Pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the leader knows of itself.
#[derive(Debug, Clone)]
pub struct Lead {
    /// Its node. Only id, name, address and datacenter are used; the rest is the agent's own to say.
    pub node: Node,
    /// Where servers reach it.
    pub port: u16,
    /// The version that its service shows.
    pub version: String,
}

/// Does the leader's duty whenever this server leads, until `shutdown`.
pub async fn lead(lead: Lead, consensus: Consensus, shutdown: CancellationToken) {
    loop {
        let pause = if consensus.is_leader() {
            match duty(&lead, &consensus.store()) {
                None => INTERVAL,
                Some(change) => match consensus.propose(change).await {
                    Ok((Reply::Refused(reason), _)) => {
                        tracing::error!(reason, "this server's own registration was refused");
                        INTERVAL
                    }
                    Ok(_) => INTERVAL,
                    Err(error) => {
                        tracing::warn!(%error, "this server could not be registered");
                        RETRY
                    }
                },
            }
        } else {
            INTERVAL
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = consensus.leadership_changed(consensus.is_leader()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What is to be written so that the catalog knows this server; nothing if it does.
fn duty(lead: &Lead, store: &Store) -> Option<Change> {
    let node = &lead.node;
    let (service, check) = (service(lead), health(node));
    let catalog = store.catalog();
    let known = catalog.node_named(&node.name);
    let moved = known.is_some_and(|row| row.id != node.id || row.address != node.address);
    let is_known = known.is_some()
        && !moved
        && catalog.node_service(&node.name, LEADER_SERVICE).is_some_and(|row| row.same(&service))
        && catalog.node_check(&node.name, LEADER_CHECK).is_some_and(|row| row.same(&check));
    if is_known {
        return None;
    }
    // Tagged addresses and meta are the agent's to say: what it said stays.
    let row = Node {
        tagged_addresses: known.map(|row| row.tagged_addresses.clone()).unwrap_or_default(),
        meta: known.map(|row| row.meta.clone()).unwrap_or_default(),
        ..node.clone()
    };
    Some(Change::Register(Box::new(Register {
        node: row,
        // A row that comes into being while this is on its way is the agent's own, and says more.
        skip_node_update: !moved,
        service: Some(service),
        checks: vec![check],
    })))
}

fn service(lead: &Lead) -> Service {
    let meta = [
        ("non_voter", "false"),
        ("raft_version", "3"),
        ("serf_protocol_current", "2"),
        ("serf_protocol_max", "5"),
        ("serf_protocol_min", "1"),
        ("version", &lead.version),
    ];
    Service {
        kind: String::new(),
        id: LEADER_SERVICE.into(),
        name: LEADER_SERVICE.into(),
        tags: Vec::new(),
        address: String::new(),
        tagged_addresses: std::collections::BTreeMap::new(),
        meta: meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        port: i64::from(lead.port),
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
        node: lead.node.name.clone(),
        create_index: 0,
        modify_index: 0,
    }
}

fn health(node: &Node) -> Check {
    Check {
        node: node.name.clone(),
        id: LEADER_CHECK.into(),
        name: "Serf Health Status".into(),
        status: Status::Passing.as_str().to_owned(),
        notes: String::new(),
        output: "Agent alive and reachable".into(),
        service_id: String::new(),
        service_name: String::new(),
        service_tags: Vec::new(),
        kind: String::new(),
        definition: "".into(),
        create_index: 0,
        modify_index: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Command, Deregister, Timestamp};

    fn apply(store: &mut Store, change: Change) {
        let index = store.index() + 1;
        let applied = store.apply(index, &Command { at: Timestamp(0), change });
        assert!(!matches!(applied.reply, Reply::Refused(_)), "{:?}", applied.reply);
    }

    #[test]
    fn the_leader_is_registered_once_and_again_when_it_was_removed() {
        let node = Node {
            id: "11111111-2222-3333-4444-555555555555".into(),
            name: "n1".into(),
            address: "127.0.0.1".into(),
            datacenter: "dc1".into(),
            ..Node::default()
        };
        let lead = Lead { node, port: 8300, version: "1.8.7".into() };
        let mut store = Store::default();
        let change = duty(&lead, &store).expect("an empty catalog lacks it");
        apply(&mut store, change);
        assert_eq!(duty(&lead, &store), None);
        let service = store.catalog().node_service("n1", "consul").unwrap();
        assert_eq!((service.port, service.meta["raft_version"].as_str()), (8300, "3"));

        // What the agent says of its node survives the leader's next write.
        let mut own = Node::clone(store.catalog().node_named("n1").unwrap());
        own.meta.insert("k".into(), "v".into());
        let own = Register { node: own, skip_node_update: false, service: None, checks: vec![] };
        apply(&mut store, Change::Register(Box::new(own)));
        assert_eq!(duty(&lead, &store), None);
        let gone =
            Deregister { node: "n1".into(), service_id: None, check_id: Some(LEADER_CHECK.into()) };
        apply(&mut store, Change::Deregister(gone));
        let change = duty(&lead, &store).expect("its health is gone");
        apply(&mut store, change);
        assert_eq!(store.catalog().node_named("n1").unwrap().meta["k"], "v");

        let moved =
            Lead { node: Node { address: "127.0.0.2".into(), ..lead.node.clone() }, ..lead };
        assert!(duty(&moved, &store).is_some());
    }
}
