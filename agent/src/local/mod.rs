//! Registrations of this agent, and the correction of the catalog to match them.
//!
//! ```text
//!   http, config ─▶ definition.rs ─▶ Local ──────▶ state.rs   Claims: services and checks
//!                   written → rows     │  ▲             │
//!                                      │  └── results ◀─┼── checks::Runner
//!                          drawer.rs ◀─┘                ▼
//!                          kept over a restart     sync.rs ─▶ diff.rs ─▶ catalog.rs ─▶ servers
//! ```
//!
//! The agent owns its services; the catalog only follows. A change is written at once (`sync.rs`,
//! partial), and at intervals everything is compared (full): what the catalog lost comes back, what
//! nobody claims goes. Requests are answered from the claims, so they work without any server.
//!
//! `leader.rs` is the other side: the row of the node itself, its health and the `consul` service,
//! which the cluster's leader keeps.

mod aliases;
mod catalog;
mod configured;
pub mod definition;
mod diff;
mod error;
mod event_filter;
mod leader;
mod maintenance;
mod persistence;
mod register;
mod settings;
mod state;
mod sync;
mod times;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use muster_client::types::{CheckDefinition, ServiceDefinition};
use parking_lot::{Mutex, MutexGuard};
use rand::RngExt as _;
use serde_json::Value;
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

pub use catalog::{CatalogAccess, Held, LOOK_MAX, Unavailable};
pub use configured::{Configured, Misdefined, described};
pub use definition::{NODE_MAINTENANCE, SERVICE_MAINTENANCE, Source};
pub use diff::{LEADER_CHECK, LEADER_SERVICE};
pub use error::Error;
pub use event_filter::{EventFilter, InvalidFilter};
pub use leader::lead;
pub use settings::Settings;
pub use times::Times;

use crate::checks::{CheckResult, First, Late, Report, Resources, Runner, Shared, Status, ttl};
use crate::net::tls::{Authorities, Tls};
use crate::store::{Check, Node, Service};
use persistence::{Kind, PersistedReport, Persistence, Write};
use register::{check_write, forget_check};
use state::{Effect, Outputs, Registrations};

/// Pair of the node's meta that clients of the reference expect on every agent's node.
const SEGMENT: &str = "consul-network-segment";

/// Treatment of checks that a service has and its new definition does not mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// They stay.
    #[default]
    Keep,
    /// They go.
    Replace,
}

/// Handle on what this agent claims. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Local {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    name: Arc<str>,
    /// As the catalog is to hold it; a reload may describe it anew.
    node: ArcSwap<Node>,
    /// The catalog that holds the rows of this node.
    catalog: Arc<dyn CatalogAccess>,
    /// Nodes in the catalog, when it was last read.
    cluster_size: AtomicUsize,
    /// Reason why the catalog does not follow, as long as it does not.
    trouble: Mutex<Option<String>>,
    registrations: Mutex<Registrations>,
    runner: Runner,
    tls: Tls,
    persistence: Persistence,
    /// Held by the one change of services and checks that is under way: what it does to them depends on how they are.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Counts changes of services and checks.
    changes: watch::Sender<u64>,
    /// There is work for `sync`.
    nudge: Notify,
}

impl Local {
    /// Reads what configuration files define and what was kept. Where both define a thing, the
    /// files win and the kept one is forgotten.
    pub fn open(settings: Settings, catalog: Arc<dyn CatalogAccess>) -> Result<Local, Error> {
        let tls = Tls::new(&settings.authorities)?;
        let (persistence, kept) = Persistence::open(settings.data_dir.as_deref())?;
        let node = Node {
            id: settings.node_id.clone(),
            name: settings.node_name.as_str().into(),
            address: settings.address.clone(),
            datacenter: settings.datacenter.clone(),
            tagged_addresses: settings.tagged_addresses.clone(),
            meta: with_segment(&settings.node_meta, &settings.segment),
            create_index: 0,
            modify_index: 0,
        };
        let local = Local {
            inner: Arc::new(Inner {
                settings,
                name: Arc::clone(&node.name),
                node: ArcSwap::from_pointee(node),
                catalog,
                cluster_size: AtomicUsize::new(0),
                trouble: Mutex::default(),
                registrations: Mutex::default(),
                runner: Runner::new(Resources { tls: tls.clone(), ..Resources::default() }),
                tls,
                persistence,
                turn: Arc::default(),
                changes: watch::Sender::new(0),
                nudge: Notify::new(),
            }),
        };
        let settings = local.settings();
        let (services, checks) = (settings.services.clone(), settings.checks.clone());
        let configured = local.read_configured(&services, &checks)?;
        local.take_configured(&configured, First::Spread)?;
        local.take_kept(kept);
        local.registrations().recall();
        Ok(local)
    }

