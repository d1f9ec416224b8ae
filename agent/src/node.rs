//! Builds the parts, starts them, stops them in order; alone knows them all.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Config, HttpAddress};
use crate::http;
use crate::local::{self, Lead, Local};
use crate::raft::{self, Consensus, LogBackend};
use crate::read::{self, Reader};
use crate::sessions::Lifetimes;
use crate::tombstones;

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version that this agent's members and service `consul` show: that of the reference whose API it
/// speaks, for clients that look before they use a feature.
pub const REFERENCE_VERSION: &str = "1.8.7";

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something about the file system.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A mode that does not exist yet.
    #[error("{0}")]
    NotSupported(String),
    /// The agent's own services and checks.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// Consensus.
    #[error("consensus could not start")]
    Raft(#[from] raft::Error),
}

/// Starts a node and runs it until a signal or a broken part ends it. `reread` reads the
/// configuration again, for a reload.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the banner and the last word of an agent"
)]
pub fn run(config: Config, reread: impl Fn() -> Result<Config, config::Error>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("==> cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("==> Starting Muster agent...");
    let graceful = (config.leave_on_terminate, !config.skip_leave_on_interrupt);
    let pid_file = config.pid_file.clone();
    let code = runtime.block_on(async move {
        let mut node = match Node::start(config).await {
            Ok(node) => node,
            Err(e) => {
                eprintln!("==> {}", chain(&e));
                return ExitCode::FAILURE;
            }
        };
        let code = node.until_ended(graceful, &reread).await;
        node.stop().await;
        info!("Exit code: code={code}");
        ExitCode::from(code)
    });
    if let Some(path) = pid_file {
        // Already gone is as good as removed.
        let _ = std::fs::remove_file(path);
    }
    // Tasks that ignore their cancellation must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    code
}

/// An error with its sources, once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    consensus: Consensus,
    local: Local,
    wishes: mpsc::Receiver<http::Wish>,
    shutdown: CancellationToken,
    leave: CancellationToken,
    tasks: JoinSet<&'static str>,
}

