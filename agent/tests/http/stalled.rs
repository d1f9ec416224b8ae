//! Clients that send half, take nothing, or ask at great length: what they cost, and for how long.

use std::time::{Duration, Instant};

use muster_agent::http::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{PATIENCE, Response, Server};

/// Short times, so that the tests are short, too.
fn settings() -> Settings {
    Settings {
        body_idle_max: Duration::from_millis(500),
        stall_max: Duration::from_millis(700),
        ..Settings::default()
    }
}

/// Bytes of memory of this process, server and clients together.
pub(crate) fn memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Asks, and never reads more than the kernel does by itself.
async fn ask_without_reading(server: &Server, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Has the server ended this connection, though its client did not read all?
async fn is_cut(stream: &mut TcpStream) -> bool {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    let whole = all.ends_with(b"0\r\n\r\n");
    read.expect("the connection ends").is_err() || !whole
}

/// So many megabytes of keys.
async fn fill(server: &Server, megabytes: usize) {
    let value = "x".repeat(500 << 10);
    for n in 0..2 * megabytes {
        server.put(&format!("/v1/kv/large/{n}"), &value).await;
    }
}

#[tokio::test]
async fn bodies_that_stop_before_their_end_are_given_up() {
    let server = Server::start(settings()).await;
    let paths = [
        ("/v1/kv/a", 1000),
        ("/v1/agent/service/register", 100_000),
        ("/v1/txn", 1000),
        ("/v1/operator/keyring", 1000),
    ];
    let given_up = async |path: &str, length: usize, chunked: bool| {
        let framing = if chunked {
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n")
        } else {
            format!("Content-Length: {length}\r\n\r\n")
        };
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\n{framing}");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; length - 1]).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("an end").unwrap();
        let answer = Response::parse(&answer);
        assert_eq!(answer.status, 408, "{path} {chunked}: {}", answer.text());
    };
    let all = paths.iter().flat_map(|path| [(path, false), (path, true)]);
    futures::future::join_all(
        all.map(|((path, length), chunked)| given_up(path, *length, chunked)),
    )
    .await;
    // A byte now and then is no progress, either. The next one to restore does not wait for this one.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "PUT /v1/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    while stream.write_all(b"x").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is waited for");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let next = server.ask("PUT", "/v1/snapshot", "no archive").await;
    assert_eq!(next.status, 500, "{}", next.text());
}

#[tokio::test]
async fn many_large_bodies_take_a_bounded_room_and_small_ones_pass() {
    const BODY: usize = 8 << 20;
    let server = Server::start(Settings::default()).await;
    let before = memory();
    let mut held = Vec::new();
    let body = vec![b'x'; BODY - 1];
    for _ in 0..40 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "PUT /v1/agent/service/register HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // As much of it as the server takes.
        let _ = tokio::time::timeout(Duration::from_millis(20), stream.write_all(&body)).await;
        held.push(stream);
    }
    let more = memory().saturating_sub(before);
    assert!(more < 160 << 20, "{} MiB more", more >> 20);
    server.put("/v1/kv/a", &"x".repeat(50_000)).await;
    let refused = server.ask("PUT", "/v1/agent/service/register", &"x".repeat(BODY)).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.text().contains("large request bodies"), "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    drop(held);
    let ok = server.ask("PUT", "/v1/agent/service/register", &" ".repeat(BODY)).await;
    assert_eq!(ok.status, 400, "{}", ok.text());
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_ended() {
    let server = Server::start(settings()).await;
    fill(&server, 12).await;
    let mut held = Vec::new();
    for headers in ["", "Accept: text/event-stream\r\n"] {
        let request = format!("GET /v1/kv/?recurse HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        held.push(ask_without_reading(&server, &request).await);
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for stream in &mut held {
        assert!(is_cut(stream).await, "a client that takes nothing is waited for");
    }
    // Who reads, however slowly, gets all.
    let request = "GET /v1/kv/?recurse HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut stream = ask_without_reading(&server, request).await;
    let (mut piece, mut bytes) = (vec![0; 512 << 10], 0);
    loop {
        match stream.read(&mut piece).await.unwrap() {
            0 => break,
            count => bytes += count,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(bytes > 12 << 20, "{bytes}");
    // A stream on which nothing happens is no stalled one.
    let request = "GET /v1/kv/small HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    let mut quiet = ask_without_reading(&server, request).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.put("/v1/kv/small", "here").await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("aGVyZQ==") {
        let mut piece = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, quiet.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "the quiet stream was ended");
        seen.extend_from_slice(&piece[..count]);
    }
}

#[tokio::test]
async fn streams_that_are_not_read_share_what_they_wait_with() {
    let server = Server::start(Settings::default()).await;
    fill(&server, 20).await;
    let path = "/v1/kv/?recurse";
    server.get(path).await;
    for query in [path, "/v1/kv/?recurse&pretty"] {
        let before = memory();
        let mut held = Vec::new();
        for accept in ["text/event-stream", "application/json"] {
            for _ in 0..20 {
                let request =
                    format!("GET {query} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
                held.push(ask_without_reading(&server, &request).await);
            }
        }
        for stream in &mut held {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
        }
        let more = memory().saturating_sub(before);
        assert!(more < 150 << 20, "{query}: {} MiB for 40 readers", more >> 20);
    }
}

#[tokio::test]
async fn stalled_readers_of_snapshots_keep_nobody_from_saving() {
    use std::fmt::Write as _;
    let settings = Settings { stall_max: Duration::from_secs(3), ..settings() };
    let server = Server::start(settings).await;
    // What does not compress.
    let mut random = 1_u64;
    for n in 0..30 {
        let mut value = String::new();
        while value.len() < 500_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let _ = write!(value, "{random:016x}");
        }
        server.put(&format!("/v1/kv/random/{n}"), &value).await;
    }
    let request = "GET /v1/snapshot HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(ask_without_reading(&server, request).await);
    }
    for stream in &mut held {
        stream.read_exact(&mut [0; 1]).await.unwrap();
    }
    let refused = server.get("/v1/snapshot").await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.text().contains("snapshots are being saved"), "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    let deadline = Instant::now() + PATIENCE;
    while server.get("/v1/snapshot").await.status != 200 {
        assert!(Instant::now() < deadline, "no snapshot ever again");
    }
}

#[tokio::test]
async fn long_questions_take_a_bounded_room() {
    const ASKED: usize = 1200;
    let server = Server::start(Settings::default()).await;
    let before = memory();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let ask = async {
        for n in 0..ASKED {
            let path =
                ["health/service", "catalog/service", "kv", "catalog/node", "health/node"][n % 5];
            let wait = if n % 2 == 0 { "?cached" } else { "?index=1&wait=1ms" };
            let name = "n".repeat(60_000);
            let request = format!("GET /v1/{path}/{name}{n}{wait} HTTP/1.1\r\nHost: x\r\n\r\n");
            writing.write_all(request.as_bytes()).await.unwrap();
        }
    };
    let read = async {
        let (mut answers, mut piece, mut tail) = (0, vec![0; 64 << 10], Vec::new());
        while answers < ASKED {
            let count = reading.read(&mut piece).await.unwrap();
            assert!(count > 0, "{answers} answers");
            tail.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&tail).into_owned();
            answers += text.matches("HTTP/1.1 ").count();
            // The beginning of a status line may be at the end.
            tail.drain(..tail.len().saturating_sub(8));
            if tail.ends_with(b"HTTP/1.1 ") {
                tail.clear();
            }
        }
    };
    tokio::time::timeout(2 * PATIENCE, async { tokio::join!(ask, read) }).await.expect("in time");
    let more = memory().saturating_sub(before);
    assert!(more < 60 << 20, "{} MiB more", more >> 20);
}
