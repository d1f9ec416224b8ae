//! A server in memory, and a client that shows what really is on the wire.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_agent::gossip;
use muster_agent::http::{
    Backend, Departure, Listener, Parts, Reload, Settings, serve, serve_passing,
};
use muster_agent::local::{self, Local};
use muster_agent::raft::{self, Consensus, LogBackend};
use muster_agent::read::{self, Reader};
use muster_agent::rpc::{Handlers, Method, Pool};
use muster_agent::sessions::Lifetimes;
use muster_agent::store::{Change, Check, Node, Register};
use muster_agent::upstream::{self, Upstream, answer_claims};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No single thing in these tests takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A server that stops when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) reader: Reader,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    /// What other agents may ask of it.
    pub(crate) handlers: Handlers,
    /// Where they ask it, until that is closed.
    pub(crate) rpc: SocketAddr,
    pub(crate) rpc_open: CancellationToken,
    /// Whether somebody asked it to leave.
    pub(crate) departure: Departure,
}

impl Server {
    /// With the node `n1` in its catalog, alive and well.
    pub(crate) async fn start(settings: Settings) -> Server {
        Server::start_with(settings, Vec::new()).await
    }

    pub(crate) async fn start_with(settings: Settings, listeners: Vec<Listener>) -> Server {
        // Claims that nobody brings to the catalog: most tests write there themselves.
        Server::start_all(settings, listeners, local::Settings::default(), false).await
    }

    /// A whole agent: its checks run, and the catalog follows its claims.
    pub(crate) async fn start_claiming(
        settings: Settings,
        registrations: local::Settings,
    ) -> Server {
        Server::start_all(settings, Vec::new(), registrations, true).await
    }

    async fn start_all(
        settings: Settings,
        mut listeners: Vec<Listener>,
        registrations: local::Settings,
        running: bool,
    ) -> Server {
        let consensus = Consensus::start(raft::Settings {
            data_dir: None,
            node_id: uuid::Uuid::new_v4().to_string(),
            node_name: "n1".into(),
            address: "127.0.0.1:8300".into(),
            log_backend: LogBackend::Wal,
            raft_multiplier: 1,
            snapshot_threshold: 16_384,
            trailing_logs: 10_240,
            autopilot: muster_agent::store::Autopilot::default(),
        })
        .await
        .unwrap();
        tokio::time::timeout(PATIENCE, async {
            while !consensus.is_leader() {
                consensus.leadership_changed(false).await;
            }
        })
        .await
        .expect("a single server leads soon");
        consensus.propose(Change::Register(Box::new(own_node()))).await.unwrap();

        let reading = read::Settings { waits: settings.waits, ..read::Settings::default() };
        let reader = Reader::new(consensus.clone(), reading);
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        listeners.push(listener);
        let shutdown = CancellationToken::new();
        let lifetimes = Lifetimes::new(Pool::default());
        tokio::spawn(lifetimes.clone().run(consensus, shutdown.child_token()));
        let registrations = local::Settings {
            datacenter: "dc1".into(),
            node_name: "n1".into(),
            node_id: uuid::Uuid::new_v4().to_string(),
            address: "127.0.0.1".into(),
            ..registrations
        };
        let local = Local::open(registrations, Arc::new(reader.consensus().clone())).unwrap();
        if running {
            let (own, stop) = (local.clone(), shutdown.child_token());
            tokio::spawn(async move { own.run(stop).await });
        }
        let departure = Departure::new();
        let parts = Parts {
            local,
            identity: Arc::default(),
            reload: Reload::default(),
            pools: alone(&shutdown).await.into(),
            backend: Backend::Here { reader: reader.clone(), lifetimes, leader: None },
            leave: departure.clone(),
            datacenter: "dc1".into(),
            node_name: "n1".into(),
        };
        let (forwarder, interface) =
            serve_passing(listeners, parts, settings, shutdown.child_token());
        let (serving, pieces) = (tokio::spawn(interface), forwarder.clone());
        let handlers =
            answer_claims(Handlers::new(), reader.consensus().clone(), Duration::from_secs(7));
        let handlers = handlers.on_stream(Method::Http, move |request, _, parts| {
            let forwarder = forwarder.clone();
            async move { forwarder.answer(request, parts).await }
        });
        let handlers = handlers.on(Method::Piece, move |piece, _| {
            let forwarder = pieces.clone();
            async move { Ok(forwarder.piece(piece).await) }
        });
        let (rpc, rpc_open) = open_rpc("127.0.0.1:0", &handlers, &shutdown).await;
        Server { address, reader, shutdown, serving, handlers, rpc, rpc_open, departure }
    }

    /// Nobody can ask it any more; calls under way are lost.
    pub(crate) fn close_rpc(&self) {
        self.rpc_open.cancel();
    }

    /// It can be asked again, where it was.
    pub(crate) async fn reopen_rpc(&mut self) {
        let address = self.rpc.to_string();
        (_, self.rpc_open) = open_rpc(&address, &self.handlers, &self.shutdown).await;
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        self.ask_with(method, path, &[], body.as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "").await
    }

