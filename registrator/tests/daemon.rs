//! The whole daemon between a fake engine on a unix socket and a fake agent.

mod fake;
mod histories;

use std::process::Stdio;
use std::time::Duration;

use fake::agent::Agent;
use fake::engine::Engine;
use fake::eventually;
use muster_client::Client;
use muster_registrator::address::Mode;
use muster_registrator::docker;
use muster_registrator::plan;
use muster_registrator::reconcile::{OnExit, Policy, Status};
use muster_registrator::runner::{self, Settings};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The recorded container under another name, without its health check unless asked for.
fn container(name: &str, healthcheck: bool) -> Value {
    let mut json: Value =
        serde_json::from_str(include_str!("inspect/compose_web.json")).expect("JSON");
    json["Id"] = json!(id_of(name));
    json["Name"] = json!(format!("/{name}"));
    json["Config"]["Labels"] = json!({ "SERVICE_NAME": "web" });
    json["Config"]["StopSignal"] = json!("SIGTERM");
    if !healthcheck {
        json["Config"]["Healthcheck"] = Value::Null;
        json["State"]["Health"] = Value::Null;
    }
    json
}

fn id_of(name: &str) -> String {
    let hex = name.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("{hex:0<64}")
}

fn service(name: &str) -> String {
    format!("host1:{name}:8000")
}

struct World {
    engine: Engine,
    agent: Agent,
    // Kept for its drop.
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut engine = Engine::new(folder.path().join("docker.sock"));
        engine.start();
        let mut agent = Agent::new().await;
        agent.start();
        Self { engine, agent, _folder: folder }
    }

    fn run(&self) -> Daemon {
        self.run_with(Policy::default(), OnExit::Keep)
    }

    fn run_with(&self, policy: Policy, on_exit: OnExit) -> Daemon {
        let engine = docker::Engine::new(&self.engine.address()).expect("an address");
        let client = Client::new(muster_client::Settings {
            address: self.agent.address(),
            timeout: Duration::from_secs(2),
            ..muster_client::Settings::default()
        });
        let agent = muster_registrator::agent::Agent::new(client.expect("an address"));
        let mut plan = plan::Settings::new("host1");
        plan.address.mode = Mode::Internal;
        let settings = Settings { plan, policy, on_exit, attempts_max: None };
        let (status_to, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner::run(engine, agent, settings, status_to, stop.clone()));
        Daemon { stop, task, status }
    }

    fn start(&self, name: &str, healthcheck: bool) {
        self.engine.put(container(name, healthcheck));
        self.engine.event(&id_of(name), "start", &json!({ "name": name }));
    }

    fn die(&self, name: &str) {
        self.engine.change(&id_of(name), |json| json["State"] = json!({ "Running": false }));
        self.engine.event(&id_of(name), "die", &json!({ "exitCode": "0" }));
    }
}

struct Daemon {
    stop: CancellationToken,
    task: JoinHandle<Result<(), runner::Error>>,
    status: watch::Receiver<Status>,
}

