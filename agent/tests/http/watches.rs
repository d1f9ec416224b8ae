//! Blocking reads: nothing is missed, equal readers share, nobody runs hot.

use std::time::{Duration, Instant};

use muster_agent::http::{Limits, Rates, Settings};

use crate::support::{PATIENCE, Server};

fn crowd_settings() -> Settings {
    Settings { limits: Limits::new(0, Rates::default()), ..Settings::default() }
}

fn register(port: usize) -> String {
    format!(r#"{{"Node":"w","Address":"10.0.0.1","Service":{{"Service":"web","Port":{port}}}}}"#)
}

/// Resolves when so many readers sleep.
async fn until_waiting(server: &Server, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while server.reader.counts().waiting != count {
        assert!(Instant::now() < deadline, "{:?} never became {count}", server.reader.counts());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_watchers_costs_one_evaluation_a_change() {
    const WATCHERS: usize = 200;
    const CHANGES: usize = 10;
    let server = Server::start(crowd_settings()).await;
    server.put("/v1/catalog/register", &register(0)).await;
    let mut index = server.get("/v1/health/service/web").await.index();
    for change in 1..=CHANGES {
        let path = format!("/v1/health/service/web?index={index}&wait=60s");
        let before = server.reader.counts();
        let watching: Vec<_> = (0..WATCHERS)
            .map(|_| {
                let (address, path) = (server.address, path.clone());
                tokio::spawn(async move {
                    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                    crate::support::ask(stream, "GET", &path, &[], b"").await
                })
            })
            .collect();
        until_waiting(&server, WATCHERS as u64).await;
        server.put("/v1/catalog/register", &register(change)).await;
        for watcher in watching {
            let response = watcher.await.unwrap();
            assert_eq!(response.json()[0]["Service"]["Port"], change);
            assert!(response.index() > index);
        }
        let after = server.reader.counts();
        assert_eq!(after.evaluations - before.evaluations, 1, "{after:?}");
        index = server.get("/v1/health/service/web").await.index();
    }
}

#[tokio::test]
async fn repeated_reads_share_until_something_changes() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/catalog/register", &register(1)).await;
    let before = server.reader.counts().evaluations;
    for _ in 0..20 {
        server.get("/v1/health/service/web").await;
        // A write that is about something else outdates nothing.
        server.put("/v1/kv/other", "x").await;
    }
    assert_eq!(server.reader.counts().evaluations - before, 1);
    server.put("/v1/catalog/register", &register(2)).await;
    let found = server.get("/v1/health/service/web").await;
    assert_eq!(found.json()[0]["Service"]["Port"], 2);
    // Another question, even about the same service, has an answer of its own.
    let other = server.get("/v1/health/service/web?passing").await;
    assert_eq!(other.json()[0]["Service"]["Port"], 2);
    assert_eq!(server.reader.counts().evaluations - before, 3);
}

#[tokio::test]
async fn each_read_wakes_for_what_it_shows_and_for_nothing_else() {
    let server = Server::start(Settings::default()).await;
    server.put("/v1/catalog/register", &register(1)).await;
    server.put("/v1/kv/app/a", "1").await;
    // (what is read, a write that must not wake it, a write that must)
    let kv = |key: &'static str| ("/v1/kv/".to_owned() + key, String::new());
    let reg = |body: &str| ("/v1/catalog/register".to_owned(), body.to_owned());
    let other = r#"{"Node":"w","Address":"10.0.0.1","Service":{"Service":"other","Port":PORT}}"#;
    let node = r#"{"Node":"new-PORT","Address":"10.0.0.9"}"#;
    let check = r#"{"Node":"w","Address":"10.0.0.1","Check":{"Name":"c","ServiceID":"web","Output":"PORT"}}"#;
    let web = r#"{"Node":"w","Address":"10.0.0.1","Service":{"Service":"web","Port":PORT}}"#;
    let rows = [
        ("/v1/kv/app/a", kv("app/ab"), kv("app/a")),
        ("/v1/kv/app?recurse", kv("ap"), kv("app/new")),
        ("/v1/kv/app?keys", kv("zz"), kv("app/newer")),
        ("/v1/kv/absent", kv("app/a"), kv("absent")),
        ("/v1/health/service/web", reg(other), reg(check)),
        ("/v1/health/service/web?passing", reg(other), reg(web)),
        ("/v1/catalog/service/web", reg(check), reg(web)),
        ("/v1/catalog/nodes", reg(web), reg(node)),
        ("/v1/health/state/any", kv("app/a"), reg(check)),
        ("/v1/catalog/node/w", reg(node), reg(web)),
    ];
    for (number, (path, quiet, loud)) in rows.into_iter().enumerate() {
        let index = server.get(path).await.index();
        let separator = if path.contains('?') { '&' } else { '?' };
        let write = |(to, body): &(String, String), salt: usize| {
            let body = if body.is_empty() {
                salt.to_string()
            } else {
                body.replace("PORT", &(1000 + salt).to_string())
            };
            (to.clone(), body)
        };
        let (to, body) = write(&quiet, number * 2 + 100);
        let blocked = format!("{path}{separator}index={index}&wait=200ms");
        let started = Instant::now();
        let (answer, ()) = tokio::join!(server.get(&blocked), async {
            until_waiting(&server, 1).await;
            server.put(&to, &body).await;
        });
        assert!(started.elapsed() >= Duration::from_millis(200), "{path} woke for {to} {body}");
        // Some indexes are those of a larger whole: they may have moved without a wake.
        let index = answer.index();
        let blocked = format!("{path}{separator}index={index}&wait=60s");
        let (to, body) = write(&loud, number * 2 + 101);
        let (answer, ()) = tokio::join!(server.get(&blocked), async {
            until_waiting(&server, 1).await;
            server.put(&to, &body).await;
        });
        assert!(answer.index() > index, "{path} slept through {to} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_watcher_misses_the_last_of_many_changes() {
    const WATCHERS: usize = 20;
    const CHANGES: usize = 60;
    let server = Server::start(crowd_settings()).await;
    server.put("/v1/kv/k", "0").await;
    let watching: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let address = server.address;
            tokio::spawn(async move {
                let mut index = 0;
                let mut looks = 0;
                loop {
                    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                    let path = format!("/v1/kv/k?index={index}&wait=60s&raw");
                    let response = crate::support::ask(stream, "GET", &path, &[], b"").await;
                    assert!(response.index() >= index, "an index went back");
                    index = response.index();
                    looks += 1;
                    if response.text() == CHANGES.to_string() {
                        return looks;
                    }
                }
            })
        })
        .collect();
    for change in 1..=CHANGES {
        server.put("/v1/kv/k", &change.to_string()).await;
    }
    for watcher in watching {
        let looks =
            tokio::time::timeout(PATIENCE, watcher).await.expect("the last change").unwrap();
        assert!(looks <= CHANGES + 1, "{looks} answers to {CHANGES} changes: a hot loop");
    }
}

#[tokio::test]
async fn a_watcher_that_goes_away_is_forgotten() {
    let server = Server::start(Settings::default()).await;
    let index = server.get("/v1/kv/k").await.index();
    let path = format!("/v1/kv/k?index={index}&wait=60s");
    {
        let waiting = server.get(&path);
        tokio::select! {
            _ = waiting => panic!("nothing changed"),
            () = until_waiting(&server, 1) => {}
        }
    }
    until_waiting(&server, 0).await;
}

/// What the reference does with a wait during which only other things change: it answers after a moment, because it
/// watches more than it shows, or answers at the end with the index of its last look, which may be from before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reference {
    AnswersEarly,
    EndsWithOldIndex,
    EndsWithSameIndex,
}

/// Here a wait is never cut short by what changes nothing in its answer, and its end says what any read at that moment
/// says. A client of the reference notices only that it is not called back once more for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_wait_says_what_a_read_says_then() {
    use Reference::{AnswersEarly, EndsWithOldIndex, EndsWithSameIndex};
    let rows = [
        ("/v1/kv/none", AnswersEarly),
        ("/v1/kv/here", EndsWithSameIndex),
        ("/v1/kv/nope/?recurse", AnswersEarly),
        ("/v1/kv/nope/?keys", AnswersEarly),
        ("/v1/health/service/web", EndsWithSameIndex),
        ("/v1/health/service/unknown", AnswersEarly),
        ("/v1/catalog/service/unknown", AnswersEarly),
        ("/v1/catalog/services", AnswersEarly),
        ("/v1/catalog/node/w", EndsWithOldIndex),
        ("/v1/catalog/nodes", EndsWithSameIndex),
        ("/v1/health/checks/unknown", EndsWithSameIndex),
        ("/v1/session/list", EndsWithSameIndex),
    ];
    let server = Server::start(Settings::default()).await;
    server.put("/v1/catalog/register", &register(1)).await;
    server.put("/v1/kv/here", "1").await;
    let other = |port: usize| {
        format!(
            r#"{{"Node":"n1","Address":"127.0.0.1","Service":{{"Service":"other","Port":{port}}}}}"#
        )
    };
    server.put("/v1/catalog/register", &other(1)).await;
    for (number, (path, reference)) in rows.into_iter().enumerate() {
        let asked = server.get(path).await;
        let glue = if path.contains('?') { '&' } else { '?' };
        let blocked = format!("{path}{glue}index={}&wait=300ms", asked.index());
        let started = Instant::now();
        let (answer, ()) = tokio::join!(server.get(&blocked), async {
            until_waiting(&server, 1).await;
            server.put("/v1/kv/quite/other", &number.to_string()).await;
            server.put("/v1/catalog/register", &other(2 + number)).await;
        });
        assert!(started.elapsed() >= Duration::from_millis(300), "{path} was cut short");
        let then = server.get(path).await;
        assert_eq!(answer.text(), asked.text(), "{path} changed");
        assert_eq!((answer.index(), answer.text()), (then.index(), then.text()), "{path}");
        let moved = answer.index() > asked.index();
        assert_eq!(moved, reference != EndsWithSameIndex, "{path}: {reference:?} there");
    }
}
