//! Figures under the names that dashboards for the reference ask for. With `MUSTER_REFERENCE=/path/to/consul` the
//! reference is asked for the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::agent::{Agent, DEADLINE, moment};
use crate::wire::Question;

/// Does everything that is counted, once.
fn use_everything(agent: &Agent) {
    for line in [
        "consul.service.consul A",
        "nobody.service.consul SRV",
        "1.0.0.127.in-addr.arpa PTR",
        "example.com A",
    ] {
        Question::parse(line).ask(agent.dns, DEADLINE).expect("an answer");
    }
    let requests = [
        ("PUT", "/v1/kv/figures", "x"),
        ("GET", "/v1/kv/figures", ""),
        ("POST", "/v1/kv/figures", ""),
        ("DELETE", "/v1/kv/figures", ""),
        ("PUT", "/v1/agent/service/register", r#"{"Name": "figures"}"#),
        ("GET", "/v1/health/service/figures", ""),
        ("PUT", "/v1/catalog/register", r#"{"Node": "figures", "Address": "192.0.2.1"}"#),
        ("PUT", "/v1/catalog/deregister", r#"{"Node": "figures"}"#),
        ("PUT", "/v1/session/create", r#"{"TTL": "10s"}"#),
        ("GET", "/v1/session/list", ""),
        ("PUT", "/v1/event/fire/figures", ""),
        ("PUT", "/v1/txn", r#"[{"KV": {"Verb": "set", "Key": "figures", "Value": ""}}]"#),
    ];
    for (method, path, body) in requests {
        assert!(agent.ask(method, path, body).is_some(), "{method} {path}");
    }
}

fn figures(agent: &Agent) -> Value {
    let answer = agent.ask("GET", "/v1/agent/metrics", "").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        return serde_json::from_str(&unchunked(body)).unwrap();
    }
    serde_json::from_str(body).unwrap()
}

fn unchunked(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole += &after[..length];
        rest = after[length..].trim_start();
    }
    whole
}

/// As the lines of the table, with the faults that rows have.
fn names(figures: &Value, faults: &mut BTreeSet<String>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for kind in ["Gauges", "Counters", "Samples"] {
        for row in figures[kind].as_array().unwrap() {
            let labels = row["Labels"].as_object().unwrap();
            let labels =
                labels.iter().map(|(name, value)| format!(" {name}={}", value.as_str().unwrap()));
            names.insert(
                format!("{kind} {}", row["Name"].as_str().unwrap()) + &labels.collect::<String>(),
            );
            if kind == "Gauges" {
                continue;
            }
            let number = |key: &str| row[key].as_f64().unwrap();
            let (count, sum) = (number("Count"), number("Sum"));
            let holds = count >= 1.0
                && number("Min") <= number("Mean")
                && number("Mean") <= number("Max")
                && (number("Mean") * count - sum).abs() < 0.001 * (1.0 + sum)
                && (number("Rate") * 10.0 - sum).abs() < 0.001 * (1.0 + sum)
                && number("Stddev") >= 0.0;
            if !holds {
                faults.insert(row.to_string());
            }
        }
    }
    names
}

/// What of the table an agent never shows.
fn missing(program: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns/rows/figures.txt");
    let table = std::fs::read_to_string(path).unwrap();
    let mut wanted: BTreeSet<&str> = table.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(wanted.len() > 30);
    let agent = Agent::start(program, &json!({}));
    let (start, mut faults) = (Instant::now(), BTreeSet::new());
    // An interval takes ten seconds, and shows what is over.
    while !wanted.is_empty() && start.elapsed() < DEADLINE {
        use_everything(&agent);
        let names = names(&figures(&agent), &mut faults);
        wanted.retain(|line| !names.contains(*line));
        moment();
    }
    assert!(faults.is_empty(), "{program}: {faults:?}");
    wanted.into_iter().collect::<Vec<_>>().join("\n")
}

#[test]
fn dashboards_find_their_figures() {
    if let Ok(reference) = std::env::var("MUSTER_REFERENCE") {
        assert_eq!(missing(&reference), "", "the reference");
    }
    assert_eq!(missing(env!("CARGO_BIN_EXE_muster")), "");
}
