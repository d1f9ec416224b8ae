//! What the interface refuses, bounds and adds.

use std::time::Duration;

use futures::FutureExt as _;
use muster_agent::http::{Limits, Listener, Mode, Rates, Settings};
use muster_agent::rpc::{Method, Pool};
use muster_agent::upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{PATIENCE, Response, Server, ask};

#[tokio::test]
async fn a_client_has_so_many_connections_and_no_more() {
    let settings = Settings { limits: Limits::new(3, Rates::default()), ..Settings::default() };
    let server = Server::start(settings).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    assert_eq!(server.get("/v1/status/leader").await.status, 429);
    held.pop();
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.get("/v1/status/leader").await.status != 200 {
        assert!(std::time::Instant::now() < deadline, "the place is not given back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn configuration_blocks_paths_and_writers_and_adds_headers() {
    let settings = Settings {
        block_endpoints: vec!["/v1/session".into()],
        allow_write_from: vec!["10.0.0.0/8".parse().unwrap()],
        response_headers: vec![("Access-Control-Allow-Origin".into(), "*".into())],
        translate_addresses: true,
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    let blocked = server.get("/v1/session/list").await;
    assert_eq!(blocked.status, 403);
    assert_eq!(blocked.text(), "Endpoint is blocked by agent configuration");
    let restricted = server.ask("PUT", "/v1/kv/a", "x").await;
    assert_eq!((restricted.status, restricted.text().as_str()), (403, "Access is restricted"));
    let open = server.get("/v1/catalog/nodes").await;
    assert_eq!(open.status, 200);
    assert_eq!(open.header("access-control-allow-origin"), "*");
    assert_eq!(open.header("x-consul-translate-addresses"), "true");
}

#[tokio::test]
async fn discovery_may_be_stale_by_default() {
    let settings = Settings { discovery_max_stale: Duration::from_secs(5), ..Settings::default() };
    let server = Server::start(settings).await;
    for (path, expected) in [
        ("/v1/catalog/nodes", "stale"),
        ("/v1/health/state/any", "stale"),
        ("/v1/catalog/nodes?leader", "leader"),
        ("/v1/catalog/nodes?consistent", "consistent"),
    ] {
        let found = server.get(path).await;
        assert_eq!(found.header("x-consul-effective-consistency"), expected, "{path}");
    }
}

#[tokio::test]
async fn values_have_a_limit_however_they_are_sent() {
    let settings = Settings { kv_value_bytes_max: 10, ..Settings::default() };
    let server = Server::start(settings).await;
    server.put("/v1/kv/a", "0123456789").await;
    let over = server.ask("PUT", "/v1/kv/a", "0123456789a").await;
    assert_eq!(over.status, 413);
    let text = "Request body(11 bytes) too large, max size: 10 bytes.";
    assert!(over.text().starts_with(text), "{}", over.text());

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(
            b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
              Transfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n0\r\n\r\n",
        )
        .await
        .unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert_eq!(Response::parse(&bytes).status, 413);
    assert_eq!(server.get("/v1/kv/a?raw").await.text(), "0123456789");
}

#[tokio::test]
async fn refusals_reach_clients_that_still_send() {
    let server = Server::start(Settings::default()).await;
    let body = vec![b'x'; 3 << 20];
    for (method, path, expected) in [
        ("PUT", "/v1/kv/a", 413),
        ("PUT", "/v1/txn", 413),
        ("PUT", "/v1/kv/a?flags=x", 500),
        ("POST", "/v1/kv/a", 405),
        ("PUT", "/v1/bogus", 404),
        ("PUT", "/v1/catalog/register", 400),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.expect("all of the body is taken");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("an answer");
        assert_eq!(status, format!("HTTP/1.1 {expected}").as_bytes(), "{method} {path}");
    }
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_ask() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/kv/a", &"x".repeat(5000)).await;
    let headers = [("Accept-Encoding", "gzip")];
    for path in ["/v1/kv/a?raw", "/v1/kv/a", "/v1/catalog/nodes"] {
        let plain = server.get(path).await;
        let zipped = server.ask_with("GET", path, &headers, b"").await;
        assert_eq!(plain.header("content-encoding"), "");
        assert_eq!(zipped.header("content-encoding"), "gzip", "{path}");
        let mut unzipped = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(zipped.body.as_slice());
        std::io::Read::read_to_end(&mut decoder, &mut unzipped).unwrap();
        assert_eq!(unzipped, plain.body, "{path}");
    }
    let none = server.ask_with("GET", "/v1/kv/none", &headers, b"").await;
    assert_eq!((none.status, none.header("content-encoding")), (404, ""));
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    // What a dead agent left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::unix(&path).unwrap();
    let server = Server::start_with(Settings::default(), vec![listener]).await;
    let stream = UnixStream::connect(&path).await.unwrap();
    let response = ask(stream, "GET", "/v1/status/leader", &[], b"").await;
    assert_eq!(response.text(), "\"127.0.0.1:8300\"");
    drop(server);
}

#[tokio::test]
async fn stopping_does_not_wait_for_those_who_wait() {
    let mut server = Server::start(Settings::default()).await;
    let index = server.get("/v1/kv/k").await.index();
    let mut parked = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /v1/kv/k?index={index}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n");
    parked.write_all(request.as_bytes()).await.unwrap();
    // Others never send anything, or never read.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    server.shutdown.cancel();
    let stopping = &mut server.serving;
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("it stops soon").unwrap();
}

#[tokio::test]
async fn requests_on_one_connection_follow_each_other() {
    let server = Server::start(Settings::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let pipeline = "PUT /v1/kv/p HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx\
                    GET /v1/kv/p?raw HTTP/1.1\r\nHost: x\r\n\r\n\
                    DELETE /v1/kv/p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(pipeline.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
}

#[tokio::test]
async fn who_asks_for_nothing_is_sent_away() {
    let first_head_max = Duration::from_millis(300);
    let server = Server::start(Settings { first_head_max, ..Settings::default() }).await;
    let question = b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut known = TcpStream::connect(server.address).await.unwrap();
    known.write_all(question).await.unwrap();
    let mut some = [0; 4096];
    assert!(known.read(&mut some).await.unwrap() > 0);
    for beginning in [&b""[..], b"GET /v1/status/leader HTTP/1.1\r\nHo"] {
        let mut idler = TcpStream::connect(server.address).await.unwrap();
        idler.write_all(beginning).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, idler.read(&mut some)).await;
        assert!(!closed.expect("it is closed").is_ok_and(|count| count > 0));
    }
    // Who has asked is idle for longer, and is answered again.
    known.write_all(question).await.unwrap();
    assert!(known.read(&mut some).await.unwrap() > 0);
}

/// The status that a server answers to whoever passes a request on, whatever it says of its own limits.
async fn passed(server: &Server, method: &str, path: &str, body: &'static [u8]) -> u16 {
    let request = upstream::Request {
        method: method.into(),
        path: path.into(),
        query: String::new(),
        headers: Vec::new(),
        body: body.into(),
        cut: false,
        upload: None,
        agent: upstream::Agent {
            node_name: "stranger".into(),
            kv_value_bytes_max: u64::MAX,
            txn_body_bytes_max: u64::MAX,
            ..upstream::Agent::default()
        },
    };
    let pool = Pool::default();
    let parts = pool.stream(server.rpc, Method::Http, &request, None).await;
    match parts.unwrap().next().await.unwrap().unwrap() {
        upstream::Part::Head(head) => head.status,
        upstream::Part::Body(_) => panic!("an answer without its beginning"),
    }
}

#[tokio::test]
async fn a_server_holds_its_own_limits_whoever_passes_a_request_on() {
    static LARGE: [u8; 3000] = [b'x'; 3000];
    let rates = Rates { mode: Mode::Enforcing, reads: Some(0.3), writes: None };
    let settings = Settings {
        block_endpoints: vec!["/v1/session".into()],
        kv_value_bytes_max: 2000,
        limits: Limits::new(200, rates),
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    assert_eq!(passed(&server, "PUT", "/v1/kv/a", &LARGE[..100]).await, 200);
    assert_eq!(passed(&server, "PUT", "/v1/kv/a", &LARGE).await, 413);
    assert_eq!(passed(&server, "GET", "/v1/session/list", b"").await, 403);
    assert_eq!(passed(&server, "GET", "/v1/s%65ssion/list", b"").await, 403, "escaped");
    assert_eq!(passed(&server, "PUT", "/v1/session/create", b"").await, 403);
    assert_eq!(passed(&server, "GET", "/v1/kv/%01", b"").await, 400);
    let long = format!("/v1/kv/{}", "x".repeat(1 << 20));
    assert_eq!(passed(&server, "GET", &long, b"").await, 431);
    let mut answered = Vec::new();
    for _ in 0..6 {
        answered.push(passed(&server, "GET", "/v1/kv/a", b"").await);
    }
    assert_eq!((answered[0], answered[5]), (200, 429), "{answered:?}");
}

#[tokio::test]
async fn pages_of_others_may_read_and_not_write() {
    let settings = Settings {
        allow_origins: vec!["https://ui.example".parse().unwrap()],
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    let foreign = [("Origin", "http://evil.example"), ("Content-Type", "text/plain")];
    let paths = [
        "/v1/operator/keyring",
        "/v1/operator/raft/peer",
        "/v1/operator/raft/transfer-leader",
        "/v1/operator/autopilot/configuration",
        "/v1/kv/a",
        "/v1/txn",
        "/v1/snapshot",
        "/v1/catalog/register",
        "/v1/catalog/deregister",
        "/v1/agent/service/register",
        "/v1/agent/check/register",
        "/v1/agent/leave",
        "/v1/agent/force-leave/n2",
        "/v1/agent/join/127.0.0.1",
        "/v1/agent/maintenance",
        "/v1/agent/reload",
        "/v1/agent/token/default",
        "/v1/acl/bootstrap",
        "/v1/event/fire/x",
        "/v1/session/create",
        "/v1/session/destroy/x",
    ];
    for path in paths {
        for method in ["PUT", "POST", "DELETE", "PATCH"] {
            let answer = server.ask_with(method, path, &foreign, b"{}").await;
            assert_eq!(answer.status, 403, "{method} {path}");
            assert!(answer.text().contains("http_config.allow_origins"), "{}", answer.text());
        }
    }
    assert!(server.departure.wanted().now_or_never().is_none(), "a page had the agent leave");
    assert_eq!(server.ask_with("GET", "/v1/catalog/nodes", &foreign, b"").await.status, 200);
    let listed = [("Origin", "https://ui.example"), ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(server.ask_with("PUT", "/v1/kv/a", &listed, b"1").await.status, 200);
    // The `Host` of these requests is anybody's name: right for programs, wrong for pages.
    let own = [("Sec-Fetch-Site", "same-origin")];
    assert_eq!(server.ask_with("PUT", "/v1/kv/a", &own, b"2").await.status, 403);
    server.put("/v1/kv/a", "3").await;
}
