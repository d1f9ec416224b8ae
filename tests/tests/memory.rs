//! What a server takes that has nothing to do.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use muster_tests::{agents::Agent, wait::eventually};
use serde_json::json;

/// Memory of its own, without the pages of the program's file, which differ by build. It is about 5 MiB.
const OWN_MIB_MAX: u64 = 16;

#[test]
fn an_idle_server_keeps_to_a_few_mebibytes_of_its_own() -> Result<()> {
    let mut server = Agent::prepare("idle", &json!({ "server": true, "bootstrap_expect": 1 }))?;
    server.start()?;
    eventually(Duration::from_mins(1), "it leads", || {
        let leader = server.get("/v1/status/leader")?;
        ensure!(leader.text().contains(':'), "{}", leader.text());
        Ok(())
    })?;
    let status = fs::read_to_string(format!("/proc/{}/status", server.process()?.id()))?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    ensure!(kib >> 10 < OWN_MIB_MAX, "{} MiB", kib >> 10);
    Ok(())
}
