//! Many questions on few connections, asked of a small stand-in for an agent that knows no event streams.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod fake;

use std::time::Duration;

use fake::Fake;
use muster_client::{
    Answer, Client, Error, Query, Settings, SharedWatch, Update, WatchSet, WatchSettings,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn client(fake: &Fake, connections_max: usize) -> Client {
    let address = fake.address.clone();
    Client::new(Settings { address, connections_max, ..Settings::default() }).unwrap()
}

fn key(set: &WatchSet, number: usize) -> SharedWatch {
    set.watch(Query::Key { path: format!("k/{number}") }, WatchSettings::default())
}

async fn value(watch: &mut SharedWatch) -> Option<String> {
    loop {
        let update = tokio::time::timeout(PATIENCE, watch.next()).await.expect("an answer in time");
        match update {
            Update::Value(Answer::Key(pair), _) => {
                return pair.map(|pair| String::from_utf8(pair.value).unwrap());
            }
            Update::Value(other, _) => panic!("no key: {other:?}"),
            // Asked again by itself.
            Update::Unreachable(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn many_questions_take_turns_on_few_connections() {
    let fake = Fake::start().await;
    let client = client(&fake, 8);
    let set = client.watch_set();
    let mut watches: Vec<_> = (0..300).map(|number| key(&set, number)).collect();
    for watch in &mut watches {
        assert_eq!(value(watch).await, None);
    }
    for number in [0, 7, 150, 299] {
        fake.set(&format!("k/{number}"), "new");
    }
    for number in [299, 0, 7, 150] {
        assert_eq!(value(&mut watches[number]).await.as_deref(), Some("new"), "k/{number}");
    }
    // All connections that wait leave room for calls.
    tokio::time::timeout(Duration::from_secs(1), client.kv().get("k/0", &<_>::default()))
        .await
        .expect("a call does not queue behind waits")
        .unwrap();
    let counts = fake.counts();
    assert!(counts.connections_max <= 8, "{counts:?}");
    assert_eq!(counts.refused, 0, "{counts:?}");
}

#[tokio::test]
async fn all_clients_of_a_process_share_the_number() {
    let fake = Fake::start().await;
    let sets: Vec<_> = (0..4).map(|_| client(&fake, 4).watch_set()).collect();
    let mut watches: Vec<_> =
        (0..40).map(|number| key(&sets[number % sets.len()], number)).collect();
    for watch in &mut watches {
        assert_eq!(value(watch).await, None);
    }
    let counts = fake.counts();
    assert!(counts.connections_max <= 4, "{counts:?}");
}

#[tokio::test]
async fn a_dropped_question_is_forgotten_at_once() {
    let fake = Fake::start().await;
    let set = client(&fake, 8).watch_set();
    let mut watches: Vec<_> = (0..50).map(|number| key(&set, number)).collect();
    for watch in &mut watches {
        value(watch).await;
    }
    let mut kept = watches.split_off(49);
    drop(watches);
    assert_eq!(set.len(), 1);
    // With a place for itself again, the one that is left is held: its change comes at once.
    fake.waits_for("k/49", PATIENCE).await;
    let before = fake.asked();
    fake.set("k/49", "new");
    assert_eq!(value(&mut kept[0]).await.as_deref(), Some("new"));
    let others = fake.asked().split_off(before.len());
    assert!(others.iter().all(|path| path.contains("k/49")), "{others:?}");
    drop(kept);
    assert!(set.is_empty());
}

#[tokio::test]
async fn too_many_requests_are_backed_off() {
    let fake = Fake::start().await;
    fake.refuse_next(1);
    let set = client(&fake, 8).watch_set();
    let mut watch = key(&set, 1);
    let begun = std::time::Instant::now();
    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("told in time") {
        Update::Unreachable(Error::Status { code, .. }) => assert_eq!(code.as_u16(), 429),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(&mut watch).await, None);
    assert!(begun.elapsed() > Duration::from_secs(1), "came back within {:?}", begun.elapsed());
}

#[tokio::test]
async fn an_agent_that_refuses_connections_is_asked_with_what_it_takes() {
    let fake = Fake::start().await;
    fake.take_connections(3);
    let set = client(&fake, 8).watch_set();
    let mut watches: Vec<_> = (0..20).map(|number| key(&set, number)).collect();
    for watch in &mut watches {
        assert_eq!(value(watch).await, None);
    }
}

#[tokio::test]
async fn what_no_server_can_wait_for_is_asked_now_and_then() {
    let fake = Fake::start().await;
    let set = client(&fake, 2).watch_set();
    let mut datacenters = set.watch(Query::Datacenters, WatchSettings::default());
    match tokio::time::timeout(PATIENCE, datacenters.next()).await.expect("told in time") {
        Update::Value(Answer::Datacenters(names), 0) => assert_eq!(names, ["dc1"]),
        other => panic!("{other:?}"),
    }
}
