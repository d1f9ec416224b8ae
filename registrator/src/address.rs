//! Where a container's port can be reached.
//!
//! The one rule that matters: address and port come from the same pair. Either an address of the
//! host with a published port, or an address of the container with its own port; a mixture is a
//! place nobody can reach. Overrides (`--ip`, `SERVICE_IP`, `SERVICE_PORT`, an address label)
//! replace one half on the user's word.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::container::{Attachment, Binding, Container, NetworkMode, Port, Protocol};
use crate::metadata::Metadata;

/// Which pair is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The host's address and the published port; ports that are not published are left out.
    #[default]
    Published,
    /// The container's address and its own port.
    Internal,
    /// Published where it is published to others than the host itself, else internal.
    Auto,
}

/// Which address families are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only.
    V6,
    /// IPv4 as the address (IPv6 if there is none), both as tagged addresses.
    Dual,
}

/// What decides about addresses.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which pair is registered, unless the container says otherwise.
    pub mode: Mode,
    /// Wanted families.
    pub family: Family,
    /// Address of the host for published ports; without it the service has none of its own, and
    /// the catalog answers with the agent's.
    pub host_ip: Option<IpAddr>,
    /// Name of a label that holds the address; `/mask` is cut.
    pub ip_label: Option<String>,
    /// Name or id of the network whose addresses are registered.
    pub network: Option<String>,
    /// Ids of the networks the registrator itself is attached to: preferred, since the agent it
    /// talks to is reachable there.
    pub own_networks: BTreeSet<String>,
    /// Whether an address of the loopback network may be registered.
    pub allow_loopback: bool,
}

/// Where to reach one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `None`: the agent's own address.
    pub address: Option<IpAddr>,
    /// Port at that address.
    pub port: u16,
    /// Addresses by family, only with [`Family::Dual`].
    pub tagged: BTreeMap<&'static str, IpAddr>,
}

/// Why a port is not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Not published on the host, and published ports are wanted.
    #[error("it is not published on the host")]
    NotPublished,
    /// Published for the host itself only.
    #[error("it is published on the loopback address only, where no other machine reaches it")]
    Loopback,
    /// The wanted network is not attached (or not yet).
    #[error("the container is not attached to network `{0}`")]
    NetworkMissing(String),
    /// Published for one family, of which the host has no address that is known.
    #[error(
        "it is published for {published} only, and no {published} address of the host is known: \
        give one with --ip or SERVICE_IP"
    )]
    FamilyUnknown {
        /// The family.
        published: &'static str,
        /// The host's port.
        port: u16,
    },
    /// No address in the wanted family.
    #[error("the container has no address in the wanted family")]
    NoAddress,
}

/// The network sandbox a container lives in: its own, or that of the container it joined.
pub struct Sandbox<'a> {
    container: &'a Container,
    /// The container whose networks and published ports count; `None` if it is unknown.
    owner: Option<&'a Container>,
}

impl<'a> Sandbox<'a> {
    /// `joined` is the container that `container` shares its network with, where it does.
    pub fn of(container: &'a Container, joined: Option<&'a Container>) -> Self {
        let owner = match container.network_mode {
            NetworkMode::Container(_) => joined,
            _ => Some(container),
        };
        Self { container, owner }
    }

    fn mode(&self) -> &NetworkMode {
        self.owner.map_or(&NetworkMode::Disabled, |owner| &owner.network_mode)
    }

    /// The ports that may be registered, in order: those exposed or published, else those of the
    /// joined container, if keys ask for a registration: a helper that only shares the network of
    /// another is not that one's double. Where a port need not be declared to be reachable (the host's network,
    /// internal addresses), also those that the keys name (`SERVICE_8080_NAME`), and where
    /// nothing is declared at all, `SERVICE_PORT`.
    pub fn ports(&self, metadata: &Metadata, mode: Mode) -> BTreeSet<Port> {
        let mut ports = self.container.exposed.clone();
        ports.extend(self.container.published.keys());
        if ports.is_empty()
            && !metadata.is_empty()
            && let Some(owner) = self.owner
        {
            ports.extend(&owner.exposed);
            ports.extend(owner.published.keys());
        }
        let undeclared_is_reachable = *self.mode() == NetworkMode::Host || mode != Mode::Published;
        if undeclared_is_reachable {
            let declared: BTreeSet<u16> = ports.iter().map(|port| port.number).collect();
            ports.extend(
                metadata
                    .ports()
                    .filter(|port| *port > 0 && !declared.contains(port))
                    .filter(|port| metadata.get(*port, "name").is_some_and(|name| name.for_port))
                    .map(|number| Port { number, protocol: Protocol::Tcp }),
            );
            if ports.is_empty()
                && let Some(number) = metadata.general("port").and_then(|port| port.parse().ok())
                && number > 0
            {
                ports.insert(Port { number, protocol: Protocol::Tcp });
            }
        }
        ports
    }

