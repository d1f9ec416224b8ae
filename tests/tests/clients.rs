//! An agent that is no server, beside a server that is killed and comes back: what it answers by itself goes on, what
//! it asks waits, and what it claims is in the catalog whenever there is one.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use muster_tests::{
    http::{self, Reply},
    process::{Process, Server, free_ports, output},
    programs::program,
    wait::{eventually, pause},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// A running agent without a catalog.
struct Client {
    folder: TempDir,
    http: String,
    dns: u16,
    process: Process,
}

impl Client {
    fn start(join: &[u16]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("muster-test-").tempdir()?;
        let [http, dns, serf_lan] = free_ports();
        let config = json!({
            "node_name": "client",
            "bind_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"),
            "retry_join": addresses(join),
            "retry_interval": "1s",
            "log_level": "DEBUG",
            "ports": { "http": http, "dns": dns, "serf_lan": serf_lan },
        });
        fs::write(folder.path().join("config.json"), serde_json::to_vec(&config)?)?;
        let process = Self::spawn(&folder)?;
        Ok(Self { folder, http: format!("127.0.0.1:{http}"), dns, process })
    }

    fn spawn(folder: &TempDir) -> Result<Process> {
        let mut command = Command::new(program("muster"));
        command.arg("agent").arg("-config-file").arg(folder.path().join("config.json"));
        Process::spawn(command, &folder.path().join("log"))
    }

    fn get(&self, path: &str) -> Result<Reply> {
        http::get(&self.http, path)
    }

    fn put(&self, path: &str, body: &str) -> Result<Reply> {
        let reply = http::put(&self.http, path, body.as_bytes())?;
        ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
        Ok(reply)
    }
}

fn addresses(ports: &[u16]) -> Vec<String> {
    ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
}

/// A server whose members meet it at this port.
fn server(more: Value, serf_lan: u16) -> Result<Server> {
    let server = Server::prepare_with(more)?;
    let config = server.folder().join("config.json");
    let mut keys: Value = serde_json::from_slice(&fs::read(&config)?)?;
    keys["ports"]["serf_lan"] = serf_lan.into();
    fs::write(&config, serde_json::to_vec(&keys)?)?;
    Ok(server)
}

/// Everything of an answer but its date.
fn shown(reply: Reply) -> (u16, Vec<(String, String)>, String) {
    let text = reply.text();
    let headers = reply.headers.into_iter().filter(|(name, _)| name != "date").collect();
    (reply.status, headers, text)
}

fn services_of(server: &Server, node: &str) -> Result<Vec<String>> {
    let found = server.get(&format!("/v1/catalog/node/{node}"))?.json()?;
    let services = found["Services"].as_object().cloned().unwrap_or_default();
    Ok(services.keys().cloned().collect())
}

