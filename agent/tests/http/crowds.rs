//! Large services under large crowds: what a change costs, and that nobody misses the last one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_agent::http::{Limits, Rates, Settings};
use muster_agent::read::{Body, Options, Query};
use muster_agent::store::{Change, Found, Node, Register, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Server;

const INSTANCES: usize = 10_000;
const WATCHERS: usize = 1_000;
const CHANGES: usize = 100;
/// The whole of it, on a busy machine: somewhat less than a test may take at most.
const PATIENCE: Duration = Duration::from_secs(110);

/// The instance that changes: in the middle of the list.
fn changing(port: usize) -> String {
    format!(
        r#"{{"Node":"node-05000","Address":"10.0.0.1","Service":{{"ID":"web","Service":"web","Port":{port}}}}}"#
    )
}

/// A server with all the instances of one service.
async fn server() -> Server {
    let settings = Settings { limits: Limits::new(0, Rates::default()), ..Settings::default() };
    let server = Server::start(settings).await;
    server.put("/v1/catalog/register", &changing(0)).await;
    let example = server.reader.consensus().store().catalog().instances("web").rows.remove(0);
    let mut nodes = Vec::new();
    for n in (0..INSTANCES).filter(|n| *n != 5_000) {
        let consensus = server.reader.consensus().clone();
        let name: Arc<str> = format!("node-{n:05}").into();
        let node = Node { name: Arc::clone(&name), id: String::new(), ..(*example.node).clone() };
        let mut service = (*example.service).clone();
        service.node = name;
        let register =
            Register { node, skip_node_update: false, service: Some(service), checks: Vec::new() };
        nodes.push(tokio::spawn(async move {
            consensus.propose(Change::Register(Box::new(register))).await.unwrap();
        }));
    }
    for node in nodes {
        node.await.unwrap();
    }
    assert_eq!(server.reader.consensus().store().counts().instances, INSTANCES);
    server
}

/// All instances, of which a body tells the one that changes.
#[derive(Debug)]
struct Web;

impl Query for Web {
    fn evaluate(&self, store: &Store) -> Found<Body> {
        let found = store.catalog().instances("web");
        assert_eq!(found.rows.len(), INSTANCES);
        let port = found.rows[5_000].service.port;
        Found { rows: Body::new(port.to_string()), index: found.index, scopes: found.scopes }
    }
}

/// Each change wakes every watcher once, and is evaluated once for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_among_ten_thousand_instances_costs_one_evaluation() {
    let server = server().await;
    let first = server.reader.answer(Options::default(), &Web).await.unwrap().index;
    let before = server.reader.counts();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let reader = server.reader.clone();
            tokio::spawn(async move {
                let mut index = first;
                for change in 1..=CHANGES {
                    let options = Options { index, ..Options::default() };
                    let outcome = reader.answer(options, &Web).await.unwrap();
                    assert_eq!(outcome.found.rows.bytes(), change.to_string().as_bytes());
                    assert!(outcome.index > index, "indexes only grow");
                    index = outcome.index;
                }
            })
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    for change in 1..=CHANGES {
        let asleep = before.waits + (WATCHERS * change) as u64;
        while server.reader.counts().waits < asleep || server.reader.counts().waiting < 1_000 {
            assert!(Instant::now() < deadline, "{:?} before {change}", server.reader.counts());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.put("/v1/catalog/register", &changing(change)).await;
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
    let after = server.reader.counts();
    assert_eq!(after.evaluations - before.evaluations, CHANGES as u64, "{after:?}");
    assert_eq!(after.waiting, 0);
}

/// Changes that nobody waits for between: watchers may skip some, never the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_watcher_of_ten_thousand_instances_misses_the_last_state() {
    // Over sockets, and every answer is parsed: with 1,000 watchers and 100 changes these are 90,000 answers, which an
    // unoptimised server and its clients in one process take minutes for. The whole is `muster-bench compare --only crowd`.
    const WATCHERS: usize = 200;
    const CHANGES: usize = 20;
    let server = server().await;
    let path = "/v1/health/service/web?limit=1&after=node-04999/web";
    let first = server.get(path).await;
    assert_eq!(first.json()[0]["Service"]["Port"], 0);
    let before = server.reader.counts();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let (address, mut index) = (server.address, first.index());
        watchers.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut answers = 0;
            loop {
                let request = format!("GET {path}&index={index} HTTP/1.1\r\nHost: x\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = one_answer(&mut stream).await;
                answers += 1;
                assert!(answer.index() > index, "an answer says something new");
                index = answer.index();
                if answer.json()[0]["Service"]["Port"] == CHANGES {
                    return answers;
                }
            }
        }));
    }
    let deadline = Instant::now() + PATIENCE;
    while server.reader.counts().waiting < WATCHERS as u64 {
        assert!(Instant::now() < deadline, "{:?}", server.reader.counts());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for change in 1..=CHANGES {
        server.put("/v1/catalog/register", &changing(change)).await;
    }
    let mut answers = 0;
    let all = async {
        for watcher in watchers {
            answers += watcher.await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the last state reaches everybody");
    let after = server.reader.counts();
    assert!(answers <= WATCHERS * CHANGES, "{answers} answers: somebody ran hot");
    assert!(after.evaluations - before.evaluations <= CHANGES as u64, "{after:?}");
}

/// Reads one answer with a known length from a connection that stays.
async fn one_answer(stream: &mut TcpStream) -> crate::support::Response {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.split("content-length: ").nth(1).expect("a length");
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if bytes.len() >= head + 4 + length {
                return crate::support::Response::parse(&bytes);
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the server hung up");
    }
}
