//! A hostile client: requests that are as good as any, and mean harm. Values at their limits, repeated, half sent, never
//! read. After each the agent takes no more memory than it should, and others are answered.
//!
//! More rounds: `MUSTER_HOSTILE_ROUNDS=2000 MUSTER_HOSTILE_SEED=7 cargo nextest run -p muster-agent --test http hostile`

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use muster_agent::http::Settings;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::stalled::memory;
use crate::support::{PATIENCE, Server};

/// Connections that the peer holds at one time.
const HELD_MAX: usize = 60;
/// What the agent may take more than at the beginning: its bounds on answers, bodies and what is under way, and twice
/// that, since what is freed is not at once the system's.
const MEMORY_MAX: usize = 400 << 20;

const PATHS: [&str; 26] = [
    "/v1/kv/",
    "/v1/kv/large/",
    "/v1/catalog/services",
    "/v1/catalog/nodes",
    "/v1/catalog/service/",
    "/v1/catalog/node/",
    "/v1/catalog/register",
    "/v1/catalog/deregister",
    "/v1/health/service/",
    "/v1/health/state/",
    "/v1/health/node/",
    "/v1/health/checks/",
    "/v1/session/create",
    "/v1/session/list",
    "/v1/session/info/",
    "/v1/session/destroy/",
    "/v1/txn",
    "/v1/snapshot",
    "/v1/event/fire/",
    "/v1/event/list",
    "/v1/agent/self",
    "/v1/agent/services",
    "/v1/agent/service/register",
    "/v1/agent/check/register",
    "/v1/agent/metrics",
    "/v1/coordinate/nodes",
];

const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e9",
    "0x10",
    "",
    "1ns",
    "100000h",
    "-5s",
];

const PARAMETERS: [&str; 18] = [
    "index",
    "wait",
    "stale",
    "max_stale",
    "consistent",
    "cached",
    "recurse",
    "keys",
    "separator",
    "limit",
    "after",
    "raw",
    "tag",
    "near",
    "passing",
    "flags",
    "cas",
    "pretty",
];

/// How the request goes out, and what becomes of its answer.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Read,
    NeverRead,
    HalfSent,
    Dripping,
    Pipelined,
    Closed,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// A name of any length up to what a request can carry.
fn name(chance: &mut StdRng) -> String {
    let lengths = [0, 1, 10, 255, 256, 4096, 60_000];
    let piece = ["n", "%00", "%ff", "..%2f", "%25", "%F0%9F%A6%80", "a/"].choose(chance).unwrap();
    let length = *lengths.choose(chance).unwrap();
    piece.repeat(length / piece.len())
}

fn query(chance: &mut StdRng) -> String {
    let mut query = String::new();
    for _ in 0..chance.random_range(0..4) {
        let parameter = PARAMETERS.choose(chance).unwrap();
        let value = match chance.random_range(0..3) {
            0 => name(chance).chars().take(2000).collect(),
            _ => (*NUMBERS.choose(chance).unwrap()).to_owned(),
        };
        let times = if chance.random_range(0..10) == 0 { 300 } else { 1 };
        for _ in 0..times {
            let _ = write!(query, "&{parameter}={}", value.chars().take(200).collect::<String>());
        }
    }
    if chance.random_range(0..5) == 0 {
        let filter = [
            "Node+matches+%60%5CpL%7B2%7D%60".to_owned(),
            vec!["Node==n"; 500].join("+or+"),
            "%28".repeat(500),
            vec!["Node+matches+%60a.%2Ab%60"; 60].join("+and+"),
        ];
        let _ = write!(query, "&filter={}", filter.choose(chance).unwrap());
    }
    query
}

