//! The same command lines with the reference's program and with ours, where access control is on.
//!
//! `rows/acl*.txt` hold what the reference's program prints against the reference's agent, `rows/acl*.jsonl` what our
//! program asks that agent and what it answers. Without the reference our program is held against those answers. With
//! `MUSTER_REFERENCE=/path/to/consul` it is held against the reference's agent, and with `MUSTER_RECORD=1` both are
//! written anew.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use http::Method;

use crate::recorded::{self, Middle};
use crate::reference::{NODE, Place, Row, differences, files, parse, print, run_one};
use crate::support::{Agent, until};

/// The secret of the token that may do everything.
const MANAGEMENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";
/// Of an object of the API as JSON, its ID.
const FIRST_ID: &str = r#"/"ID"/{s/.*"ID": "\(.*\)",/\1/p;q}"#;

/// A table with what it needs.
#[derive(Clone, Copy)]
struct Table {
    name: &'static str,
    /// Sent by the command lines unless they say otherwise; empty: none.
    token: &'static str,
    /// Whether there is a token with rules of its own, as releases before 1.4 made them.
    old_token: bool,
}

fn agent(program: &str, table: Table) -> Agent {
    let tokens = match table.token {
        "" => String::new(),
        token => format!(r#","tokens":{{"master":"{token}"}}"#),
    };
    // Who sends nothing sees no node while everything is denied; the table that begins without tokens allows.
    let policy = if table.token.is_empty() { "allow" } else { "deny" };
    let keys = format!(
        r#""node_id":"11111111-2222-3333-4444-555555555555","disable_remote_exec":false,
        "ports":{{"grpc":-1}},"acl":{{"enabled":true,"default_policy":"{policy}"{tokens}}}"#
    );
    let agent = Agent::start_secured(program, |_| keys.clone(), &[], table.token);
    if table.old_token {
        let body = r#"{"ID":"44444444-0000-4000-8000-000000000001","Name":"old","Type":"client",
            "Rules":"key \"foo\" { policy = \"write\" }\nservice \"\" { policy = \"read\" }"}"#;
        let client = agent.client();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let made = client.call(Method::PUT, "/v1/acl/create", &[], body.into(), Duration::ZERO);
        assert!(runtime.block_on(made).unwrap().status.is_success());
        // The leader gives it an accessor ID a moment later.
        let args = ["acl", "token", "list", "-format=json"];
        until("the token is complete", || {
            let (_, tokens, _) = agent.run(&args);
            tokens.contains(r#""Legacy": true"#) && !tokens.contains(r#""AccessorID": """#)
        });
    }
    agent
}

/// Runs every command line, one after the other.
fn run(program: &Path, place: Place<'_>, rows: &[Row], middle: Option<&Middle>) -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let mut variables = vec![("TMP", folder.path().to_str().unwrap()), ("ID", FIRST_ID)];
    variables.extend(place.variables);
    let place = Place { variables: &variables, ..place };
    let mut found = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        if let Some(middle) = middle {
            let missing = middle.begin(number);
            assert!(missing.is_empty(), "before `{}` nobody asked {missing:?}", row.line);
        }
        found.push(run_one(program, place, row));
    }
    found
}

fn hold(table: Table) {
    let folder = files().parent().unwrap().to_owned();
    let path = folder.join(format!("{}.txt", table.name));
    let answers = folder.join(format!("{}.jsonl", table.name));
    let mut rows = parse(&fs::read_to_string(&path).unwrap());
    let links = tempfile::tempdir().unwrap();
    let ours = links.path().join("consul");
    symlink(env!("CARGO_BIN_EXE_muster"), &ours).unwrap();
    let variables = [("CONSUL_HTTP_TOKEN", table.token)];
    let mut found = String::new();
    if let Ok(reference) = std::env::var("MUSTER_REFERENCE") {
        let recording = std::env::var_os("MUSTER_RECORD").is_some();
        if recording {
            let theirs = agent(&reference, table);
            rows = run(Path::new(&reference), Place::of(&theirs, &variables), &rows, None);
            for row in rows.iter_mut().filter(|row| row.differs.is_some()) {
                row.out.clear();
                row.err.clear();
            }
            fs::write(&path, print(&rows)).unwrap();
        }
        let theirs = agent(&reference, table);
        let middle = Middle::recording(theirs.address());
        let place = Place { address: &middle.address, ..Place::of(&theirs, &variables) };
        let mixed = run(&ours, place, &rows, Some(&middle));
        found += &differences("our program, their agent", &rows, &mixed);
        if recording {
            let text = recorded::print(&middle.exchanges()).replace(theirs.node(), NODE);
            fs::write(&answers, text).unwrap();
        }
    }
    let middle = Middle::playing(recorded::parse(&fs::read_to_string(&answers).unwrap()));
    let place =
        Place { address: &middle.address, node: NODE, ports: [0; 5], variables: &variables };
    let played = run(&ours, place, &rows, Some(&middle));
    found += &differences("our program, their answers", &rows, &played);
    let missing = middle.begin(rows.len());
    if !missing.is_empty() {
        writeln!(found, "at the end nobody asked {missing:?}").unwrap();
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn access_control_is_managed_as_scripts_for_the_reference_expect() {
    hold(Table { name: "acl", token: MANAGEMENT, old_token: false });
}

#[test]
fn the_first_token_is_made_as_scripts_for_the_reference_expect() {
    hold(Table { name: "acl-first", token: "", old_token: false });
}

#[test]
fn rules_of_earlier_releases_are_translated_as_scripts_for_the_reference_expect() {
    hold(Table { name: "acl-old", token: MANAGEMENT, old_token: true });
}