impl Node {
    /// Opens what is on disk, starts consensus, the agent's own state and the doors, in this order.
    pub async fn start(config: Config) -> Result<Node, Error> {
        if !config.server {
            return Err(Error::NotSupported(
                "client mode is not supported yet\nhint: add -server -bootstrap-expect=1, or -dev"
                    .into(),
            ));
        }
        if !config.dev && config.bootstrap_expect > 1 {
            return Err(Error::NotSupported(format!(
                "bootstrap_expect = {} is not supported yet: one server stands alone for now\nhint: use 1",
                config.bootstrap_expect
            )));
        }
        if let Some(path) = &config.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id())).map_err(|source| {
                Error::Io { what: format!("cannot write pid_file {}", path.display()), source }
            })?;
        }
        let node_id = match &config.data_dir {
            None => config.node_id.clone().unwrap_or_else(new_id),
            Some(dir) => kept_node_id(dir, config.node_id.as_deref())?,
        };
        banner(&config, &node_id);
        for warning in &config.warnings {
            warn!("{warning}");
        }
        // Doors that cannot open must stop the start before anything is written.
        let mut listeners = Vec::new();
        for address in &config.http {
            listeners.push(listen(address).await?);
        }

        let shutdown = CancellationToken::new();
        let leave = CancellationToken::new();
        let consensus = Consensus::start(raft_settings(&config, &node_id)).await?;
        let local = Local::open(local_settings(&config, &node_id), consensus.clone())?;
        let reader = Reader::new(
            consensus.clone(),
            read::Settings { leader_wait: config.rpc_hold_timeout, ..read::Settings::default() },
        );

        let mut tasks = JoinSet::new();
        let lifetimes = Lifetimes::new();
        let timers = lifetimes.clone().run(consensus.clone(), shutdown.child_token());
        start_part(&mut tasks, "sessions", timers);
        let reaper = tombstones::run(consensus.clone(), shutdown.child_token());
        start_part(&mut tasks, "tombstones", reaper);
        let lead = Lead {
            node: local.node().clone(),
            port: config.ports.server,
            version: REFERENCE_VERSION.to_owned(),
        };
        let duty = local::lead(lead, consensus.clone(), shutdown.child_token());
        start_part(&mut tasks, "leader", duty);
        let (own, stop) = (local.clone(), shutdown.child_token());
        start_part(&mut tasks, "local", async move { own.run(stop).await });
        let (reload, wishes) = http::Reload::new();
        let parts = http::Parts {
            reader,
            local: local.clone(),
            identity: identity(&config, &node_id).into(),
            reload,
            leave: leave.clone(),
            datacenter: config.datacenter.clone(),
            node_name: config.node_name.clone(),
            lifetimes,
        };
        let door = http::serve(listeners, parts, http_settings(&config)?, shutdown.child_token());
        start_part(&mut tasks, "http", door);
        info!(http = ?config.http, "agent is ready to serve");
        Ok(Node { consensus, local, wishes, shutdown, leave, tasks })
    }

    /// Waits for the end: a signal, a request to leave, or a part that ended unasked.
    /// Returns the exit code.
    async fn until_ended(
        &mut self,
        (leave_on_term, leave_on_int): (bool, bool),
        reread: &impl Fn() -> Result<Config, config::Error>,
    ) -> u8 {
        let stream = |kind| signal(kind).expect("the runtime handles signals");
        let (mut int, mut term, mut hup) = (
            stream(SignalKind::interrupt()),
            stream(SignalKind::terminate()),
            stream(SignalKind::hangup()),
        );
        loop {
            let (name, graceful) = tokio::select! {
                _ = int.recv() => ("interrupt", leave_on_int),
                _ = term.recv() => ("terminated", leave_on_term),
                _ = hup.recv() => {
                    // What came of it is in the log.
                    let _ = self.reload(reread).await;
                    continue;
                }
                Some(wish) = self.wishes.recv() => {
                    // Whoever asked may have gone away.
                    let _ = wish.send(self.reload(reread).await);
                    continue;
                }
                () = self.leave.cancelled() => ("leave", true),
                reason = self.consensus.failed() => {
                    error!(reason, "agreement ended: what this server says would grow old");
                    return 1;
                }
                ended = self.tasks.join_next() => {
                    error!(part = ?ended, "a part of the agent ended unasked");
                    return 1;
                }
            };
            info!(signal = name, graceful, "stopping");
            return u8::from(!graceful);
        }
    }

    /// Takes the services and checks of the configuration over as they are now; all else takes
    /// effect at the next start. A mistake anywhere changes nothing.
    async fn reload(
        &self,
        reread: &impl Fn() -> Result<Config, config::Error>,
    ) -> Result<(), String> {
        let done = match reread() {
            Err(error) => Err(error.to_string()),
            Ok(config) => {
                let reloaded =
                    self.local.reload(&config.service_definitions, &config.check_definitions);
                reloaded.await.map_err(|error| chain(&error))
            }
        };
        match &done {
            Ok(()) => {
                info!("reloaded services and checks; other keys take effect at the next start");
            }
            Err(reason) => warn!(reason, "the reload failed: nothing was changed"),
        }
        done
    }

    /// Stops the parts in reverse order of their start.
    async fn stop(mut self) {
        self.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(std::time::Duration::from_secs(5), all).await.is_err() {
            warn!("some requests were still open after 5 s and were cut");
        }
        self.consensus.shutdown().await;
        info!("shutdown complete");
    }
}

/// Runs a part until it ends; its name says which one did.
fn start_part(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        part.await;
        name
    });
}

async fn listen(address: &HttpAddress) -> Result<http::Listener, Error> {
    let (shown, listener) = match address {
        HttpAddress::Tcp(address) => (address.to_string(), http::Listener::tcp(*address).await),
        HttpAddress::Unix(path) => (path.display().to_string(), http::Listener::unix(path)),
    };
    listener.map_err(|source| Error::Io { what: format!("cannot serve HTTP on {shown}"), source })
}

/// What the start says to people and scripts, in the reference's shape.
#[expect(clippy::print_stdout, reason = "the banner is for whoever started the agent")]
fn banner(config: &Config, node_id: &str) {
    let port = |port: Option<u16>| port.map_or(-1, i32::from);
    let clients: Vec<String> = config
        .http
        .iter()
        .map(|address| match address {
            HttpAddress::Tcp(address) => address.ip().to_string(),
            HttpAddress::Unix(path) => path.display().to_string(),
        })
        .collect();
    println!("           Version: '{VERSION}'");
    println!("           Node ID: '{node_id}'");
    println!("         Node name: '{}'", config.node_name);
    println!("        Datacenter: '{}' (Segment: '<all>')", config.datacenter);
    println!("            Server: {} (Bootstrap: {})", config.server, config.bootstrap);
    println!(
        "       Client Addr: [{}] (HTTP: {}, HTTPS: -1, gRPC: -1, DNS: {})",
        clients.join(" "),
        port(config.ports.http),
        port(config.ports.dns)
    );
    println!(
        "      Cluster Addr: {} (LAN: {}, WAN: {})",
        config.advertise,
        config.ports.serf_lan,
        port(config.ports.serf_wan)
    );
    println!(
        "           Encrypt: Gossip: false, TLS-Outgoing: false, TLS-Incoming: false, Auto-Encrypt-TLS: false"
    );
    println!();
    println!("==> Log data will now stream in as it occurs:");
    println!();
}

