//! A disk that gives back something else than it was given: the server does not start, says where the damage is and
//! what to do, and doing that brings everything back.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    agents::Agent,
    servers::{LIMIT, cluster, held, holds, leader, put, voters},
    wait::eventually,
};
use serde_json::json;

/// The files of one kind that a server keeps under `folder`, the oldest first.
fn files(server: &Agent, folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in fs::read_dir(server.data().join("raft").join(folder))? {
        let path = file?.path();
        if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|part| part == text.as_bytes())
}

/// Turns one bit of what a server wrote for `text`; which file that is in, and where.
fn damage(server: &Agent, text: &str) -> Result<(PathBuf, usize)> {
    for path in files(server, "wal", "wal")? {
        let mut bytes = fs::read(&path)?;
        if let Some(at) = find(&bytes, text) {
            bytes[at + text.len() / 2] ^= 1;
            fs::write(&path, bytes)?;
            return Ok((path, at));
        }
    }
    anyhow::bail!("{text} is in no segment")
}

/// Starts a server that must not run; the line in which it says why.
fn refused(server: &mut Agent, what: &str) -> Result<String> {
    server.start()?;
    let status = server.ended(LIMIT)?;
    ensure!(!status.success(), "{status}");
    let log = server.log();
    let line = log.lines().rev().find(|line| line.contains(what));
    Ok(line.with_context(|| format!("no {what} in\n{log}"))?.to_owned())
}

fn offset(line: &str) -> Result<usize> {
    let (_, rest) = line.split_once("offset ").with_context(|| format!("no offset in {line}"))?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(number.parse()?)
}

fn says_the_way_out(line: &str) -> Result<()> {
    for hint in ["data folder", "peers", "muster operator recover", "muster snapshot restore"] {
        ensure!(line.contains(hint), "{hint} is missing in {line}");
    }
    Ok(())
}

fn write(server: &Agent, written: &mut BTreeMap<String, String>, what: &str) -> Result<()> {
    for number in 0..40 {
        let (key, value) = (format!("{what}-{number}"), format!("value of {what} {number}."));
        put(server, &key, &value)?;
        written.insert(key, value);
    }
    Ok(())
}

#[test]
fn a_server_with_a_damaged_record_says_where_and_comes_back_from_its_peers() -> Result<()> {
    let mut servers = cluster(3, &json!({}))?;
    let leading = leader(&servers)?;
    let mut written = BTreeMap::new();
    write(&servers[leading], &mut written, "before")?;
    let victim = (leading + 1) % 3;
    holds(&servers[victim], &written)?;
    servers[victim].kill()?;
    let (path, at) = damage(&servers[victim], "value of before 20.")?;
    let bytes = fs::read(&path)?;

    let line = refused(&mut servers[victim], "is damaged at offset")?;
    ensure!(line.contains(&path.display().to_string()), "{line}");
    let named = offset(&line)?;
    // The record's own beginning; its key is before the value.
    ensure!(named < at && at - named < 200, "{named} of {at}: {line}");
    says_the_way_out(&line)?;
    ensure!(fs::read(&path)? == bytes, "it changed what it could not read");
    // The command that mends what is lost does not build upon it either.
    let data = servers[victim].data();
    let told =
        servers[leading].cli(&["operator", "recover", &format!("-data-dir={}", data.display())]);
    let told = format!("{:#}", told.err().context("it recovered from damage")?);
    ensure!(told.contains(&format!("offset {named}")), "{told}");

    // The others go on, and what it is told to do helps.
    write(&servers[leading], &mut written, "without")?;
    let old = fs::read_to_string(data.join("node-id"))?;
    servers[victim].wipe()?;
    servers[victim].start()?;
    holds(&servers[victim], &written)?;
    let peers = servers[leading].get("/v1/operator/raft/configuration")?.json()?;
    let listed = peers["Servers"].as_array().cloned().unwrap_or_default();
    if listed.iter().any(|it| it["ID"] == old.trim()) {
        servers[leading].cli(&[
            "operator",
            "raft",
            "remove-peer",
            &format!("-id={}", old.trim()),
        ])?;
    }
    voters(&servers, 3)
}