    /// A write that must succeed.
    pub(crate) async fn put(&self, path: &str, body: &str) -> Response {
        let response = self.ask("PUT", path, body).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response
    }

    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let stream = TcpStream::connect(self.address).await.unwrap();
        ask(stream, method, path, headers, body).await
    }
}

/// A gossip pool of one.
async fn alone(shutdown: &CancellationToken) -> gossip::Members {
    let tags = [("dc", "dc1"), ("role", "consul"), ("segment", "")];
    let settings = gossip::Settings {
        bind: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:0".parse().unwrap(),
        name: "n1".into(),
        id: uuid::Uuid::new_v4(),
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        timing: gossip::Timing::default(),
        keyring: gossip::Keyring::new(&[]).unwrap(),
        keyring_file: None,
        allowed: Vec::new(),
        connections_max: 64,
    };
    let (members, run) = gossip::start(settings, shutdown.child_token()).await.unwrap();
    tokio::spawn(run);
    members
}

async fn open_rpc(
    address: &str,
    handlers: &Handlers,
    shutdown: &CancellationToken,
) -> (SocketAddr, CancellationToken) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let open = shutdown.child_token();
    let address = listener.local_addr().unwrap();
    tokio::spawn(muster_agent::rpc::serve(listener, handlers.clone(), open.clone()));
    (address, open)
}

/// An agent that is no server and asks servers. It stops when it is dropped.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) local: Local,
    pub(crate) upstream: Upstream,
    /// Whom it knows.
    pub(crate) servers: watch::Sender<Vec<upstream::Server>>,
    shutdown: CancellationToken,
}

impl Client {
    /// One whose node has the name of the servers' node, so that the same answers can be expected.
    pub(crate) async fn of(servers: &[&Server], settings: Settings) -> Client {
        Client::named("n1", servers, settings).await
    }

    pub(crate) async fn named(name: &str, servers: &[&Server], settings: Settings) -> Client {
        let (servers, known) = watch::channel(servers.iter().map(|it| known(it)).collect());
        let hold = Duration::from_secs(2);
        let upstream = Upstream::new(
            Pool::default(),
            known,
            upstream::Settings { hold, rate: None, waits: settings.waits },
        );
        let registrations = local::Settings {
            datacenter: "dc1".into(),
            node_name: name.into(),
            node_id: uuid::Uuid::new_v4().to_string(),
            address: "127.0.0.2".into(),
            sync_interval: Duration::from_secs(1),
            ..local::Settings::default()
        };
        let local = Local::open(registrations, Arc::new(upstream.clone())).unwrap();
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let parts = Parts {
            backend: Backend::Elsewhere(upstream.clone()),
            local: local.clone(),
            identity: Arc::default(),
            reload: Reload::default(),
            pools: alone(&shutdown).await.into(),
            leave: Departure::new(),
            datacenter: "dc1".into(),
            node_name: name.into(),
        };
        tokio::spawn(upstream.clone().run(shutdown.child_token()));
        tokio::spawn(serve(vec![listener], parts, settings, shutdown.child_token()));
        Client { address, local, upstream, servers, shutdown }
    }

    /// Corrects the catalog from now on.
    pub(crate) fn run(&self) {
        let (local, stop) = (self.local.clone(), self.shutdown.child_token());
        tokio::spawn(async move { local.run(stop).await });
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask_with("GET", path, &[], b"").await
    }

    /// A write that must succeed.
    pub(crate) async fn put(&self, path: &str, body: &str) -> Response {
        let response = self.ask_with("PUT", path, &[], body.as_bytes()).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response
    }

    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let stream = TcpStream::connect(self.address).await.unwrap();
        ask(stream, method, path, headers, body).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A server as agents know it.
pub(crate) fn known(server: &Server) -> upstream::Server {
    upstream::Server { name: server.rpc.to_string(), address: server.rpc }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn own_node() -> Register {
    Register {
        node: Node {
            name: "n1".into(),
            address: "127.0.0.1".into(),
            datacenter: "dc1".into(),
            ..Node::default()
        },
        skip_node_update: false,
        service: None,
        checks: vec![Check {
            node: "n1".into(),
            id: "serfHealth".into(),
            name: "Serf Health Status".into(),
            status: "passing".into(),
            notes: String::new(),
            output: "Agent alive and reachable".into(),
            service_id: String::new(),
            service_name: String::new(),
            service_tags: Vec::new(),
            kind: String::new(),
            definition: "".into(),
            create_index: 0,
            modify_index: 0,
        }],
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn index(&self) -> u64 {
        self.header("x-consul-index").parse().expect("an index")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Reads head and body as they came, without keep-alive.
    pub(crate) fn parse(bytes: &[u8]) -> Response {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Response { status, headers, body: bytes[end + 4..].to_vec() }
    }
}

/// One request, and all that comes back until the server closes.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "PUT" {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    let work = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses early may close before it has all of the body.
        let _ = stream.write_all(body).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        bytes
    };
    let bytes = tokio::time::timeout(PATIENCE, work).await.expect("an answer in time");
    Response::parse(&bytes)
}
