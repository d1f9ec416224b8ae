//! What the end-to-end tests share: a catalog, instances, a daemon and a proxy, all on free loopback ports.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `holds` gives something.
pub async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A catalog: services and keys over the HTTP API, with blocking queries.
#[derive(Clone)]
pub struct FakeCatalog {
    pub address: SocketAddr,
    state: Arc<watch::Sender<Data>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// The last answer to each question.
    answers: Arc<Mutex<BTreeMap<String, Answered>>>,
}

/// An answer, and the index of the change that made it.
type Answered = (Option<Value>, u64);

#[derive(Clone, Default)]
struct Data {
    index: u64,
    away: bool,
    services: BTreeMap<String, Vec<Value>>,
    keys: BTreeMap<String, String>,
}

impl FakeCatalog {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let data = Data { index: 1, ..Data::default() };
        let catalog = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(watch::Sender::new(data)),
            asked: Arc::default(),
            answers: Arc::default(),
        };
        let routes = Router::new()
            .route("/v1/catalog/services", get(services))
            .route("/v1/health/service/{name}", get(health))
            .route("/v1/kv/{*key}", get(key))
            // As servers clean paths: what begins with two slashes is sent elsewhere.
            .fallback(async |uri: axum::http::Uri| {
                if uri.path().contains("//") {
                    (StatusCode::MOVED_PERMANENTLY, [("Location", "/v1/kv/")]).into_response()
                } else {
                    StatusCode::NOT_FOUND.into_response()
                }
            })
            .with_state(catalog.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        catalog
    }

    /// Sets the instances of a service: id, address, status. One with the id `_service_maintenance` is drained.
    pub fn set_service(&self, name: &str, instances: &[(&str, SocketAddr, &str)]) {
        let rows = instances.iter().map(|(id, address, status)| {
            json!({
                "Node": {"Node": "n1", "Address": address.ip().to_string(), "Datacenter": "dc1"},
                "Service": {
                    "ID": id, "Service": name, "Tags": ["http"], "Address": address.ip().to_string(),
                    "Port": address.port(), "Weights": {"Passing": 1, "Warning": 1},
                },
                "Checks": [{"Node": "n1", "CheckID": if id.starts_with('_') { format!("{id}:x") } else { format!("c:{id}") }, "Status": status}],
            })
        });
        let rows = rows.collect();
        self.change(|data| drop(data.services.insert(name.to_owned(), rows)));
    }

    /// Gives a service one passing instance at this port, whatever number that is.
    pub fn set_port(&self, name: &str, port: i64) {
        let row = json!({
            "Node": {"Node": "n1", "Address": "127.0.0.1", "Datacenter": "dc1"},
            "Service": {"ID": format!("{name}-odd"), "Service": name, "Tags": ["http"], "Port": port},
            "Checks": [],
        });
        self.change(|data| data.services.entry(name.to_owned()).or_default().push(row));
    }

    pub fn remove_service(&self, name: &str) {
        self.change(|data| drop(data.services.remove(name)));
    }

    pub fn set_key(&self, key: &str, value: &str) {
        self.change(|data| drop(data.keys.insert(key.to_owned(), value.to_owned())));
    }

    /// Answers everything with 500, as an agent without servers does.
    pub fn set_away(&self, away: bool) {
        self.change(|data| data.away = away);
    }

    fn change(&self, change: impl FnOnce(&mut Data)) {
        self.state.send_modify(|data| {
            data.index += 1;
            change(data);
        });
    }

    /// How often a path was asked without waiting.
    pub fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    async fn answer(
        &self,
        path: String,
        query: BTreeMap<String, String>,
        rows: impl Fn(&Data) -> Option<Value>,
    ) -> Response {
        let index: u64 = query.get("index").and_then(|text| text.parse().ok()).unwrap_or(0);
        if index == 0 {
            self.asked.lock().unwrap().push(path.clone());
        }
        let index_of = |data: &Data| {
            let mut answers = self.answers.lock().unwrap();
            let now = rows(data);
            let (last, changed) = answers.entry(path.clone()).or_insert((None, data.index));
            if *last != now {
                (*last, *changed) = (now, data.index);
            }
            *changed
        };
        let mut state = self.state.subscribe();
        let wait = Duration::from_secs(5);
        // As the real one: waits until this answer changes, however often others do.
        let newer = |data: &Data| data.away || index == 0 || index_of(data) > index;
        let _ = tokio::time::timeout(wait, state.wait_for(newer)).await;
        let data = state.borrow().clone();
        if data.away {
            return (StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader").into_response();
        }
        let mut headers = HeaderMap::new();
        headers.insert("X-Consul-Index", index_of(&data).into());
        headers.insert("X-Consul-KnownLeader", "true".parse().unwrap());
        match rows(&data) {
            Some(rows) => (headers, axum::Json(rows)).into_response(),
            None => (StatusCode::NOT_FOUND, headers).into_response(),
        }
    }
}

type Parameters = Query<BTreeMap<String, String>>;

async fn services(State(catalog): State<FakeCatalog>, Query(query): Parameters) -> Response {
    let rows = |data: &Data| {
        Some(data.services.keys().map(|name| (name.clone(), json!(["http"]))).collect())
    };
    catalog.answer("services".into(), query, rows).await
}

