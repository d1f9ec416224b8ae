//! When every kind of check has its result, by classes that hold on a busy machine as well.
//!
//! | class | ours | the reference, 1.8.7 |
//! |---|---|---|
//! | first run | at once, however long the interval | at a random moment of the first interval |
//! | a target that hangs | at the configured timeout, not before, and long before the usual one | the same |
//! | a target that turns | seen by the first run after it | the same |
//!
//! `MUSTER_CONFORMANCE_SERVER=127.0.0.1:8500` asks a reference, as in `checks.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use muster_agent::http::Settings;
use muster_agent::local;
use serde_json::Value;

use crate::checks::{ROWS, TARGET, Takes, call, pattern, stubs};
use crate::support::{PATIENCE, Server};

/// Timeouts of runs that configure none begin here.
const TIMEOUT_USUAL: Duration = Duration::from_secs(10);
/// Of the reference, which waits for it before the first run.
const INTERVAL_SHORT: &str = "2s";
/// Nobody waits for this: what has a result has it from its first run.
const INTERVAL_LONG: &str = "1h";

/// Ours, or the reference that is named.
async fn server() -> (Option<Server>, SocketAddr) {
    if let Ok(address) = std::env::var("MUSTER_CONFORMANCE_SERVER") {
        return (None, address.parse().unwrap());
    }
    let registrations = local::Settings {
        enable_script_checks: true,
        check_update_interval: Duration::ZERO,
        ..local::Settings::default()
    };
    let server = Server::start_claiming(Settings::default(), registrations).await;
    let address = server.address;
    (Some(server), address)
}

async fn checks(address: SocketAddr) -> Value {
    serde_json::from_str(&call(address, "GET", "/v1/agent/checks", "").await.1).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_runs_are_at_once_and_timeouts_as_configured() {
    let (server, address) = server().await;
    let stubs = stubs().await;
    let interval = if server.is_some() { INTERVAL_LONG } else { INTERVAL_SHORT };
    let mut waiting = BTreeMap::new();
    for (number, row) in ROWS.iter().enumerate() {
        let mut fields = row.definition.to_owned();
        for (name, port, _) in &stubs {
            fields = fields.replace(name, &port.to_string());
        }
        let interval = if fields.contains("Alias") {
            String::new()
        } else {
            format!(r#","Interval":"{interval}""#)
        };
        let body = format!(r#"{{"ID":"row{number}","Name":"{}",{fields}{interval}}}"#, row.name);
        let begun = Instant::now();
        let (status, _) = call(address, "PUT", "/v1/agent/check/register", &body).await;
        if status == 200 && (server.is_some() || row.reference.is_none()) {
            waiting.insert(number, begun);
        }
    }
    assert!(waiting.len() > 25, "{}", waiting.len());
    let (deadline, mut faults) = (Instant::now() + PATIENCE, Vec::new());
    while !waiting.is_empty() && Instant::now() < deadline {
        let found = checks(address).await;
        waiting.retain(|number, begun| {
            let (row, check) = (&ROWS[*number], &found[format!("row{number}")]);
            let output = check["Output"].as_str().unwrap_or_default();
            if check["Status"] != row.status || !pattern(row.output).is_match(output) {
                return true;
            }
            let took = begun.elapsed();
            let fits = match row.takes {
                Takes::NoTime => true,
                Takes::Timeout(millis) => {
                    took >= Duration::from_millis(millis) && took < TIMEOUT_USUAL
                }
            };
            if !fits {
                faults.push(format!("{}: {:?}, but {took:?}", row.name, row.takes));
            }
            false
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let missing = waiting.keys().map(|number| format!("{}: no result", ROWS[*number].name));
    faults.extend(missing);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_turns_is_seen_by_the_next_run() {
    let (_server, address) = server().await;
    let stubs = stubs().await;
    let folder = tempfile::tempdir().unwrap();
    let (flag, once) = (folder.path().join("good"), folder.path().join("once"));
    let script = format!(
        "test -e {} || exit 2; test -e {1} && exec sleep 600; touch {1}",
        flag.display(),
        once.display()
    );
    let port = |name: &str| stubs.iter().find(|stub| stub.0 == name).unwrap().1;
    let kinds = [
        ("http", format!(r#""HTTP":"http://127.0.0.1:{}/turning""#, port("{http}"))),
        ("grpc", format!(r#""GRPC":"127.0.0.1:{}/turning""#, port("{grpc}"))),
        ("script", format!(r#""Args":["/bin/sh","-c","{script}"]"#)),
    ];
    for (kind, fields) in kinds {
        TARGET.turn(false);
        // Not there before the first of them.
        let _ = std::fs::remove_file(&flag);
        let body = format!(
            r#"{{"ID":"{kind}","Name":"{kind}","Status":"passing",{fields},"Interval":"1s","Timeout":"10m"}}"#
        );
        let (status, text) = call(address, "PUT", "/v1/agent/check/register", &body).await;
        assert_eq!(status, 200, "{kind}: {text}");
        let becomes = async |wanted: &str| {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let found = checks(address).await;
                if found[kind]["Status"] == wanted {
                    return;
                }
                assert!(Instant::now() < deadline, "{kind} is not {wanted}: {}", found[kind]);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        becomes("critical").await;
        TARGET.turn(true);
        std::fs::write(&flag, "").unwrap();
        becomes("passing").await;
        call(address, "PUT", &format!("/v1/agent/check/deregister/{kind}"), "").await;
    }
}
