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

/// What is said of files that people have, each once: of one that starts, the keys without effect; of one that does
/// not, every key that stands in the way.
#[test]
fn keys_without_effect_are_said_and_keys_that_would_be_believed_are_refused() {
    let says: [(&str, bool, &[&str]); 19] = [
        ("pages-on.json", true, &["`ui` has no effect: there are no web pages"]),
        ("pages-folder.json", true, &["`ui`, `ui_dir` have no effect"]),
        ("pages-metrics.hcl", true, &["`ui_config.enabled`", "`ui_config.metrics_proxy`"]),
        ("statsd.json", true, &["`telemetry.statsd_address` has no effect"]),
        (
            "statsite-prefix.json",
            true,
            &["`telemetry.metrics_prefix`", "`telemetry.statsite_address`"],
        ),
        ("dogstatsd.hcl", true, &["`telemetry.dogstatsd_addr`", "`telemetry.dogstatsd_tags`"]),
        ("wan-addresses.json", true, &["`translate_wan_addrs` has no effect"]),
        ("wan-join.json", true, &["`retry_interval_wan`, `retry_join_wan` have no effect"]),
        (
            "version-eight.json",
            true,
            &["`acl_enforce_version_8` has no effect", "`acl_default_policy`"],
        ),
        (
            "access-off.hcl",
            true,
            &["`acl.default_policy` has no effect: there is no access control"],
        ),
        ("json-inside.hcl", true, &["`ui` has no effect"]),
        ("mesh-ports.hcl", true, &["`connect` belongs to the service mesh"]),
        ("https-address.hcl", true, &["`addresses.https` has no effect"]),
        (
            "access-deny.hcl",
            false,
            &["`acl.enabled` is not supported yet: there is no access", "hint: line 5: "],
        ),
        (
            "certificates.json",
            false,
            &[
                "`cert_file` is",
                "`key_file` is",
                "`verify_outgoing` is",
                "`verify_server_hostname` is",
            ],
        ),
        (
            "paid-backups.json",
            false,
            &["`snapshot_agent` is not supported yet", "muster snapshot save"],
        ),
        (
            "old-names.json",
            false,
            &[
                "did you mean `recursors`?",
                "did you mean `telemetry.statsd_address`?",
                "did you mean `http_config.response_headers`?",
            ],
        ),
        ("old-script.json", false, &["hint: line 8: did you mean `service.check.args`?"]),
        (
            "several-mistakes.json",
            false,
            &[
                "4 errors occurred",
                "invalid config key servr",
                "line 4: did you mean `server`?",
                "invalid config key service.prot",
                "did you mean `service.port`?",
                "`verify_incoming` is",
                "`acl.enabled` is",
            ],
        ),
    ];
    let folder = folder().join("configurations/collected");
    for (name, starts, texts) in says {
        let said = match config::validate(&[folder.join(name)], None) {
            Ok(config) if starts => config.warnings.join("\n"),
            Err(error) if !starts => error.0,
            other => panic!("{name}: {other:?}"),
        };
        for text in texts {
            assert_eq!(said.matches(text).count(), 1, "{name}: {text:?} in {said}");
        }
        assert!(starts || said.contains(name), "{name}: {said}");
    }
}

#[test]
fn the_mistakes_of_all_files_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("a.json", "{\"data_dir\": \"/tmp/nodata\",\n \"bogus\": 1}");
    write("b.hcl", "bind_addr = \"127.0.0.1\"\n\nports {\n  htp = 1\n}\n");
    write("c.json", "{\"server\": ");
    write("d.hcl", "acl { enabled = true }");
    std::os::unix::fs::symlink("nowhere", folder.path().join("e.json")).unwrap();
    let error = config::validate(&[folder.path().to_owned()], None).unwrap_err().0;
    let expected = [
        "a.json: 1 error occurred:\n\t* invalid config key bogus\n",
        "hint: line 2: remove `bogus`: there is no such key\n",
        "b.hcl: 1 error occurred:\n\t* invalid config key ports.htp\n",
        "hint: line 4: did you mean `ports.http`?\n",
        "c.json: unexpected end of JSON input\n",
        "d.hcl: 1 error occurred:\n\t* `acl.enabled` is not supported yet",
        "hint: line 1: remove `acl.enabled`",
    ];
    let mut rest = error.as_str();
    for text in expected {
        let at = rest.find(text).unwrap_or_else(|| panic!("{text:?} in {error}"));
        rest = &rest[at + text.len()..];
    }
}

#[test]
fn what_does_nothing_silently_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"data_dir":"/tmp/nodata","bind_addr":"127.0.0.1",
        "http_config":{"block_endpoints":["v1/agent","/v1/kv"]},"acl":{"default_policy":"deny"}}"#;
    fs::write(folder.path().join("a.json"), text).unwrap();
    let link = folder.path().join("b.hcl");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let config = config::validate(&[folder.path().to_owned()], None).unwrap();
    let said = config.warnings.join("\n");
    for text in [
        &format!("`{}` is not read: it is a link that leads nowhere", link.display()),
        "`v1/agent` in `http_config.block_endpoints` blocks nothing",
        "`acl.default_policy` has no effect: there is no access control",
    ] {
        assert!(said.contains(text), "{text} in {said}");
    }
    assert!(!said.contains("`/v1/kv`"), "{said}");
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
