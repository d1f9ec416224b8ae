//! Configuration files as people write them, and made-up ones: what the reference's `validate` accepts is
//! accepted, and what it refuses is refused.
//!
//! The verdicts are recorded. Where ours differs by intention, the table says why.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use muster_agent::config;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/rows")
}

/// As `validate` does: the keys, then the definitions.
pub(crate) fn verdict(file: &Path) -> Result<(), String> {
    config::validate(&[file.to_owned()], None)
        .and_then(|config| config.judge_definitions())
        .map_err(|error| error.0)
}

/// A configuration whose folders are within `folder`, so that nothing else on this machine has a say.
pub(crate) fn apart(text: &str, folder: &Path) -> String {
    let data_dir = regex::Regex::new(r#"(data_dir"?\s*[=:]\s*")/"#).unwrap();
    let here = folder.display();
    let text = text.replace("\"/tmp/", &format!("\"{here}/"));
    let text = text.replace("unix:///tmp/", &format!("unix://{here}/"));
    data_dir
        .replace_all(&text, |found: &regex::Captures<'_>| {
            let before = &found[1];
            format!("{before}{here}/")
        })
        .into_owned()
}

/// Compares a recorded verdict with ours; `ours: why` behind it says that they differ by intention.
pub(crate) fn differs(recorded: &str, ours: &Result<(), String>) -> bool {
    let (reference, intended) = match recorded.split_once(" # ours: ") {
        Some((reference, _)) => (reference, true),
        None => (recorded, false),
    };
    ((reference == "valid") == ours.is_ok()) == intended
}

#[test]
fn files_that_people_write_load_as_in_the_reference() {
    let folder = folder().join("configurations");
    let temporary = tempfile::tempdir().unwrap();
    let verdicts = fs::read_to_string(folder.join("verdicts.txt")).unwrap();
    let mut wrong = String::new();
    let mut files = 0;
    for line in verdicts.lines() {
        let (name, recorded) = line.split_once(' ').unwrap();
        let file = temporary.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = fs::read_to_string(folder.join(name)).unwrap();
        fs::write(&file, apart(&text, temporary.path())).unwrap();
        let ours = verdict(&file);
        if differs(recorded, &ours) {
            writeln!(wrong, "{name}: recorded {recorded}, ours {ours:?}").unwrap();
        }
        files += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(files >= 40, "{files}");
}

#[test]
fn made_up_configurations_are_judged_as_by_the_reference() {
    let text = fs::read_to_string(folder().join("made-up.txt")).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("c.json");
    let mut wrong = String::new();
    for line in text.lines() {
        let (recorded, json) = line.split_once(" {").unwrap();
        fs::write(&file, apart(&format!("{{{json}"), temporary.path())).unwrap();
        let ours = verdict(&file);
        if differs(recorded, &ours) {
            writeln!(wrong, "{line}\n    ours {ours:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
