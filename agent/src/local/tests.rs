//! The agent's own state over a real consensus of one server, in memory, and a real drawer.

mod checks;
mod disks;

use std::path::Path;

use serde_json::json;
use tokio_util::sync::DropGuard;

use super::*;
use crate::raft::{self, Consensus, LogBackend};

const NODE_ID: &str = "11111111-2222-3333-4444-555555555555";

fn settings(data_dir: Option<&Path>) -> Settings {
    Settings {
        node_name: "n1".into(),
        node_id: NODE_ID.into(),
        data_dir: data_dir.map(Path::to_owned),
        sync_interval: Duration::from_millis(200),
        check_update_interval: Duration::ZERO,
        enable_script_checks: true,
        ..Settings::default()
    }
}

async fn consensus() -> Consensus {
    Consensus::start(raft::Settings {
        data_dir: None,
        node_id: NODE_ID.into(),
        node_name: "n1".into(),
        address: "127.0.0.1:8300".into(),
        log_backend: LogBackend::default(),
        raft_multiplier: 1,
        snapshot_threshold: 16384,
        trailing_logs: 10240,
        autopilot: crate::store::Autopilot::default(),
    })
    .await
    .unwrap()
}

/// An agent that runs until it is dropped.
struct Agent {
    local: Local,
    consensus: Consensus,
    _stop: DropGuard,
}

async fn agent(settings: Settings) -> Agent {
    let consensus = consensus().await;
    let local = Local::open(settings, Arc::new(consensus.clone())).unwrap();
    let stop = CancellationToken::new();
    let (running, token) = (local.clone(), stop.clone());
    tokio::spawn(async move { running.run(token).await });
    Agent { local, consensus, _stop: stop.drop_guard() }
}

