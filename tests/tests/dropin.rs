//! Under the name `consul`, started as test harnesses and scripts start it, the program behaves as they expect.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    http,
    process::{Process, Server, free_ports, output},
    programs::program,
    wait::eventually,
};
use nix::sys::signal::Signal;
use serde_json::json;

/// The program under the name `consul`, in a folder of the test's own.
fn consul(folder: &std::path::Path) -> Result<PathBuf> {
    let link = folder.join("consul");
    symlink(program("muster"), &link)?;
    Ok(link)
}

/// The keys that known harnesses write, those of the mesh included: accepted, and without effect.
fn harness_keys() -> serde_json::Value {
    json!({
        "node_id": "adf4238a-882b-9ddc-4a9d-5b6758e4159e",
        "performance": { "raft_multiplier": 1 },
        "bootstrap": true,
        "disable_update_check": true,
        "log_level": "debug",
        "segments": null,
        "addresses": {},
        "acl": { "tokens": {} },
        "connect": {
            "enabled": true,
            "ca_config": { "cluster_id": "11111111-2222-3333-4444-555555555555" },
        },
        "raft_protocol": 3,
        "enable_debug": true,
    })
}

#[test]
fn starts_with_the_keys_of_harnesses_and_ends_at_one_interrupt() -> Result<()> {
    let mut config = harness_keys();
    // `bootstrap` stands in for `bootstrap_expect`, which must not be there beside it.
    config["bootstrap_expect"] = json!(0);
    let mut server = Server::prepare_with(config)?;
    let consul = consul(server.folder())?;
    server.start_as(&consul)?;

    // Harnesses ask for the leader again and again, each time on a connection that they do not read to the end.
    let mut left_open = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect(server.address())?;
        stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n")?;
        left_open.push(stream);
    }

    let (reply, _) = eventually(Duration::from_secs(10), "a leader and an index of 2", || {
        let reply = server.get("/v1/catalog/nodes")?;
        ensure!(reply.header("x-consul-knownleader") == Some("true"), "no leader known");
        ensure!(reply.index()? >= 2, "index {}", reply.index()?);
        Ok(reply)
    })?;
    let nodes = reply.json()?;
    ensure!(nodes[0]["ID"] == "adf4238a-882b-9ddc-4a9d-5b6758e4159e", "nodes: {nodes}");
    eventually(Duration::from_secs(10), "serfHealth", || {
        let checks = server.get("/v1/health/node/one")?.json()?;
        let serf = checks.as_array().into_iter().flatten().find(|it| it["CheckID"] == "serfHealth");
        ensure!(serf.is_some_and(|it| it["Status"] == "passing"), "checks: {checks}");
        Ok(())
    })?;

    let address = server.address();
    let process = server.process()?;
    process.signal(Signal::SIGINT)?;
    let status = process.wait(Duration::from_secs(10)).with_context(|| process.log_tail())?;
    // An interrupt is not a graceful leave for a server, and the reference ends with 1 then.
    ensure!(status.code().is_some(), "it died of a signal: {status}");
    ensure!(TcpStream::connect(&address).is_err(), "its port is still open");
    drop(left_open);
    Ok(())
}

#[test]
fn a_relative_and_an_empty_configuration_file_will_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let consul = consul(folder.path())?;
    let [http, dns, server, serf_lan, serf_wan] = free_ports();
    let config = json!({
        "bind_addr": "127.0.0.1",
        "ports": {
            "http": http, "dns": dns, "server": server, "serf_lan": serf_lan, "serf_wan": serf_wan,
        },
    });
    fs::write(folder.path().join("ports.json"), config.to_string())?;
    fs::write(folder.path().join("empty.json"), "")?;
    let mut command = Command::new(&consul);
    command.current_dir(folder.path());
    command.args(["agent", "-dev", "-config-file", "ports.json", "-config-file=empty.json"]);
    let (mut agent, mut stdout) = Process::spawn_piped(command, &folder.path().join("log"))?;
    // The pipe is emptied all along. It ends when nobody holds its other end any more, child processes included.
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let address = format!("127.0.0.1:{http}");
    eventually(Duration::from_secs(20), "a leader", || {
        agent.ensure_running()?;
        let leader = http::get(&address, "/v1/status/leader")?.json()?;
        ensure!(leader.as_str().is_some_and(|it| !it.is_empty()), "leader {leader}");
        Ok(())
    })?;
    let members =
        output(Command::new(&consul).args(["members", &format!("-http-addr=http://{address}")]))?;
    agent.signal(Signal::SIGTERM)?;
    agent.wait(Duration::from_secs(10))?;
    eventually(Duration::from_secs(5), "end of its output", || {
        ensure!(reader.is_finished(), "somebody still holds its standard output");
        Ok(())
    })?;
    let log = reader.join().expect("reading does not panic")?;
    ensure!(members.contains("alive"), "members:\n{members}\nlog:\n{log}");
    Ok(())
}

#[test]
fn says_its_version_under_both_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for program in [consul(folder.path())?, program("muster")] {
        for flag in ["version", "--version", "-v"] {
            let text = output(Command::new(&program).arg(flag))?;
            // Harnesses read the first line: a name and a version with a v.
            let first = text.lines().next().unwrap_or_default();
            ensure!(
                first.split(' ').nth(1).is_some_and(|it| it.starts_with('v')),
                "{flag} under {}: `{text}`",
                program.display()
            );
        }
    }
    Ok(())
}

#[test]
fn refuses_an_unknown_key_by_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bad.json");
    fs::write(&file, r#"{"data_dri": "/tmp/x"}"#)?;
    let result = Command::new(consul(folder.path())?)
        .args(["agent", "-dev", "-config-file"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()?;
    ensure!(!result.status.success(), "it started");
    let text = String::from_utf8_lossy(&result.stderr).into_owned()
        + &String::from_utf8_lossy(&result.stdout);
    ensure!(text.contains("data_dri"), "it does not name the key: {text}");
    Ok(())
}
