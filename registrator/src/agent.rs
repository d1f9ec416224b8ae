//! The agent: reading its services, making the calls, and noticing that either side changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_client::types::{AgentCheck, AgentService};
use muster_client::{
    Client, Consistency, Error, Query, ReadOptions, Response, Update, WatchSettings,
};
use tokio::sync::Notify;
use tracing::debug;

use crate::diff::{Seen, SeenCheck, Write};
use crate::reconcile::{Failure, Observation};

/// First and longest pause before the agent is asked again who it is.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A handle on the agent. Clones share what is known about it.
#[derive(Clone, Debug)]
pub struct Agent {
    client: Client,
    /// Its address; forgotten when it was out of reach, since another one may be back.
    host: Arc<Mutex<Option<String>>>,
}

impl Agent {
    /// Talks through this client.
    pub fn new(client: Client) -> Self {
        Self { client, host: Arc::default() }
    }

    /// The agent's services and checks, at this moment.
    pub async fn observe(&self) -> Result<Observation, String> {
        self.read().await.map_err(|error| error.explained())
    }

    async fn read(&self) -> Result<Observation, Error> {
        let agent = self.client.agent();
        let known = self.host.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let agent_host = if known.is_some() {
            known
        } else {
            let host = text(&agent.self_().await?, &["Member", "Addr"]);
            self.host.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&host);
            host
        };
        let now = ReadOptions::default();
        let services: Response<BTreeMap<String, AgentService>> =
            self.client.rows("/v1/agent/services", vec![], &now).await?;
        let unreadable =
            services.meta.odd_rows.into_iter().map(|odd| (odd.key, Seen::unreadable()));
        let mut checks: BTreeMap<String, BTreeMap<String, SeenCheck>> = BTreeMap::new();
        for (id, check) in agent.checks().await? {
            let AgentCheck { service_id, status, notes, .. } = check;
            checks.entry(service_id).or_default().insert(id, SeenCheck { status, notes });
        }
        let services = services
            .value
            .into_iter()
            .map(|(id, service)| {
                let checks = checks.remove(&id).unwrap_or_default();
                (id, seen(service, checks))
            })
            .chain(unreadable)
            .collect();
        Ok(Observation { services, agent_host })
    }

    /// Makes one call.
    pub async fn write(&self, write: &Write) -> Result<(), Failure> {
        let agent = self.client.agent();
        let (outcome, gone_is_fine) = match write {
            Write::Register { wanted, replace_checks } => {
                (agent.register_service(&wanted.definition, *replace_checks).await, false)
            }
            Write::Deregister(service) => (agent.deregister_service(service).await, true),
            Write::Report { beat, .. } => {
                (agent.update_ttl(&beat.check_id, beat.status, &beat.output).await, false)
            }
            Write::Maintain { service, reason } => {
                let text = reason.as_deref().unwrap_or_default();
                let call = agent.service_maintenance(service, reason.is_some(), text);
                (call.await, reason.is_none())
            }
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Error::Status { code, .. }) if gone_is_fine && code.as_u16() == 404 => Ok(()),
            Err(error @ (Error::Unreachable { .. } | Error::TimedOut { .. })) => {
                self.forget();
                Err(Failure::Unreachable(error.explained()))
            }
            Err(error) => Err(Failure::Refused(error.explained())),
        }
    }

    fn forget(&self) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Follows the catalog's picture of the agent's node for ever. Every change in it, and every
    /// loss of the connection (an agent that restarts), wakes `changed`: one long poll in place of
    /// asking for everything every few seconds.
    pub async fn follow(self, changed: Arc<Notify>) {
        let mut backoff = BACKOFF.0;
        loop {
            match self.client.agent().self_().await {
                Ok(about) => {
                    if let Some(name) = text(&about, &["Config", "NodeName"]) {
                        // Where it may not be followed at all, the pauses must grow all the same.
                        if self.follow_node(name, &changed).await {
                            backoff = BACKOFF.0;
                        }
                        self.forget();
                        changed.notify_one();
                    }
                }
                Err(error) => debug!(error = error.explained(), "the agent does not say who it is"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Returns when the connection is lost; says whether there was one.
    async fn follow_node(&self, name: String, changed: &Notify) -> bool {
        let settings =
            WatchSettings { consistency: Consistency::Stale, ..WatchSettings::default() };
        let mut watch = self.client.watch(Query::Node { name }, settings);
        let mut answered = false;
        loop {
            match watch.next().await {
                Update::Value(..) => {
                    answered = true;
                    changed.notify_one();
                }
                Update::Unreachable(error) => {
                    debug!(error = error.explained(), "lost sight of the agent");
                    return answered;
                }
            }
        }
    }
}

fn text(json: &serde_json::Value, path: &[&str]) -> Option<String> {
    let value = path.iter().try_fold(json, |json, key| json.get(key))?;
    value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

fn seen(service: AgentService, checks: BTreeMap<String, SeenCheck>) -> Seen {
    Seen {
        name: service.service,
        tags: service.tags,
        address: service.address,
        port: service.port,
        meta: service.meta,
        weights: (service.weights.passing, service.weights.warning),
        tagged: service
            .tagged_addresses
            .into_iter()
            .map(|(name, at)| (name, (at.address, at.port)))
            .collect(),
        enable_tag_override: service.enable_tag_override,
        checks,
        unreadable: false,
    }
}