impl Daemon {
    async fn ready(&self) {
        eventually("engine and agent answer", || {
            let status = self.status.borrow();
            status.engine && status.agent && status.pending == 0
        })
        .await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("an orderly end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_come_and_go() {
    let world = World::new().await;
    world.engine.put(container("first", false));
    let daemon = world.run();
    let first = service("first");
    eventually("a container from before is registered", || world.agent.has(&first)).await;
    let shown = world.agent.service(&first);
    assert_eq!((&shown["Address"], &shown["Port"]), (&json!("172.21.0.5"), &json!(8000)));
    assert_eq!(shown["Meta"]["muster-registrator"], "host1");
    assert_eq!(shown["Meta"]["muster-container"], id_of("first"));
    daemon.ready().await;
    eventually("somebody listens for events", || world.engine.is_heard()).await;

    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let name = format!("web-{round}");
        world.start(&name, false);
        let took = eventually("it is registered", || world.agent.has(&service(&name))).await;
        slowest = slowest.max(took);
        world.engine.event(&id_of(&name), "kill", &json!({ "signal": "1" }));
        world.engine.event(&id_of(&name), "kill", &json!({ "signal": "15" }));
        let took = eventually("it is out before death", || !world.agent.has(&service(&name))).await;
        slowest = slowest.max(took);
        world.die(&name);
    }
    eprintln!("slowest of 40 changes: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(world.agent.writes().len(), 41, "{:?}", world.agent.writes());
    assert_eq!(world.engine.refused(), Vec::<String>::new());
    let query = &world.engine.event_queries()[0];
    assert!(query.contains("since=") && query.contains("health_status"), "{query}");
    assert!(!query.contains("exec"), "{query}");
    daemon.end().await;
    assert!(world.agent.has(&first), "what runs stays registered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_registered_at_once() {
    let world = World::new().await;
    let daemon = world.run();
    daemon.ready().await;
    eventually("somebody listens for events", || world.engine.is_heard()).await;
    for n in 0..100 {
        world.start(&format!("web-{n}"), false);
    }
    let took = eventually("all are registered", || {
        (0..100).all(|n| world.agent.has(&service(&format!("web-{n}"))))
    })
    .await;
    eprintln!("100 containers at once: {took:?}");
    assert_eq!(world.agent.writes().len(), 100);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_verdict_follows_at_once() {
    let world = World::new().await;
    let daemon = world.run();
    daemon.ready().await;
    eventually("somebody listens for events", || world.engine.is_heard()).await;
    world.start("sick", true);
    let check = format!("service:{}:docker", service("sick"));
    eventually("critical at first", || world.agent.check_status(&check) == "critical").await;
    for (verdict, status) in [("healthy", "passing"), ("unhealthy", "critical")] {
        world.engine.change(&id_of("sick"), |json| {
            json["State"]["Health"]["Status"] = json!(verdict);
        });
        world.engine.event(&id_of("sick"), &format!("health_status: {verdict}"), &json!({}));
        eventually(status, || world.agent.check_status(&check) == status).await;
    }
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_writes_nothing_and_removes_ghosts() {
    let world = World::new().await;
    world.engine.put(container("stays", true));
    world.engine.put(container("ghost", false));
    let daemon = world.run();
    eventually("both are registered", || {
        world.agent.has(&service("stays")) && world.agent.has(&service("ghost"))
    })
    .await;
    daemon.ready().await;
    daemon.end().await;
    let before = world.agent.writes();

    let daemon = world.run();
    eventually("it has reported its check", || world.agent.reports() > 0).await;
    daemon.ready().await;
    assert_eq!(world.agent.writes(), before);
    daemon.end().await;

    // A crash during a death: nobody hears of it. Somebody else's services look alike.
    world.engine.remove(&id_of("ghost"));
    world.agent.put(
        "host2:ghost:8000",
        json!({
            "ID": "host2:ghost:8000", "Service": "web", "Port": 8000, "Address": "",
            "Meta": { "muster-registrator": "host2", "muster-container": id_of("ghost") },
        }),
    );
    world.agent.put("db", json!({ "ID": "db", "Service": "db", "Port": 1, "Address": "" }));
    let daemon = world.run();
    eventually("the ghost is gone", || !world.agent.has(&service("ghost"))).await;
    daemon.ready().await;
    daemon.end().await;
    let after = world.agent.writes();
    assert_eq!(after[before.len()..], [format!("-{}", service("ghost"))]);
    assert!(world.agent.has("host2:ghost:8000") && world.agent.has("db"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_restarts() {
    let mut world = World::new().await;
    world.engine.put(container("old", false));
    let daemon = world.run();
    eventually("it is registered", || world.agent.has(&service("old"))).await;
    daemon.ready().await;
    world.engine.stop();
    eventually("the loss is noticed", || !daemon.status.borrow().engine).await;
    assert!(world.agent.has(&service("old")), "an engine that is away says nothing");
    world.engine.remove(&id_of("old"));
    world.engine.put(container("new", false));
    world.engine.start();
    eventually("the list is read again", || {
        world.agent.has(&service("new")) && !world.agent.has(&service("old"))
    })
    .await;
    world.start("later", false);
    eventually("events come again", || world.agent.has(&service("later"))).await;
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_comes_late_restarts_and_forgets() {
    let mut world = World::new().await;
    world.agent.stop(false).await;
    world.engine.put(container("web", false));
    let daemon = world.run();
    eventually("it listens to the engine", || daemon.status.borrow().engine).await;
    assert!(!daemon.status.borrow().agent);
    world.agent.start();
    eventually("it waited for the agent", || world.agent.has(&service("web"))).await;
    daemon.ready().await;

    world.agent.stop(true).await;
    world.agent.start();
    // The broken long poll tells; the next full comparison is a minute away.
    let took = eventually("it is registered again", || world.agent.has(&service("web"))).await;
    eprintln!("registered again {took:?} after the agent's restart");

    // Without forgetting, a restart of the agent costs no write.
    daemon.ready().await;
    let before = world.agent.writes();
    world.agent.stop(false).await;
    world.start("late", false);
    eventually("the loss is noticed", || !daemon.status.borrow().agent).await;
    world.agent.start();
    eventually("what happened meanwhile is made up for", || world.agent.has(&service("late")))
        .await;
    daemon.ready().await;
    assert_eq!(world.agent.writes()[before.len()..], [format!("+{}", service("late"))]);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_what_was_asked_for() {
    let world = World::new().await;
    world.engine.put(container("web", false));
    let id = service("web");
    for (on_exit, sign) in [(OnExit::Maintenance, '!'), (OnExit::Deregister, '-')] {
        let daemon = world.run_with(Policy::default(), on_exit);
        eventually("it is registered", || world.agent.has(&id)).await;
        daemon.ready().await;
        daemon.end().await;
        assert_eq!(world.agent.writes().last(), Some(&format!("{sign}{id}")));
    }
    // The maintenance of the first end was taken back at the second start.
    let expected = ["+", "!", "~", "-"].map(|sign| format!("{sign}{id}"));
    assert_eq!(world.agent.writes(), expected);
}

/// Rows that others put into the agent: ports that are none, nothing where a list should be, and
/// rows that make no sense at all.
#[tokio::test(flavor = "multi_thread")]
async fn odd_rows_of_the_agent_cost_themselves_alone() {
    let world = World::new().await;
    for (id, row) in [
        ("far", json!({ "Service": "far", "Port": 70_000 })),
        ("below", json!({ "Service": "below", "Port": -1, "Tags": null, "Meta": null })),
        ("text", json!({ "Service": "text", "Port": "http" })),
        ("list", json!([1, 2])),
        ("new", json!({ "Service": "new", "Port": 1, "Novel": { "a": [] }, "Weights": null })),
        (service("mine").as_str(), json!({ "Service": 7 })),
    ] {
        world.agent.put(id, row);
    }
    world.engine.put(container("web", false));
    world.engine.put(container("mine", false));
    let daemon = world.run();
    eventually("it is registered", || world.agent.has(&service("web"))).await;
    daemon.ready().await;
    // Nobody knows whose the row is.
    assert_eq!(world.agent.writes(), [format!("+{}", service("web"))]);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_costs_next_to_nothing() {
    let world = World::new().await;
    world.engine.put(container("web", false));
    let daemon = world.run();
    eventually("it is registered", || world.agent.has(&service("web"))).await;
    daemon.ready().await;
    // The second list follows after a second, and the container is inspected; then there is silence
    // for a minute. Silence can only be listened to.
    let asked = world.engine.asked();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(world.engine.asked() <= asked + 2, "{} questions", world.engine.asked() - asked);
    daemon.end().await;
}

fn binary() -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-registrator"));
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_cleanly_on_signals() {
    let world = World::new().await;
    world.engine.put(container("web", false));
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
        let child = binary()
            .env("DOCKER_HOST", world.engine.address())
            .args(["-internal", "-resync=30", "-on-exit", "deregister", "-instance=host1"])
            .arg(format!("consul://{}", world.agent.address()))
            .spawn()
            .expect("it starts");
        eventually("it is registered", || world.agent.has(&service("web"))).await;
        let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is ours");
        let output = child.wait_with_output().await.expect("it ends");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{log}");
        assert!(log.contains("registered") && log.contains("stopping"), "{log}");
        assert!(!world.agent.has(&service("web")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_says_how_things_stand() {
    let mut world = World::new().await;
    world.engine.put(container("web", false));
    let daemon = world.run();
    daemon.ready().await;
    eventually("it is registered", || world.agent.has(&service("web"))).await;
    daemon.ready().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(muster_registrator::probe::serve(listener, daemon.status.clone()));
    let client = Client::new(muster_client::Settings { address, ..<_>::default() }).expect("one");
    let ask = async || {
        let answer = client
            .call(hyper::Method::GET, "/healthz", &[], bytes::Bytes::new(), Duration::ZERO)
            .await
            .expect("an answer");
        (answer.status.as_u16(), answer.text())
    };
    let text = |engine| {
        format!(r#"{{"engine":{engine},"agent":true,"containers":1,"services":1,"pending":0}}"#)
    };
    assert_eq!(ask().await, (200, text(true)));
    world.engine.stop();
    eventually("the loss is noticed", || !daemon.status.borrow().engine).await;
    assert_eq!(ask().await, (503, text(false)));
    daemon.end().await;
}

#[tokio::test]
async fn bad_command_lines_are_refused() {
    for (args, code, text) in [
        (&["--nonsense"][..], 2, "--nonsense"),
        (&["a", "b"], 2, "unexpected argument 'b'"),
        (&["--resync", "soon"], 2, "write a time such as 30s"),
        (&["etcd://localhost:4001"], 1, "only services of an agent are supported"),
        (&["consul-tls://localhost:8501"], 1, "TLS is not supported"),
        (&["consul://localhost:8500/prefix"], 1, "no meaning here"),
        (&["--ip", "127.0.0.1"], 1, "no other machine reaches 127.0.0.1"),
        (&["--ip", "nonsense0"], 1, "neither an IP address nor an interface"),
        (&["--filter", "tier=front"], 1, "is not label=NAME"),
        (&["-tags", "{{ .Name }}"], 1, "templates"),
        (&["-ttl", "10", "-ttl-refresh", "10"], 1, "must be shorter than --ttl"),
        (&["--docker-host", "ssh://host"], 1, "cannot use engine address"),
    ] {
        let output = binary().args(args).output().await.expect("it runs");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {log}");
        assert!(log.contains(text), "{args:?}: {log}");
    }
    let output = binary().arg("--version").output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn giving_up_is_possible_at_the_start() {
    let world = World::new().await;
    let output = binary()
        .env("DOCKER_HOST", world.engine.address())
        .args(["-retry-attempts", "2", "-retry-interval", "10", "consul://127.0.0.1:1"])
        .output();
    let output = tokio::time::timeout(Duration::from_secs(10), output).await;
    let output = output.expect("it ends").expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("cannot be reached after 3 attempts"), "{log}");
}