#[test]
fn a_lone_server_with_a_damaged_record_comes_back_from_its_archive() -> Result<()> {
    let mut servers = cluster(1, &json!({}))?;
    let server = &mut servers[0];
    let mut written = BTreeMap::new();
    write(server, &mut written, "saved")?;
    let archive = server.data().with_file_name("archive");
    let archive = archive.to_str().context("a path is text")?;
    server.cli(&["snapshot", "save", archive])?;
    put(server, "later", "x")?;
    server.kill()?;
    let (path, _) = damage(server, "value of saved 7.")?;
    let line = refused(server, "is damaged at offset")?;
    ensure!(line.contains(&path.display().to_string()), "{line}");
    says_the_way_out(&line)?;
    server.wipe()?;
    server.start()?;
    put(server, "there", "x")?;
    server.cli(&["snapshot", "restore", archive])?;
    holds(server, &written)
}

/// Writes until a server has two snapshots, and the newest covers almost all.
fn with_two_snapshots(server: &Agent) -> Result<BTreeMap<String, String>> {
    let mut written = BTreeMap::new();
    eventually(LIMIT, "two snapshots", || {
        // The same keys: the log grows and the state does not.
        for round in 0..200 {
            let (key, value) = (format!("k{}", round % 20), format!("value {round}"));
            put(server, &key, &value)?;
            written.insert(key, value);
        }
        let found = files(server, "snapshots", "snap")?.len();
        ensure!(found == 2, "{found}");
        Ok(())
    })?;
    Ok(written)
}

fn flip_a_byte_of_the_newest(server: &Agent) -> Result<(PathBuf, usize)> {
    let path = files(server, "snapshots", "snap")?.pop().context("a snapshot")?;
    let mut bytes = fs::read(&path)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    fs::write(&path, &bytes)?;
    Ok((path, at))
}

#[test]
fn a_server_with_a_flipped_byte_in_a_snapshot_uses_the_one_before_or_says_what_to_do() -> Result<()>
{
    // The log still has what came after the older one.
    let mut servers = cluster(1, &json!({"raft_snapshot_threshold": 300}))?;
    let server = &mut servers[0];
    let written = with_two_snapshots(server)?;
    server.kill()?;
    let (path, _) = flip_a_byte_of_the_newest(server)?;
    server.start()?;
    holds(server, &written)?;
    let log = server.log();
    let name = path.display().to_string();
    ensure!(
        log.lines().any(|it| it.contains(&name) && it.contains("cannot read snapshot")),
        "{log}"
    );
    drop(servers);

    // It does not: what was between is nowhere but in the damaged one.
    let keys = json!({"raft_snapshot_threshold": 300, "raft_trailing_logs": 1});
    let mut servers = cluster(3, &keys)?;
    let leading = leader(&servers)?;
    let mut written = with_two_snapshots(&servers[leading])?;
    let victim = (leading + 1) % 3;
    eventually(LIMIT, "it has two snapshots and a short log", || {
        for round in 0..200 {
            let (key, value) = (format!("k{}", round % 20), format!("again {round}"));
            put(&servers[leading], &key, &value)?;
            written.insert(key, value);
        }
        let found = files(&servers[victim], "snapshots", "snap")?.len();
        ensure!(found == 2, "{found}");
        Ok(())
    })?;
    holds(&servers[victim], &written)?;
    servers[victim].kill()?;
    let (path, at) = flip_a_byte_of_the_newest(&servers[victim])?;
    let line = refused(&mut servers[victim], "cannot read snapshot")?;
    ensure!(line.contains(&path.display().to_string()), "{line}");
    ensure!(offset(&line)? > at, "{line}");
    says_the_way_out(&line)?;
    servers[victim].wipe()?;
    servers[victim].start()?;
    holds(&servers[victim], &written)?;
    ensure!(held(&servers[leading])? == held(&servers[victim])?);
    Ok(())
}
