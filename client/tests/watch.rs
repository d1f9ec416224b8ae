//! The rules of blocking queries, against a server that answers from a script.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_client::{Answer, Client, Error, Query, Settings, Update, WatchSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// One scripted answer: status, index, body.
type Step = (u16, u64, &'static str);

/// Serves the script in order, then holds every further request. Returns the address and the
/// request lines seen.
async fn scripted(script: Vec<Step>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        let mut script = script.into_iter();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut request).await {
                let text = String::from_utf8_lossy(&request[..n]).into_owned();
                log.lock().unwrap().push(text.lines().next().unwrap_or_default().to_owned());
                let Some((status, index, body)) = script.next() else {
                    std::future::pending::<()>().await;
                    return;
                };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (address, seen)
}

fn client(address: String) -> Client {
    Client::new(Settings { address, timeout: Duration::from_secs(2), ..Settings::default() })
        .unwrap()
}

fn key() -> Query {
    Query::Key { path: "a/b c".into() }
}

async fn next(watch: &mut muster_client::Watch) -> Update {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an update in time")
}

fn value(update: Update) -> (Option<String>, u64) {
    match update {
        Update::Value(Answer::Key(pair), index) => {
            (pair.map(|p| String::from_utf8(p.value).unwrap()), index)
        }
        other => panic!("not a key: {other:?}"),
    }
}

#[tokio::test]
async fn only_changes_are_reported_and_the_index_is_followed() {
    let (address, seen) = scripted(vec![
        (200, 5, r#"[{"Key":"a/b c","Value":"b25l"}]"#),
        (200, 5, r#"[{"Key":"a/b c","Value":"b25l"}]"#),
        (200, 9, r#"[{"Key":"a/b c","Value":"dHdv"}]"#),
    ])
    .await;
    let mut watch = client(address).watch(key(), WatchSettings::default());
    assert_eq!(value(next(&mut watch).await), (Some("one".into()), 5));
    assert_eq!(value(next(&mut watch).await), (Some("two".into()), 9));
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], "GET /v1/kv/a/b%20c HTTP/1.1");
    assert_eq!(seen[1], "GET /v1/kv/a/b%20c?index=5&wait=1m0s HTTP/1.1");
    assert_eq!(seen[2], seen[1]);
}

#[tokio::test]
async fn an_index_that_goes_back_starts_from_nothing() {
    let (address, seen) = scripted(vec![
        (404, 50, ""),
        (404, 3, ""),
        (200, 4, r#"[{"Key":"a/b c","Value":"b25l"}]"#),
    ])
    .await;
    let mut watch = client(address).watch(key(), WatchSettings::default());
    assert_eq!(value(next(&mut watch).await), (None, 50));
    assert_eq!(value(next(&mut watch).await), (Some("one".into()), 4));
    let seen = seen.lock().unwrap();
    assert!(seen[1].contains("index=50"));
    assert!(!seen[2].contains("index="), "{}", seen[2]);
}

#[tokio::test]
async fn failures_are_retried_and_recovery_is_told() {
    let (address, _) =
        scripted(vec![(404, 2, ""), (500, 0, "No cluster leader"), (404, 2, "")]).await;
    let settings =
        WatchSettings { backoff_min: Duration::from_millis(5), ..WatchSettings::default() };
    let mut watch = client(address).watch(key(), settings);
    assert_eq!(value(next(&mut watch).await), (None, 2));
    match next(&mut watch).await {
        Update::Unreachable(Error::Status { code, text }) => {
            assert_eq!((code.as_u16(), text.as_str()), (500, "No cluster leader"));
        }
        other => panic!("not the failure: {other:?}"),
    }
    assert_eq!(value(next(&mut watch).await), (None, 2));
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = client(address).status().leader().await.expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error:?}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("Connection refused"), "{cause}");
}

#[tokio::test]
async fn a_server_that_does_not_wait_is_not_asked_in_a_hot_loop() {
    let same = (200, 5, r#"[{"Key":"a/b c","Value":"b25l"}]"#);
    let (address, seen) = scripted(vec![same; 10_000]).await;
    let mut watch = client(address).watch(key(), WatchSettings::default());
    assert_eq!(value(next(&mut watch).await), (Some("one".into()), 5));
    let nothing = tokio::time::timeout(Duration::from_secs(1), watch.next()).await;
    assert!(nothing.is_err(), "an answer without news was reported");
    let asked = seen.lock().unwrap().len();
    assert!((2..12).contains(&asked), "{asked} questions in a second");
}

#[tokio::test]
async fn any_path_can_be_followed() {
    let (address, seen) = scripted(vec![(200, 7, "[1]"), (404, 8, "")]).await;
    let query = Query::Path {
        path: "/v1/event/list".into(),
        parameters: vec![("name".into(), "a&b".into())],
    };
    let mut watch = client(address).watch(query, WatchSettings::default());
    match next(&mut watch).await {
        Update::Value(Answer::Path(Some(body)), 7) => assert_eq!(&body[..], b"[1]"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(next(&mut watch).await, Update::Value(Answer::Path(None), 8)));
    assert_eq!(seen.lock().unwrap()[0], "GET /v1/event/list?name=a%26b HTTP/1.1");
}

#[tokio::test]
async fn an_error_page_is_cut_and_a_silent_server_is_left() {
    let page: &str = Box::leak("x".repeat(100_000).into_boxed_str());
    let (address, _) = scripted(vec![(502, 0, page)]).await;
    let client = client(address);
    match client.status().leader().await {
        Err(Error::Status { text, .. }) => assert!(text.len() < 20_000),
        other => panic!("{other:?}"),
    }
    let error = client.status().leader().await.expect_err("the script is over");
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_told_apart() {
    let (address, _) = scripted(vec![(200, 0, "[1,2"), (200, 0, "{}")]).await;
    let client = client(address);
    for _ in 0..2 {
        let error = client.status().leader().await.expect_err("this is no text");
        assert!(matches!(error, Error::Decode { .. }) && !error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_as_good_as_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let mut seen = Vec::new();
        // Two questions on one connection: it is kept.
        for _ in 0..2 {
            let n = stream.read(&mut request).await.unwrap();
            seen.push(String::from_utf8_lossy(&request[..n]).to_lowercase());
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n\"1.2.3.4:8300\"";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        seen
    });
    let settings = Settings {
        address: format!("unix://{}", path.display()),
        token: Some(muster_client::Secret::new("s3cret")),
        datacenter: Some("dc 2".into()),
        ..Settings::default()
    };
    let client = Client::new(settings).unwrap();
    for _ in 0..2 {
        assert_eq!(client.status().leader().await.unwrap(), "1.2.3.4:8300");
    }
    let seen = server.await.unwrap();
    for request in seen {
        assert!(request.starts_with("get /v1/status/leader?dc=dc%202 http/1.1"), "{request}");
        assert!(request.contains("x-consul-token: s3cret"), "{request}");
    }
}