async fn health(
    State(catalog): State<FakeCatalog>,
    UrlPath(name): UrlPath<String>,
    Query(query): Parameters,
) -> Response {
    let path = format!("health/{name}");
    if query.get("filter").is_some_and(|filter| filter == "x ==") {
        let text = "Failed to create boolean expression evaluator: 1:5 (4): no match found";
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    }
    if query.get("dc").is_some_and(|dc| dc == "nowhere") {
        return (StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter").into_response();
    }
    let rows = |data: &Data| Some(data.services.get(&name).cloned().unwrap_or_default().into());
    catalog.answer(path, query, rows).await
}

async fn key(
    State(catalog): State<FakeCatalog>,
    UrlPath(key): UrlPath<String>,
    Query(query): Parameters,
) -> Response {
    let rows = |data: &Data| {
        use base64::Engine as _;
        let value = base64::engine::general_purpose::STANDARD.encode(data.keys.get(&key)?);
        Some(json!([{"Key": key, "Value": value, "Flags": 0, "CreateIndex": 1, "ModifyIndex": 2}]))
    };
    if key == "forbidden" {
        return (StatusCode::FORBIDDEN, "Permission denied").into_response();
    }
    catalog.answer(format!("kv/{key}"), query, rows).await
}

/// An instance that answers with its name, and a POST with its body too.
pub async fn instance(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().fallback(
        get(move || async move { name })
            .post(move |body: String| async move { format!("{name} {body}") }),
    );
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

pub fn require_nginx() {
    let found = std::process::Command::new("nginx").arg("-v").output().is_ok();
    assert!(found, "these tests need nginx: apt-get install nginx (tools/test does it)");
}

/// The workers of one nginx, on every machine.
pub const NGINX_WORKERS: usize = 2;

/// Writes the shipped files of the proxy into a folder of their own, with paths and ports of their own.
pub fn write_shipped(folder: &Path, front: u16, version: u16, status: u16) {
    let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/nginx"));
    let own = folder.display().to_string();
    for name in ["muster-template.toml", "upstreams.conf.tera", "nginx.conf"] {
        let text = fs::read_to_string(shipped.join(name)).unwrap();
        let text = text
            .replace("/etc/muster-template/", &format!("{own}/"))
            .replace("/etc/nginx/conf.d/", &format!("{own}/conf.d/"))
            .replace("/run/nginx.pid", &format!("{own}/nginx.pid"))
            .replace("user www-data;", user())
            .replace("worker_processes auto", &format!("worker_processes {NGINX_WORKERS}"))
            .replace("http {", &format!("http {{\n{}", temporary_folders(&own)))
            .replace("listen 80", &format!("listen 127.0.0.1:{front}"))
            .replace("127.0.0.1:8081", &format!("127.0.0.1:{version}"))
            .replace("127.0.0.1:8599", &format!("127.0.0.1:{status}"));
        fs::write(folder.join(name), text).unwrap();
    }
}

/// The lines in place of `user`, which only root may set.
fn user() -> &'static str {
    if nix::unistd::geteuid().is_root() { "user root;" } else { "" }
}

/// Temporary files go to the test's folder: the packaged places belong to the packaged service.
fn temporary_folders(own: &str) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    kinds.map(|kind| format!("{kind}_temp_path {own}/{kind};\n")).concat()
}

/// The daemon as a process. Killed when dropped, with what it supervises.
pub struct Daemon {
    process: Child,
    pub log: PathBuf,
}

impl Daemon {
    pub fn start(folder: &Path, catalog: SocketAddr, arguments: &[&str]) -> Self {
        Self::start_with(folder, catalog, arguments, &[])
    }

    /// The same with variables of the environment.
    pub fn start_with(
        folder: &Path,
        catalog: SocketAddr,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let log = folder.join("daemon.log");
        let output = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_muster-template"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("MUSTER_HTTP_ADDR", catalog.to_string())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { process, log }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id().expect("runs")).unwrap())
    }

    /// Waits for its end; the exit code.
    pub async fn wait(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("the daemon does not end\n{}", self.log())).unwrap().code()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as `kill -9` does. What it supervised stays.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = self.process.id() {
            // Its children are in groups of their own, and nobody would end them. From the top down: a parent whose
            // child dies first would start another.
            let pid = i32::try_from(pid).unwrap();
            let children = muster_template::processes::children(pid);
            let workers = children.iter().copied().flat_map(muster_template::processes::children);
            let ends: Vec<_> =
                std::iter::once(pid).chain(children.iter().copied()).chain(workers).collect();
            for end in ends {
                let _ = kill(Pid::from_raw(end), Signal::SIGKILL);
            }
        }
    }
}

/// One request on a connection of its own: status and body.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer =
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    // Good enough for the short bodies here, chunked or not.
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { body.lines().nth(1).unwrap_or_default() } else { body };
    Ok((status, body.to_owned()))
}

/// The body of a GET that is answered with 200.
pub async fn page(address: SocketAddr, path: &str) -> Option<String> {
    match request(address, "GET", path, "").await {
        Ok((200, body)) => Some(body),
        _ => None,
    }
}