fn raft_settings(config: &Config, node_id: &str) -> raft::Settings {
    raft::Settings {
        data_dir: config.data_dir.clone(),
        node_id: node_id.to_owned(),
        node_name: config.node_name.clone(),
        address: std::net::SocketAddr::new(config.advertise, config.ports.server).to_string(),
        log_backend: match config.raft.log_backend.as_str() {
            "sled" => LogBackend::Sled,
            _ => LogBackend::Wal,
        },
        raft_multiplier: config.raft.multiplier,
        snapshot_threshold: config.raft.snapshot_threshold,
        trailing_logs: config.raft.trailing_logs,
    }
}

fn local_settings(config: &Config, node_id: &str) -> local::Settings {
    let (lan, wan) = (config.advertise, config.advertise_wan);
    let family = |ip: std::net::IpAddr| if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let tagged_addresses = [
        ("lan".to_owned(), lan.to_string()),
        (format!("lan_{}", family(lan)), lan.to_string()),
        ("wan".to_owned(), wan.to_string()),
        (format!("wan_{}", family(wan)), wan.to_string()),
    ];
    local::Settings {
        datacenter: config.datacenter.clone(),
        node_name: config.node_name.clone(),
        node_id: node_id.to_owned(),
        address: config.advertise.to_string(),
        tagged_addresses: tagged_addresses.into(),
        node_meta: config.node_meta.clone(),
        data_dir: config.data_dir.clone(),
        check_update_interval: config.checks.update_interval,
        check_output_max_size: config.checks.output_max_size,
        discard_check_output: config.checks.discard_output,
        enable_script_checks: config.checks.enable_script_checks,
        enable_local_script_checks: config.checks.enable_local_script_checks,
        services: config.service_definitions.clone(),
        checks: config.check_definitions.clone(),
        ..local::Settings::default()
    }
}

fn identity(config: &Config, node_id: &str) -> http::Identity {
    http::Identity {
        version: REFERENCE_VERSION.to_owned(),
        build: format!("muster-{VERSION}"),
        server: config.server,
        bootstrap: config.bootstrap,
        address: config.advertise.to_string(),
        address_wan: config.advertise_wan.to_string(),
        server_port: config.ports.server,
        serf_lan_port: config.ports.serf_lan,
        serf_wan_port: config.ports.serf_wan,
        config: config.debug(node_id, REFERENCE_VERSION),
    }
}

fn http_settings(config: &Config) -> Result<http::Settings, Error> {
    let limits = &config.http_limits;
    let allow_write_from = limits
        .allow_write_from
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, http::NotANetwork>>()
        .map_err(|e| Error::NotSupported(format!("http_config.allow_write_http_from: {e}")))?;
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Ok(http::Settings {
        pretty: config.dev,
        response_headers: limits.response_headers.clone().into_iter().collect(),
        block_endpoints: limits.block_endpoints.clone(),
        allow_write_from,
        connections_per_client_max: limits.max_conns_per_client,
        kv_value_bytes_max: bytes(limits.kv_max_value_size),
        txn_body_bytes_max: bytes(limits.txn_max_req_len),
        discovery_max_stale: limits.discovery_max_stale,
        unprintable_paths: limits.allow_unprintable,
        session_ttl_min: config.session_ttl_min,
        ..http::Settings::default()
    })
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The node's UUID: the given one, else the kept one, else a new one that is kept.
fn kept_node_id(dir: &Path, given: Option<&str>) -> Result<String, Error> {
    fn io(what: String) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
    std::fs::create_dir_all(dir).map_err(io(format!("cannot make data_dir {}", dir.display())))?;
    let file = dir.join("node-id");
    let kept = match std::fs::read_to_string(&file) {
        Ok(text) => uuid::Uuid::parse_str(text.trim()).ok().map(|id| id.to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(io(format!("cannot read {}", file.display()))(e)),
    };
    let id = given.map(str::to_owned).or_else(|| kept.clone()).unwrap_or_else(new_id);
    if kept.as_deref() != Some(&id) {
        std::fs::write(&file, &id).map_err(io(format!("cannot write {}", file.display())))?;
    }
    Ok(id)
}
