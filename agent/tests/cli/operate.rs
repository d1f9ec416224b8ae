//! What an operator types, against a running agent.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Agent, until};

#[test]
fn the_state_is_saved_and_restored() {
    let agent = Agent::start();
    let file = |name: &str| agent.folder().join(name).display().to_string();
    let saved = file("backup.snap");
    agent.expect(&["kv", "put", "a", "saved"], 0, "Success! Data written to: a\n", "");
    let (code, out, err) = agent.run(&["snapshot", "save", &saved]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("Saved and verified snapshot to index "), "{out}");
    let index = out.trim_end().rsplit(' ').next().unwrap();

    let (code, out, _) = agent.run(&["snapshot", "inspect", &saved]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 6, "{out}");
    assert!(lines[0].starts_with("ID           "), "{out}");
    assert_eq!(lines[2], format!("Index        {index}"));
    assert_eq!((lines[4], lines[5]), ("Version      1", ""));
    let (_, json, _) = agent.run(&["snapshot", "inspect", "-format=json", &saved]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["Index"].to_string(), index);

    agent.expect(&["kv", "put", "a", "later"], 0, "Success! Data written to: a\n", "");
    agent.expect(&["snapshot", "restore", &saved], 0, "Restored snapshot\n", "");
    agent.expect(&["kv", "get", "a"], 0, "saved\n", "");

    let junk = file("junk");
    fs::write(&junk, "no archive, whatever its name").unwrap();
    let words = "failed to decompress snapshot: gzip: invalid header";
    let verifying = format!("Error verifying snapshot: {words}\n");
    agent.expect(&["snapshot", "inspect", &junk], 1, "", &verifying);
    let refused = format!("Error restoring snapshot: Unexpected response code: 500 ({words})\n");
    agent.expect(&["snapshot", "restore", &junk], 1, "", &refused);
    agent.expect(&["kv", "get", "a"], 0, "saved\n", "");
    let none = file("none");
    let opening = format!("Error opening snapshot file: open {none}: no such file or directory\n");
    agent.expect(&["snapshot", "restore", &none], 1, "", &opening);
    agent.expect(&["snapshot", "save"], 1, "", "Missing FILE argument\n");
    let many = "Too many arguments (expected 1, got 2)\n";
    agent.expect(&["snapshot", "inspect", "a", "b"], 1, "", many);
}

#[test]
fn the_servers_and_their_rules() {
    let agent = Agent::start();
    let what = "Error removing peer:";
    let text = format!("{what} an address or id is required for the peer to remove\n");
    agent.expect(&["operator", "raft", "remove-peer"], 1, "", &text);
    let text = format!("{what} cannot give both an address and id\n");
    agent.expect(&["operator", "raft", "remove-peer", "-id=a", "-address=b"], 1, "", &text);
    let text = format!(
        "{what} Unexpected response code: 500 (id \"nope\" was not found in the Raft \
         configuration)\n"
    );
    agent.expect(&["operator", "raft", "remove-peer", "-id=nope"], 1, "", &text);

    let set = ["operator", "autopilot", "set-config"];
    let with = |flags: &[&'static str]| [&set[..], flags].concat();
    agent.expect(
        &with(&["-last-contact-threshold=1s", "-cleanup-dead-servers=false", "-min-quorum=3"]),
        0,
        "Configuration updated!\n",
        "",
    );
    let rules = "CleanupDeadServers = false\nLastContactThreshold = 1s\nMaxTrailingLogs = 250\n\
                 MinQuorum = 3\nServerStabilizationTime = 10s\nRedundancyZoneTag = \"\"\n\
                 DisableUpgradeMigration = false\nUpgradeVersionTag = \"\"\n";
    agent.expect(&["operator", "autopilot", "get-config"], 0, rules, "");
    let (code, _, err) = agent.run(&with(&["-redundancy-zone-tag=zone"]));
    assert_eq!(code, 1);
    assert!(err.contains("RedundancyZoneTag is a Consul Enterprise feature"), "{err}");

    until("the leader has looked", || {
        let (code, out, _) = agent.run(&["operator", "autopilot", "state"]);
        code == 0 && out.starts_with("Healthy:                      true\n")
    });
    let (_, json, _) = agent.run(&["operator", "autopilot", "state", "-format=json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let id = json["Leader"].as_str().unwrap();
    assert_eq!(json["Servers"][id]["Status"], "leader");
    let (_, out, _) = agent.run(&["operator", "autopilot", "state"]);
    let wanted = format!(
        "Failure Tolerance:            0\nOptimistic Failure Tolerance: 0\n\
         Leader:                       {id}\nVoters:\n   {id}\nServers:\n   {id}\n      \
         Name:              {}\n",
        agent.node()
    );
    assert!(out.contains(&wanted), "{out}");
    let text = "Error transferring leadership: Unexpected response code: 500 (cannot find peer: no \
                other server votes)\n";
    agent.expect(&["operator", "raft", "transfer-leader"], 1, "", text);
}

#[test]
fn tables_are_told_as_json_too() {
    let agent = Agent::start();
    let (code, out, _) = agent.run(&["operator", "raft", "list-peers", "-format=json"]);
    let peers: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &peers[0]["State"]), (0, &"leader".into()));
    let (code, out, _) = agent.run(&["info", "-format=json"]);
    let figures: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &figures["consul"]["server"]), (0, &"true".into()));
}

