//! From keys as written to the settings of each part: defaults, bounds, and what does not go together.
//!
//! One file per part; this one passes on what several of them need: mode, name of the datacenter, addresses.

mod acl;
mod addresses;
mod cluster;
mod dns;
mod gossip;
mod http;
mod identity;
mod local;
mod process;
mod segments;
mod sockaddr;

use super::file::invalid_duration;
use super::judge;
use super::written::Written;
use super::{Config, Error, Followed};
pub use acl::{AclSettings, AclTokens, DownPolicy};
pub use addresses::{HttpAddress, Ports};
pub use gossip::GossipTuning;
pub use process::UnixSockets;
pub use segments::{Segment, Segments};

/// Resolves all keys. `dev` is development mode: one server, nothing is kept.
pub(super) fn resolve(written: &Written, dev: bool) -> Result<Config, Error> {
    let written = &sockaddr::expanded(written)?;
    let server = written.on("server") || dev;
    let (bootstrap, bootstrap_expect) = cluster::bootstrap(written, server, dev)?;
    let data_dir = process::data_dir(written, dev)?;
    let datacenter = identity::datacenter(written)?;
    let acl = acl::resolve(written, &datacenter)?;
    let node_name = identity::node_name(written)?;
    let ports = addresses::ports(written, server)?;
    let (bind, advertise, advertise_wan) = addresses::bind_and_advertise(written, dev)?;
    let client = written.text("client_addr").map(str::trim).filter(|text| !text.is_empty());
    let client = client.unwrap_or("127.0.0.1");
    let http_addresses = addresses::http(written, client, ports.http)?;
    let dns_addresses = dns::addresses(written, client, ports.dns)?;
    addresses::distinct(&http_addresses, &dns_addresses, ports, (advertise, advertise_wan))?;
    let dns = dns::resolve(written, &datacenter)?;
    let gossip = gossip::resolve(written, dev)?;
    let segments = segments::resolve(written, server, (bind, advertise), ports)?;
    let node = local::Node {
        datacenter: &datacenter,
        name: &node_name,
        lan: advertise,
        wan: advertise_wan,
        segment: &segments.own,
        data_dir: data_dir.as_deref(),
    };
    let local = local::resolve(written, &node)?;
    let raft = cluster::raft(written, &node, ports.server)?;
    let (watches, wrong_watches) = judge::watches(written);
    Ok(Config {
        node_id: identity::node_id(written)?,
        http: http::resolve(written, dev)?,
        http_connections_per_client: http::connections_per_client(written),
        http_rates: http::rates(written)?,
        read: cluster::read(written),
        upstream: cluster::upstream(written),
        rpc_limits: cluster::rpc_limits(written),
        log: process::log(written, dev)?,
        unix_sockets: process::unix_sockets(written)?,
        pid_file: written.file("pid_file"),
        leave_on_terminate: written.bool("leave_on_terminate").unwrap_or(!server),
        skip_leave_on_interrupt: written.bool("skip_leave_on_interrupt").unwrap_or(server),
        remote_exec: !written.bool("disable_remote_exec").unwrap_or(true),
        auto_reload_config: written.on("auto_reload_config"),
        followed: Followed::default(),
        watches,
        wrong_watches,
        warnings: warnings(written, &datacenter),
        acl,
        dev,
        server,
        bootstrap,
        bootstrap_expect,
        datacenter,
        node_name,
        data_dir,
        bind,
        advertise,
        advertise_wan,
        http_addresses,
        ports,
        dns_addresses,
        dns,
        gossip,
        segments,
        local,
        raft,
        written: written.clone(),
    })
}

/// Everything worth saying once at the start.
fn warnings(written: &Written, datacenter: &str) -> Vec<String> {
    let mut warnings = written.warnings();
    warnings.extend(acl::warnings(written, datacenter));
    warnings.extend(http::warnings(written));
    warnings
}