    /// Where `port` can be reached. `network` is the container's own wish, `agent` the address that
    /// the catalog answers with for a service without one of its own.
    pub fn endpoint(
        &self,
        port: Port,
        mode: Mode,
        network: Option<&str>,
        settings: &Settings,
        agent: Option<IpAddr>,
    ) -> Result<Endpoint, Skip> {
        let Some(owner) = self.owner else { return Err(Skip::NoAddress) };
        if owner.network_mode == NetworkMode::Host {
            return Ok(Endpoint { address: settings.host_ip, port: port.number, ..<_>::default() });
        }
        match mode {
            Mode::Published => published(owner, port, settings, agent),
            Mode::Internal => internal(owner, port, network, settings),
            Mode::Auto => published(owner, port, settings, agent)
                .or_else(|_| internal(owner, port, network, settings)),
        }
    }
}

/// The first binding whose address can be told, those of the wanted family first. A port that is
/// published for one family only is not reached at an address of the other.
fn published(
    owner: &Container,
    port: Port,
    settings: &Settings,
    agent: Option<IpAddr>,
) -> Result<Endpoint, Skip> {
    let bindings = owner.published.get(&port).map(Vec::as_slice).unwrap_or_default();
    if bindings.is_empty() {
        return Err(Skip::NotPublished);
    }
    let wants_v6 = match (settings.family, settings.host_ip.or(agent)) {
        (Family::V4, _) => false,
        (Family::V6, _) => true,
        (Family::Dual, host) => host.is_some_and(|ip| ip.is_ipv6()),
    };
    let mut usable: Vec<&Binding> = bindings
        .iter()
        .filter(|binding| settings.allow_loopback || !binding.ip.is_some_and(|ip| ip.is_loopback()))
        .collect();
    usable.sort_by_key(|binding| binding.v6 != wants_v6);
    let first = *usable.first().ok_or(Skip::Loopback)?;
    // Until the agent has said where it is, it is taken to be where services are wanted.
    let agent_is_v6 = agent.map_or(wants_v6, |ip| ip.is_ipv6());
    let address_of = |binding: &Binding| match (settings.host_ip, binding.ip) {
        (Some(ip), _) if ip.is_ipv6() == binding.v6 => Some(Some(ip)),
        (_, Some(ip)) => Some(Some(ip)),
        (None, None) if agent_is_v6 == binding.v6 => Some(None),
        _ => None,
    };
    usable
        .iter()
        .find_map(|binding| Some((address_of(binding)?, binding.port)))
        .map(|(address, port)| Endpoint { address, port, tagged: BTreeMap::new() })
        .ok_or(Skip::FamilyUnknown {
            published: if first.v6 { "IPv6" } else { "IPv4" },
            port: first.port,
        })
}

fn internal(
    owner: &Container,
    port: Port,
    network: Option<&str>,
    settings: &Settings,
) -> Result<Endpoint, Skip> {
    let wanted = network.or(settings.network.as_deref());
    let attachment = match wanted {
        Some(wanted) => find_network(&owner.networks, wanted)
            .ok_or_else(|| Skip::NetworkMissing(wanted.to_owned()))?,
        None => best_network(owner, settings).ok_or(Skip::NoAddress)?,
    };
    let v4 = attachment.v4.map(IpAddr::from);
    let v6 = attachment.v6.map(IpAddr::from);
    let mut tagged = BTreeMap::new();
    let address = match settings.family {
        Family::V4 => v4,
        Family::V6 => v6,
        Family::Dual => {
            tagged.extend(v4.map(|ip| ("lan_ipv4", ip)));
            tagged.extend(v6.map(|ip| ("lan_ipv6", ip)));
            v4.or(v6)
        }
    };
    let address = Some(address.ok_or(Skip::NoAddress)?);
    Ok(Endpoint { address, port: port.number, tagged })
}