#[test]
fn a_directory_is_looked_at_before_it_is_recovered() {
    let agent = Agent::start();
    let recover = ["operator", "recover"];
    let (code, _, err) = agent.run(&recover);
    assert_eq!(code, 1);
    assert!(err.starts_with("Must specify -data-dir"), "{err}");
    let folder = agent.folder().display().to_string();
    let at = format!("-data-dir={folder}");
    let (code, _, err) = agent.run(&[&recover[..], &[&at]].concat());
    assert_eq!(code, 1);
    assert!(err.starts_with(&format!("Error recovering: cannot read {folder}/node-id")), "{err}");
}

/// A command, and what holds of its answer.
type Row = (&'static [&'static str], fn(&Value) -> bool);

#[test]
fn every_list_has_a_form_for_programs() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let agent = Agent::start_with(|_| format!(r#""encrypt":"{key}""#), &[]);
    agent.expect(&["kv", "put", "a/b", "one"], 0, "Success! Data written to: a/b\n", "");
    let rows: [Row; 9] = [
        (&["catalog", "datacenters"], |found| *found == json!(["dc1"])),
        (&["catalog", "nodes"], |found| found[0]["DC"] == "dc1"),
        (&["catalog", "services"], |found| found[0]["Service"] == "consul"),
        (&["keyring", "-list"], |found| found[0]["NumNodes"] == 1 && found[0]["Members"] == 1),
        (&["keyring", "-list-primary"], |found| found[0]["WAN"] == false),
        (&["operator", "autopilot", "get-config"], |found| found["MaxTrailingLogs"] == 250),
        (&["kv", "get", "-keys", "a/"], |found| *found == json!(["a/b"])),
        (&["kv", "get", "-recurse"], |found| found[0]["Value"] == "b25l"),
        (&["kv", "get", "a/b"], |found| found["Key"] == "a/b" && found["Value"] == "b25l"),
    ];
    for (command, holds) in rows {
        let with = |format| [command, &[format]].concat();
        // Flags come before operands.
        let (code, out, err) = match command {
            ["kv", "get", "-keys", operand] => {
                agent.run(&["kv", "get", "-keys", "-format=json", operand])
            }
            ["kv", "get", operand] if !operand.starts_with('-') => {
                agent.run(&["kv", "get", "-format=json", operand])
            }
            _ => agent.run(&with("-format=json")),
        };
        let found: Value = serde_json::from_str(&out).unwrap_or_default();
        assert!(code == 0 && holds(&found), "{command:?}: {out}{err}");
        if !command.contains(&"kv") {
            let (code, _, err) = agent.run(&with("-format=xml"));
            assert!(code == 1 && err.starts_with("Invalid format"), "{command:?}: {err}");
        }
    }
}
