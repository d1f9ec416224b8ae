//! Tables of request and answer, recorded from the reference, replayed here in order.
//!
//! ```text
//! # a comment
//! ~ 1400                              wait so many milliseconds first
//! > GET /v1/kv/a?cas={{i}}            the request, then its headers
//! = body
//! ! i hdr:X-Consul-Index              keep something of the answer as {{i}}: a header or a path in
//! < 200                               the JSON; then status and headers that must be
//! < vary: Accept-Encoding
//! - body, where <n>, <uuid> and <any> stand for what differs from run to run
//! ```
//!
//! `MUSTER_CONFORMANCE_SERVER=127.0.0.1:8500` replays them on another server, which must be fresh:
//! the reference itself, for instance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use muster_agent::http::Settings;
use regex::Regex;
use tokio::net::TcpStream;

use crate::support::{Client, Response, Server, ask};

#[derive(Debug, Default)]
struct Row {
    line: usize,
    wait: Duration,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    keep: Vec<(String, String)>,
    status: u16,
    expected_headers: Vec<(String, String)>,
    expected_body: Vec<String>,
}

fn parse(table: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = Row::default();
    for (number, line) in table.lines().chain([""]).enumerate() {
        let (mark, rest) = line.split_at_checked(1).unwrap_or(("", ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let pair = |separator: &str| {
            let (name, value) = rest.split_once(separator).expect("a name and a value");
            (name.to_owned(), value.to_owned())
        };
        match mark {
            "" if row.method.is_empty() => {}
            "" => rows.push(std::mem::take(&mut row)),
            "#" => {}
            "~" => row.wait = Duration::from_millis(rest.parse().expect("milliseconds")),
            ">" if row.method.is_empty() => {
                (row.method, row.path) = pair(" ");
                row.line = number + 1;
            }
            ">" => row.headers.push(pair(": ")),
            "=" => rest.clone_into(&mut row.body),
            "!" => row.keep.push(pair(" ")),
            "<" if row.status == 0 => row.status = rest.parse().expect("a status"),
            "<" => row.expected_headers.push(pair(": ")),
            "-" => row.expected_body.push(rest.to_owned()),
            other => panic!("line {}: what is `{other}`?", number + 1),
        }
    }
    rows
}

/// Text with its placeholders, as an expression that matches the whole of an answer.
fn pattern(text: &str) -> Regex {
    let mut expression = regex::escape(text);
    for (placeholder, stands_for) in [
        ("<n>", r"\d+"),
        ("<uuid>", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        ("<any>", r"(?s:.*)"),
    ] {
        expression = expression.replace(placeholder, stands_for);
    }
    Regex::new(&format!("^(?:{expression})$")).expect("an expression")
}

fn fill(text: &str, kept: &BTreeMap<String, String>) -> String {
    kept.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    })
}

/// A header, or something at a path in the JSON.
fn dig(response: &Response, from: &str) -> String {
    if let Some(name) = from.strip_prefix("hdr:") {
        return response.header(&name.to_lowercase()).to_owned();
    }
    let json = response.json();
    let found = from.split('.').try_fold(&json, |value, step| match step.parse::<usize>() {
        Ok(position) => value.get(position),
        Err(_) => value.get(step),
    });
    match found {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn compare(row: &Row, response: &Response, kept: &BTreeMap<String, String>) -> String {
    let mut faults = String::new();
    if response.status != row.status {
        let _ = writeln!(faults, "  status {}, not {}", response.status, row.status);
    }
    for (name, expected) in &row.expected_headers {
        let found = response.header(name);
        if !pattern(&fill(expected, kept)).is_match(found) {
            let _ = writeln!(faults, "  {name}: {found:?}, not {expected:?}");
        }
    }
    let text = response.text();
    // Readers of tables see no new line at the end of a body.
    let expected = fill(&row.expected_body.join("\n"), kept);
    if !pattern(&expected).is_match(text.trim_end_matches('\n'))
        && !pattern(expected.trim_end_matches('\n')).is_match(text.trim_end_matches('\n'))
    {
        let _ = writeln!(faults, "  body {text}\n   not {expected}");
    }
    faults
}

/// Which agent is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Server,
    /// One that is no server, and asks one.
    Client,
}

async fn replay(table: &str) {
    replay_through(Through::Server, table).await;
}

async fn replay_through(through: Through, table: &str) {
    let elsewhere = std::env::var("MUSTER_CONFORMANCE_SERVER").ok();
    let server = match elsewhere {
        Some(_) => None,
        None => Some(Server::start(Settings::default()).await),
    };
    let client = match (&server, through) {
        (Some(server), Through::Client) => Some(Client::of(&[server], Settings::default()).await),
        _ => None,
    };
    let address: SocketAddr = match (&client, &server, elsewhere) {
        (Some(client), ..) => client.address,
        (None, Some(server), _) => server.address,
        (None, None, address) => address.unwrap().parse().expect("an address"),
    };
    let mut kept = BTreeMap::new();
    let mut faults = String::new();
    let rows = parse(table);
    let count = rows.len();
    for row in rows {
        tokio::time::sleep(row.wait).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let headers: Vec<(&str, &str)> =
            row.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (path, body) = (fill(&row.path, &kept), fill(&row.body, &kept));
        let response = ask(stream, &row.method, &path, &headers, body.as_bytes()).await;
        let found = compare(&row, &response, &kept);
        if !found.is_empty() {
            let _ = writeln!(faults, "line {}: {} {path}\n{found}", row.line, row.method);
        }
        for (name, from) in &row.keep {
            kept.insert(name.clone(), dig(&response, from));
        }
    }
    assert!(count > 10, "the table has rows");
    assert!(faults.is_empty(), "\n{faults}");
}

#[tokio::test]
async fn keys() {
    replay(include_str!("rows/keys.txt")).await;
}

#[tokio::test]
async fn locks() {
    replay(include_str!("rows/locks.txt")).await;
}

#[tokio::test]
async fn transactions() {
    replay(include_str!("rows/transactions.txt")).await;
}

#[tokio::test]
async fn catalog() {
    replay(include_str!("rows/catalog.txt")).await;
}

#[tokio::test]
async fn filters() {
    replay(include_str!("rows/filters.txt")).await;
}

#[tokio::test]
async fn sessions() {
    replay(include_str!("rows/sessions.txt")).await;
}

#[tokio::test]
async fn edges() {
    replay(include_str!("rows/edges.txt")).await;
}

/// What is about the cluster is answered alike by every agent, to the last header.
#[tokio::test]
async fn through_a_client() {
    tokio::join!(
        replay_through(Through::Client, include_str!("rows/keys.txt")),
        replay_through(Through::Client, include_str!("rows/locks.txt")),
        replay_through(Through::Client, include_str!("rows/transactions.txt")),
        replay_through(Through::Client, include_str!("rows/catalog.txt")),
        replay_through(Through::Client, include_str!("rows/filters.txt")),
        replay_through(Through::Client, include_str!("rows/sessions.txt")),
        replay_through(Through::Client, include_str!("rows/edges.txt")),
    );
}

#[tokio::test]
async fn agent() {
    replay(include_str!("rows/agent.txt")).await;
}

#[tokio::test]
async fn operator() {
    replay(include_str!("rows/operator.txt")).await;
}
