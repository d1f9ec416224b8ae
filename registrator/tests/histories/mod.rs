//! Events are lost at random while the stream stays up: after one more list the catalog says what is
//! true. The whole daemon between a fake engine and a fake agent.
//!
//! `MUSTER_TEST_HISTORIES` sets how many histories are tried, `MUSTER_TEST_SEED` the first seed.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_client::Client;
use muster_registrator::address::Mode;
use muster_registrator::container::Container;
use muster_registrator::docker;
use muster_registrator::plan::{self, Wanted};
use muster_registrator::reconcile::{OnExit, Policy, Status};
use muster_registrator::runner::{self, Settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fake::agent::Agent;
use crate::fake::engine::{Engine, clock};
use crate::fake::eventually;
use crate::id_of;

const NAMES: [&str; 5] = ["plain", "twin-a", "twin-b", "sick", "two-nets"];

fn settings() -> plan::Settings {
    let mut settings = plan::Settings::new("host1");
    settings.address.mode = Mode::Internal;
    settings.agent_host = Some("192.0.2.10".to_owned());
    settings
}

/// A container that does not run yet.
fn container(name: &str) -> Value {
    let mut json: Value =
        serde_json::from_str(include_str!("../inspect/compose_web.json")).expect("JSON");
    json["Id"] = json!(id_of(name));
    json["Name"] = json!(format!("/{name}"));
    json["State"] = json!({ "Running": false, "ExitCode": 0 });
    json["Config"]["Labels"] = match name {
        // Two that want the same id: the one that started last has it.
        "twin-a" | "twin-b" => json!({ "SERVICE_ID": "twins" }),
        _ => json!({}),
    };
    if name != "sick" {
        json["Config"]["Healthcheck"] = Value::Null;
    }
    json
}

/// The engine's clock as inspections show it.
fn written(nanos: u64) -> String {
    let (days, seconds) = (nanos / 86_400_000_000_000, nanos / 1_000_000_000 % 86_400);
    // Civil date of a day since the epoch; years begin in March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{:09}Z",
        era * 400 + year + later,
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        nanos % 1_000_000_000
    )
}

#[test]
fn the_clock_is_written_as_it_is_read() {
    let mut json = container("plain");
    for nanos in [1_709_210_096_123_456_789, 951_868_800_000_000_000, clock()] {
        json["State"] = json!({ "Running": true, "StartedAt": written(nanos) });
        let read = serde_json::from_value(json.clone()).expect("an inspection");
        assert_eq!(Container::from_inspect(read).expect("an id").started_at, nanos);
    }
}

/// One random change of one container, of which the registrator hears or not.
fn change(engine: &Engine, random: &mut StdRng, trace: &mut Vec<String>) {
    let name = NAMES[random.random_range(0..NAMES.len())];
    let id = id_of(name);
    let state = |json: &Value| json["Id"] == id.as_str();
    let Some(found) = engine.containers().into_iter().find(state) else {
        engine.put(container(name));
        return;
    };
    let (running, paused) = (found["State"]["Running"] == true, found["State"]["Paused"] == true);
    let mut say = |random: &mut StdRng, action: &str, attributes: &Value| {
        let heard = random.random_bool(0.5);
        trace.push(format!("{name} {action}{}", if heard { "" } else { " (lost)" }));
        match action {
            _ if !heard => {}
            "connect" | "disconnect" => engine.network_event(&id, action),
            _ => engine.event(&id, action, attributes),
        }
    };
    let none = json!({});
    match random.random_range(0..9) {
        0..3 if running => {
            engine.change(&id, |json| json["State"] = json!({ "Running": false, "ExitCode": 0 }));
            say(random, "kill", &json!({ "signal": "15" }));
            say(random, "die", &json!({ "exitCode": "0" }));
        }
        0..4 if !running => {
            let address = format!("172.21.0.{}", random.random_range(2..250));
            engine.change(&id, |json| {
                json["State"] = json!({ "Running": true, "StartedAt": written(clock()) });
                for network in json["NetworkSettings"]["Networks"].as_object_mut().expect("some") {
                    network.1["IPAddress"] = json!(address);
                }
            });
            say(random, "start", &none);
        }
        3 if running => {
            engine.change(&id, |json| json["State"]["Paused"] = json!(!paused));
            say(random, if paused { "unpause" } else { "pause" }, &none);
        }
        4 => {
            let other = format!("/{name}-{}", random.random_range(0..9));
            engine.change(&id, |json| json["Name"] = json!(other));
            say(random, "rename", &none);
        }
        5 => {
            let nets = "/NetworkSettings/Networks";
            let more = found.pointer(nets).and_then(|nets| nets.get("aa-extra")).is_none();
            let address = format!("10.9.0.{}", random.random_range(2..250));
            engine.change(&id, |json| {
                let nets = json.pointer_mut(nets).and_then(Value::as_object_mut).expect("some");
                if more {
                    let network = json!({ "NetworkID": "aa".repeat(32), "IPAddress": address });
                    nets.insert("aa-extra".to_owned(), network);
                } else {
                    nets.remove("aa-extra");
                }
            });
            say(random, if more { "connect" } else { "disconnect" }, &none);
        }
        6 => {
            let tags = format!("v{}", random.random_range(0..9));
            engine.change(&id, |json| json["Config"]["Labels"]["SERVICE_TAGS"] = json!(tags));
            say(random, "update", &none);
        }
        7 if running && name == "sick" => {
            let health = ["healthy", "unhealthy"][random.random_range(0..2)];
            engine.change(&id, |json| json["State"]["Health"] = json!({ "Status": health }));
            say(random, &format!("health_status: {health}"), &none);
        }
        8 if !running => {
            engine.remove(&id);
            say(random, "destroy", &none);
        }
        _ => {}
    }
}

