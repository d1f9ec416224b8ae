//! The order of a start: what is on disk, the pool, what the agent is, its own state, the interfaces.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::banner::banner;
use super::descriptors::{self, Raised};
use super::own_name::WhileNamed;
use super::role::{self, Role};
use super::{Error, Node, REFERENCE_VERSION, identity, pool, settings};
use crate::config::{self, Config, Followed, HttpAddress, Pace, UnixSockets};
use crate::local::{self, Local};
use crate::telemetry::metrics;
use crate::watches::Watches;
use crate::{dns, http, processes, remote_exec};

impl Node {
    /// Opens what is on disk, meets the pool, then starts what makes the agent a server or not, its own state and the
    /// interfaces, in this order.
    pub async fn start(config: Config) -> Result<Node, Error> {
        let node_id = identity::node_id(&config)?;
        let keyring = pool::keyring(&config)?;
        banner(&config, &node_id, keyring.is_on());
        for warning in &config.warnings {
            warn!("{warning}");
        }
        // Before anything measures itself by it, as the schedule of checks does.
        match descriptors::raise() {
            Ok(Raised { before, now }) => info!(before, now, "limit of open files and connections"),
            Err(error) => warn!(%error, "the limit of open files and connections stays as it is"),
        }
        // Interfaces that cannot open must stop the start before anything is written.
        let mut listeners = Vec::new();
        for address in &config.http_addresses {
            listeners.push(listen(address, config.unix_sockets).await?);
        }
        let mut dns_listeners = Vec::new();
        for address in &config.dns_addresses {
            let listener = dns::Listener::bind(*address).await;
            dns_listeners.push(listener.map_err(|source| Error::Io {
                what: format!("cannot serve DNS on {address}"),
                source,
            })?);
        }

        let rpc_listeners = if config.server { listen_rpc(&config).await? } else { Vec::new() };
        if let Some(path) = &config.pid_file {
            write_pid(path).map_err(|source| Error::Io {
                what: format!("cannot write pid_file {}", path.display()),
                source,
            })?;
        }

        let shutdown = CancellationToken::new();
        let leave = http::Departure::new();
        let mut tasks = JoinSet::new();
        start_part(&mut tasks, "figures", metrics::run(shutdown.child_token()));
        if processes::is_first() {
            start_part(&mut tasks, "orphans", processes::collect_orphans(shutdown.child_token()));
        }
        let pools = pool::start(&config, &node_id, keyring, &mut tasks, &shutdown).await?;
        let role = if config.server {
            Role::server(&config, &node_id, pools.own(), &mut tasks, &shutdown).await?
        } else {
            Role::client(&config, pools.own(), &mut tasks, &shutdown)
        };
        let Role { consensus, backend, catalog, names } = role;
        let catalog = Arc::new(WhileNamed { catalog, members: pools.own().clone() });
        let own = local::Settings { node_id: node_id.clone(), ..config.local.clone() };
        let local = Local::open(own, catalog)?;
        if let Some(consensus) = &consensus {
            let forget_after = config.gossip.timing.reconnect_timeout;
            let (all, stop) = (pools.clone(), shutdown.child_token());
            let duty = local::lead(all, forget_after, consensus.clone(), stop);
            start_part(&mut tasks, "leader", duty);
        }
        let claiming = shutdown.child_token();
        let (own, stop) = (local.clone(), claiming.clone());
        start_part(&mut tasks, "local", async move { own.run(stop).await });
        let names = Arc::new(dns::Handler::new(names, config.dns.clone()));
        let interface = dns::serve(dns_listeners, names.clone(), shutdown.child_token());
        start_part(&mut tasks, "dns", interface);
        let (reload, wishes) = http::Reload::new();
        let shown = http::Shown::default();
        shown.set(config.debug(&node_id, REFERENCE_VERSION));
        let parts = http::Parts {
            backend: backend.clone(),
            local: local.clone(),
            identity: settings::identity(&config, shown.clone()).into(),
            reload,
            pools: pools.clone(),
            leave: leave.clone(),
            datacenter: config.datacenter.clone(),
            node_name: config.node_name.clone(),
        };
        let settings = settings::http(&config);
        let limits = settings.limits.clone();
        let (forwarder, interface) =
            http::serve_passing(listeners, parts, settings, shutdown.child_token());
        start_part(&mut tasks, "http", interface);
        if let (Some(consensus), http::Backend::Here { reader, lifetimes, .. }) =
            (&consensus, &backend)
        {
            let (stop, read) = (shutdown.child_token(), (reader, lifetimes));
            let answering = role::answer(
                rpc_listeners,
                consensus,
                read,
                forwarder,
                (&config, pools.clone()),
                stop,
            );
            start_part(&mut tasks, "rpc", answering);
        }
        let own_door = settings::own_door(&config)?;
        let (all, own, stop) = (pools.clone(), local.clone(), shutdown.child_token());
        start_part(&mut tasks, "remote_exec", remote_exec::run(all, own, own_door, stop));
        let mut watches = Watches::new(settings::itself(&config), local.tls());
        watches.set(config.watches.clone());
        let (file_changes, followed) = follow_files(&config, &mut tasks, &shutdown);
        let http = config.http_addresses.iter().map(text_of).collect::<Vec<_>>().join(" ");
        let dns =
            config.dns_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        info!(http, dns, "agent is ready to serve");
        let data_dir = config.data_dir.clone();
        Ok(Node {
            consensus,
            local,
            names,
            pools,
            data_dir,
            id: node_id,
            shown,
            effective: config.clone(),
            running: config,
            watches,
            backend,
            limits,
            wishes,
            file_changes,
            followed,
            claiming,
            shutdown,
            leave,
            tasks,
        })
    }
}