fn body(chance: &mut StdRng) -> Vec<u8> {
    let deep = "[".repeat(100_000);
    let key = format!("{{\"{}\":1}}", "k".repeat(100_000));
    let numbers = format!("{{\"Port\":{}}}", "9".repeat(100_000));
    let verbs = format!("[{}]", vec![r#"{"KV":{"Verb":"get","Key":"large/1"}}"#; 64].join(","));
    let service = format!(r#"{{"Name":"web","Tags":[{}]}}"#, vec!["\"t\""; 50_000].join(","));
    let bodies = ["", "{}", "null", "[", &deep, &key, &numbers, &verbs, &service];
    match chance.random_range(0..10) {
        0 => vec![b' '; 9 << 20],
        1 => vec![0xff; 600 << 10],
        _ => bodies.choose(chance).unwrap().as_bytes().to_vec(),
    }
}

fn request(chance: &mut StdRng) -> Vec<u8> {
    let method = *["GET", "GET", "GET", "GET", "PUT", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"]
        .choose(chance)
        .unwrap();
    let path = PATHS.choose(chance).unwrap();
    let rest = if path.ends_with('/') { name(chance) } else { String::new() };
    let mut head = format!("{method} {path}{rest}?{} HTTP/1.1\r\nHost: x\r\n", query(chance));
    for _ in 0..chance.random_range(0..3) {
        let _ = match chance.random_range(0..8) {
            0 => write!(head, "Accept: text/event-stream\r\n"),
            1 => write!(head, "Accept-Encoding: gzip\r\n"),
            2 => write!(head, "Expect: 100-continue\r\n"),
            3 => write!(head, "Origin: http://evil.example\r\n"),
            4 => write!(head, "X-Consul-Token: {}\r\n", "t".repeat(8000)),
            5 => write!(head, "{}", "X-Any: a\r\n".repeat(60)),
            6 => write!(head, "Last-Event-ID: 18446744073709551615\r\n"),
            _ => write!(head, "Connection: upgrade, close\r\n"),
        };
    }
    let body = if matches!(method, "PUT" | "DELETE") { body(chance) } else { Vec::new() };
    let mut request;
    if chance.random_range(0..4) == 0 {
        request = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        for piece in body.chunks(1 << 16) {
            request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            request.extend_from_slice(piece);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
    } else {
        request = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        request.extend_from_slice(&body);
    }
    request
}

/// One round. The connection is given back if the peer goes on to hold it.
async fn harm(server: &Server, chance: &mut StdRng) -> Option<TcpStream> {
    use Manner::{Closed, Dripping, HalfSent, NeverRead, Pipelined, Read};
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(server.address).await.ok()?;
    let manner =
        *[Read, Read, NeverRead, HalfSent, Dripping, Pipelined, Closed].choose(chance).unwrap();
    let mut bytes = request(chance);
    if let Pipelined = manner {
        for _ in 0..20 {
            bytes.extend_from_slice(&request(chance));
        }
    }
    if let HalfSent = manner {
        bytes.truncate(bytes.len() - 1 - chance.random_range(0..bytes.len().min(20)));
    }
    let send = async {
        if let Dripping = manner {
            for byte in bytes.iter().take(20) {
                stream.write_all(&[*byte]).await?;
            }
        }
        stream.write_all(&bytes).await
    };
    // A server that refuses early reads no more.
    let sent = tokio::time::timeout(Duration::from_millis(100), send).await;
    match manner {
        Closed => None,
        NeverRead | HalfSent | Dripping | Pipelined => Some(stream),
        Read => {
            if !matches!(sent, Ok(Ok(()))) {
                return Some(stream);
            }
            let mut some = vec![0; 64 << 10];
            let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut some));
            let _ = read.await;
            Some(stream)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_cost_a_bounded_amount_and_others_go_on() {
    let rounds = number("MUSTER_HOSTILE_ROUNDS", 60);
    let seed = number("MUSTER_HOSTILE_SEED", 1);
    eprintln!(
        "replay: MUSTER_HOSTILE_ROUNDS={rounds} MUSTER_HOSTILE_SEED={seed} cargo nextest run -p muster-agent \
         --test http hostile"
    );
    let settings = Settings {
        body_idle_max: Duration::from_secs(1),
        stall_max: Duration::from_secs(2),
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    for n in 0..10 {
        server.put(&format!("/v1/kv/large/{n}"), &"x".repeat(500 << 10)).await;
    }
    let before = memory();
    let mut chance = StdRng::seed_from_u64(seed);
    let mut held = VecDeque::new();
    for round in 0..rounds {
        held.extend(harm(&server, &mut chance).await);
        while held.len() > HELD_MAX {
            held.pop_front();
        }
        let more = memory().saturating_sub(before);
        assert!(more < MEMORY_MAX, "round {round} of seed {seed}: {} MiB more", more >> 20);
        if round % 5 == 0 {
            let value = round.to_string();
            let normal = async {
                server.put("/v1/kv/normal", &value).await;
                server.get("/v1/kv/normal?raw").await
            };
            let answer = tokio::time::timeout(PATIENCE / 4, normal).await;
            let answer =
                answer.unwrap_or_else(|_| panic!("round {round} of seed {seed}: no answer"));
            assert_eq!(answer.text(), value, "round {round} of seed {seed}");
        }
    }
    drop(held);
    assert_eq!(server.get("/v1/status/leader").await.status, 200);
    eprintln!("{} MiB more at the end", memory().saturating_sub(before) >> 20);
}
