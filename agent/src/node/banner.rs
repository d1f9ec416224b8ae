//! Banner of the start, for people and scripts.

use super::VERSION;
use crate::config::{Config, HttpAddress};

/// Prints the banner of the start, for people and scripts, in the reference's shape.
#[expect(clippy::print_stdout, reason = "the banner is for whoever started the agent")]
pub(super) fn banner(config: &Config, node_id: &str, gossip_is_sealed: bool) {
    let port = |port: Option<u16>| port.map_or(-1, i32::from);
    let clients: Vec<String> = config
        .http_addresses
        .iter()
        .map(|address| match address {
            HttpAddress::Tcp(address) => address.ip().to_string(),
            HttpAddress::Unix(path) => path.display().to_string(),
        })
        .collect();
    println!("           Version: '{VERSION}'");
    println!("           Node ID: '{node_id}'");
    println!("         Node name: '{}'", config.node_name);
    let segment = if config.server { "<all>" } else { &config.segments.own };
    println!("        Datacenter: '{}' (Segment: '{segment}')", config.datacenter);
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
        "           Encrypt: Gossip: {gossip_is_sealed}, TLS-Outgoing: false, TLS-Incoming: false, Auto-Encrypt-TLS: false"
    );
    println!();
    println!("==> Log data will now stream in as it occurs:");
    println!();
}
