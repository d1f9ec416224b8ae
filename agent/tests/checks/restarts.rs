//! Every state of a check, over every way in which an agent reads its definitions again: nothing changes, and nothing
//! is written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::process::{Agent, PROGRAM, until};
use crate::stub::Stub;

/// States by the names of the services that are in them: what is checked, in addition to the service, and how the
/// catalog has it.
fn states() -> Vec<(&'static str, Value, &'static str)> {
    let http = |more: Value| {
        let mut check = json!({"HTTP": "http://{stub}/{id}", "Interval": "1s"});
        check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        check
    };
    let ttl = |time: &str| json!({"TTL": time});
    vec![
        ("passing", http(json!({})), "passing"),
        ("warning", http(json!({})), "warning"),
        ("critical", http(json!({})), "critical"),
        // It counts from its first run after a start, so that a restart does not take away what an agent that was away
        // could not look at.
        ("doomed", http(json!({"DeregisterCriticalServiceAfter": "10m"})), "critical"),
        (
            "counting",
            http(json!({"failures_before_critical": 3, "success_before_passing": 2})),
            "passing",
        ),
        ("maintained", http(json!({})), "passing"),
        ("reported", ttl("1h"), "warning"),
        ("expired", ttl("50ms"), "critical"),
        ("never-reported", ttl("1h"), "critical"),
    ]
}

/// What the catalog says of each check, with the index of its last change.
fn catalog(agent: &Agent) -> BTreeMap<String, (String, String, u64)> {
    let rows = agent.json("/v1/health/node/one");
    let rows = rows.as_array().unwrap().iter().map(|row| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        (text("CheckID"), (text("Status"), text("Output"), row["ModifyIndex"].as_u64().unwrap()))
    });
    rows.collect()
}

/// Waits until every check that runs has run once more, and another after it: what the first found is known then.
fn all_ran_again(stub: &Stub, running: &[String]) {
    let before: Vec<_> = running.iter().map(|id| stub.visits(id)).collect();
    for (id, before) in running.iter().zip(before) {
        until(id, || (stub.visits(id) >= before + 2).then_some(()));
    }
}

/// Puts one service into each state, once from a file and once over the API; then restarts, kills and reloads the
/// agent.
#[test]
fn every_state_outlives_restarts_and_reloads() {
    let stub = Stub::start();
    let mut agent = Agent::start(PROGRAM, &json!({"check_update_interval": "0s"}));
    let (mut file, mut running, mut expected) = (Vec::new(), Vec::new(), BTreeMap::new());
    for from in ["file", "api"] {
        for (state, check, status) in states() {
            let id = format!("{state}-{from}");
            let text =
                check.to_string().replace("{stub}", &stub.address.to_string()).replace("{id}", &id);
            let check: Value = serde_json::from_str(&text).unwrap();
            if check["HTTP"].is_string() {
                running.push(id.clone());
                stub.always(
                    &id,
                    match status {
                        "passing" => 200,
                        "warning" => 429,
                        _ => 500,
                    },
                );
            }
            expected.insert(format!("service:{id}"), status);
            let service = json!({"ID": id, "Name": id, "Check": check});
            if from == "file" {
                file.push(service);
            } else {
                let reply = agent.ask("PUT", "/v1/agent/service/register", &service.to_string());
                assert_eq!(reply.0, 200, "{reply:?}");
            }
        }
    }
    agent.configure(&json!({"services": file}));
    agent.reload();
    let put = |agent: &Agent, path: &str| assert_eq!(agent.ask("PUT", path, "").0, 200, "{path}");
    for from in ["file", "api"] {
        put(&agent, &format!("/v1/agent/check/warn/service:reported-{from}?note=so"));
        put(&agent, &format!("/v1/agent/check/pass/service:expired-{from}?note=brief"));
        put(
            &agent,
            &format!("/v1/agent/service/maintenance/maintained-{from}?enable=true&reason=why"),
        );
        expected.insert(format!("_service_maintenance:maintained-{from}"), "critical");
    }
    put(&agent, "/v1/agent/maintenance?enable=true&reason=all");
    expected.insert("_node_maintenance".into(), "critical");
    expected.insert("serfHealth".into(), "passing");
    let statuses = |agent: &Agent| {
        let rows = catalog(agent).into_iter();
        rows.map(|(id, (status, ..))| (id, status)).collect::<BTreeMap<_, _>>()
    };
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|(id, status)| (id, status.to_owned())).collect();
    until("all are in their states", || {
        let expired = catalog(&agent).into_iter().filter(|(id, _)| id.contains("expired"));
        let expired = expired.filter(|(_, row)| row.1.contains("(last output before"));
        (statuses(&agent) == expected && expired.count() == 2).then_some(())
    });
    all_ran_again(&stub, &running);
    let before = catalog(&agent);

    for way in ["reload", "restart", "kill -9", "reload once more"] {
        match way {
            "restart" => {
                agent.stop();
                agent.again();
            }
            "kill -9" => {
                agent.kill();
                agent.again();
            }
            _ => agent.reload(),
        }
        // As the agent is ready, it says the same as before.
        assert_eq!(statuses(&agent), expected, "at once after {way}");
        all_ran_again(&stub, &running);
        let after = catalog(&agent);
        for (id, (status, output, index)) in &before {
            let (new_status, new_output, new_index) = &after[id];
            // An expired report is not kept, so the agent cannot quote it again; its status stays all the time.
            let quoted = id.contains("expired") && way != "reload";
            assert_eq!(new_status, status, "{id} after {way}");
            assert!(
                quoted || new_output == output,
                "{id} after {way}: {new_output:?}, not {output:?}"
            );
            assert!(quoted || new_index == index, "{id} was written after {way}");
        }
        assert_eq!(after.len(), before.len());
    }
}

/// What was taken away because it was critical for too long does not come back with the agent; what the agent could not
/// look at while it was away has its whole time again.
#[test]
fn what_was_deregistered_stays_away() {
    let stub = Stub::start();
    let keys = json!({
        "check_update_interval": "0s", "check_reap_interval": "100ms", "check_deregister_interval_min": "1s",
    });
    let mut agent = Agent::start(PROGRAM, &keys);
    for id in ["doomed", "well"] {
        stub.always(id, 200);
        let check = json!({
            "HTTP": format!("http://{}/{id}", stub.address), "Interval": "1s",
            "DeregisterCriticalServiceAfter": "1s",
        });
        let service = json!({"Name": id, "Check": check});
        assert_eq!(agent.ask("PUT", "/v1/agent/service/register", &service.to_string()).0, 200);
    }
    let services = |agent: &Agent| {
        let services = agent.json("/v1/agent/services");
        services.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    until("both pass", || {
        let rows = catalog(&agent);
        let passing = |id: &str| rows.get(id).is_some_and(|row| row.0 == "passing");
        (passing("service:doomed") && passing("service:well")).then_some(())
    });
    // It fails while the agent is away; the agent finds that out, and lets it go.
    agent.kill();
    stub.always("doomed", 500);
    agent.again();
    until("it is gone", || (services(&agent) == ["well"]).then_some(()));
    until("from the catalog, too", || {
        (!catalog(&agent).contains_key("service:doomed")).then_some(())
    });
    agent.kill();
    agent.again();
    all_ran_again(&stub, &["well".to_owned()]);
    assert_eq!(services(&agent), ["well"]);
    assert!(!catalog(&agent).contains_key("service:doomed"));
}
