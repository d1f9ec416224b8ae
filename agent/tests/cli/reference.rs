//! The same command lines with the reference's program and with ours, against the reference's agent and
//! against ours: four ways to the same output.
//!
//! `rows/*.txt` hold what the reference's program prints against the reference's agent. Without the
//! reference our program is held against our agent. With `MUSTER_REFERENCE=/path/to/consul` all four
//! ways are taken, and with `MUSTER_RECORD=1` the tables are written anew.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;

use crate::support::Agent;

/// Stands for the agent's name, as long as every such name.
const NODE: &str = "name-of-the-agents-node";

/// One command line and what is to come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    line: String,
    /// What only one of the two programs says by intention; such a row is held for its exit code alone.
    differs: Option<String>,
    code: i32,
    out: String,
    err: String,
}

fn parse(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut differs = None;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let line = command.to_owned();
            let differs = differs.take();
            rows.push(Row { line, differs, code: 0, out: String::new(), err: String::new() });
        } else if let Some(why) = line.strip_prefix("# differs: ") {
            differs = Some(why.to_owned());
        } else if let Some(row) = rows.last_mut() {
            if let Some(code) = line.strip_prefix("= ") {
                row.code = code.parse().unwrap();
            } else if let Some(out) = line.strip_prefix("> ") {
                writeln!(row.out, "{out}").unwrap();
            } else if let Some(err) = line.strip_prefix("! ") {
                writeln!(row.err, "{err}").unwrap();
            }
        }
    }
    rows
}

fn print(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        if let Some(why) = &row.differs {
            writeln!(text, "# differs: {why}").unwrap();
        }
        writeln!(text, "$ {}\n= {}", row.line, row.code).unwrap();
        row.out.lines().for_each(|line| writeln!(text, "> {line}").unwrap());
        row.err.lines().for_each(|line| writeln!(text, "! {line}").unwrap());
        text.push('\n');
    }
    text
}

/// Runs a program's command lines against an agent, each as a shell would.
fn run(program: &Path, agent: &Agent, rows: &[Row]) -> Vec<Row> {
    let files = files();
    rows.iter()
        .map(|row| {
            let mut command = Command::new("/bin/sh");
            let line = row.line.replace("consul ", "\"$PROGRAM\" ");
            let output = command
                .args(["-c", &line])
                .current_dir(&files)
                .env("PROGRAM", program)
                .env("CONSUL_HTTP_ADDR", agent.address())
                .env_remove("MUSTER_HTTP_ADDR")
                .env("SHELL", "/bin/sh")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let text = |bytes: &[u8]| plain(&String::from_utf8_lossy(bytes), agent);
            Row {
                code: output.status.code().unwrap_or(-1),
                out: text(&output.stdout),
                err: text(&output.stderr),
                ..row.clone()
            }
        })
        .collect()
}

/// Without what differs from run to run.
fn plain(text: &str, agent: &Agent) -> String {
    let mut text = text.replace(agent.node(), NODE);
    for (port, name) in agent.ports().iter().zip(["HTTPP", "DNSPT", "RPCPT", "LANPT", "WANPT"]) {
        text = text.replace(&port.to_string(), name);
    }
    for (pattern, with) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
        (r#"(CreateIndex|ModifyIndex|LockIndex|LTime)("?:?\s+)\d+"#, "${1}${2}N"),
        // Our hints stand on lines of their own.
        (r"(?m)^hint: .*\n", ""),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    // An empty line more or less at the end is nobody's matter.
    let text = text.trim_end().to_owned();
    if text.is_empty() { text } else { text + "\n" }
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/rows/files")
}

/// Both agents know the same.
fn agent(program: &str) -> Agent {
    Agent::start_program(
        program,
        |_| {
            r#""node_id":"11111111-2222-3333-4444-555555555555","enable_debug":false,
            "disable_remote_exec":false"#
                .to_owned()
        },
        &[],
    )
}

/// What is not as in the table; intended differences are held for their exit code.
fn differences(way: &str, expected: &[Row], found: &[Row]) -> String {
    let mut text = String::new();
    for (expected, found) in expected.iter().zip(found) {
        let same = match expected.differs {
            Some(_) => expected.code == found.code,
            None => expected == found,
        };
        if !same {
            let one = |row: &Row| print(std::slice::from_ref(row));
            let (expected, found) = (one(expected), one(found));
            writeln!(text, "--- {way}, expected:\n{expected}--- found:\n{found}").unwrap();
        }
    }
    text
}

fn hold(table: &str) {
    let path = files().parent().unwrap().join(table);
    let mut rows = parse(&fs::read_to_string(&path).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("consul");
    symlink(env!("CARGO_BIN_EXE_muster"), &ours).unwrap();
    let mut found = String::new();
    if let Ok(reference) = std::env::var("MUSTER_REFERENCE") {
        let theirs = PathBuf::from(&reference);
        let backend = run(&theirs, &agent(&reference), &rows);
        if std::env::var_os("MUSTER_RECORD").is_some() {
            rows = backend;
            for row in rows.iter_mut().filter(|row| row.differs.is_some()) {
                row.out.clear();
                row.err.clear();
            }
            fs::write(&path, print(&rows)).unwrap();
        } else {
            found += &differences("their program, their agent", &rows, &backend);
        }
        let mixed = run(&theirs, &agent(env!("CARGO_BIN_EXE_muster")), &rows);
        found += &differences("their program, our agent", &rows, &mixed);
        found +=
            &differences("our program, their agent", &rows, &run(&ours, &agent(&reference), &rows));
    }
    let own = run(&ours, &agent(env!("CARGO_BIN_EXE_muster")), &rows);
    found += &differences("our program, our agent", &rows, &own);
    assert!(found.is_empty(), "{found}");
}

#[test]
fn scripts_for_the_reference_get_what_they_expect() {
    hold("commands.txt");
}
