//! An agent that keeps what it is told and counts every change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{Body, Server, reply};

#[derive(Default)]
struct State {
    services: BTreeMap<String, Value>,
    checks: BTreeMap<String, Value>,
    index: u64,
    writes: Vec<String>,
    reports: usize,
}

pub(crate) struct Agent {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    server: Option<Server>,
}

impl Agent {
    /// Takes a port; nobody answers there before [`Agent::start`].
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { index: 1, ..State::default() }));
        Self { address, state, changed: Arc::default(), server: None }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn start(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(self.address).expect("the same port again");
        let listener = Arc::new(socket.listen(64).expect("a listener"));
        let (state, changed) = (Arc::clone(&self.state), Arc::clone(&self.changed));
        self.server = Some(Server::start(
            move || {
                let listener = Arc::clone(&listener);
                async move { listener.accept().await.map(|(stream, _)| stream) }
            },
            move |request| {
                let (state, changed) = (Arc::clone(&state), Arc::clone(&changed));
                async move { answer(&state, &changed, request).await }
            },
        ));
    }

    /// Stops, and forgets everything if asked to.
    pub(crate) async fn stop(&mut self, forget: bool) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        if forget {
            let mut state = self.state.lock().expect("state");
            state.services.clear();
            state.checks.clear();
        }
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.state.lock().expect("state").services.contains_key(id)
    }

    pub(crate) fn service(&self, id: &str) -> Value {
        self.state.lock().expect("state").services.get(id).cloned().unwrap_or_default()
    }

    pub(crate) fn services(&self) -> BTreeMap<String, Value> {
        self.state.lock().expect("state").services.clone()
    }

    pub(crate) fn check_status(&self, id: &str) -> String {
        let state = self.state.lock().expect("state");
        let status = state.checks.get(id).and_then(|check| check["Status"].as_str());
        status.unwrap_or_default().to_owned()
    }

    pub(crate) fn put(&self, id: &str, service: Value) {
        self.state.lock().expect("state").services.insert(id.to_owned(), service);
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.state.lock().expect("state").writes.clone()
    }

    /// Reports of TTL checks that changed nothing.
    pub(crate) fn reports(&self) -> usize {
        self.state.lock().expect("state").reports
    }
}

async fn answer(
    state: &Mutex<State>,
    changed: &Notify,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = body.collect().await.expect("a body").to_bytes();
    if parts.method == Method::GET && path.starts_with("/v1/catalog/node/") {
        return node(state, changed, &query).await;
    }
    let mut state = state.lock().expect("state");
    let id = |prefix: &str| {
        path.strip_prefix(prefix).map(|id| id.replace("%3A", ":").replace("%2F", "/"))
    };
    if parts.method == Method::GET {
        return match path.as_str() {
            "/v1/agent/self" => {
                let about = json!({
                    "Config": { "NodeName": "node1", "Datacenter": "dc1" },
                    "Member": { "Name": "node1", "Addr": "192.0.2.10" },
                });
                reply(200, about.to_string())
            }
            "/v1/agent/services" => reply(200, json!(state.services).to_string()),
            "/v1/agent/checks" => reply(200, json!(state.checks).to_string()),
            _ => reply(404, "not in this agent"),
        };
    }
    if path == "/v1/agent/service/register" {
        let definition: Value = serde_json::from_slice(&body).expect("JSON");
        let id = definition["ID"].as_str().expect("an id").to_owned();
        for check in definition["Checks"].as_array().into_iter().flatten() {
            let check_id = check["CheckID"].as_str().expect("an id").to_owned();
            let status = check["Status"].as_str().unwrap_or("critical");
            let shown = json!({ "CheckID": check_id, "Status": status, "ServiceID": id });
            state.checks.entry(check_id).or_insert(shown);
        }
        let text = |key: &str| definition[key].as_str().unwrap_or_default().to_owned();
        let shown = json!({
            "ID": id,
            "Service": text("Name"),
            "Address": text("Address"),
            "Port": definition["Port"],
            "Tags": definition.get("Tags").cloned().unwrap_or(json!([])),
            "Meta": definition.get("Meta").cloned().unwrap_or(json!({})),
            "Weights": definition.get("Weights").cloned().unwrap_or(json!({"Passing":1,"Warning":1})),
            // As the reference fills in.
            "TaggedAddresses": { "lan_ipv4": { "Address": text("Address"), "Port": definition["Port"] } },
            "EnableTagOverride": definition["EnableTagOverride"],
        });
        state.services.insert(id.clone(), shown);
        state.writes.push(format!("+{id}"));
    } else if let Some(id) = id("/v1/agent/service/deregister/") {
        state.services.remove(&id);
        state.checks.retain(|_, check| check["ServiceID"] != id.as_str());
        state.writes.push(format!("-{id}"));
    } else if let Some(id) = id("/v1/agent/check/update/") {
        let report: Value = serde_json::from_slice(&body).expect("JSON");
        let Some(check) = state.checks.get_mut(&id) else {
            return reply(500, format!("CheckID \"{id}\" does not have associated TTL"));
        };
        if check["Status"] == report["Status"] {
            state.reports += 1;
            return reply(200, "");
        }
        check["Status"] = report["Status"].clone();
        let status = report["Status"].as_str().unwrap_or_default().to_owned();
        state.writes.push(format!("={id} {status}"));
    } else if let Some(id) = id("/v1/agent/service/maintenance/") {
        let check_id = format!("_service_maintenance:{id}");
        if query.contains("enable=true") {
            let reason = query.split("reason=").nth(1).unwrap_or_default();
            let notes = reason.replace("%20", " ").replace("%3A", ":");
            let shown = json!({
                "CheckID": check_id, "Status": "critical", "ServiceID": id, "Notes": notes,
            });
            state.checks.insert(check_id, shown);
            state.writes.push(format!("!{id}"));
        } else {
            state.checks.remove(&check_id);
            state.writes.push(format!("~{id}"));
        }
    } else {
        return reply(404, "not in this agent");
    }
    state.index += 1;
    drop(state);
    changed.notify_waiters();
    reply(200, "")
}

/// Blocks as the reference does, for a second at most.
async fn node(state: &Mutex<State>, changed: &Notify, query: &str) -> Response<Body> {
    let index = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("index="))
        .and_then(|index| index.parse::<u64>().ok())
        .unwrap_or_default();
    let waiting = changed.notified();
    if state.lock().expect("state").index <= index {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), waiting).await;
    }
    let state = state.lock().expect("state");
    let body = json!({
        "Node": { "Node": "node1", "Address": "192.0.2.10" },
        "Services": state.services,
    });
    let mut response = reply(200, body.to_string());
    let index = state.index.to_string().parse().expect("a value");
    response.headers_mut().insert("x-consul-index", index);
    response
}
