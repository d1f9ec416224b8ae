//! Sessions end when their time is up, and not before.

use std::time::{Duration, Instant};

use muster_agent::http::Settings;

use crate::support::{PATIENCE, Server};

const TTL: Duration = Duration::from_millis(700);

async fn exists(server: &Server, id: &str) -> bool {
    server.get(&format!("/v1/session/info/{id}")).await.text() != "[]"
}

#[tokio::test]
async fn a_session_lives_one_to_two_ttls_and_renewal_prolongs_it() {
    let settings = Settings { session_ttl_min: Duration::from_millis(1), ..Settings::default() };
    let server = Server::start(settings).await;
    let create = format!(r#"{{"TTL":"{}ms","LockDelay":"0s"}}"#, TTL.as_millis());
    let id =
        |response: crate::support::Response| response.json()["ID"].as_str().unwrap().to_owned();
    let kept = id(server.put("/v1/session/create", &create).await);
    let left = id(server.put("/v1/session/create", &create).await);
    let born = Instant::now();
    assert_eq!(server.put(&format!("/v1/kv/lock?acquire={left}"), "x").await.text(), "true");

    while exists(&server, &left).await {
        assert!(born.elapsed() < PATIENCE, "the session never ended");
        server.put(&format!("/v1/session/renew/{kept}"), "").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(born.elapsed() >= TTL, "it ended after {:?}", born.elapsed());
    assert!(exists(&server, &kept).await, "the renewed one went too");
    let lock = server.get("/v1/kv/lock").await.json();
    assert!(lock[0]["Session"].is_null(), "the lock outlived its holder: {lock}");
}