#[test]
fn a_client_lives_through_the_death_of_its_server() -> Result<()> {
    let [serf_lan] = free_ports();
    let mut server = server(json!({ "node_name": "server" }), serf_lan)?;

    // Before there is any server.
    let mut client = Client::start(&[serf_lan])?;
    let web = r#"{"Name":"web","Port":80,"Check":{"CheckID":"up","Name":"up","TTL":"1h"}}"#;
    eventually(LIMIT, "the agent answers", || client.get("/v1/agent/self")?.json())?;
    client.put("/v1/agent/service/register", web)?;
    client.put("/v1/agent/check/pass/up", "")?;
    let refused = client.get("/v1/catalog/nodes")?;
    ensure!(refused.status == 500 && refused.text() == "No known Consul servers");
    // What it was told survives it.
    client.process.kill()?;
    client.process = Client::spawn(&client.folder)?;
    eventually(LIMIT, "the service is still there", || {
        let services = client.get("/v1/agent/services")?.json()?;
        ensure!(services["web"]["Port"] == 80, "{services}");
        Ok(())
    })?;

    server.start()?;
    eventually(LIMIT, "the service is in the catalog", || {
        let found = server.get("/v1/health/service/web")?.json()?;
        let checks = found[0]["Checks"].as_array().cloned().unwrap_or_default();
        ensure!(checks.iter().any(|it| it["CheckID"] == "up" && it["Status"] == "passing"));
        Ok(())
    })?;
    eventually(LIMIT, "the agent is ready", || client.get("/v1/agent/ready")?.json())?;

    // Every family of end points answers alike.
    client.put("/v1/kv/a/b", "one")?;
    for path in [
        "/v1/catalog/datacenters",
        "/v1/catalog/nodes?pretty",
        "/v1/catalog/services",
        "/v1/catalog/service/web?stale",
        "/v1/catalog/node/client",
        "/v1/health/node/client",
        "/v1/health/checks/web?consistent",
        "/v1/health/service/web?cached",
        "/v1/health/service/web?passing=x",
        "/v1/health/state/any?filter=wrong",
        "/v1/kv/a/b",
        "/v1/kv/a/b?raw",
        "/v1/kv/?keys&separator=/",
        "/v1/kv/none?dc=elsewhere",
        "/v1/session/list",
        "/v1/session/info/none",
        "/v1/status/leader",
        "/v1/status/peers",
        "/v1/operator/raft/configuration",
        "/v1/txn",
        "/v1/nowhere",
    ] {
        let direct = shown(server.get(path)?);
        // `?cached` says whether it was asked before.
        let passed = if path.contains("cached") { shown(server.get(path)?) } else { direct };
        ensure!(shown(client.get(path)?) == passed, "{path}: {passed:?}");
    }
    let question = Command::new("dig")
        .args(["+short", "+time=5", "@127.0.0.1", "-p", &client.dns.to_string()])
        .args(["web.service.consul", "SRV"])
        .output();
    // Where there is such a program.
    if let Ok(answer) = question {
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        ensure!(text.trim() == "1 1 80 client.node.dc1.consul.", "{text}");
    }

    // A lock, which wants the node's health and keeps a session alive.
    let mut lock = Command::new(program("muster"));
    lock.arg("lock").arg(format!("-http-addr={}", client.http)).args(["guarded", "echo held"]);
    ensure!(output(&mut lock)?.contains("held"));

    // The server dies under a read that waits, and under a change of what the agent claims.
    let index = client.get("/v1/kv/a/b")?.index()?;
    let address = client.http.clone();
    let waiting = thread::spawn(move || {
        http::get(&address, &format!("/v1/kv/a/b?raw&index={index}&wait=60s"))
    });
    eventually(LIMIT, "the read waits", || {
        let figures = server.get("/v1/agent/metrics")?.json()?;
        let gauges = figures["Gauges"].as_array().cloned().unwrap_or_default();
        let waits = gauges.iter().any(|it| it["Name"] == "consul.read.waiting" && it["Value"] == 1);
        ensure!(waits, "{gauges:?}");
        Ok(())
    })?;
    server.kill()?;
    client.put("/v1/agent/service/register", r#"{"Name":"late"}"#)?;
    client.put("/v1/agent/service/deregister/web", "")?;
    ensure!(client.get("/v1/agent/services")?.json()?.get("late").is_some());
    server.start()?;
    eventually(LIMIT, "the catalog holds what the agent claims", || {
        let services = services_of(&server, "client")?;
        ensure!(services == ["late"], "{services:?}");
        Ok(())
    })?;
    server.put("/v1/kv/a/b", b"two")?;
    let waited = waiting.join().expect("the reader does not panic")?;
    ensure!(waited.text() == "two", "{}", waited.text());

    // Whoever leaves says so.
    let seen = |wanted: u64| {
        let members = server.get("/v1/agent/members")?.json()?;
        let members = members.as_array().cloned().unwrap_or_default();
        let seen = members.iter().any(|it| it["Name"] == "client" && it["Status"] == wanted);
        ensure!(seen, "{members:?}");
        Ok(())
    };
    eventually(LIMIT, "the server has met the agent again", || seen(1))?;
    client.process.signal(Signal::SIGTERM)?;
    let status = client.process.wait(LIMIT)?;
    ensure!(status.success(), "{status}: {}", client.process.log_tail());
    eventually(LIMIT, "the server knows that it left", || seen(3))?;
    eventually(LIMIT, "its node is gone", || {
        let found = server.get("/v1/catalog/node/client")?.json()?;
        ensure!(found.is_null(), "{found}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_client_does_not_care_which_servers_are_there() -> Result<()> {
    let ports: [u16; 3] = free_ports();
    let mut servers = Vec::new();
    for (number, port) in (1..).zip(ports) {
        let keys = json!({
            "node_name": format!("s{number}"),
            "bootstrap_expect": 3,
            "retry_join": addresses(&ports),
            "retry_interval": "1s",
            "session_ttl_min": "1s",
            "performance": { "raft_multiplier": 1 },
        });
        servers.push(server(keys, port)?);
    }
    thread::scope(|scope| {
        let starts: Vec<_> = servers.iter_mut().map(|it| scope.spawn(|| it.start())).collect();
        starts.into_iter().try_for_each(|it| it.join().expect("no panic").map(|_| ()))
    })?;
    let client = Client::start(&ports)?;
    eventually(LIMIT, "three servers are known", || {
        let ready = client.get("/v1/agent/ready")?.json()?;
        ensure!(ready["Servers"] == 3, "{ready}");
        Ok(())
    })?;

    // Whoever is asked to renew a session, it lives; when nobody asks any more, it ends.
    let session = client.put("/v1/session/create", r#"{"TTL":"1s","NodeChecks":[]}"#)?.json()?;
    let id = session["ID"].as_str().unwrap_or_default().to_owned();
    let lives = || -> Result<bool> {
        let found = client.get(&format!("/v1/session/info/{id}"))?.json()?;
        Ok(found.as_array().is_some_and(|it| !it.is_empty()))
    };
    let begun = Instant::now();
    for server in servers.iter().cycle() {
        let renewed = server.put(&format!("/v1/session/renew/{id}"), b"")?;
        ensure!(renewed.status == 200, "{}", renewed.text());
        if begun.elapsed() > Duration::from_secs(5) {
            break;
        }
        pause(Duration::from_millis(200));
    }
    ensure!(lives()?, "the session was renewed, and ended");
    eventually(LIMIT, "the session ends", || {
        ensure!(!lives()?, "it lives");
        Ok(())
    })?;

    // Any server may die: what follows is answered all the same.
    let leader = client.get("/v1/status/leader")?.json()?;
    let index = client.put("/v1/kv/k", "0").and_then(|_| client.get("/v1/kv/k"))?.index()?;
    let address = client.http.clone();
    let waiting =
        thread::spawn(move || http::get(&address, &format!("/v1/kv/k?raw&index={index}&wait=60s")));
    let leading = |server: &Server| -> Result<bool> {
        Ok(server.get("/v1/agent/self")?.json()?["Stats"]["consul"]["leader"] == "true")
    };
    let leads = servers.iter().map(leading).collect::<Result<Vec<_>>>()?;
    let first = leads.iter().position(|it| *it).unwrap_or(0);
    servers[first].kill()?;
    eventually(LIMIT, "another leader", || {
        let now = client.get("/v1/status/leader")?.json()?;
        ensure!(now != leader && now != "", "{now}");
        Ok(())
    })?;
    eventually(LIMIT, "a write", || client.put("/v1/kv/k", "1"))?;
    let waited = waiting.join().expect("the reader does not panic")?;
    ensure!(waited.text() == "1", "{}", waited.text());
    servers[first].start()?;
    for (number, server) in (2..).zip(&mut servers) {
        server.kill()?;
        eventually(LIMIT, "a write", || client.put("/v1/kv/k", &number.to_string()))?;
        ensure!(client.get("/v1/kv/k?raw")?.text() == number.to_string());
        server.start()?;
    }
    Ok(())
}
