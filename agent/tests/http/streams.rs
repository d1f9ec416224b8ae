//! Event streams: the answer now, then one event per change.

use muster_agent::http::Settings;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::support::{Client, PATIENCE, Server};

/// The lines of a stream.
struct Events(Lines<BufReader<TcpStream>>);

impl Events {
    async fn open(server: &Server, path: &str, headers: &str) -> Events {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Events(BufReader::new(stream).lines())
    }

    /// The id and the datum of the next event.
    async fn next(&mut self) -> (u64, String) {
        let read = async {
            let mut id = 0;
            loop {
                let line = self.0.next_line().await.unwrap().expect("the stream goes on");
                if let Some(text) = line.strip_prefix("id: ") {
                    id = text.parse().unwrap();
                }
                if let Some(text) = line.strip_prefix("data: ") {
                    return (id, text.to_owned());
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an event in time")
    }
}

#[tokio::test]
async fn a_key_can_be_followed_and_resumed() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/kv/k", "one").await;
    let mut events = Events::open(&server, "/v1/kv/k", "").await;
    let (first, data) = events.next().await;
    assert!(data.contains("b25l"), "{data}");
    server.put("/v1/kv/k", "two").await;
    let (second, data) = events.next().await;
    assert!(second > first && data.contains("dHdv"), "{data}");
    server.ask("DELETE", "/v1/kv/k", "").await;
    assert_eq!(events.next().await.1, "null");

    // Who comes back gets only what is newer than what it saw.
    server.put("/v1/kv/k", "three").await;
    let mut resumed =
        Events::open(&server, "/v1/kv/k", &format!("Last-Event-ID: {second}\r\n")).await;
    assert!(resumed.next().await.1.contains("dGhyZWU="));
}

#[tokio::test]
async fn services_and_user_events_can_be_followed() {
    let server = Server::start(Settings::default()).await;
    let mut health = Events::open(&server, "/v1/health/service/web", "").await;
    assert_eq!(health.next().await.1, "[]");
    let body = r#"{"Node":"w","Address":"10.0.0.1","Service":{"Service":"web","Port":1}}"#;
    server.put("/v1/catalog/register", body).await;
    assert!(health.next().await.1.contains("\"Port\":1"));

    let mut fired = Events::open(&server, "/v1/event/list", "").await;
    assert_eq!(fired.next().await.1, "[]");
    server.put("/v1/event/fire/deploy", "now").await;
    assert!(fired.next().await.1.contains("\"Name\":\"deploy\""));
}

#[tokio::test]
async fn bare_values_are_not_streamed() {
    let server = Server::start(Settings::default()).await;
    let headers = [("Accept", "text/event-stream")];
    let response = server.ask_with("GET", "/v1/kv/k?raw", &headers, b"").await;
    assert_eq!(response.status, 400);
}

#[tokio::test]
async fn who_prefers_one_answer_gets_one_from_every_agent() {
    let server = Server::start(Settings::default()).await;
    let client = Client::of(&[&server], Settings::default()).await;
    server.put("/v1/kv/k", "one").await;
    let answers = [
        "application/json, text/event-stream;q=0.1",
        "text/event-stream;q=0, */*",
        "application/json, text/event-stream",
    ];
    for accept in answers {
        for address in [server.address, client.address] {
            let stream = TcpStream::connect(address).await.unwrap();
            let headers = [("Accept", accept)];
            let asked = crate::support::ask(stream, "GET", "/v1/kv/k", &headers, b"");
            let answer = tokio::time::timeout(PATIENCE, asked).await.expect("one answer");
            assert_eq!(answer.header("content-type"), "application/json", "{accept}");
            assert!(answer.text().contains("b25l"), "{accept}: {}", answer.text());
        }
    }
    let mut events = Events::open(&server, "/v1/kv/k", "Accept: */*\r\n").await;
    assert!(events.next().await.1.contains("b25l"));
}
