//! Every call against a real agent: a reference server when `MUSTER_TEST_CONSUL` names its binary.
//! Without it there is nothing to ask, and the tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::print_stderr, reason = "tells that there was nothing to ask")]

use std::num::NonZeroU32;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_client::types::{
    CatalogDeregistration, CatalogRegistration, CheckDefinition, ServiceDefinition,
    SessionDefinition, Status,
};
use muster_client::{
    Answer, Client, LOCK_FLAGS, LockError, LockSettings, PutOptions, Query, ReadOptions,
    SEMAPHORE_FLAGS, ServiceQuery, Settings, Update, WatchSettings,
};

/// A running reference server, ended when dropped.
struct Reference {
    process: Child,
    client: Client,
    node: String,
    _folder: tempfile::TempDir,
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Reference {
    async fn start() -> Option<Reference> {
        let Some(binary) = std::env::var_os("MUSTER_TEST_CONSUL") else {
            eprintln!("MUSTER_TEST_CONSUL is not set: nothing to ask");
            return None;
        };
        // Another program may take a port between our look and the server's: then try others.
        for _ in 0..5 {
            let mut reference = Reference::spawn(&binary);
            if reference.is_ready().await {
                return Some(reference);
            }
        }
        panic!("no server could be started");
    }

    fn spawn(binary: &std::ffi::OsStr) -> Reference {
        let [http, dns, server, lan, wan] = muster_testing::free_ports();
        // A name that no other server has: what answers there must be ours.
        let node = format!("client-test-{}-{http}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        let text = format!(
            r#"{{"node_name":"{node}","disable_update_check":true,"log_level":"err","ports":{{
                "http":{http},"dns":{dns},"server":{server},"serf_lan":{lan},"serf_wan":{wan},
                "grpc":-1}}}}"#
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new(binary)
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-config-file"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{http}");
        let client = Client::new(Settings { address, ..Settings::default() }).unwrap();
        Reference { process, client, node, _folder: folder }
    }

    /// Waits until it serves; `false` if it ends instead.
    async fn is_ready(&mut self) -> bool {
        let options = ReadOptions::default();
        let ready = tokio::time::timeout(Duration::from_secs(30), async {
            while self.process.try_wait().unwrap().is_none() {
                // The node is in the catalog only after a leader was elected.
                let nodes = self.client.catalog().nodes(&options).await;
                if nodes.is_ok_and(|nodes| nodes.value.iter().any(|n| n.node == self.node)) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            false
        });
        ready.await.expect("the server starts in time")
    }
}

fn web() -> ServiceDefinition {
    ServiceDefinition {
        id: Some("web/1 ü".into()),
        name: "web".into(),
        tags: vec!["a".into(), "b c".into()],
        port: 8080,
        address: "10.0.0.1".into(),
        meta: [("version".to_owned(), "1".to_owned())].into(),
        check: Some(CheckDefinition { ttl: Some("60s".into()), ..CheckDefinition::default() }),
        ..ServiceDefinition::default()
    }
}

