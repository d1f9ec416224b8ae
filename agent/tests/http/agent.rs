//! The agent's own end points, as far as a table of rows cannot show them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_agent::http::Settings;

use crate::support::Server;

const REGISTER: &str = "/v1/agent/service/register";

/// Registrations, and the hash of each in the reference's answer.
const HASHES: &[(&str, &str)] = &[
    (r#"{"Name":"bare"}"#, "8b5862b687a47444"),
    (r#"{"Name":"foo","Tags":["bar","baz"],"Port":8000}"#, "6b13684bfe179e67"),
    (
        r#"{"ID":"w1","Name":"web","Tags":["b","a","b"],"Port":80,"Address":"10.0.0.1",
            "Meta":{"version":"1","text":"ß"}}"#,
        "4d06fbc125cfda39",
    ),
    (
        r#"{"ID":"w2","Name":"web","Weights":{"Passing":10,"Warning":0},"EnableTagOverride":true}"#,
        "e0bf83bc2e2db27f",
    ),
    (
        r#"{"ID":"w3","Name":"web","TaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80},
            "wan":{"Address":"198.18.0.1","Port":443}}}"#,
        "6f85208c3a593154",
    ),
    // A leading zero is not shown.
    (r#"{"ID":"w10","Name":"web","Port":7}"#, "ad076034c367ab7"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hash_of_a_service_is_the_same_everywhere() {
    let server = Server::start(Settings::default()).await;
    for (registration, hash) in HASHES {
        let value: serde_json::Value = serde_json::from_str(registration).unwrap();
        let id = value.get("ID").unwrap_or(&value["Name"]).as_str().unwrap();
        server.put(REGISTER, registration).await;
        let answer = server.get(&format!("/v1/agent/service/{id}")).await;
        assert_eq!(answer.json()["ContentHash"], *hash, "{registration}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_waited_for_by_its_hash() {
    let server = Server::start(Settings::default()).await;
    server.put(REGISTER, r#"{"Name":"web","Port":1}"#).await;
    let first = server.get("/v1/agent/service/web").await;
    let hash = first.header("x-consul-contenthash").to_owned();
    assert_eq!(first.json()["ContentHash"], hash);

    // Another hash is answered at once, the present one after the wait.
    let begun = Instant::now();
    let other = server.get("/v1/agent/service/web?hash=x&wait=60s").await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(other.json(), first.json());
    let begun = Instant::now();
    let same = server.get(&format!("/v1/agent/service/web?hash={hash}&wait=200ms")).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(same.json(), first.json());

    // A change of another service wakes nobody; one of this service does.
    let waiting = format!("/v1/agent/service/web?hash={hash}&wait=60s");
    let (changed, ()) = tokio::join!(server.get(&waiting), async {
        server.put(REGISTER, r#"{"Name":"other"}"#).await;
        server.put(REGISTER, r#"{"Name":"web","Port":2}"#).await;
    });
    assert_eq!(changed.json()["Port"], 2);
    let waiting =
        format!("/v1/agent/service/web?hash={}&wait=60s", changed.header("x-consul-contenthash"));
    let (gone, _) =
        tokio::join!(server.get(&waiting), server.put("/v1/agent/service/deregister/web", ""));
    assert_eq!((gone.status, gone.text().as_str()), (404, "unknown service ID: web"));
}

#[tokio::test]
async fn an_agent_says_who_it_is() {
    let server = Server::start(Settings::default()).await;
    server.put(REGISTER, r#"{"Name":"web","Check":{"TTL":"10s"}}"#).await;
    let myself = server.get("/v1/agent/self").await.json();
    assert_eq!(myself["Config"]["NodeName"], "n1");
    assert_eq!(myself["Member"]["Name"], "n1");
    assert_eq!(myself["Meta"]["consul-network-segment"], "");
    let stats = &myself["Stats"];
    assert_eq!(
        (&stats["agent"]["services"], &stats["agent"]["check_ttls"]),
        (&"1".into(), &"1".into())
    );
    assert_eq!(stats["consul"]["leader"], "true");
    for section in stats.as_object().unwrap().values() {
        assert!(section.as_object().unwrap().values().all(serde_json::Value::is_string));
    }
    let members = server.get("/v1/agent/members").await.json();
    assert_eq!(members, serde_json::json!([myself["Member"]]));
    let host = server.get("/v1/agent/host").await.json();
    assert!(host["Memory"]["total"].as_u64().unwrap() > 0);
    let gauges = server.get("/v1/agent/metrics").await.json()["Gauges"].clone();
    assert!(gauges.as_array().unwrap().iter().any(|gauge| gauge["Name"] == "consul.raft.index"));
    assert_eq!(server.get("/v1/agent/metrics?format=prometheus").await.status, 415);
}

#[tokio::test]
async fn live_is_not_ready() {
    // Nobody brings this agent's claims to the catalog.
    let server = Server::start(Settings::default()).await;
    assert_eq!(server.get("/v1/agent/live").await.status, 200);
    let ready = server.get("/v1/agent/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["Synced"], false);
    assert_eq!(ready.json()["Leader"], "127.0.0.1:8300");
}

#[tokio::test]
async fn what_cannot_be_done_says_so() {
    let server = Server::start(Settings::default()).await;
    let rows = [
        (
            "PUT",
            "/v1/agent/join/127.0.0.1:1",
            500,
            "dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        ("PUT", "/v1/agent/join/10.9.9.9?wan=1", 500, "other datacenters is not supported yet"),
        ("PUT", "/v1/agent/force-leave/nope", 500, "agent: No node found with name 'nope'"),
        ("PUT", "/v1/agent/force-leave/n1", 200, ""),
        ("PUT", "/v1/agent/reload", 500, "nothing was changed"),
        ("PUT", "/v1/agent/token/default", 401, "ACL support disabled"),
        ("GET", "/v1/agent/monitor?loglevel=x", 400, "Bad request: Unknown log level: x"),
        ("GET", "/v1/agent/monitor", 500, "this agent keeps no log"),
        ("GET", "/v1/agent/members?wan=1&segment=x", 400, "Cannot provide a segment with wan=true"),
        ("GET", "/v1/agent/members?wan=1&segment=_all", 200, "[]"),
        ("GET", "/v1/agent/members?segment=x", 500, "agent \"n1\" is in the default segment"),
        ("GET", "/v1/operator/segment", 200, "[\"\"]"),
    ];
    for (method, path, status, text) in rows {
        let response = server.ask(method, path, "").await;
        assert_eq!(response.status, status, "{path}");
        assert!(response.text().contains(text), "{path}: {}", response.text());
    }
}

/// As the reference 1.8.7 answers with access control off; profiles of a run-time that there is none of are refused.
#[tokio::test]
async fn the_process_tells_of_itself_where_that_is_enabled() {
    let off = Server::start(Settings::default()).await;
    for path in ["", "cmdline", "profile?seconds=1", "heap", "nope"] {
        let refused = off.get(&format!("/debug/pprof/{path}")).await;
        assert_eq!((refused.status, refused.text().as_str()), (401, "ACL support disabled"));
    }
    let on = Server::start(Settings { debug: true, ..Settings::default() }).await;
    for server in [&off, &on] {
        let moved = server.get("/debug/pprof").await;
        assert_eq!((moved.status, moved.header("location")), (301, "/debug/pprof/"));
        assert_eq!(server.get("/debug/").await.status, 404);
    }
    for (path, status, text) in [
        ("", 200, "cmdline: how"),
        ("cmdline", 200, std::env::args().next().unwrap().as_str()),
        ("symbol", 200, "num_symbols: "),
        ("nope", 404, "Unknown profile\n"),
        ("heap", 501, "there is no `heap` of this program\nhint: `perf record"),
        ("profile?seconds=1", 501, "there is no `profile`"),
        ("trace?seconds=1", 501, "there is no `trace`"),
        ("goroutine?debug=1", 501, "there is no `goroutine`"),
    ] {
        let answer = on.get(&format!("/debug/pprof/{path}")).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn leaving_is_passed_on() {
    let server = Server::start(Settings::default()).await;
    assert_eq!(server.ask("GET", "/v1/agent/leave", "").await.status, 405);
    // Whoever is answered may count on it that the others know.
    let concluded = AtomicBool::new(false);
    tokio::join!(
        async {
            server.put("/v1/agent/leave", "").await;
            assert!(concluded.load(Ordering::SeqCst), "answered before it was done");
        },
        async {
            server.departure.wanted().await;
            concluded.store(true, Ordering::SeqCst);
            server.departure.conclude();
        }
    );
}
