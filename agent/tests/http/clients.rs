//! Agents that are no servers: what they answer by themselves, what they ask, and what happens when servers go.

use std::time::{Duration, Instant};

use muster_agent::http::{Limits, Rates, Settings};
use muster_agent::upstream::Rate;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{Client, PATIENCE, Server, known};

/// Resolves when `holds`.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn watch(client: &Client, path: &str) -> tokio::task::JoinHandle<crate::support::Response> {
    let (address, path) = (client.address, path.to_owned());
    tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        crate::support::ask(stream, "GET", &path, &[], b"").await
    })
}

/// A body without the marks of its chunks.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|it| it == b"\r\n") {
        let length = std::str::from_utf8(&body[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
    whole
}

#[tokio::test]
async fn without_a_server_only_its_own_part_answers() {
    let client = Client::named("m1", &[], Settings::default()).await;
    client.run();
    let refused = client.get("/v1/catalog/nodes").await;
    assert_eq!((refused.status, refused.text().as_str()), (500, "No known Consul servers"));
    assert_eq!(refused.header("vary"), "Accept-Encoding");
    client.put("/v1/agent/service/register", r#"{"Name":"web","Port":80}"#).await;
    assert!(client.get("/v1/agent/services").await.json().get("web").is_some());
    let ready = client.get("/v1/agent/ready").await;
    assert_eq!((ready.status, &ready.json()["Synced"]), (503, &false.into()));
    assert_eq!(client.get("/v1/acl/tokens").await.status, 401);
    assert_eq!(client.get("/v1/nowhere").await.status, 404);
    assert_eq!(client.get("/v1/agent/self").await.json()["Stats"]["consul"]["known_servers"], "0");

    // What it claims reaches the catalog as soon as there is one.
    let server = Server::start(Settings::default()).await;
    client.servers.send_replace(vec![known(&server)]);
    until("the service is in the catalog", async || {
        server.get("/v1/catalog/service/web").await.json()[0]["Node"] == "m1"
    })
    .await;
    until("the agent is ready", async || client.get("/v1/agent/ready").await.status == 200).await;
}

/// What the reference answers beyond `limits.rpc_rate`: 429 and nothing else; ours says when to come again.
#[tokio::test]
async fn no_more_is_asked_of_servers_than_allowed() {
    let server = Server::start(Settings::default()).await;
    let client = Client::named("m1", &[&server], Settings::default()).await;
    client.upstream.set_rate(Some(Rate { per_second: 1e-3, burst: 2 }));
    for path in ["/v1/catalog/nodes", "/v1/catalog/services"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/kv/a"),
        ("PUT", "/v1/kv/a"),
        ("GET", "/v1/catalog/nodes?index=1&wait=1s"),
        ("GET", "/v1/snapshot"),
        ("PUT", "/v1/snapshot"),
    ] {
        let refused = client.ask_with(method, path, &[], b"").await;
        assert_eq!((refused.status, refused.text().as_str()), (429, ""), "{method} {path}");
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((900..=1000).contains(&seconds), "{seconds}");
    }
    // What it answers by itself asks nobody.
    client.put("/v1/agent/service/register", r#"{"Name":"web"}"#).await;
    client.upstream.set_rate(None);
    assert_eq!(client.get("/v1/catalog/nodes").await.status, 200);
}

#[tokio::test]
async fn what_the_agent_is_told_shapes_what_it_passes_on() {
    let server = Server::start(Settings::default()).await;
    let settings = Settings {
        kv_value_bytes_max: 10,
        response_headers: vec![("X-Own".into(), "yes".into())],
        block_endpoints: vec!["/v1/txn".into()],
        ..Settings::default()
    };
    let client = Client::named("m1", &[&server], settings).await;
    client.run();
    let refused = client.ask_with("PUT", "/v1/kv/k", &[], b"12345678901").await;
    assert_eq!(refused.status, 413);
    assert!(refused.text().starts_with("Request body(11 bytes) too large, max size: 10 bytes"));
    let refused = client.ask_with("PUT", "/v1/kv/k", &[], &vec![b'a'; 9 << 20]).await;
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert_eq!(client.put("/v1/kv/k", "1234567890").await.header("x-own"), "yes");
    assert_eq!(client.ask_with("PUT", "/v1/txn", &[], b"[]").await.status, 403);
    // Its own node is the default, not the server's.
    until("the node is known", async || {
        server.get("/v1/catalog/nodes").await.text().contains("m1")
    })
    .await;
    let session = r#"{"NodeChecks":[]}"#;
    let id = client.put("/v1/session/create", session).await.json()["ID"].clone();
    let shown = client.get(&format!("/v1/session/info/{}", id.as_str().unwrap())).await;
    assert_eq!(shown.json()[0]["Node"], "m1");
    let zipped = client.ask_with("GET", "/v1/kv/k", &[("Accept-Encoding", "gzip")], b"").await;
    assert_eq!((zipped.header("content-encoding"), &zipped.body[..2]), ("gzip", &[0x1f, 0x8b][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_waits_share_one_call_and_each_ends_at_its_own_time() {
    const WATCHERS: usize = 100;
    let server = Server::start(Settings::default()).await;
    let crowd = Settings { limits: Limits::new(0, Rates::default()), ..Settings::default() };
    let client = Client::of(&[&server], crowd).await;
    client.put("/v1/kv/k", "one").await;
    let index = client.get("/v1/kv/k").await.index();
    let long: Vec<_> = (0..WATCHERS)
        .map(|_| watch(&client, &format!("/v1/kv/k?index={index}&wait=60s")))
        .collect();
    until("one call waits", async || server.reader.counts().waiting == 1).await;
    let begun = Instant::now();
    let short = watch(&client, &format!("/v1/kv/k?wait=300ms&index={index}")).await.unwrap();
    assert_eq!((short.status, short.index()), (200, index));
    assert!(
        begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(5)
    );
    // Those that ask for something else wait by themselves.
    let other = watch(&client, &format!("/v1/kv/k?raw&index={index}&wait=60s"));
    let sure = watch(&client, &format!("/v1/kv/k?consistent&index={index}&wait=60s"));
    until("three calls wait", async || server.reader.counts().waiting == 3).await;
    server.put("/v1/kv/k", "two").await;
    for watcher in long {
        let response = watcher.await.unwrap();
        assert!(
            response.index() > index && response.text().contains("dHdv"),
            "{}",
            response.text()
        );
    }
    assert_eq!(other.await.unwrap().text(), "two");
    assert!(sure.await.unwrap().index() > index);
    // Nobody is left behind at the server when clients go away.
    let index = client.get("/v1/kv/k").await.index();
    let gone = watch(&client, &format!("/v1/kv/k?index={index}&wait=60s"));
    until("one call waits", async || server.reader.counts().waiting == 1).await;
    gone.abort();
    until("no call waits", async || server.reader.counts().waiting == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_is_not_noticed() {
    let (mut one, two) =
        tokio::join!(Server::start(Settings::default()), Server::start(Settings::default()),);
    let client = Client::of(&[&one], Settings::default()).await;
    client.put("/v1/kv/k", "one").await;
    let index = client.get("/v1/kv/k").await.index();
    let watcher = watch(&client, &format!("/v1/kv/k?index={index}&wait=60s"));
    until("the call waits", async || one.reader.counts().waiting == 1).await;
    one.close_rpc();
    until("the call is gone", async || one.reader.counts().waiting == 0).await;
    // What reaches nobody waits for somebody to be there again, writes too.
    let (write, ()) = tokio::join!(client.put("/v1/kv/other", "x"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        one.reopen_rpc().await;
    });
    assert_eq!(write.text(), "true");
    until("the call waits again", async || one.reader.counts().waiting == 1).await;
    one.put("/v1/kv/k", "two").await;
    assert!(watcher.await.unwrap().text().contains("dHdv"));

    // With another server there is no wait at all. (They are two clusters here: only who answers matters.)
    client.servers.send_replace(vec![known(&one), known(&two)]);
    until("both are known", async || client.upstream.servers() == 2).await;
    one.close_rpc();
    two.put("/v1/kv/k", "from two").await;
    let begun = Instant::now();
    assert_eq!(client.get("/v1/kv/k?raw").await.text(), "from two");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    // A server that is said to have gone is not waited for.
    let index = two.get("/v1/kv/k").await.index();
    let watcher = watch(&client, &format!("/v1/kv/k?index={index}&wait=60s"));
    until("the call waits", async || two.reader.counts().waiting == 1).await;
    one.reopen_rpc().await;
    one.put("/v1/kv/k", "from one").await;
    client.servers.send_replace(vec![known(&one)]);
    assert!(watcher.await.unwrap().status == 200);
}

#[tokio::test]
async fn streams_and_large_answers_pass_through() {
    let server = Server::start(Settings::default()).await;
    let client = Client::of(&[&server], Settings::default()).await;
    client.put("/v1/kv/k", "one").await;
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    let request = b"GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    for value in ["b25l", "dHdv"] {
        let read = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the stream goes on");
                if line.starts_with("data: ") {
                    return line;
                }
            }
        };
        let line = tokio::time::timeout(PATIENCE, read).await.expect("an event in time");
        assert!(line.contains(value), "{line}");
        client.put("/v1/kv/k", "two").await;
    }

    // What may be large goes up in pieces.
    for number in 0..4 {
        let value: Vec<u8> = (0..500 << 10).map(|_| rand::random::<u8>()).collect();
        let put = client.ask_with("PUT", &format!("/v1/kv/noise/{number}"), &[], &value).await;
        assert_eq!(put.status, 200, "{}", put.text());
    }
    let saved = client.get("/v1/snapshot").await;
    assert!(saved.status == 200 && saved.body.len() > 1 << 20, "{}", saved.body.len());
    let read = |chunked: Vec<u8>| {
        if chunked.starts_with(b"\x1f\x8b") { chunked } else { unchunked(&chunked) }
    };
    let saved = read(saved.body);
    client.ask_with("DELETE", "/v1/kv/noise/?recurse", &[], b"").await;
    let restored = client.ask_with("PUT", "/v1/snapshot", &[], &saved).await;
    assert_eq!(restored.status, 200, "{}", restored.text());
    assert_eq!(server.get("/v1/kv/noise/?keys").await.json().as_array().unwrap().len(), 4);
    let torn = client.ask_with("PUT", "/v1/snapshot", &[], &saved[..saved.len() / 2]).await;
    assert_eq!(torn.status, 500, "{}", torn.text());

    // Base64 makes 10 MiB of it: more than an agent holds in whole.
    let value = "x".repeat(512 << 10);
    for number in 0..15 {
        server.put(&format!("/v1/kv/large/{number}"), &value).await;
    }
    let mut direct = server.get("/v1/kv/large/?recurse").await;
    let mut passed = client.get("/v1/kv/large/?recurse").await;
    assert!(direct.body.len() > 9 << 20);
    assert!(direct.headers.remove("date").is_some() && passed.headers.remove("date").is_some());
    assert_eq!(direct.headers, passed.headers);
    assert!(direct.body == passed.body);
    let index = direct.index() - 1;
    let waited = client.get(&format!("/v1/kv/large/?recurse&index={index}")).await;
    assert!(waited.body == direct.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_follows_what_a_client_claims() {
    let mut server = Server::start(Settings::default()).await;
    let client = Client::named("m1", &[&server], Settings::default()).await;
    client.run();
    let far = r#"{"Name":"web","Checks":[{"CheckID":"up","Name":"up","TTL":"1h"},
        {"CheckID":"far","Name":"far","AliasNode":"n1"}]}"#;
    client.put("/v1/agent/service/register", far).await;
    client.put("/v1/agent/check/pass/up", "").await;
    let statuses = async || {
        let checks = server.get("/v1/health/node/m1").await.json();
        let rows = checks.as_array().unwrap();
        rows.iter().map(|row| format!("{}={}", row["CheckID"], row["Status"])).collect::<Vec<_>>()
    };
    until("both checks pass", async || {
        statuses().await == [r#""far"="passing""#, r#""up"="passing""#]
    })
    .await;
    // A check of another node is followed.
    let fall = r#"{"Node":"n1","SkipNodeUpdate":true,
        "Check":{"CheckID":"disk","Name":"disk","Status":"critical"}}"#;
    server.put("/v1/catalog/register", fall).await;
    until("the alias falls", async || statuses().await[0] == r#""far"="critical""#).await;
    assert_eq!(client.get("/v1/agent/health/service/id/web").await.status, 503);

    // What others did to the rows of this node is undone; what they added goes.
    server.put("/v1/catalog/deregister", r#"{"Node":"m1","ServiceID":"web"}"#).await;
    let stray = r#"{"Node":"m1","Address":"127.0.0.2","SkipNodeUpdate":true,
        "Service":{"Service":"stray"}}"#;
    server.put("/v1/catalog/register", stray).await;
    until("the rows are right again", async || {
        let services = server.get("/v1/catalog/node/m1").await.json()["Services"].clone();
        services.get("web").is_some() && services.get("stray").is_none()
    })
    .await;

    // Changes made while no server answers are brought when one does, and nothing is reported twice.
    server.close_rpc();
    client.put("/v1/agent/service/register", r#"{"Name":"late"}"#).await;
    client.put("/v1/agent/service/deregister/web", "").await;
    until("the trouble is told", async || {
        client.get("/v1/agent/ready").await.json().get("SyncError").is_some()
    })
    .await;
    server.reopen_rpc().await;
    until("the rows are right again", async || {
        let services = server.get("/v1/catalog/node/m1").await.json()["Services"].clone();
        services.get("late").is_some() && services.get("web").is_none()
    })
    .await;
    until("the agent is ready", async || client.get("/v1/agent/ready").await.status == 200).await;
    let index = server.reader.consensus().store().index();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(server.reader.consensus().store().index(), index, "a steady agent writes nothing");
}
