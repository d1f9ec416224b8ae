//! Many questions on one event stream, asked by hand and by the client library.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use muster_agent::http::{Limits, Rates, Settings};
use muster_client::{Answer, Query, ServiceQuery, SharedWatch, Update, WatchSettings};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::support::{Client, PATIENCE, Server};

/// A stream of many questions.
struct Events(Lines<BufReader<TcpStream>>);

/// One event: its kind, its id, its datum.
type Event = (String, String, String);

impl Events {
    async fn open(address: SocketAddr, watches: &[(&str, &str)]) -> Events {
        let rows: Vec<_> =
            watches.iter().map(|(n, p)| serde_json::json!({"Name": n, "Path": p})).collect();
        let body = serde_json::json!({ "Watches": rows }).to_string();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut request = String::from("POST /v1/watch HTTP/1.1\r\nHost: x\r\n");
        let _ = write!(request, "Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        Events(BufReader::new(stream).lines())
    }

    async fn next(&mut self) -> Event {
        let read = async {
            let mut event = Event::default();
            loop {
                let line = self.0.next_line().await.unwrap().expect("the stream goes on");
                if let Some(kind) = line.strip_prefix("event: ") {
                    kind.clone_into(&mut event.0);
                }
                if let Some(id) = line.strip_prefix("id: ") {
                    id.clone_into(&mut event.1);
                }
                if let Some(datum) = line.strip_prefix("data: ") {
                    datum.clone_into(&mut event.2);
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an event in time")
    }

    /// The first event of each of so many questions, by name.
    async fn first(&mut self, count: usize) -> BTreeMap<String, Event> {
        let mut found = BTreeMap::new();
        while found.len() < count {
            let event = self.next().await;
            let name = if event.0.is_empty() {
                event.1.rsplit_once(' ').expect("a name and a position").0.to_owned()
            } else {
                let failed: serde_json::Value = serde_json::from_str(&event.2).unwrap();
                failed["Name"].as_str().unwrap().to_owned()
            };
            assert!(found.insert(name.clone(), event).is_none(), "{name} twice");
        }
        found
    }
}

const WEB: &str = r#"{"Node":"w","Address":"10.0.0.1","Service":{"Service":"web","Port":1}}"#;

async fn each_is_answered_as_alone(server: &Server, address: SocketAddr) {
    server.put("/v1/kv/k", "one").await;
    server.put("/v1/catalog/register", WEB).await;
    let good = [
        ("key", "/v1/kv/k"),
        ("keys", "/v1/kv/?keys&consistent"),
        ("web", "/v1/health/service/web?passing"),
        ("filtered", "/v1/catalog/nodes?filter=Node%3D%3Dw&stale"),
        ("states", "/v1/health/state/any"),
        ("heard", "/v1/event/list"),
    ];
    let missing = ("missing", "/v1/kv/none");
    let bad = [
        ("filter", "/v1/catalog/nodes?filter=%3D", 500),
        ("path", "/v1/nope", 404),
        ("self", "/v1/agent/self", 400),
        ("writes", "/v1/session/create", 405),
        ("raw", "/v1/kv/k?raw", 400),
        ("index", "/v1/kv/k?index=x", 400),
        ("elsewhere", "/v1/catalog/nodes?dc=nowhere", 500),
        ("unknown service", "/v1/agent/service/none", 404),
        ("no path", "v1/kv/k", 400),
        ("unclean", "/v1/kv//k", 404),
        ("itself", "/v1/watch", 405),
    ];
    let mut watches: Vec<(&str, &str)> = good.to_vec();
    watches.push(missing);
    watches.extend(bad.iter().map(|(name, path, _)| (*name, *path)));
    let mut events = Events::open(address, &watches).await;
    let found = events.first(watches.len()).await;
    for (name, path) in good {
        let alone =
            crate::support::ask(TcpStream::connect(address).await.unwrap(), "GET", path, &[], b"")
                .await;
        let id = format!("{name} {}", alone.index());
        assert_eq!(found[name], (String::new(), id, alone.text()), "{path}");
    }
    assert_eq!(found["missing"].2, "null");
    for (name, path, status) in bad {
        let (kind, _, datum) = &found[name];
        let failed: serde_json::Value = serde_json::from_str(datum).unwrap();
        assert_eq!(
            (kind.as_str(), &failed["Status"]),
            ("error", &status.into()),
            "{path}: {datum}"
        );
    }

    // Only what changes is heard of again.
    server.put("/v1/kv/none", "now").await;
    let mut changed = [events.next().await, events.next().await];
    changed.sort();
    assert!(changed[0].1.starts_with("keys ") && changed[0].2.contains("none"), "{changed:?}");
    assert!(changed[1].1.starts_with("missing ") && changed[1].2.contains("bm93"), "{changed:?}");
    server.ask("DELETE", "/v1/kv/none", "").await;
    let gone = [events.next().await, events.next().await];
    assert!(gone.iter().any(|event| event.1.starts_with("missing ") && event.2 == "null"));

    // Who comes back hears of what is newer than what it saw.
    let index = server.get("/v1/kv/k").await.index();
    let known = format!("/v1/kv/k?index={index}");
    let mut resumed = Events::open(address, &[("known", &known), ("new", "/v1/kv/k")]).await;
    assert_eq!(resumed.next().await.1, format!("new {index}"));
    server.put("/v1/kv/k", "two").await;
    assert_eq!(resumed.first(2).await.len(), 2);
}

#[tokio::test]
async fn each_question_is_answered_by_a_server_as_if_it_came_alone() {
    let server = Server::start(Settings::default()).await;
    each_is_answered_as_alone(&server, server.address).await;
}

#[tokio::test]
async fn each_question_is_answered_by_an_agent_without_state_as_if_it_came_alone() {
    let server = Server::start(Settings::default()).await;
    let client = Client::of(&[&server], Settings::default()).await;
    each_is_answered_as_alone(&server, client.address).await;
}

#[tokio::test]
async fn a_service_of_the_agent_is_followed_by_its_hash() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/agent/service/register", r#"{"Name":"web","Port":1}"#).await;
    let first = server.get("/v1/agent/service/web").await;
    let hash = first.header("x-consul-contenthash").to_owned();
    let known = format!("/v1/agent/service/web?hash={hash}");
    let mut events =
        Events::open(server.address, &[("new", "/v1/agent/service/web"), ("known", &known)]).await;
    assert_eq!(events.next().await, (String::new(), format!("new {hash}"), first.text()));
    server.put("/v1/agent/service/register", r#"{"Name":"web","Port":2}"#).await;
    let changed = events.first(2).await;
    assert!(changed["known"].2.contains("\"Port\":2"), "{changed:?}");
}

#[tokio::test]
async fn coordinates_are_followed_without_asking_all_the_time() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/catalog/register", WEB).await;
    let mut events = Events::open(server.address, &[("near", "/v1/coordinate/nodes")]).await;
    let (kind, id, datum) = events.next().await;
    assert!(kind.is_empty() && datum.contains("\"n1\"") && !datum.contains("\"w\""), "{datum}");
    // The one thread of this test is free for others while the stream waits, and a change ends the wait.
    let point = r#"{"Node":"w","Coord":{"Vec":[0,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.00001}}"#;
    server.put("/v1/coordinate/update", point).await;
    let (_, later, datum) = events.next().await;
    assert!(later != id && datum.contains("\"w\""), "{later}: {datum}");
}

#[tokio::test]
async fn no_spelling_of_a_question_makes_it_ask_all_the_time() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/kv/k", "one").await;
    let watches = [
        ("escaped name", "/v1/kv/k?%69ndex=0"),
        ("escaped value", "/v1/kv/k?index=%30"),
        ("fragment", "/v1/kv/k#x"),
        ("fragment of a query", "/v1/kv/k?pretty#x"),
    ];
    let mut events = Events::open(server.address, &watches).await;
    let first = events.first(watches.len()).await;
    assert_eq!(&*first["escaped value"].2, &*first["escaped name"].2);
    for name in ["fragment", "fragment of a query"] {
        assert!(first[name].2.contains("write `%23` for `#`"), "{}", first[name].2);
    }
    // Would one of them ask without a pause, the one thread of this test had no time for this.
    server.put("/v1/kv/k", "two").await;
    let next = events.next().await;
    assert!(next.1.starts_with("escaped "), "{next:?}");
}

#[tokio::test]
async fn equal_questions_share_one_evaluation() {
    let server = Server::start(Settings::default()).await;
    let path = "/v1/health/service/web";
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut events = Events::open(server.address, &[("a", path), ("b", path)]).await;
        events.first(2).await;
        streams.push(events);
    }
    let waits = server.reader.counts().waiting;
    assert_eq!(waits, 6);
    let before = server.reader.counts().evaluations;
    server.put("/v1/catalog/register", WEB).await;
    for events in &mut streams {
        events.first(2).await;
    }
    assert_eq!(server.reader.counts().evaluations - before, 1);
    // Nothing is left behind by who goes.
    drop(streams);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.reader.counts().waiting > 0 {
        assert!(tokio::time::Instant::now() < deadline, "still waiting");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_blocked_is_refused_for_itself_and_reading_is_no_write() {
    let settings = Settings {
        block_endpoints: vec!["/v1/session".into()],
        allow_write_from: vec!["10.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    let watches = [("sessions", "/v1/session/list"), ("nodes", "/v1/catalog/nodes")];
    let found = Events::open(server.address, &watches).await.first(2).await;
    assert!(found["sessions"].2.contains("\"Status\":403"), "{found:?}");
    assert!(found["nodes"].2.contains("\"n1\""), "{found:?}");
    let wrong = server.ask("POST", "/v1/watch", "{}").await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    let large = "x".repeat(5 << 20);
    assert_eq!(server.ask("POST", "/v1/watch", &large).await.status, 413);
    assert_eq!(server.get("/v1/watch").await.status, 405);
}

fn service(number: usize) -> Query {
    Query::Service { name: format!("s{number}"), query: ServiceQuery::default() }
}

async fn instances(watch: &mut SharedWatch) -> usize {
    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("an answer in time") {
        Update::Value(Answer::Service(entries), _) => entries.len(),
        other => panic!("{other:?}"),
    }
}

fn library(address: SocketAddr) -> muster_client::Client {
    let address = address.to_string();
    muster_client::Client::new(muster_client::Settings { address, ..<_>::default() }).unwrap()
}

/// Two connections are all that these agents take: one for the set, one for what the test writes.
fn narrow() -> Settings {
    Settings { limits: Limits::new(2, Rates::default()), ..Settings::default() }
}

async fn a_set_needs_one_connection(server: &Server, address: SocketAddr) {
    let set = library(address).watch_set();
    let follow = |number| set.watch(service(number), WatchSettings::default());
    let mut watches: Vec<_> = (0..300).map(follow).collect();
    for watch in &mut watches {
        assert_eq!(instances(watch).await, 0);
    }
    // Others come and go while nothing is lost.
    let mut more: Vec<_> = (300..400).map(follow).collect();
    drop(watches.drain(..100));
    for number in [399, 150] {
        let body = format!(
            r#"{{"Node":"w","Address":"10.0.0.1","Service":{{"Service":"s{number}","Port":1}}}}"#
        );
        server.put("/v1/catalog/register", &body).await;
    }
    assert_eq!(instances(&mut watches[50]).await, 1);
    // It may have been asked before and after the registration.
    let mut found = instances(&mut more[99]).await;
    if found == 0 {
        found = instances(&mut more[99]).await;
    }
    assert_eq!(found, 1);
    assert_eq!(instances(&mut more[0]).await, 0);
    assert_eq!(set.len(), 300);
}

#[tokio::test]
async fn a_set_of_the_client_library_needs_one_connection_to_a_server() {
    let server = Server::start(narrow()).await;
    a_set_needs_one_connection(&server, server.address).await;
}

#[tokio::test]
async fn a_set_of_the_client_library_needs_one_connection_to_an_agent_without_state() {
    let server = Server::start(Settings::default()).await;
    let client = Client::of(&[&server], narrow()).await;
    a_set_needs_one_connection(&server, client.address).await;
}

#[tokio::test]
async fn a_set_tells_of_a_question_that_fails_and_of_no_other() {
    let server = Server::start(Settings::default()).await;
    let set = library(server.address).watch_set();
    let wrong = WatchSettings { filter: Some("=".into()), ..WatchSettings::default() };
    let mut wrong = set.watch(Query::Nodes, wrong);
    let mut right = set.watch(Query::Nodes, WatchSettings::default());
    let mut missing = set.watch(Query::Key { path: "a/b c".into() }, WatchSettings::default());
    let update = tokio::time::timeout(PATIENCE, wrong.next()).await.unwrap();
    assert!(
        matches!(update, Update::Unreachable(muster_client::Error::Status { .. })),
        "{update:?}"
    );
    let update = tokio::time::timeout(PATIENCE, right.next()).await.unwrap();
    assert!(matches!(update, Update::Value(Answer::Nodes(_), _)), "{update:?}");
    let update = tokio::time::timeout(PATIENCE, missing.next()).await.unwrap();
    assert!(matches!(update, Update::Value(Answer::Key(None), _)), "{update:?}");
}