/// What should be registered.
fn truth(engine: &Engine) -> BTreeMap<String, Wanted> {
    let read = |json| Container::from_inspect(serde_json::from_value(json).expect("an inspection"));
    let mut containers: Vec<Container> = engine.containers().into_iter().filter_map(read).collect();
    containers.sort_by_key(|container| (container.started_at, container.id.clone()));
    let plans = containers.iter().map(|container| plan::plan(container, None, &settings()));
    plans.flat_map(|plan| plan.services).map(|wanted| (wanted.id.clone(), wanted)).collect()
}

/// The first difference between what should be and what is registered.
fn difference(agent: &Agent, wanted: &BTreeMap<String, Wanted>) -> Option<String> {
    let shown = agent.services();
    if let Some(id) = shown.keys().find(|id| !wanted.contains_key(*id)) {
        return Some(format!("{id} is registered"));
    }
    for (id, wanted) in wanted {
        let Some(shown) = shown.get(id) else { return Some(format!("{id} is missing")) };
        let definition = &wanted.definition;
        for (field, wanted) in [
            ("Service", json!(definition.name)),
            ("Address", json!(definition.address)),
            ("Port", json!(definition.port)),
            ("Tags", json!(definition.tags)),
            ("Meta", json!(definition.meta)),
        ] {
            if shown[field] != wanted {
                return Some(format!("{id}: {field} is {}, not {wanted}", shown[field]));
            }
        }
        if let Some(beat) = &wanted.beat
            && agent.check_status(&beat.check_id) != beat.status.as_str()
        {
            return Some(format!("{id}: its check is not {}", beat.status));
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_list_makes_up_for_every_event_that_was_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let histories: u64 = number("MUSTER_TEST_HISTORIES").unwrap_or(40);
    let first = number("MUSTER_TEST_SEED").unwrap_or_else(|| rand::rng().random::<u32>().into());
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = Engine::new(folder.path().join("docker.sock"));
    engine.start();
    let mut agent = Agent::new().await;
    agent.start();
    let client = Client::new(muster_client::Settings {
        address: agent.address(),
        ..muster_client::Settings::default()
    });
    let policy = Policy {
        resync: Duration::from_millis(1),
        // Their restarts are as quick as the machine allows: held back, nothing would be tested.
        hold_max: Duration::ZERO,
        ..Policy::default()
    };
    let daemon = Settings { plan: settings(), policy, on_exit: OnExit::Keep, attempts_max: None };
    let (status_to, _status) = watch::channel(Status::default());
    let stop = CancellationToken::new();
    let task = tokio::spawn(runner::run(
        docker::Engine::new(&engine.address()).expect("an address"),
        muster_registrator::agent::Agent::new(client.expect("an address")),
        daemon,
        status_to,
        stop.clone(),
    ));
    eventually("somebody listens for events", || engine.is_heard() && engine.lists() > 1).await;

    for seed in first..first + histories {
        let (mut random, mut trace) = (StdRng::seed_from_u64(seed), Vec::new());
        // No list helps until the history is over; then there is one.
        engine.limit_lists(0);
        for _ in 0..random.random_range(1..15) {
            change(&engine, &mut random, &mut trace);
            if random.random_bool(0.5) {
                // Some changes meet an inspection under way, others find it done.
                tokio::time::sleep(Duration::from_micros(random.random_range(0..3_000))).await;
            }
        }
        let last = engine.limit_lists(1);
        let wanted = truth(&engine);
        let begun = std::time::Instant::now();
        while let Some(difference) = difference(&agent, &wanted) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{difference}\n{}\nreplay: MUSTER_TEST_SEED={seed} MUSTER_TEST_HISTORIES=1",
                trace.join("\n")
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(engine.lists() <= last, "more than one list");
    }
    stop.cancel();
    task.await.expect("no panic").expect("an orderly end");
}
