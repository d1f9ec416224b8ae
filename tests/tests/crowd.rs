//! The template daemon with more services than an agent takes connections of one address: it needs few of them, and
//! every other program of the host goes on being answered.
//!
//! `MUSTER_REFERENCE=/path/to/consul` does the same against the reference, which answers one question on a connection.

#![expect(clippy::print_stdout, reason = "the figures of a proof belong into its report")]

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use muster_tests::{
    http::{self, Connection},
    process::{Process, free_ports},
    programs::program,
    wait::eventually,
};
use serde_json::json;

const SERVICES: usize = 2_000;
/// A quarter of what an agent takes of one address.
const CONNECTIONS_MAX: usize = 50;
const LIMIT: Duration = Duration::from_mins(1);

/// Both ends of a connection on one machine are in the list: those whose far end has this port.
fn connections(port: u16) -> Result<usize> {
    let list = fs::read_to_string("/proc/net/tcp")?;
    let (far, established) = (format!(":{port:04X}"), "01");
    let is_one = |line: &&str| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next().is_some_and(|it| it.ends_with(&far)) && columns.next() == Some(established)
    };
    Ok(list.lines().filter(is_one).count())
}

fn register(agent: &mut Connection, number: usize, port: usize) -> Result<()> {
    let node = number % 20;
    let body = json!({
        "Node": format!("n{node}"),
        "Address": format!("10.0.0.{node}"),
        "Service": { "Service": format!("s{number:04}"), "Port": port },
    });
    let body = body.to_string();
    let reply = agent.send("PUT", "/v1/catalog/register", &[], body.as_bytes())?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    Ok(())
}

fn template(folder: &Path, port: u16) -> Result<Process> {
    let text = "{% for s in services() %}{% for i in service(name=s.name) %}{{ s.name }} {{ i.port }}\n\
                {% endfor %}{% endfor %}";
    fs::write(folder.join("in"), text)?;
    let mut config = String::new();
    let shown = |name: &str| folder.join(name).display().to_string();
    write!(config, "state_dir = {:?}\n[catalog]\n", shown("state"))?;
    write!(config, "address = \"127.0.0.1:{port}\"\n[[group]]\nname = \"all\"\n")?;
    let (source, destination) = (shown("in"), shown("out"));
    write!(config, "[[group.template]]\nsource = {source:?}\ndestination = {destination:?}\n")?;
    fs::write(folder.join("config.toml"), config)?;
    let mut command = Command::new(program("muster-template"));
    command.arg("-config").arg(folder.join("config.toml"));
    Process::spawn(command, &folder.join("template.log"))
}

fn a_crowd_needs_few_connections(binary: OsString) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("muster-test-").tempdir()?;
    let [port, server, serf] = free_ports();
    let config = json!({
        "node_name": "srv", "server": true, "bootstrap_expect": 1, "bind_addr": "127.0.0.1",
        "data_dir": folder.path().join("data"), "performance": { "raft_multiplier": 1 },
        "ports": { "http": port, "dns": -1, "server": server, "serf_lan": serf, "serf_wan": -1 },
    });
    fs::write(folder.path().join("agent.json"), config.to_string())?;
    let mut command = Command::new(binary);
    command.arg("agent").arg("-config-file").arg(folder.path().join("agent.json"));
    let _agent = Process::spawn(command, &folder.path().join("agent.log"))?;
    let address = format!("127.0.0.1:{port}");
    eventually(LIMIT, "the agent leads", || {
        let leader = http::get(&address, "/v1/status/leader")?;
        ensure!(leader.status == 200 && leader.text() != "\"\"", "{}", leader.text());
        Ok(())
    })?;
    let mut writer = Connection::open(&address)?;
    for number in 0..SERVICES {
        register(&mut writer, number, number + 1)?;
    }

    let _template = template(folder.path(), port)?;
    let mut most = 0;
    let mut rendered = |line: &str| {
        eventually(LIMIT, line, || {
            // The test's own is not the daemon's.
            most = most.max(connections(port)?.saturating_sub(1));
            let other = http::get(&address, "/v1/status/leader")?;
            ensure!(other.status == 200, "another program is told {}", other.status);
            let text = fs::read_to_string(folder.path().join("out"))?;
            ensure!(text.lines().count() >= SERVICES, "{} lines", text.lines().count());
            ensure!(text.lines().any(|it| it == line), "no `{line}`");
            Ok(())
        })
    };
    let begun = Instant::now();
    rendered("s1999 2000")?;
    rendered("s0000 1")?;
    register(&mut writer, 1_234, 40_000)?;
    let changed = Instant::now();
    rendered("s1234 40000")?;
    let (all, one) = (begun.elapsed(), changed.elapsed());
    println!("{most} connections; rendered and changed in {all:?}, the change alone in {one:?}");
    ensure!(most <= CONNECTIONS_MAX, "{most} connections");
    Ok(())
}

/// `MUSTER_REFERENCE=$(...)/consul` runs it against another agent, which is asked by blocking queries.
#[test]
fn two_thousand_services_need_few_connections() -> Result<()> {
    let agent = env::var_os("MUSTER_REFERENCE");
    a_crowd_needs_few_connections(agent.unwrap_or_else(|| program("muster").into()))
}
