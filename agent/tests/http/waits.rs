//! `default_query_time` and `max_query_time`: how long blocking reads wait, wherever they are asked.

use std::time::{Duration, Instant};

use muster_agent::http::Settings;
use muster_agent::read::Waits;
use tokio::net::TcpStream;

use crate::support::{Client, PATIENCE, Server};

const DEFAULT: Duration = Duration::from_millis(200);
const MAX: Duration = Duration::from_millis(500);

fn short() -> Settings {
    Settings { waits: Waits::new(Some(DEFAULT), MAX), ..Settings::default() }
}

/// How long the answer took, and its index.
async fn timed(address: std::net::SocketAddr, path: &str) -> Duration {
    let begun = Instant::now();
    let stream = TcpStream::connect(address).await.unwrap();
    let asked = crate::support::ask(stream, "GET", path, &[], b"");
    let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    begun.elapsed()
}

#[tokio::test]
async fn waits_are_as_configured_on_servers_and_on_agents_that_ask_them() {
    let server = Server::start(short()).await;
    let usual = Server::start(Settings::default()).await;
    for it in [&server, &usual] {
        it.put("/v1/kv/k", "one").await;
        it.put("/v1/agent/service/register", r#"{"Name":"web"}"#).await;
    }
    // The time of a server counts for those who leave it to the server; an own one counts with every server.
    let of_server = Client::of(&[&server], Settings::default()).await;
    let own = Client::of(&[&usual], short()).await;
    let indexed = ["/v1/kv/k?x", "/v1/catalog/nodes?x", "/v1/health/service/web?x"];
    let (mut asked, high) = (Vec::new(), u64::MAX);
    for address in [server.address, of_server.address, own.address] {
        asked.extend(indexed.map(|path| (address, format!("{path}&index={high}"))));
    }
    // Events have no order to be ahead of: their index is one of the list as it is.
    let events = server.get("/v1/event/list").await.header("x-consul-index").to_owned();
    asked.push((server.address, format!("/v1/event/list?index={events}")));
    let hash = server.get("/v1/agent/service/web").await.header("x-consul-contenthash").to_owned();
    asked.push((server.address, format!("/v1/agent/service/web?hash={hash}")));
    let each = asked.into_iter().map(|(address, path)| async move {
        let default = timed(address, &path).await;
        assert!(default >= DEFAULT && default < MAX + DEFAULT, "{path}: {default:?}");
        for wait in ["5m", "501ms"] {
            let longest = timed(address, &format!("{path}&wait={wait}")).await;
            assert!(longest >= MAX && longest < PATIENCE, "{path} {wait}: {longest:?}");
        }
        let shorter = timed(address, &format!("{path}&wait=20ms")).await;
        assert!(shorter < DEFAULT, "{path}: {shorter:?}");
    });
    futures::future::join_all(each).await;
}
