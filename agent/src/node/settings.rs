//! What parts are told that takes more than the configuration, or more than one part of it.

use super::{Error, REFERENCE_VERSION, VERSION};
use crate::config::{Config, HttpAddress};
use crate::http;

/// What the HTTP interface says of this agent.
pub(super) fn identity(config: &Config, shown: http::Shown) -> http::Identity {
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
        config: shown,
    }
}

/// Settings of the HTTP interface with its limits on clients, which a reload changes.
pub(super) fn http(config: &Config) -> http::Settings {
    let limits = http::Limits::new(config.http_connections_per_client, config.http_rates.clone());
    http::Settings { limits, ..config.http.clone() }
}

/// Client settings by which this agent reaches itself: as any client would, by the first of its own addresses.
pub(super) fn itself(config: &Config) -> muster_client::Settings {
    let address = match config.http_addresses.first() {
        Some(HttpAddress::Tcp(address)) if address.ip().is_unspecified() => {
            let loopback: std::net::IpAddr = if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            std::net::SocketAddr::new(loopback, address.port()).to_string()
        }
        Some(HttpAddress::Tcp(address)) => address.to_string(),
        Some(HttpAddress::Unix(path)) => format!("unix://{}", path.display()),
        None => String::new(),
    };
    let mut settings = muster_client::Settings { address, ..muster_client::Settings::default() };
    // A quarter of what it takes of one address, as every program; 0 is no limit.
    if let max @ 1.. = config.http_connections_per_client {
        settings.connections_max = (max / 4).clamp(2, settings.connections_max);
    }
    settings
}

/// The way by which remote executions are read and answered, if they are allowed.
pub(super) fn own_door(config: &Config) -> Result<Option<muster_client::Client>, Error> {
    if !config.remote_exec {
        return Ok(None);
    }
    if config.http_addresses.is_empty() {
        return Err(Error::NotSupported(
            "`disable_remote_exec` cannot be false without HTTP: jobs are read and answered by it\n\
             hint: give `ports.http` or `addresses.http`, or leave `disable_remote_exec` at true"
                .into(),
        ));
    }
    let client = muster_client::Client::new(itself(config));
    client.map(Some).map_err(|error| Error::NotSupported(error.to_string()))
}