#[tokio::test]
async fn services_and_their_health() {
    let Some(reference) = Reference::start().await else { return };
    let client = &reference.client;
    let (agent, catalog, health) = (client.agent(), client.catalog(), client.health());
    let now = ReadOptions::default();
    agent.register_service(&web(), false).await.unwrap();
    let services = agent.services().await.unwrap();
    assert_eq!(services["web/1 ü"].tags, ["a", "b c"]);
    assert_eq!(agent.checks().await.unwrap()["service:web/1 ü"].status, Status::Critical);

    // The agent tells the catalog in its own time: wait for what it tells, each time by index.
    let any = ServiceQuery::default();
    let mut index = 0;
    let mut until = async |query: &ServiceQuery, count: usize| {
        let found = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let blocked = ReadOptions::blocking(index, Duration::from_secs(20));
                let found = health.service("web", query, &blocked).await.unwrap();
                if found.value.len() == count {
                    return found;
                }
                index = found.meta.index;
            }
        });
        found.await.expect("the catalog learns it in time")
    };
    let all = until(&any, 1).await;
    assert_eq!(all.value[0].service.port, 8080);
    assert!(all.meta.index > 0 && all.meta.known_leader == Some(true));
    let passing = health.service("web", &ServiceQuery::passing(), &now).await.unwrap();
    assert_eq!(passing.value.len(), 0);
    agent.update_ttl("service:web/1 ü", Status::Passing, "all is well").await.unwrap();
    let passing = until(&ServiceQuery::passing(), 1).await;
    assert!(passing.meta.index > all.meta.index);

    let tagged = ServiceQuery { tags: vec!["b c".into()], passing: false };
    assert_eq!(catalog.service("web", &tagged, &now).await.unwrap().value[0].service_port, 8080);
    let none = ReadOptions { filter: Some("ServicePort != 8080".into()), ..now.clone() };
    assert!(catalog.service("web", &tagged, &none).await.unwrap().value.is_empty());
    let services = catalog.services(&now).await.unwrap().value;
    assert_eq!(services["web"].len(), 2);
    assert!(catalog.node(&reference.node, &now).await.unwrap().value.unwrap().services.len() >= 2);
    assert!(catalog.node("nobody", &now).await.unwrap().value.is_none());
    assert_eq!(health.checks("web", &now).await.unwrap().value.len(), 1);
    assert!(health.node(&reference.node, &now).await.unwrap().value.len() >= 2);
    assert!(health.state("passing", &now).await.unwrap().value.len() >= 2);

    agent.service_maintenance("web/1 ü", true, "for a while").await.unwrap();
    assert_eq!(agent.checks().await.unwrap().len(), 2);
    agent.service_maintenance("web/1 ü", false, "").await.unwrap();
    let missing = agent.service_maintenance("nope", true, "").await.expect_err("it is unknown");
    assert!(missing.is_not_found() && !missing.is_transient(), "{missing}");
    agent.node_maintenance(true, "").await.unwrap();
    agent.node_maintenance(false, "").await.unwrap();
    agent.deregister_service("web/1 ü").await.unwrap();
    assert!(agent.services().await.unwrap().is_empty());

    let external = CatalogRegistration {
        node: "external".into(),
        address: "www.example.com".into(),
        ..CatalogRegistration::default()
    };
    catalog.register(&external).await.unwrap();
    assert_eq!(catalog.nodes(&now).await.unwrap().value.len(), 2);
    let gone = CatalogDeregistration { node: "external".into(), ..Default::default() };
    catalog.deregister(&gone).await.unwrap();
    assert_eq!(catalog.nodes(&now).await.unwrap().value.len(), 1);
    assert_eq!(catalog.datacenters().await.unwrap(), ["dc1"]);
    assert_eq!(agent.members(false).await.unwrap()[0].name, reference.node);
    assert_eq!(agent.self_().await.unwrap()["Config"]["NodeName"], reference.node.as_str());
    assert_eq!(
        vec![client.status().leader().await.unwrap()],
        client.status().peers().await.unwrap()
    );
    assert!(!client.event().fire("deploy", "now", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_sessions_and_locks() {
    let Some(reference) = Reference::start().await else { return };
    let (kv, sessions) = (reference.client.kv(), reference.client.session());
    let now = ReadOptions::default();
    let key = "dir/ä b?c#d%e";
    let missing = kv.get(key, &now).await.unwrap();
    assert!(missing.value.is_none() && missing.meta.index > 0);
    let first = PutOptions { flags: u64::MAX, cas: Some(0), ..PutOptions::default() };
    assert!(kv.put(key, vec![0, 159, 255], &first).await.unwrap());
    assert!(!kv.put(key, "again", &first).await.unwrap(), "it exists");
    let pair = kv.get(key, &now).await.unwrap().value.unwrap();
    assert_eq!((pair.key.as_str(), pair.value, pair.flags), (key, vec![0, 159, 255], u64::MAX));
    assert!(kv.put("dir/empty", "", &PutOptions::default()).await.unwrap());
    assert_eq!(kv.list("dir/", &now).await.unwrap().value.len(), 2);
    assert_eq!(kv.keys("", "/", &now).await.unwrap().value, ["dir/"]);
    assert!(kv.keys("nothing", "", &now).await.unwrap().value.is_empty());
    assert!(!kv.delete(key, Some(1)).await.unwrap(), "another index");
    assert!(kv.delete(key, None).await.unwrap());
    assert!(kv.delete_tree("dir/").await.unwrap());
    assert!(kv.list("", &now).await.unwrap().value.is_empty());

    let id = sessions.create(&SessionDefinition::default()).await.unwrap();
    assert_eq!(sessions.info(&id, &now).await.unwrap().value.unwrap().id, id);
    assert_eq!(sessions.list(&now).await.unwrap().value.len(), 1);
    assert!(sessions.renew(&id).await.unwrap().is_some());
    sessions.destroy(&id).await.unwrap();
    assert!(sessions.renew(&id).await.unwrap().is_none());

    // Two compete; the second has it when the first gives it back.
    let first = reference.client.lock(LockSettings::new("leader")).await.unwrap();
    let holder = kv.get("leader", &now).await.unwrap().value.unwrap();
    assert_eq!((holder.session.as_deref(), holder.flags), (Some(first.session()), LOCK_FLAGS));
    let client = reference.client.clone();
    let second = tokio::spawn(async move { client.lock(LockSettings::new("leader")).await });
    tokio::time::timeout(Duration::from_secs(20), async {
        while sessions.list(&now).await.unwrap().value.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the second competes");
    assert!(!second.is_finished());
    let fence = first.fence();
    first.release().await.unwrap();
    let mut second = second.await.unwrap().unwrap();
    assert!(second.fence() > fence);

    // Who loses the session learns it.
    sessions.destroy(second.session()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), second.lost()).await.expect("it is told in time");
}

#[tokio::test]
async fn a_semaphore_has_so_many_holders() {
    let Some(reference) = Reference::start().await else { return };
    let client = &reference.client;
    let two = NonZeroU32::new(2).unwrap();
    let place = || client.semaphore(LockSettings::new("pool"), two);
    let in_time = Duration::from_secs(20);
    let mut first = place().await.unwrap();
    let second = place().await.unwrap();
    let list = client.kv().get("pool/.lock", &ReadOptions::default()).await.unwrap().value.unwrap();
    assert_eq!(list.flags, SEMAPHORE_FLAGS);
    let other = client.semaphore(LockSettings::new("pool"), NonZeroU32::MIN).await;
    assert!(matches!(other, Err(LockError::OtherLimit { theirs: 2, ours: 1, .. })), "{other:?}");
    let mut third = pin!(place());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut third).await;
    assert!(early.is_err(), "a third holder of two places");
    second.release().await.unwrap();
    let third = tokio::time::timeout(in_time, third).await.expect("a place is free").unwrap();

    // Who loses the session loses the place.
    client.session().destroy(first.session()).await.unwrap();
    tokio::time::timeout(in_time, first.lost()).await.expect("it is told in time");
    let fourth = tokio::time::timeout(in_time, place()).await.expect("a place is free").unwrap();
    assert!(fourth.fence() > third.fence());
    third.release().await.unwrap();
    fourth.release().await.unwrap();
}

#[tokio::test]
async fn a_watch_sees_every_final_state() {
    let Some(reference) = Reference::start().await else { return };
    let kv = reference.client.kv();
    let query = Query::Key { path: "counter".into() };
    let mut watch = reference.client.watch(query, WatchSettings::default());
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            kv.put("counter", n.to_string(), &PutOptions::default()).await.unwrap();
        }
    });
    let seen = tokio::time::timeout(Duration::from_secs(30), async {
        let mut seen = 0;
        loop {
            match watch.next().await {
                Update::Value(Answer::Key(Some(pair)), _) if pair.value == b"199" => return seen,
                Update::Value(Answer::Key(_), _) => seen += 1,
                other => panic!("{other:?}"),
            }
        }
    })
    .await
    .expect("the last value arrives");
    assert!(seen <= 200, "{seen} answers for 200 changes");
    writer.await.unwrap();
}
