//! Saving and restoring over HTTP: atomic, loud, and never backwards.

use std::time::Duration;

use muster_agent::archive;
use muster_agent::http::Settings;
use muster_agent::store::{Change, Command, Timestamp};

use crate::support::{PATIENCE, Server};

async fn save(server: &Server) -> Vec<u8> {
    let answer = server.get("/v1/snapshot").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/x-gzip");
    assert_eq!(answer.header("x-consul-knownleader"), "true");
    assert!(answer.index() > 1);
    unchunked(&answer)
}

/// The body of an answer of unknown length, without the marks of its pieces.
fn unchunked(answer: &crate::support::Response) -> Vec<u8> {
    assert_eq!(answer.header("transfer-encoding"), "chunked");
    let (mut rest, mut whole) = (&answer.body[..], Vec::new());
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a length");
        let length = usize::from_str_radix(str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
    }
}

async fn value(server: &Server, key: &str) -> (u16, String) {
    let answer = server.get(&format!("/v1/kv/{key}?raw")).await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn a_restore_brings_everything_back_and_wakes_everybody() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/kv/a", "saved").await;
    server.put("/v1/kv/gone", "saved too").await;
    let saved = save(&server).await;
    let (meta, state) = archive::read(&*saved).unwrap();
    assert_eq!((meta.index, meta.servers().len()), (state.index(), 1));
    server.put("/v1/kv/a", "later").await;
    server.put("/v1/kv/new", "later").await;
    server.ask("DELETE", "/v1/kv/gone", "").await;

    let before = server.get("/v1/kv/a").await.index();
    let waiting = async {
        let path = format!("/v1/catalog/nodes?index={before}&wait=60s");
        server.get(&path).await
    };
    let restore = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.ask_with("PUT", "/v1/snapshot", &[], &saved).await
    };
    let both = async { tokio::join!(waiting, restore) };
    let (woken, restored) = tokio::time::timeout(PATIENCE, both).await.expect("all wake");
    assert_eq!((restored.status, restored.text().as_str()), (200, ""));
    assert!(woken.index() > before, "{} after {before}", woken.index());

    assert_eq!(value(&server, "a").await, (200, "saved".into()));
    assert_eq!(value(&server, "gone").await, (200, "saved too".into()));
    assert_eq!(value(&server, "new").await.0, 404);
    let nodes = server.get("/v1/catalog/nodes").await;
    assert_eq!(nodes.json()[0]["Node"], "n1");
    server.put("/v1/kv/after", "1").await;
    assert!(server.get("/v1/kv/after").await.index() > woken.index());
}

#[tokio::test]
async fn a_state_with_a_longer_history_is_taken_forward() {
    let old = Server::start(Settings::default()).await;
    for n in 0..200 {
        old.put("/v1/kv/count", &n.to_string()).await;
    }
    let seen = old.get("/v1/kv/count").await.index();
    let saved = save(&old).await;
    let new = Server::start(Settings::default()).await;
    let restored = new.ask_with("PUT", "/v1/snapshot", &[], &saved).await;
    assert_eq!(restored.status, 200, "{}", restored.text());
    let key = new.get("/v1/kv/count").await;
    assert_eq!(key.json()[0]["ModifyIndex"], seen);
    // A client that waits from the old cluster on is not left waiting for a change.
    new.put("/v1/kv/count", "next").await;
    assert!(new.get("/v1/kv/count").await.index() > seen);
    let lost = new.ask("PUT", &format!("/v1/kv/count?cas={seen}"), "lost").await;
    assert_eq!(lost.text().trim_end(), "false");
}

#[tokio::test]
async fn what_is_damaged_or_foreign_changes_nothing() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/kv/a", "kept").await;
    let saved = save(&server).await;
    server.put("/v1/kv/a", "newer").await;
    let mut damaged = saved.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for bytes in [&damaged[..], &saved[..saved.len() - 1], b"no archive at all", b""] {
        let answer = server.ask_with("PUT", "/v1/snapshot", &[], bytes).await;
        assert_eq!(answer.status, 500, "{}", answer.text());
        assert!(!answer.text().is_empty());
        assert_eq!(value(&server, "a").await, (200, "newer".into()));
    }
    let answer = server.ask_with("PUT", "/v1/snapshot?stale", &[], &saved).await;
    assert_eq!((answer.status, answer.text().as_str()), (500, "stale not allowed for restore"));
    assert_eq!(value(&server, "a").await, (200, "newer".into()));
}

#[tokio::test]
async fn a_state_whose_index_leaves_no_room_is_refused() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/kv/a", "kept").await;
    let saved = save(&server).await;
    let (meta, state) = archive::read(&*saved).unwrap();
    for index in [u64::MAX - 6, (1 << 62) + 1] {
        let mut state = state.clone();
        state.apply(index, &Command { at: Timestamp(1), change: Change::Noop });
        let mut hostile = Vec::new();
        archive::write(&meta, &state, &mut hostile).unwrap();
        let answer = server.ask_with("PUT", "/v1/snapshot", &[], &hostile).await;
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(&format!("index `{index}`")), "{}", answer.text());
    }
    assert_eq!(value(&server, "a").await, (200, "kept".into()));
    assert!(server.get("/v1/kv/a").await.index() < 1000);
}