/// By name, by id (twelve digits or more), or by the name Compose gave it (`<project>_<name>`)
/// where only one network is called so.
fn find_network<'a>(
    networks: &'a BTreeMap<String, Attachment>,
    wanted: &str,
) -> Option<&'a Attachment> {
    if let Some(found) = networks.get(wanted) {
        return Some(found);
    }
    if wanted.len() >= 12
        && let Some(found) =
            networks.values().find(|network| network.network_id.starts_with(wanted))
    {
        return Some(found);
    }
    let suffix = format!("_{wanted}");
    let mut called_so = networks.iter().filter(|(name, _)| name.ends_with(&suffix));
    let (_, found) = called_so.next()?;
    called_so.next().is_none().then_some(found)
}

/// A network the registrator shares, else any; the first by name, so that the answer is stable.
/// The swarm's `ingress` network carries no traffic between services.
fn best_network<'a>(owner: &'a Container, settings: &Settings) -> Option<&'a Attachment> {
    let usable = |attachment: &Attachment| match settings.family {
        Family::V4 => attachment.v4.is_some(),
        Family::V6 => attachment.v6.is_some(),
        Family::Dual => attachment.v4.is_some() || attachment.v6.is_some(),
    };
    owner
        .networks
        .iter()
        .filter(|(name, attachment)| *name != "ingress" && usable(attachment))
        .min_by_key(|(name, attachment)| {
            (!settings.own_networks.contains(&attachment.network_id), *name)
        })
        .map(|(_, attachment)| attachment)
}

/// Applies the user's own words to an endpoint: `SERVICE_IP` and `SERVICE_PORT`, then the address
/// label. Bad values are dropped; `warn` is told.
pub fn override_endpoint(
    endpoint: &mut Endpoint,
    container: &Container,
    metadata: &Metadata,
    port: Port,
    settings: &Settings,
    mut warn: impl FnMut(String),
) {
    if let Some(label) = &settings.ip_label {
        match container.labels.get(label) {
            Some(text) => {
                let text = text.rsplit_once('/').map_or(text.as_str(), |(address, _)| address);
                if let Some(ip) = usable_ip(text, settings) {
                    endpoint.address = Some(ip);
                    endpoint.tagged.clear();
                } else {
                    warn(format!("label `{label}`: `{text}` is not a usable address; ignored"));
                }
            }
            None => warn(format!("label `{label}`, which should hold the address, is missing")),
        }
    }
    if let Some(text) = metadata.text(port.number, "ip") {
        if let Some(ip) = usable_ip(text, settings) {
            endpoint.address = Some(ip);
            endpoint.tagged.clear();
        } else {
            warn(format!("`SERVICE_IP`: `{text}` is not a usable address; ignored"));
        }
    }
    if let Some(text) = metadata.text(port.number, "port") {
        match text.parse().ok().filter(|port: &u16| *port > 0) {
            Some(number) => endpoint.port = number,
            None => warn(format!("`SERVICE_PORT`: `{text}` is not a port; ignored")),
        }
    }
}

