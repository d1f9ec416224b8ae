//! Tables of question and answer, recorded from the reference, replayed here.
//!
//! ```text
//! % {"dns_config": {...}}             an agent with these keys answers what follows
//! ? web.service.consul A edns=1232    the question
//! < NoError aa rd | 3 0 0             what the header says; numbers of answers, authority, additional
//! - answer web.service.consul. ...    the records; more than the header says: any that many of them
//! ! why it differs here               then `<!` and `-!`: what we answer instead, and on purpose
//! ```
//!
//! Record anew: `MUSTER_DNS_REFERENCE=/path/to/consul cargo test -p muster-agent --test dns table`
//! first writes the reference's side of every table, and our side where a row says why it differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::agent::Agent;
use crate::recursor;
use crate::wire::{Question, Shown, show};

/// The tables, by file name.
const TABLES: [&str; 4] = ["names", "limits", "settings", "recursors"];
/// How often a question is put to learn all that may come.
const RECORDINGS: usize = 20;
/// The same when it is only checked.
const REPLAYS: usize = 3;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
struct Row {
    comments: Vec<String>,
    /// Begins a part with an agent of its own.
    config: Option<String>,
    question: String,
    reference: Shown,
    why: Option<String>,
    ours: Shown,
}

fn path(table: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/dns/rows/{table}.txt"))
}

fn parse(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut next = Row::default();
    for line in text.lines() {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.to_owned();
        let row = rows.last_mut();
        match mark {
            "" => {}
            "#" => next.comments.push(rest),
            "%" => next.config = Some(rest),
            "?" => {
                next.question = rest;
                rows.push(std::mem::take(&mut next));
            }
            "<" => row.unwrap().reference.head = rest,
            "-" => row.unwrap().reference.records.push(rest),
            "!" => row.unwrap().why = Some(rest),
            "<!" => row.unwrap().ours.head = rest,
            "-!" => row.unwrap().ours.records.push(rest),
            other => panic!("what is {other:?}?"),
        }
    }
    rows
}

fn print(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        for comment in &row.comments {
            let _ = writeln!(text, "# {comment}");
        }
        if let Some(config) = &row.config {
            let _ = writeln!(text, "\n% {config}");
        }
        let _ = writeln!(text, "\n? {}", row.question);
        let _ = writeln!(text, "< {}", row.reference.head);
        for record in &row.reference.records {
            let _ = writeln!(text, "- {record}");
        }
        if let Some(why) = &row.why {
            let _ = writeln!(text, "! {why}\n<! {}", row.ours.head);
            for record in &row.ours.records {
                let _ = writeln!(text, "-! {record}");
            }
        }
    }
    text.trim_start().to_owned()
}

/// The catalog that all tables ask about.
fn fill(agent: &Agent) {
    let text = include_str!("rows/catalog.json");
    let rows: Vec<Value> = serde_json::from_str(text).expect("JSON");
    for row in &rows {
        agent.put("/v1/catalog/register", row);
    }
    // Many of one kind, for what does not fit.
    for n in 0..60 {
        agent.put(
            "/v1/catalog/register",
            &serde_json::json!({
                "Node": format!("big-{n:02}"), "Address": format!("10.9.0.{n}"),
                "NodeMeta": {"rack": "r9"},
                "Service": {"Service": "big", "Port": 9000 + n},
            }),
        );
    }
}

fn start(program: &str, config: &str, recursors: (u16, u16)) -> Agent {
    let config = config
        .replace("{{recursor}}", &format!("127.0.0.1:{}", recursors.0))
        .replace("{{silent}}", &format!("127.0.0.1:{}", recursors.1));
    let agent = Agent::start(program, &serde_json::from_str(&config).expect("JSON"));
    fill(&agent);
    agent
}

fn ask(agent: &Agent, question: &str) -> Shown {
    let packet = Question::parse(question).ask(agent.dns, PATIENCE);
    show(packet.as_deref(), agent.server)
}

