//! Who asks the agent for names: the name servers of machines, put before it as `docs/dns.md` says, word for word, and
//! whoever asks while there is no leader.

use std::{fs, net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    dns::{A, Answer, NXDOMAIN, PTR, SERVFAIL, ask},
    process::{Process, Server, free_ports},
    programs::workspace,
    wait::eventually,
};
use nix::sys::signal::Signal;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// The first block of the section of `docs/dns.md` with this title.
fn documented(title: &str) -> Result<String> {
    let text = fs::read_to_string(workspace().join("docs/dns.md"))?;
    let (_, section) = text.split_once(&format!("\n### {title}\n")).context("no such section")?;
    let block = section.lines().skip_while(|line| !line.starts_with("    "));
    let block: Vec<_> = block.map_while(|line| line.strip_prefix("    ")).collect();
    ensure!(!block.is_empty(), "the section has no block");
    Ok(block.join("\n") + "\n")
}

#[test]
fn dnsmasq_before_the_agent() -> Result<()> {
    let mut server = Server::prepare()?;
    server.start()?;
    let agent = server.port("dns")?;
    let service = json!({"Name": "web", "Address": "10.0.0.7", "Port": 80, "Check": {"TTL": "1h"}});
    let service = serde_json::to_vec(&service)?;
    ensure!(server.put("/v1/agent/service/register", &service)?.status == 200, "not registered");
    ensure!(server.put("/v1/agent/check/pass/service:web", b"")?.status == 200, "not passing");

    let written = documented("dnsmasq")?.replace("#8600", &format!("#{agent}"));
    ensure!(written.contains(&agent.to_string()), "the section names another port");
    let file = server.folder().join("dnsmasq.conf");
    fs::write(&file, written)?;
    let [port] = free_ports();
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--pid-file="])
        .args(["--listen-address=127.0.0.1", "--bind-interfaces"])
        .arg(format!("--port={port}"))
        .arg(format!("--conf-file={}", file.display()))
        // The folder is the test's own; the program would become somebody else.
        .arg("--user=root");
    let mut dnsmasq = Process::spawn(command, &server.folder().join("dnsmasq.log"))
        .context("is dnsmasq installed? tools/test installs it")?;
    let becomes = |name: &str, kind: u16, expected: &Answer| {
        eventually(SOON, &format!("{name} is {expected:?}"), || {
            let found = ask(port, name, kind)?;
            ensure!(found == *expected, "{found:?}");
            Ok(())
        })
        .map(drop)
    };
    let address = Ipv4Addr::new(10, 0, 0, 7).octets().to_vec();
    let through = becomes("web.service.consul", A, &(0, vec![address]));
    through.with_context(|| dnsmasq.log_tail())?;
    dnsmasq.ensure_running()?;
    becomes("gone.service.consul", A, &(NXDOMAIN, Vec::new()))?;
    let (rcode, names) = ask(port, "7.0.0.10.in-addr.arpa", PTR)?;
    let name = names.first().map(|name| String::from_utf8_lossy(name).into_owned());
    ensure!(rcode == 0 && name.is_some_and(|it| it.contains("web")), "{rcode} {names:?}");

    // What is critical is gone for whoever asks next: the answers' TTL is 0, so nothing is kept on the way.
    ensure!(server.put("/v1/agent/check/fail/service:web", b"")?.status == 200, "not failing");
    becomes("web.service.consul", A, &(NXDOMAIN, Vec::new()))
}

/// As the reference: without a leader what was known is still said, unless that is forbidden; what was never known is a
/// failure, not an absence, which clients would remember.
#[test]
fn names_without_a_leader() -> Result<()> {
    let stays = |server: &Server, name: &str, expected: u8| {
        let port = server.port("dns")?;
        let what = format!("{name} is {expected}");
        eventually(SOON, &what, || {
            let (rcode, _) = ask(port, name, A)?;
            ensure!(rcode == expected, "{rcode}");
            Ok(())
        })
        .map(drop)
    };
    let two = |more: serde_json::Value| {
        let mut keys = json!({"bootstrap_expect": 2, "performance": {"raft_multiplier": 1}});
        keys.as_object_mut()
            .context("an object")?
            .extend(more.as_object().context("an object")?.clone());
        Server::prepare_with(keys)
    };
    let mut one = two(json!({}))?;
    one.begin()?;
    stays(&one, "one.node.consul", SERVFAIL)?;

    let join = format!("127.0.0.1:{}", one.port("serf_lan")?);
    let mut other = two(json!({"node_name": "other", "retry_join": [join]}))?;
    other.start()?;
    one.ready()?;
    stays(&one, "other.node.consul", 0)?;
    other.kill()?;
    eventually(SOON, "no leader", || {
        let leader = one.get("/v1/status/leader")?.json()?;
        ensure!(leader == "", "{leader}");
        Ok(())
    })?;
    for (name, expected) in [("other.node.consul", 0), ("gone.node.consul", NXDOMAIN)] {
        stays(&one, name, expected)?;
    }
    one.configure(&json!({"dns_config": {"allow_stale": false}}))?;
    one.process()?.signal(Signal::SIGHUP)?;
    for name in ["other.node.consul", "gone.node.consul"] {
        stays(&one, name, SERVFAIL)?;
    }
    Ok(())
}