fn usable_ip(text: &str, settings: &Settings) -> Option<IpAddr> {
    let ip: IpAddr = text.trim().parse().ok()?;
    let refused =
        ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !settings.allow_loopback);
    (!refused).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::container;

    fn port(text: &str) -> Port {
        Port::parse(text).expect("port")
    }

    fn attach(container: &mut Container, name: &str, v4: &str, v6: &str) {
        let attachment = Attachment {
            network_id: format!("{name}-0123456789abcdef"),
            v4: v4.parse().ok(),
            v6: v6.parse().ok(),
        };
        container.networks.insert(name.to_owned(), attachment);
    }

    fn publish(container: &mut Container, at: &str, bindings: &[(&str, u16)]) {
        let bindings = bindings
            .iter()
            .map(|(ip, port)| {
                let ip: IpAddr = ip.parse().expect("address");
                Binding {
                    ip: Some(ip).filter(|ip| !ip.is_unspecified()),
                    v6: ip.is_ipv6(),
                    port: *port,
                }
            })
            .collect();
        container.published.insert(port(at), bindings);
    }

    /// One container on two user networks that publishes port 80, and 81 to the host alone.
    fn example() -> Container {
        let mut web = container("web");
        web.networks.clear();
        attach(&mut web, "shop_front", "172.20.0.2", "fd00::2");
        attach(&mut web, "shop_mesh", "172.21.0.2", "");
        attach(&mut web, "ingress", "10.0.0.9", "");
        publish(&mut web, "80/tcp", &[("0.0.0.0", 28102), ("::", 28103)]);
        publish(&mut web, "81/tcp", &[("127.0.0.1", 8081)]);
        publish(&mut web, "82/tcp", &[("192.0.2.7", 8082), ("127.0.0.1", 82)]);
        publish(&mut web, "90/tcp", &[]);
        web
    }

    fn endpoint(
        at: &str,
        mode: Mode,
        network: Option<&str>,
        settings: &Settings,
    ) -> Result<String, Skip> {
        let web = example();
        let found = Sandbox::of(&web, None).endpoint(port(at), mode, network, settings, None)?;
        let address = found.address.map_or("agent".to_owned(), |ip| ip.to_string());
        let tagged: Vec<String> =
            found.tagged.iter().map(|(name, ip)| format!(" {name}={ip}")).collect();
        Ok(format!("{address} {}{}", found.port, tagged.concat()))
    }

    #[test]
    fn address_and_port_come_from_the_same_pair() {
        let plain = Settings::default();
        let host = Settings { host_ip: "198.51.100.1".parse().ok(), ..Settings::default() };
        let v6 = Settings { family: Family::V6, ..Settings::default() };
        let dual = Settings { family: Family::Dual, ..Settings::default() };
        let loopback = Settings { allow_loopback: true, ..Settings::default() };
        let mesh = Settings { network: Some("mesh".to_owned()), ..Settings::default() };
        let shared = Settings {
            own_networks: ["shop_mesh-0123456789abcdef".to_owned()].into(),
            ..Settings::default()
        };
        let missing = |name: &str| Err(Skip::NetworkMissing(name.to_owned()));
        let ok = |text: &str| Ok(text.to_owned());
        for (at, mode, network, settings, expected) in [
            ("80/tcp", Mode::Published, None, &plain, ok("agent 28102")),
            ("80/tcp", Mode::Published, None, &host, ok("198.51.100.1 28102")),
            ("80/tcp", Mode::Published, None, &v6, ok("agent 28103")),
            ("81/tcp", Mode::Published, None, &plain, Err(Skip::Loopback)),
            ("81/tcp", Mode::Published, None, &loopback, ok("127.0.0.1 8081")),
            ("82/tcp", Mode::Published, None, &plain, ok("192.0.2.7 8082")),
            ("90/tcp", Mode::Published, None, &plain, Err(Skip::NotPublished)),
            ("80/tcp", Mode::Internal, None, &plain, ok("172.20.0.2 80")),
            ("80/tcp", Mode::Internal, None, &host, ok("172.20.0.2 80")),
            ("80/tcp", Mode::Internal, None, &v6, ok("fd00::2 80")),
            ("80/tcp", Mode::Internal, None, &shared, ok("172.21.0.2 80")),
            ("80/tcp", Mode::Internal, None, &mesh, ok("172.21.0.2 80")),
            ("80/tcp", Mode::Internal, Some("front"), &mesh, ok("172.20.0.2 80")),
            ("80/tcp", Mode::Internal, Some("shop_mesh"), &plain, ok("172.21.0.2 80")),
            ("80/tcp", Mode::Internal, Some("shop_mesh-01"), &plain, ok("172.21.0.2 80")),
            ("80/tcp", Mode::Internal, Some("mesh"), &v6, Err(Skip::NoAddress)),
            ("80/tcp", Mode::Internal, Some("absent"), &plain, missing("absent")),
            (
                "80/tcp",
                Mode::Internal,
                None,
                &dual,
                ok("172.20.0.2 80 lan_ipv4=172.20.0.2 lan_ipv6=fd00::2"),
            ),
            ("80/tcp", Mode::Auto, None, &plain, ok("agent 28102")),
            ("81/tcp", Mode::Auto, None, &plain, ok("172.20.0.2 81")),
            ("90/tcp", Mode::Auto, None, &plain, ok("172.20.0.2 90")),
        ] {
            let found = endpoint(at, mode, network, settings);
            assert_eq!(found, expected, "{at} {mode:?} {network:?} {settings:?}");
        }
    }

    #[test]
    fn a_port_of_one_family_is_registered_at_an_address_of_that_family() {
        let both = [("0.0.0.0", 84), ("::", 86)];
        let v6_only = [("::", 86)];
        let v4_only = [("0.0.0.0", 84)];
        let one = [("2001:db8::5", 86)];
        let host = |ip: &str| Settings { host_ip: ip.parse().ok(), ..Settings::default() };
        let (v4, v6, none) = ("192.0.2.1", "2001:db8::1", "");
        let unknown = |family| format!("not {family}");
        for (bindings, ip, agent, expected) in [
            (&both[..], none, v4, "agent 84".to_owned()),
            (&both, none, v6, "agent 86".to_owned()),
            (&both, v4, v6, "192.0.2.1 84".to_owned()),
            (&both, v6, v4, "2001:db8::1 86".to_owned()),
            (&v6_only, none, v4, unknown("IPv6")),
            (&v6_only, none, none, unknown("IPv6")),
            (&v6_only, none, v6, "agent 86".to_owned()),
            (&v6_only, v4, v6, unknown("IPv6")),
            (&v6_only, v6, v4, "2001:db8::1 86".to_owned()),
            (&v4_only, none, v6, unknown("IPv4")),
            (&v4_only, v6, v4, unknown("IPv4")),
            (&v4_only, v4, v6, "192.0.2.1 84".to_owned()),
            (&one, none, v4, "2001:db8::5 86".to_owned()),
            (&one, v4, v4, "2001:db8::5 86".to_owned()),
            (&one, v6, v4, "2001:db8::1 86".to_owned()),
        ] {
            let mut web = container("web");
            publish(&mut web, "80/tcp", bindings);
            let found = Sandbox::of(&web, None).endpoint(
                port("80/tcp"),
                Mode::Published,
                None,
                &host(ip),
                agent.parse().ok(),
            );
            let found = match found {
                Ok(at) => {
                    let address = at.address.map_or("agent".to_owned(), |ip| ip.to_string());
                    format!("{address} {}", at.port)
                }
                Err(Skip::FamilyUnknown { published, .. }) => unknown(published),
                Err(skip) => panic!("{skip}"),
            };
            assert_eq!(found, expected, "{bindings:?} ip {ip} agent {agent}");
        }
    }

    #[test]
    fn a_joined_container_lends_its_addresses_and_ports() {
        let owner = example();
        let mut guest = container("guest");
        guest.network_mode = NetworkMode::Container(owner.id.clone());
        guest.networks.clear();
        guest.exposed.clear();
        let settings = Settings::default();
        let at = |guest: &Container, joined: Option<&Container>, mode| {
            Sandbox::of(guest, joined)
                .endpoint(port("80/tcp"), mode, None, &settings, None)
                .map(|found| (found.address.map(|ip| ip.to_string()), found.port))
        };
        assert_eq!(
            at(&guest, Some(&owner), Mode::Internal),
            Ok((Some("172.20.0.2".to_owned()), 80))
        );
        assert_eq!(at(&guest, Some(&owner), Mode::Published), Ok((None, 28102)));
        assert_eq!(at(&guest, None, Mode::Internal), Err(Skip::NoAddress));

        let ports = |guest: &Container| -> Vec<String> {
            Sandbox::of(guest, Some(&owner))
                .ports(&Metadata::of(guest), Mode::Published)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        // Nobody asked for anything.
        assert_eq!(ports(&guest), [""; 0]);
        guest.labels.insert("SERVICE_NAME".to_owned(), "helper".to_owned());
        assert_eq!(ports(&guest), ["80/tcp", "81/tcp", "82/tcp", "90/tcp"]);
        guest.exposed.insert(port("81/tcp"));
        assert_eq!(ports(&guest), ["81/tcp"]);
    }

    #[test]
    fn the_hosts_network_needs_no_publication() {
        let mut web = container("web");
        web.network_mode = NetworkMode::Host;
        web.networks.clear();
        web.exposed = [port("8080/tcp")].into();
        web.labels.insert("SERVICE_9090_NAME".to_owned(), "metrics".to_owned());
        let metadata = Metadata::of(&web);
        let sandbox = Sandbox::of(&web, None);
        let ports: Vec<u16> =
            sandbox.ports(&metadata, Mode::Published).iter().map(|port| port.number).collect();
        assert_eq!(ports, [8080, 9090]);
        let settings = Settings { host_ip: "192.0.2.1".parse().ok(), ..Settings::default() };
        for mode in [Mode::Published, Mode::Internal, Mode::Auto] {
            let found =
                sandbox.endpoint(port("8080/tcp"), mode, None, &settings, None).expect("found");
            assert_eq!((found.address, found.port), (settings.host_ip, 8080));
        }
    }
}