/// Everything that may come, out of many answers.
fn learn(agent: &Agent, question: &str) -> Shown {
    let first = ask(agent, question);
    let mut records: BTreeSet<String> = first.records.iter().cloned().collect();
    let mut all = first.records.clone();
    let mut last_new = 0;
    let mut asked = 0;
    // One answer that says it all is repeated a little, one that leaves out much more.
    while asked < last_new + RECORDINGS {
        asked += 1;
        let more = ask(agent, question);
        assert_eq!(more.head, first.head, "{question}: the reference cannot decide");
        for record in more.records {
            if records.insert(record.clone()) {
                all.push(record);
                last_new = asked * 2;
            }
        }
        if all.is_empty() {
            break;
        }
    }
    let place = |line: &String| {
        ["answer", "authority", "additional"].iter().position(|it| line.starts_with(it))
    };
    all.sort_by_key(|line| (place(line), line.clone()));
    Shown { head: first.head, records: all }
}

/// Does an answer say what is expected: the header exactly, and of each section either all, or as
/// many as the header says out of those there are?
fn agrees(found: &Shown, expected: &Shown) -> bool {
    if found.head != expected.head {
        return false;
    }
    ["answer ", "authority ", "additional "].iter().all(|section| {
        let of = |shown: &Shown| -> Vec<String> {
            shown.records.iter().filter(|it| it.starts_with(section)).cloned().collect()
        };
        let (found, expected) = (of(found), of(expected));
        if found.len() >= expected.len() {
            found == expected
        } else {
            let distinct: BTreeSet<&String> = found.iter().collect();
            distinct.len() == found.len() && found.iter().all(|it| expected.contains(it))
        }
    })
}

fn replay(table: &str) {
    if let Ok(reference) = std::env::var("MUSTER_DNS_REFERENCE") {
        record(table, &reference);
    }
    let rows = parse(&std::fs::read_to_string(path(table)).unwrap());
    let recursors = (recursor::start(), recursor::start_silent());
    let mut agent = None;
    let mut faults = String::new();
    for row in &rows {
        if let Some(config) = &row.config {
            // The old one's ports are free before the new one looks for some.
            drop(agent.take());
            agent = Some(start(env!("CARGO_BIN_EXE_muster"), config, recursors));
        }
        let agent = agent.as_ref().expect("the table begins with an agent");
        let expected = if row.why.is_some() { &row.ours } else { &row.reference };
        for _ in 0..REPLAYS {
            let found = ask(agent, &row.question);
            if !agrees(&found, expected) {
                let _ = writeln!(
                    faults,
                    "? {}\n  {}\n  {}\nnot\n  {}\n  {}\n",
                    row.question,
                    found.head,
                    found.records.join("\n  "),
                    expected.head,
                    expected.records.join("\n  ")
                );
                break;
            }
        }
    }
    assert!(rows.len() > 10, "the table has rows");
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn names() {
    replay("names");
}

#[test]
fn limits() {
    replay("limits");
}

#[test]
fn settings() {
    replay("settings");
}

#[test]
fn recursors() {
    replay("recursors");
}

#[test]
fn there_are_enough_rows() {
    let count = |table: &&str| parse(&std::fs::read_to_string(path(table)).unwrap()).len();
    let rows: usize = TABLES.iter().map(count).sum();
    assert!(rows >= 150, "{rows} rows");
}

/// Writes a table anew from what the reference answers.
fn record(table: &str, reference: &str) {
    let recursors = (recursor::start(), recursor::start_silent());
    let mut rows = parse(&std::fs::read_to_string(path(table)).unwrap());
    let mut agents: Option<(Agent, Agent)> = None;
    for row in &mut rows {
        if let Some(config) = &row.config {
            drop(agents.take());
            let ours = start(env!("CARGO_BIN_EXE_muster"), config, recursors);
            agents = Some((start(reference, config, recursors), ours));
        }
        let (reference, ours) = agents.as_ref().expect("the table begins with an agent");
        row.reference = learn(reference, &row.question);
        if row.why.is_some() {
            row.ours = learn(ours, &row.question);
        }
    }
    std::fs::write(path(table), print(&rows)).unwrap();
}
