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
pub(crate) const NODE: &str = "name-of-the-agents-node";

/// One command line and what is to come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) line: String,
    /// What only one of the two programs says by intention; such a row is held for its exit code alone.
    pub(crate) differs: Option<String>,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// An agent to run command lines against, and what is to be replaced in their output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) address: &'a str,
    pub(crate) node: &'a str,
    /// 0 for those that no output tells of.
    pub(crate) ports: [u16; 5],
    /// Variables of the command lines.
    pub(crate) variables: &'a [(&'a str, &'a str)],
}

impl<'a> Place<'a> {
    pub(crate) fn of(agent: &'a Agent, variables: &'a [(&'a str, &'a str)]) -> Place<'a> {
        Place { address: agent.address(), node: agent.node(), ports: agent.ports(), variables }
    }
}

pub(crate) fn parse(text: &str) -> Vec<Row> {
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

pub(crate) fn print(rows: &[Row]) -> String {
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
    rows.iter().map(|row| run_one(program, Place::of(agent, &[]), row)).collect()
}

/// Runs one command line.
pub(crate) fn run_one(program: &Path, place: Place<'_>, row: &Row) -> Row {
    let mut command = Command::new("/bin/sh");
    let line = row.line.replace("consul ", "\"$PROGRAM\" ");
    let output = command
        .args(["-c", &line])
        .current_dir(files())
        .env("PROGRAM", program)
        .env("CONSUL_HTTP_ADDR", place.address)
        .env_remove("MUSTER_HTTP_ADDR")
        .env("SHELL", "/bin/sh")
        .envs(place.variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| plain(&String::from_utf8_lossy(bytes), place);
    Row {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
        ..row.clone()
    }
}

/// Without what differs from run to run.
fn plain(text: &str, place: Place<'_>) -> String {
    let mut text = text.replace(place.node, NODE);
    for (pattern, with) in [
        // Before the ports, whose digits may stand in them.
        (r"(Hash:\s+)[0-9a-f]{64}\b", "${1}HASH"),
        (r#"("Hash": ")[^"]+"#, "${1}HASH"),
        (r"[12]\d{3}-\d\d-\d\d([ T])\d\d:\d\d:\d\d(\.\d+)?", "TIME${1}TIME"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    let names = ["HTTPP", "DNSPT", "RPCPT", "LANPT", "WANPT"];
    for (port, name) in place.ports.iter().zip(names).filter(|(port, _)| **port != 0) {
        text = text.replace(&port.to_string(), name);
    }
    for (pattern, with) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
        (r#"(Create ?Index|Modify ?Index|LockIndex|LTime|reset index)("?:?\s+)\d+"#, "${1}${2}N"),
        // Our hints stand on lines of their own.
        (r"(?m)^hint: .*\n", ""),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    // An empty line more or less at the end is nobody's matter.
    let text = text.trim_end().to_owned();
    if text.is_empty() { text } else { text + "\n" }
}

pub(crate) fn files() -> PathBuf {
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
pub(crate) fn differences(way: &str, expected: &[Row], found: &[Row]) -> String {
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