impl Agent {
    /// Waits until what the catalog holds of this node satisfies `holds`: services, then checks
    /// with their states.
    async fn until(&self, holds: impl Fn(&[String], &[String]) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let (services, checks) = self.held();
            if holds(&services, &checks) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{services:?} {checks:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn held(&self) -> (Vec<String>, Vec<String>) {
        let store = self.consensus.store();
        let services = store.catalog().node_services("n1").rows.map_or(vec![], |(_, rows)| rows);
        let checks = store.catalog().node_checks("n1").rows;
        (
            services.iter().map(|row| row.id.to_string()).collect(),
            checks.iter().map(|row| format!("{}={}", row.id, row.status)).collect(),
        )
    }

    async fn register(&self, definition: Value) {
        let read = self.local.parse_service(definition, Source::Api).unwrap();
        self.local.register_service(&read, Existing::Keep).await.unwrap();
    }
}

/// Copies the folder as a crash would leave it, while the agent still runs.
fn crashed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(folder.join("local"))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(status.success());
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_reaches_the_catalog_and_a_steady_agent_writes_nothing() {
    let agent = agent(settings(None)).await;
    agent.register(json!({"Name": "web", "Check": {"TTL": "1h"}})).await;
    agent.until(|s, c| s == ["web"] && c == ["service:web=critical"]).await;
    agent.local.update_ttl("service:web", Status::Passing, "fine").await.unwrap();
    agent.until(|_, c| c == ["service:web=passing"]).await;

    let index = agent.consensus.store().index();
    agent.local.update_ttl("service:web", Status::Passing, "fine").await.unwrap();
    agent.register(json!({"Name": "web", "Check": {"TTL": "1h"}})).await;
    // Several comparisons with the catalog later.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(agent.consensus.store().index(), index);

    // Somebody removes it from the catalog: the next comparison brings it back.
    let gone = crate::store::Deregister {
        node: "n1".into(),
        service_id: Some("web".into()),
        check_id: None,
    };
    agent.consensus.propose(crate::store::Change::Deregister(gone)).await.unwrap();
    assert!(agent.held().0.is_empty());
    agent.until(|s, c| s == ["web"] && c == ["service:web=passing"]).await;

    assert!(agent.local.deregister_service("web").await.unwrap());
    assert!(!agent.local.deregister_service("web").await.unwrap());
    agent.until(|s, c| s.is_empty() && c.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let before = agent(settings(Some(folder.path()))).await;
    before
        .register(json!({
            "Name": "web", "Port": 80, "Tags": ["t"],
            "Checks": [{"TTL": "1h"}, {"TTL": "1h", "Status": "warning"}, {"TTL": "1ms"}],
        }))
        .await;
    before.register(json!({"Name": "gone", "Check": {"TTL": "1h"}})).await;
    let alone = json!({"Name": "disk", "TTL": "1h", "Notes": "n"});
    let alone = before.local.parse_check(alone, Source::Api).unwrap();
    before.local.register_check(&alone).await.unwrap();
    before.local.update_ttl("service:web:1", Status::Passing, "fine").await.unwrap();
    before.local.update_ttl("service:web:3", Status::Passing, "short").await.unwrap();
    before.local.deregister_service("gone").await.unwrap();
    before.local.begin_node_maintenance("why").await.unwrap();
    before.local.begin_service_maintenance("web", "").await.unwrap();
    let copy = crashed(folder.path());

    let after = agent(settings(Some(copy.path()))).await;
    let services = after.local.services();
    assert_eq!(services.keys().map(|id| &**id).collect::<Vec<_>>(), ["web"]);
    assert_eq!(
        (services["web"].port, services["web"].tags.as_slice()),
        (80, &["t".to_owned()][..])
    );
    let checks = after.local.checks();
    let shown: Vec<_> =
        // The millisecond of `service:web:3` may be over again already.
        checks
            .values()
            .map(|c| format!("{} {} {}", c.id, c.status, c.output.replace("TTL expired", "")))
            .collect();
    assert_eq!(
        shown,
        [
            "_node_maintenance critical ",
            "_service_maintenance:web critical ",
            "disk critical ",
            "service:web:1 passing fine",
            "service:web:2 warning ",
            // Its report was worth nothing any more.
            "service:web:3 critical ",
        ]
        .map(str::to_owned)
        .to_vec(),
    );
    assert_eq!(checks["disk"].notes, "n");
    assert_eq!(checks["_node_maintenance"].notes, "why");
    after.until(|s, c| s == ["web"] && c.len() == 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_wins_over_what_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let first = agent(settings(Some(folder.path()))).await;
    first.register(json!({"Name": "web", "Port": 1})).await;
    first.register(json!({"Name": "api", "Port": 2})).await;
    let copy = crashed(folder.path());

    let mut configured = settings(Some(copy.path()));
    configured.services =
        vec![json!({"name": "web", "port": 9, "check": {"ttl": "1h", "id": "x"}})];
    configured.checks = vec![json!({"id": "mem", "name": "memory", "ttl": "1h"})];
    let second = agent(configured).await;
    let ports: Vec<_> = second.local.services().values().map(|row| row.port).collect();
    assert_eq!(ports, [2, 9]);
    let checks = second.local.checks();
    assert_eq!(checks.keys().map(|id| &**id).collect::<Vec<_>>(), ["mem", "x"]);
    let copy = {
        // The forgotten registration is gone for good.
        second.register(json!({"Name": "marker"})).await;
        crashed(copy.path())
    };
    let third = agent(settings(Some(copy.path()))).await;
    let services = third.local.services();
    assert_eq!(services.keys().map(|id| &**id).collect::<Vec<_>>(), ["api", "marker"]);
}

#[tokio::test]
async fn a_wrong_definition_in_a_file_is_named() {
    let consensus = consensus().await;
    let rows = [
        (json!({"name": "web", "port": "x"}), "service definition `web`"),
        (json!({"prot": 1}), "service definition number 1"),
    ];
    for (service, expected) in rows {
        let wrong = Settings { services: vec![service], ..settings(None) };
        let error = Local::open(wrong, Arc::new(consensus.clone())).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(std::error::Error::source(&error).is_some());
    }
    let script = json!({"name": "s", "args": ["/bin/true"], "interval": "1s"});
    let off = Settings { enable_script_checks: false, checks: vec![script], ..settings(None) };
    let error = Local::open(off.clone(), Arc::new(consensus.clone())).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("Scripts are disabled on this agent; to enable"), "{source}");
    let on = Settings { enable_local_script_checks: true, ..off };
    assert!(Local::open(on, Arc::new(consensus)).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_touches_only_what_differs() {
    let web = |port: u16| json!({"name": "web", "port": port, "check": {"ttl": "1h"}});
    let start = vec![web(1), json!({"name": "old", "checks": [{"ttl": "1h"}, {"ttl": "2h"}]})];
    let mem = json!({"name": "mem", "ttl": "1h"});
    let agent = agent(Settings {
        services: start.clone(),
        checks: vec![mem.clone(), json!({"name": "disk", "ttl": "1h"})],
        ..settings(None)
    })
    .await;
    agent.register(json!({"Name": "api"})).await;
    agent.local.update_ttl("service:web", Status::Passing, "fine").await.unwrap();
    agent.until(|s, c| s.len() == 3 && c.contains(&"service:web=passing".to_owned())).await;
    let index = agent.consensus.store().index();
    let all = [mem.clone(), json!({"name": "disk", "ttl": "1h"})];
    agent.local.reload(&start, &all, &Authorities::default(), &BTreeMap::new()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(agent.consensus.store().index(), index, "the same definitions write nothing");

    // One wrong definition: nothing changes.
    for wrong in [json!({"name": "x", "port": "y"}), json!({"name": ""})] {
        assert!(
            agent
                .local
                .reload(&[web(9), wrong], &[], &Authorities::default(), &BTreeMap::new())
                .await
                .is_err()
        );
    }
    let lost = json!({"name": "k", "ttl": "1h", "service_id": "old"});
    assert!(
        agent
            .local
            .reload(&[web(9)], &[lost], &Authorities::default(), &BTreeMap::new())
            .await
            .is_err()
    );
    assert_eq!(agent.local.services().len(), 3);
    assert_eq!(agent.local.services()["web"].port, 1);

    agent.local.reload(&[web(2)], &[mem], &Authorities::default(), &BTreeMap::new()).await.unwrap();
    agent.until(|s, c| s == ["api", "web"] && c == ["mem=critical", "service:web=passing"]).await;
    assert_eq!(agent.local.services()["web"].port, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_run_and_aliases_follow() {
    let agent = agent(settings(None)).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    agent.register(json!({"Name": "db", "Check": {"TCP": address, "Interval": "1h"}})).await;
    agent.register(json!({"Name": "app", "Check": {"AliasService": "db"}})).await;
    agent
        .register(json!({"Name": "far", "Check": {"AliasNode": "n1", "AliasService": "db"}}))
        .await;
    agent
        .until(|_, c| c == ["service:app=passing", "service:db=passing", "service:far=passing"])
        .await;
    // Registered again with the same definition: no new run, no new status.
    drop(listener);
    agent.register(json!({"Name": "db", "Check": {"TCP": address, "Interval": "1h"}})).await;
    assert_eq!(agent.local.checks()["service:db"].status, "passing");
    // Another definition is another check: it runs at once, and the aliases follow.
    agent.register(json!({"Name": "db", "Check": {"TCP": address, "Interval": "2h"}})).await;
    agent
        .until(|_, c| c == ["service:app=critical", "service:db=critical", "service:far=critical"])
        .await;
    let output = &agent.local.checks()["service:app"].output;
    assert!(
        output.starts_with("Aliased check \"Service 'db' check\" failing: dial tcp"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_when_its_check_was_critical_for_too_long() {
    let agent = agent(settings(None)).await;
    let check = json!({"TTL": "1h", "DeregisterCriticalServiceAfter": "90s"});
    agent.register(json!({"Name": "web", "Check": check})).await;
    agent.register(json!({"Name": "kept", "Check": {"TTL": "1h"}})).await;
    for id in ["service:web", "service:kept"] {
        agent.local.update_ttl(id, Status::Critical, "down").await.unwrap();
    }
    let now = Instant::now();
    agent.local.reap(now + Duration::from_secs(80)).await;
    assert_eq!(agent.local.services().len(), 2);
    agent.local.reap(now + Duration::from_secs(100)).await;
    assert_eq!(agent.local.services().keys().map(|id| &**id).collect::<Vec<_>>(), ["kept"]);
    agent.until(|s, c| s == ["kept"] && c.len() == 1).await;
}

#[tokio::test]
async fn refusals_are_the_reference_s() {
    let local = Local::open(settings(None), Arc::new(consensus().await)).unwrap();
    let text = |error: Error| error.to_string();
    let check = |value| local.parse_check(value, Source::Api).unwrap();
    let lost = check(json!({"Name": "k", "TTL": "1s", "ServiceID": "nope"}));
    assert_eq!(
        local.register_check(&lost).await.map_err(text),
        Err("ServiceID \"nope\" does not exist".to_owned())
    );
    assert_eq!(
        local.update_ttl("nope", Status::Passing, "").await.map_err(text),
        Err("CheckID \"nope\" does not have associated TTL".to_owned())
    );
    assert_eq!(
        local.deregister_service("").await.map_err(text),
        Err("ServiceID missing".to_owned())
    );
    assert_eq!(local.deregister_check("").await.map_err(text), Err("CheckID missing".to_owned()));
    assert_eq!(
        local.begin_service_maintenance("nope", "").await.map_err(text),
        Err("No service registered with ID \"nope\"".to_owned())
    );
    let other = check(json!({"Name": "k", "TCP": "127.0.0.1:1", "Interval": "1h"}));
    local.register_check(&other).await.unwrap();
    assert!(local.update_ttl("k", Status::Passing, "").await.is_err());
}
