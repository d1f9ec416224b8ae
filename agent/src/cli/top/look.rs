//! One look at an agent.

use std::collections::BTreeMap;
use std::time::Instant;

use muster_client::types::{HealthCheck, Member};
use muster_client::{Client, Consistency, Error, ReadOptions};
use serde::Deserialize;
use serde_json::Value;

/// Answers of an agent at one moment.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    pub(super) taken: Instant,
    pub(super) node: String,
    pub(super) datacenter: String,
    pub(super) server: bool,
    pub(super) leader: String,
    pub(super) members: Vec<Member>,
    /// Empty where nobody leads, or where it may not be asked.
    pub(super) peers: Vec<Peer>,
    pub(super) services: BTreeMap<String, Health>,
    /// The agent's own, without the prefix of their names.
    pub(super) figures: BTreeMap<String, f64>,
}

/// A raft peer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Peer {
    pub(super) node: String,
    pub(super) address: String,
    pub(super) leader: bool,
    pub(super) voter: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Peers {
    servers: Vec<Peer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Figures {
    gauges: Vec<Figure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Figure {
    name: String,
    value: f64,
}

/// Instances of a service that are checked, by the worst of their checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) passing: usize,
    pub(super) warning: usize,
    pub(super) critical: usize,
}

impl Observation {
    pub(super) async fn take(client: &Client) -> Result<Observation, Error> {
        let stale = ReadOptions { consistency: Consistency::Stale, ..ReadOptions::default() };
        let about = client.agent().self_().await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let config = &about["Config"];
        let members = client.agent().members(false).await?;
        let catalog = client.catalog();
        // Without a leader, a server or the right to ask, the rest is still worth a look.
        let leader = client.status().leader().await.unwrap_or_default();
        let path = "/v1/operator/raft/configuration";
        let peers = client.get::<Peers>(path, vec![], &stale).await;
        let names = catalog.services(&stale).await.map(|found| found.value).unwrap_or_default();
        let checks = client.health().state("any", &stale).await;
        let figures = client.get::<Figures>("/v1/agent/metrics", vec![], &stale).await;
        Ok(Observation {
            taken: Instant::now(),
            node: text(&config["NodeName"]),
            datacenter: text(&config["Datacenter"]),
            server: config["Server"] == true,
            leader,
            members,
            peers: peers.map(|found| found.value.servers).unwrap_or_default(),
            services: health(
                names.into_keys(),
                &checks.map(|found| found.value).unwrap_or_default(),
            ),
            figures: figures
                .map(|found| found.value.gauges.iter().map(unprefixed).collect())
                .unwrap_or_default(),
        })
    }
}

fn unprefixed(figure: &Figure) -> (String, f64) {
    let name = figure.name.split_once('.').map_or(figure.name.as_str(), |(_, name)| name);
    (name.to_owned(), figure.value)
}

/// Counts the instances of each service by health.
fn health(names: impl Iterator<Item = String>, checks: &[HealthCheck]) -> BTreeMap<String, Health> {
    let mut services: BTreeMap<String, Health> =
        names.map(|name| (name, Health::default())).collect();
    let mut worst: BTreeMap<(&str, &str, &str), u8> = BTreeMap::new();
    for check in checks.iter().filter(|check| !check.service_name.is_empty()) {
        let instance =
            (check.service_name.as_str(), check.node.as_str(), check.service_id.as_str());
        let status = match check.status.as_str() {
            "passing" => 0,
            "warning" => 1,
            _ => 2,
        };
        let entry = worst.entry(instance).or_default();
        *entry = status.max(*entry);
    }
    for ((name, _, _), status) in worst {
        let health = services.entry(name.to_owned()).or_default();
        match status {
            0 => health.passing += 1,
            1 => health.warning += 1,
            _ => health.critical += 1,
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_of_an_instance_counts() {
        let check = |service: &str, id: &str, status: &str| HealthCheck {
            service_name: service.to_owned(),
            service_id: id.to_owned(),
            status: status.to_owned(),
            ..HealthCheck::default()
        };
        let checks = [
            check("web", "web-1", "passing"),
            check("web", "web-1", "critical"),
            check("web", "web-2", "passing"),
            check("", "", "critical"),
            check("gone", "g", "warning"),
        ];
        let found = health(["db".to_owned(), "web".to_owned()].into_iter(), &checks);
        let expected = [
            ("db", Health::default()),
            ("gone", Health { warning: 1, ..Health::default() }),
            ("web", Health { passing: 1, warning: 0, critical: 1 }),
        ];
        assert_eq!(found, expected.map(|(name, health)| (name.to_owned(), health)).into());
    }
}
