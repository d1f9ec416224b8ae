//! The name servers of machines, put before the agent as `docs/dns.md` says, word for word.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    process::{Process, Server, free_ports},
    programs::workspace,
    wait::eventually,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const A: u16 = 1;
const PTR: u16 = 12;

/// The first block of the section of `docs/dns.md` with this title.
fn documented(title: &str) -> Result<String> {
    let text = fs::read_to_string(workspace().join("docs/dns.md"))?;
    let (_, section) = text.split_once(&format!("\n### {title}\n")).context("no such section")?;
    let block = section.lines().skip_while(|line| !line.starts_with("    "));
    let block: Vec<_> = block.map_while(|line| line.strip_prefix("    ")).collect();
    ensure!(!block.is_empty(), "the section has no block");
    Ok(block.join("\n") + "\n")
}

/// What came back: the verdict, and the data of each answer.
type Answer = (u8, Vec<Vec<u8>>);

/// One question by UDP.
fn ask(port: u16, name: &str, kind: u16) -> Result<Answer> {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend([0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(&question, ("127.0.0.1", port))?;
    let mut packet = [0; 1500];
    let length = socket.recv(&mut packet)?;
    let answer = packet.get(..length).context("a packet")?;
    parse(answer, question.len()).context("not an answer")
}

/// Reads the answers behind the question, which is repeated as it was.
fn parse(packet: &[u8], question: usize) -> Option<Answer> {
    let number =
        |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
    let (rcode, count) = (packet.get(3)? & 15, number(6)?);
    let (mut at, mut all) = (question, Vec::new());
    for _ in 0..count {
        // A name ends with an empty label or a pointer.
        loop {
            match *packet.get(at)? {
                0 => break at += 1,
                length if length >= 0xc0 => break at += 2,
                length => at += 1 + usize::from(length),
            }
        }
        let length = number(at + 8)?;
        all.push(packet.get(at + 10..at + 10 + length)?.to_vec());
        at += 10 + length;
    }
    Some((rcode, all))
}

#[test]
fn dnsmasq_before_the_agent() -> Result<()> {
    let mut server = Server::prepare()?;
    server.start()?;
    let config: Value = serde_json::from_slice(&fs::read(server.folder().join("config.json"))?)?;
    let agent = config["ports"]["dns"].as_u64().context("a port")?;
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
    becomes("gone.service.consul", A, &(3, Vec::new()))?;
    let (rcode, names) = ask(port, "7.0.0.10.in-addr.arpa", PTR)?;
    let name = names.first().map(|name| String::from_utf8_lossy(name).into_owned());
    ensure!(rcode == 0 && name.is_some_and(|it| it.contains("web")), "{rcode} {names:?}");

    // What is critical is gone for whoever asks next: the answers' TTL is 0, so nothing is kept on the way.
    ensure!(server.put("/v1/agent/check/fail/service:web", b"")?.status == 200, "not failing");
    becomes("web.service.consul", A, &(3, Vec::new()))
}
