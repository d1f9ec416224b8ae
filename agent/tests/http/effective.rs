//! `?effective`: rows of health say how what they are about is on the whole, its node included.

use std::time::Duration;

use muster_agent::http::Settings;
use serde_json::{Value, json};

use crate::support::{Response, Server};

/// Node `w1` with two instances of `web`, and `w2` with one; all nodes have a check of their own.
async fn start() -> Server {
    let server = Server::start(Settings::default()).await;
    for (node, id) in [("w1", "a"), ("w1", "b"), ("W2", "a")] {
        let instance = json!({
            "Node": node, "Address": "10.0.0.1",
            "Service": { "ID": id, "Service": "Web" },
            "Checks": [
                { "Node": node, "CheckID": "serfHealth", "Status": "passing" },
                { "Node": node, "CheckID": format!("c-{id}"), "ServiceID": id, "Status": "passing" },
            ],
        });
        server.put("/v1/catalog/register", &instance.to_string()).await;
    }
    server
}

async fn set(server: &Server, node: &str, check: &str, service: &str, status: &str) {
    let check = json!({ "Node": node, "CheckID": check, "ServiceID": service, "Status": status });
    let change = json!({ "Node": node, "SkipNodeUpdate": true, "Check": check });
    server.put("/v1/catalog/register", &change.to_string()).await;
}

/// What each row says: of which node, of which instance or check, and how it is on the whole.
fn said(response: &Response) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows = response.json();
    let rows = rows.as_array().unwrap().iter();
    let said = |row: &Value| {
        let (node, id) = match &row["Node"] {
            Value::String(node) => (node.clone(), text(&row["CheckID"])),
            node => (text(&node["Node"]), text(&row["Service"]["ID"])),
        };
        format!("{node} {id} {}", text(&row["EffectiveStatus"]))
    };
    rows.map(said).collect()
}

#[tokio::test]
async fn a_dead_node_shows_in_all_that_is_on_it_if_that_is_asked_for() {
    let server = start().await;
    let paths = [
        "/v1/health/service/web",
        "/v1/health/checks/web",
        "/v1/health/node/w1",
        "/v1/health/state/any",
    ];
    for path in paths {
        let plain = server.get(path).await;
        assert!(!plain.text().contains("EffectiveStatus"), "{path}");
        let off = server.get(&format!("{path}?effective=false")).await;
        assert_eq!(off.text(), plain.text(), "{path}");
        let wrong = server.get(&format!("{path}?effective=maybe")).await;
        assert_eq!((wrong.status, wrong.text()), (400, "Invalid value for ?effective".to_owned()));
    }
    let mut of_w1 = vec!["w1 a passing", "w1 b passing"];
    assert_eq!(said(&server.get("/v1/health/service/web?effective").await)[..2], of_w1);

    // The instances' own checks do not know that the machine is off.
    set(&server, "w1", "serfHealth", "", "critical").await;
    set(&server, "W2", "c-a", "a", "warning").await;
    of_w1 = vec!["w1 a critical", "w1 b critical"];
    let found = server.get("/v1/health/service/web?effective").await;
    assert_eq!(said(&found), [of_w1[0], of_w1[1], "W2 a warning"]);
    let checks = server.get("/v1/health/checks/web?effective").await;
    assert_eq!(said(&checks), ["w1 c-a critical", "w1 c-b critical", "W2 c-a warning"]);
    let passing = checks.json();
    assert_eq!(passing[0]["Status"], "passing", "its own status stays what it is");
    let node = server.get("/v1/health/node/w1?effective=1").await;
    assert_eq!(said(&node), ["w1 c-a critical", "w1 c-b critical", "w1 serfHealth critical"]);
    // A node is not worse for one of its instances.
    let state = server.get("/v1/health/state/passing?effective").await;
    assert!(said(&state).contains(&"W2 serfHealth passing".to_owned()), "{:?}", said(&state));
    assert!(said(&state).contains(&"w1 c-b critical".to_owned()), "{:?}", said(&state));
    // It goes with the other conditions.
    let page = server.get("/v1/health/service/web?effective&limit=1").await;
    assert_eq!(said(&page), ["w1 a critical"]);
    let some = server.get("/v1/health/checks/web?effective&filter=CheckID==%22c-b%22").await;
    assert_eq!(said(&some), ["w1 c-b critical"]);
    let sound = server.get("/v1/health/service/web?effective&passing").await;
    assert_eq!(said(&sound), Vec::<String>::new());
    set(&server, "w1", "serfHealth", "", "passing").await;
    assert_eq!(said(&server.get("/v1/health/service/web?effective").await)[0], "w1 a passing");
}

#[tokio::test]
async fn watchers_are_told_when_the_node_changes_and_not_of_other_nodes() {
    let server = start().await;
    let other = json!({ "Node": "other", "Address": "10.0.0.9" });
    server.put("/v1/catalog/register", &other.to_string()).await;
    for (path, row) in [
        ("/v1/health/service/web?effective", "w1 b critical"),
        ("/v1/health/checks/web?effective", "w1 c-b critical"),
        ("/v1/health/node/w1?effective", "w1 c-b critical"),
        ("/v1/health/state/passing?effective", "w1 c-b critical"),
    ] {
        set(&server, "w1", "serfHealth", "", "passing").await;
        let index = server.get(path).await.index();
        let waiting = format!("{path}&index={index}&wait=60s");
        let before = server.reader.counts();
        let change = async {
            // It sleeps before anything changes.
            while server.reader.counts().waits == before.waits {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if !path.contains("/state/") {
                set(&server, "other", "serfHealth", "", "critical").await;
                assert_eq!(server.reader.counts().wakes, before.wakes, "{path}");
            }
            set(&server, "w1", "serfHealth", "", "critical").await;
        };
        let (found, ()) = tokio::join!(server.get(&waiting), change);
        assert!(found.index() > index, "{path}");
        assert!(said(&found).contains(&row.to_owned()), "{path}: {:?}", said(&found));
    }
}