/// Follows the configuration's files, if that is asked for.
fn follow_files(
    config: &Config,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) -> (mpsc::Receiver<()>, watch::Sender<Followed>) {
    let (followed, receiver) = watch::channel(config.followed.clone());
    let (changed, changes) = mpsc::channel(1);
    if config.auto_reload_config {
        let following = config::follow(receiver, Pace::default(), changed, shutdown.child_token());
        start_part(tasks, "configuration files", following);
    }
    (changes, followed)
}

/// The file may be meant to lie beside the data, in a folder that comes into being with them.
fn write_pid(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, format!("{}\n", std::process::id()))
}

/// Runs a part until it ends; its name says which one did.
pub(super) fn start_part(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        part.await;
        name
    });
}

fn text_of(address: &HttpAddress) -> String {
    match address {
        HttpAddress::Tcp(address) => address.to_string(),
        HttpAddress::Unix(path) => path.display().to_string(),
    }
}

async fn listen(address: &HttpAddress, owner: UnixSockets) -> Result<http::Listener, Error> {
    let listener = match address {
        HttpAddress::Tcp(address) => http::Listener::tcp(*address).await,
        HttpAddress::Unix(path) => http::Listener::unix(path),
    };
    listener.and_then(|listener| listener.owned_by(owner.user, owner.group, owner.mode)).map_err(
        |source| Error::Io { what: format!("cannot serve HTTP on {}", text_of(address)), source },
    )
}

/// Binds the RPC ports: for some segments, at addresses of their own.
async fn listen_rpc(config: &Config) -> Result<Vec<TcpListener>, Error> {
    let served = config.segments.served.iter().filter(|segment| segment.rpc_listener);
    let mut listeners = Vec::new();
    for ip in std::iter::once(config.bind).chain(served.map(|segment| segment.bind.ip())) {
        let address = SocketAddr::new(ip, config.ports.server);
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| Error::Io {
            what: format!("cannot serve RPC on {address}"),
            source,
        })?);
    }
    Ok(listeners)
}