    /// Runs checks, corrects the catalog and takes services away whose checks ask for it, until
    /// `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let local = self.clone();
        let report: Report = Arc::new(move |id, registration, outcome| {
            local.observe(id, registration, outcome);
        });
        let checks = self.inner.runner.run(report, shutdown.clone());
        let chores = async {
            let mut reap = tokio::time::interval(self.settings().check_reap_interval);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = reap.tick() => self.reap(Instant::now()).await,
                }
            }
        };
        let aliases = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.watch_alias_nodes() => {}
            }
        };
        tokio::join!(checks, chores, aliases, sync::run(self, &shutdown));
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// This agent's node as the catalog is to hold it.
    pub fn node(&self) -> Arc<Node> {
        self.inner.node.load_full()
    }

    /// The name of this agent's node, which never changes.
    pub fn node_name(&self) -> &str {
        &self.inner.name
    }

    /// The services of this agent, by id.
    pub fn services(&self) -> BTreeMap<Arc<str>, Arc<Service>> {
        let registrations = self.registrations();
        registrations
            .services()
            .iter()
            .map(|(id, c)| (Arc::clone(id), Arc::clone(&c.row)))
            .collect()
    }

    /// One service of this agent.
    pub fn service(&self, id: &str) -> Option<Arc<Service>> {
        self.registrations().services().get(id).map(|claim| Arc::clone(&claim.row))
    }

    /// One check of this agent.
    pub fn check(&self, id: &str) -> Option<Arc<Check>> {
        self.registrations().checks().get(id).map(|claim| Arc::clone(&claim.row))
    }

    /// Does the catalog hold everything this agent claims?
    pub fn is_synced(&self) -> bool {
        self.registrations().is_settled()
    }

    /// Reason why the catalog does not hold everything yet, if it is known.
    pub fn trouble(&self) -> Option<String> {
        self.inner.trouble.lock().clone()
    }

    /// The checks of this agent, by id.
    pub fn checks(&self) -> BTreeMap<Arc<str>, Arc<Check>> {
        let registrations = self.registrations();
        registrations.checks().iter().map(|(id, c)| (Arc::clone(id), Arc::clone(&c.row))).collect()
    }

    /// Numbers of checks that are run, and of checks that are reported to.
    pub fn check_counts(&self) -> (usize, usize) {
        self.inner.runner.counts()
    }

    /// Lateness of the last runs of checks.
    pub fn check_late(&self) -> Late {
        self.inner.runner.late()
    }

    /// Counts changes of services and checks; whoever waits for one holds on to the receiver.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Reads the definition of a service from JSON and validates it.
    pub fn parse_service(&self, value: Value, source: Source) -> Result<ServiceDefinition, Error> {
        definition::service(value, source, self.shared())
    }

    /// Reads the definition of a check from JSON and validates it.
    pub fn parse_check(&self, value: Value, source: Source) -> Result<CheckDefinition, Error> {
        definition::check(value, source, self.shared())
    }

    /// Claims a service with its checks. One with the same id is updated in place; its checks keep
    /// their status, and those that are not mentioned stay or go as `existing` says.
    pub async fn register_service(
        &self,
        definition: &ServiceDefinition,
        existing: Existing,
    ) -> Result<(), Error> {
        let registration = self.validate_service(definition, Source::Api)?;
        let turn = self.turn().await;
        let writes = self.service_writes(definition, &registration, existing);
        let local = self.clone();
        self.keep(writes, move || {
            local.claim_service(registration, Source::Api, existing, First::Now);
            drop(turn);
        })
        .await
    }

    /// Gives a service up, with its checks. `false` if there was none.
    pub async fn deregister_service(&self, id: &str) -> Result<bool, Error> {
        if id.is_empty() {
            return Err(Error::Refused("ServiceID missing".into()));
        }
        let turn = self.turn().await;
        let Some(writes) = self.release_service_writes(id) else { return Ok(false) };
        let (local, id) = (self.clone(), id.to_owned());
        self.keep(writes, move || {
            local.release_service(&id);
            drop(turn);
        })
        .await?;
        Ok(true)
    }

    /// Claims a check of the node or of one of its services.
    pub async fn register_check(&self, definition: &CheckDefinition) -> Result<(), Error> {
        // Whoever says how it is does not wait for the answer.
        let first = if definition.status.is_some() { First::Within } else { First::Now };
        let turn = self.turn().await;
        let check = self.validate_check(definition, Source::Api)?;
        let writes = vec![check_write(&check)];
        let local = self.clone();
        self.keep(writes, move || {
            local.claim_check_alone(check, Source::Api, first);
            drop(turn);
        })
        .await
    }

    /// Gives a check up. `false` if there was none.
    pub async fn deregister_check(&self, id: &str) -> Result<bool, Error> {
        if id.is_empty() {
            return Err(Error::Refused("CheckID missing".into()));
        }
        let turn = self.turn().await;
        if self.check(id).is_none() {
            return Ok(false);
        }
        let (local, id) = (self.clone(), id.to_owned());
        self.keep(forget_check(&id), move || {
            local.release_check(&id);
            drop(turn);
        })
        .await?;
        Ok(true)
    }

    /// The owner of a TTL check says how it is. Unlike other changes this counts even if the disk cannot take it: a
    /// service that is well must not become critical because a disk is full. The error then says that it would be lost
    /// in a restart; the next report is kept again, if it can be.
    pub async fn update_ttl(&self, id: &str, status: Status, output: &str) -> Result<(), Error> {
        let kept = {
            // Held until the write is handed over: reports are kept in the order in which they count.
            let mut registrations = self.registrations();
            let run = registrations.checks().get(id).and_then(|claim| claim.run.clone());
            let Some((run, time)) = run.and_then(|run| run.ttl().map(|ttl| (run, ttl))) else {
                return Err(Error::Refused(format!("CheckID {id:?} does not have associated TTL")));
            };
            let note = ttl::note(output, run.output_bytes_max);
            let report = PersistedReport {
                status: written(status),
                output: note.clone(),
                expires_ms: now_ms().saturating_add(millis(time)),
            };
            self.inner.runner.renew(id, note.clone());
            let outputs = self.outputs();
            let effect = registrations.report(id, status, note, outputs, Instant::now(), chance());
            self.took_effect(&mut registrations, effect);
            self.inner.persistence.write(vec![Write::put(Kind::Ttl, id, &report)], || ())
        };
        let not_kept = |why| Error::ReportNotKept { check: id.to_owned(), why };
        kept.durable().await.map_err(not_kept)
    }

    /// Takes the definitions of configuration files as they are now. What is equal is not touched,
    /// what they no longer define goes; a wrong one changes nothing at all.
    pub async fn reload(
        &self,
        services: &[Value],
        checks: &[Value],
        authorities: &Authorities,
        node_meta: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let trusted = Tls::new(authorities)?;
        let turn = self.turn().await;
        let configured = self.read_configured(services, checks)?;
        let writes = self.configured_writes(&configured);
        let local = self.clone();
        self.keep(writes, move || {
            let taken = local.take_configured(&configured, First::Now);
            drop(turn);
            taken
        })
        .await??;
        self.inner.tls.adopt(&trusted);
        self.describe_node(node_meta);
        Ok(())
    }

    /// The pairs of the node are these from now on; the catalog follows.
    fn describe_node(&self, meta: &BTreeMap<String, String>) {
        let meta = with_segment(meta, &self.inner.settings.segment);
        let mut registrations = self.registrations();
        let node = self.node();
        if node.meta == meta {
            return;
        }
        self.inner.node.store(Arc::new(Node { meta, ..Node::clone(&node) }));
        registrations.change_node();
        self.changed_in(&mut registrations);
    }

    /// TLS settings of this agent as a client; a reload reaches all that hold them.
    pub fn tls(&self) -> Tls {
        self.inner.tls.clone()
    }

    /// Waits until no other change of services and checks is under way.
    async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.inner.turn).lock_owned().await
    }

    /// Makes writes durable and then changes the agent's own state; if they cannot be kept, nothing is changed.
    async fn keep<R: Send + 'static>(
        &self,
        writes: Vec<Write>,
        change: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.inner.persistence.write(writes, change).durable().await.map_err(Error::NotKept)
    }

    fn registrations(&self) -> MutexGuard<'_, Registrations> {
        self.inner.registrations.lock()
    }

    fn shared(&self) -> Shared {
        self.inner.settings.shared()
    }

    fn outputs(&self) -> Outputs {
        Outputs {
            discard: self.inner.settings.discard_check_output,
            delay: self.inner.settings.check_update_interval,
        }
    }

    /// A run ended.
    fn observe(&self, id: &str, registration: u64, outcome: CheckResult) {
        let mut registrations = self.registrations();
        let before = registrations.checks().get(id).map(|claim| claim.row.status.clone());
        let now = Instant::now();
        let effect =
            registrations.observe(id, registration, outcome, self.outputs(), now, chance());
        if effect == Effect::Status
            && let Some(claim) = registrations.checks().get(id)
            && before.as_ref() != Some(&claim.row.status)
        {
            tracing::info!(check = id, status = %claim.row.status, "check status changed");
        }
        self.took_effect(&mut registrations, effect);
    }

    /// Wakes the sync according to the effect of a result: an output that alone changed wakes nobody.
    fn took_effect(&self, registrations: &mut Registrations, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Output => self.settle_aliases(registrations),
            Effect::Deferred => {
                self.settle_aliases(registrations);
                self.inner.nudge.notify_one();
            }
            Effect::Status => self.changed_in(registrations),
        }
    }

    /// Services or checks changed: aliases look again, waiters and the catalog hear of it.
    fn changed_in(&self, registrations: &mut Registrations) {
        self.settle_aliases(registrations);
        self.inner.changes.send_modify(|count| *count += 1);
        self.inner.nudge.notify_one();
    }

    /// Takes services away whose check has been critical for longer than its definition allows.
    async fn reap(&self, now: Instant) {
        let doomed: Vec<_> = {
            let registrations = self.registrations();
            registrations
                .checks()
                .values()
                .filter(|claim| {
                    let after = claim.run.as_ref().and_then(|run| run.deregister_after);
                    let since = claim.critical_since;
                    !claim.row.service_id.is_empty()
                        && after.zip(since).is_some_and(|(after, since)| {
                            now.saturating_duration_since(since) > after
                        })
                })
                .map(|claim| (claim.row.service_id.clone(), Arc::clone(&claim.row.id)))
                .collect()
        };
        for (service, check) in doomed {
            match self.deregister_service(&service).await {
                Ok(true) => tracing::info!(
                    service, %check,
                    "deregistered a service: its check has been critical for too long"
                ),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(service, %error, "a service could not be deregistered");
                }
            }
        }
    }
}

/// Pairs of the node with the one that clients of the reference expect.
fn with_segment(meta: &BTreeMap<String, String>, segment: &str) -> BTreeMap<String, String> {
    let mut meta = meta.clone();
    meta.insert(SEGMENT.to_owned(), segment.to_owned());
    meta
}

fn written(status: Status) -> muster_client::types::Status {
    match status {
        Status::Passing => muster_client::types::Status::Passing,
        Status::Warning => muster_client::types::Status::Warning,
        Status::Critical => muster_client::types::Status::Critical,
    }
}

fn read(status: muster_client::types::Status) -> Status {
    match status {
        muster_client::types::Status::Passing => Status::Passing,
        muster_client::types::Status::Warning => Status::Warning,
        muster_client::types::Status::Critical => Status::Critical,
    }
}

/// A number in 0..1 that spreads things.
fn chance() -> f64 {
    rand::rng().random()
}

#[expect(clippy::disallowed_methods, reason = "a report's end must outlive the process")]
fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
