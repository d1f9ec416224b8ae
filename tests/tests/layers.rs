//! The shape of the agent, held by reading its sources: calls go downward only, and what decides knows no clock,
//! no chance, no disk. See ARCHITECTURE.md.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use muster_tests::programs::workspace;

/// All modules of the agent, lowest first: each may use those before it, so that there is no cycle. A new module gets
/// its place here. `node` puts the parts together, and `cli` starts it; no part knows either.
const ORDER: [&str; 29] = [
    // Floors: values and small tools without a part of their own.
    "store",
    "accept",
    "disk",
    "hcl",
    "json",
    "net",
    "processes",
    "secrets",
    "spelling",
    "telemetry",
    // Decisions of all interfaces.
    "filter",
    "acl",
    // The cluster.
    "archive",
    "gossip",
    "rpc",
    "raft",
    // Roles.
    "checks",
    "watches",
    "local",
    "read",
    "remote_exec",
    "upstream",
    "sessions",
    "tombstones",
    // Interfaces, and the settings of all parts.
    "dns",
    "http",
    "config",
    "node",
    "cli",
];

/// Each parser as a function of bytes, for fuzzing: it reaches into every module by nature.
const FUZZING: &str = "fuzzing";

/// What a value that decides must not contain, and why.
const IMPURE: [(&str, &str); 6] = [
    ("SystemTime", "time comes in with the command"),
    ("Instant", "time comes in with the command"),
    ("rand::", "chance comes in with the command"),
    ("tokio::", "the store is not async"),
    ("std::fs", "the store does no input or output"),
    ("HashMap", "its order differs from server to server"),
];

fn position(module: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == module)
}

/// All Rust files below a folder, tests of the module apart.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The modules named after `crate::`, in `crate::a::b` and in `crate::{a::b, c::{d, e}}` alike.
fn used(source: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, path) in source.match_indices("crate::") {
        let line_start = source[..at].rfind('\n').map_or(0, |it| it + 1);
        if source[line_start..at].trim_start().starts_with("//") {
            continue;
        }
        let rest = &source[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            modules.push(identifier(rest));
            continue;
        };
        let mut depth = 1;
        let mut expected = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expected = true,
                _ if expected && depth == 1 && !letter.is_whitespace() => {
                    modules.push(identifier(&group[at..]));
                    expected = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    modules
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

#[test]
fn calls_go_downward() -> Result<()> {
    let root = workspace().join("agent/src");
    let mut arrows = Vec::new();
    for file in sources(&root)? {
        let inside = file.strip_prefix(&root)?;
        let module = inside.components().next().context("a file has a name")?.as_os_str();
        let module = Path::new(module).with_extension("");
        let module = module.to_str().context("names of modules are plain")?;
        if ["lib", "main", FUZZING].contains(&module) {
            continue;
        }
        let from = position(module).with_context(|| format!("`{module}` has no place in ORDER"))?;
        let source = fs::read_to_string(&file)?;
        // Unit tests may set up what is above; so may what the parser of a module shows to fuzzing.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        if inside.components().any(|part| {
            ["tests", "tests.rs", "fuzzing.rs"].map(AsRef::as_ref).contains(&part.as_os_str())
        }) {
            continue;
        }
        for used in used(source) {
            if position(&used).is_some_and(|to| to > from) {
                arrows.push(format!("{} uses crate::{used}", inside.display()));
            }
        }
    }
    ensure!(arrows.is_empty(), "upward:\n{}", arrows.join("\n"));
    Ok(())
}

#[test]
fn the_store_is_a_plain_value() -> Result<()> {
    let mut found = Vec::new();
    for file in sources(&workspace().join("agent/src/store"))? {
        let source = fs::read_to_string(&file)?;
        // Unit tests at the end of a file may do as they like.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in source.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for (word, why) in IMPURE {
                if line.contains(word) {
                    found.push(format!("{}:{}: `{word}`: {why}", file.display(), number + 1));
                }
            }
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn reads_paths_and_groups() {
    let check = |source: &str, expected: &[&str]| assert_eq!(used(source), expected, "{source}");
    check("use crate::store::{State, Kv};", &["store"]);
    check(
        "use crate::{\n    read::Wait,\n    store::{self, kv},\n    http,\n};",
        &["read", "store", "http"],
    );
    check("let x = crate::raft::Index(1); // crate::http", &["raft", "http"]);
    check("// crate::http\n/// [`crate::http`]\n", &[]);
}
