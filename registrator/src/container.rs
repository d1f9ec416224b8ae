//! What the registrator knows of one container: the few fields of the engine's inspection that
//! decide what is registered, in plain values.
//!
//! The engine's own answer has hundreds of optional fields whose meaning moves between versions.
//! [`Container::from_inspect`] is the one place that reads it; everything behind it (`plan`,
//! `reconcile`) works with this type and is tested without an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, EndpointSettings, HealthStatusEnum,
    PortBinding,
};

/// A container as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Full id, 64 hexadecimal digits.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Image as the user wrote it, such as `registry:5000/team/web:1.2`.
    pub image: String,
    /// Environment in the engine's order; entries without `=` are left out.
    pub env: Vec<(String, String)>,
    /// Labels, those of the image included.
    pub labels: BTreeMap<String, String>,
    /// Ports named by `EXPOSE` or `--expose`.
    pub exposed: BTreeSet<Port>,
    /// Ports of the container's network sandbox and where they are published on the host.
    pub published: BTreeMap<Port, Vec<Binding>>,
    /// Where its network comes from.
    pub network_mode: NetworkMode,
    /// Networks it is attached to, by name.
    pub networks: BTreeMap<String, Attachment>,
    /// Whether its main process lives.
    pub run: Run,
    /// When the current (or last) run began, in nanoseconds since the epoch; 0 if unknown.
    pub started_at: u64,
    /// Result of the image's or user's `HEALTHCHECK`; `None` if there is none.
    pub health: Option<DockerHealth>,
    /// The number of the signal that asks it to stop.
    pub stop_signal: u8,
}

/// Whether a container's main process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It runs.
    Running,
    /// It is frozen: sockets accept and nobody answers.
    Paused,
    /// It ended with this code, or was never started.
    Exited(i64),
}

/// The engine's verdict on a `HEALTHCHECK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerHealth {
    /// No verdict yet.
    Starting,
    /// The last probe passed.
    Healthy,
    /// Several probes in a row failed.
    Unhealthy,
}

/// Where a container's network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Networks of its own.
    Own,
    /// The host's.
    Host,
    /// That of another container, by id.
    Container(String),
    /// None at all.
    Disabled,
}

/// One attachment to a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The network's id.
    pub network_id: String,
    /// IPv4 address in it.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address in it.
    pub v6: Option<Ipv6Addr>,
}

/// Where a port is published: an address of the host and a port there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `None` for every address of one family.
    pub ip: Option<IpAddr>,
    /// Whether the binding is for IPv6; matters where `ip` is `None`.
    pub v6: bool,
    /// Port of the host.
    pub port: u16,
}

/// A transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A container's port; ordered by number, then protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Number inside the container.
    pub number: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl Port {
    /// Reads `80/tcp`, `53/udp` or `80`. `None` for anything else, port ranges included (the
    /// engine expands them itself).
    pub fn parse(text: &str) -> Option<Self> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        };
        Some(Self { number: number.parse().ok().filter(|number| *number > 0)?, protocol })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

/// Number of SIGKILL, which every container obeys.
pub const SIGKILL: u8 = 9;
/// Number of SIGTERM, the stop signal of a container that names none.
pub const SIGTERM: u8 = 15;

impl Container {
    /// Reads the engine's answer. Fields it leaves out are taken as empty; an answer without an
    /// id gives `None`.
    pub fn from_inspect(answer: ContainerInspectResponse) -> Option<Self> {
        let id = answer.id.filter(|id| !id.is_empty())?;
        let config = answer.config.unwrap_or_default();
        let state = answer.state.unwrap_or_default();
        let network = answer.network_settings.unwrap_or_default();
        let mode = answer.host_config.and_then(|host| host.network_mode).unwrap_or_default();

        let run = match state.status {
            Some(ContainerStateStatusEnum::PAUSED) => Run::Paused,
            _ if state.paused == Some(true) => Run::Paused,
            _ if state.running == Some(true) && state.restarting != Some(true) => Run::Running,
            _ => Run::Exited(state.exit_code.unwrap_or_default()),
        };
        let has_healthcheck = config
            .healthcheck
            .and_then(|check| check.test)
            .is_some_and(|test| test.first().is_some_and(|kind| kind != "NONE"));
        let health = match state.health.and_then(|health| health.status) {
            Some(HealthStatusEnum::STARTING) => Some(DockerHealth::Starting),
            Some(HealthStatusEnum::HEALTHY) => Some(DockerHealth::Healthy),
            Some(HealthStatusEnum::UNHEALTHY) => Some(DockerHealth::Unhealthy),
            // Some engines leave the state out until the first probe has run.
            _ => has_healthcheck.then_some(DockerHealth::Starting),
        };

        Some(Self {
            name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            image: config.image.unwrap_or_default(),
            env: config
                .env
                .unwrap_or_default()
                .iter()
                .filter_map(|entry| entry.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            exposed: config
                .exposed_ports
                .unwrap_or_default()
                .iter()
                .filter_map(|port| Port::parse(port))
                .collect(),
            published: network
                .ports
                .unwrap_or_default()
                .into_iter()
                .filter_map(|(port, bindings)| {
                    let bindings = bindings.unwrap_or_default();
                    Some((Port::parse(&port)?, bindings.iter().filter_map(binding).collect()))
                })
                .collect(),
            network_mode: match mode.as_str() {
                "host" => NetworkMode::Host,
                "none" => NetworkMode::Disabled,
                mode => match mode.strip_prefix("container:") {
                    Some(owner) => NetworkMode::Container(owner.to_owned()),
                    None => NetworkMode::Own,
                },
            },
            networks: network
                .networks
                .unwrap_or_default()
                .into_iter()
                .map(|(name, endpoint)| (name, attachment(endpoint)))
                .collect(),
            run,
            started_at: state.started_at.as_deref().and_then(nanoseconds).unwrap_or_default(),
            health,
            stop_signal: config.stop_signal.as_deref().and_then(parse_signal).unwrap_or(SIGTERM),
            id,
        })
    }

    /// The first twelve digits of the id, as the engine's own tools print it.
    pub fn short_id(&self) -> &str {
        short_id(&self.id)
    }

    /// Whether `signal` announces this container's end: its own stop signal, or SIGKILL.
    pub fn stops_on(&self, signal: u8) -> bool {
        signal == SIGKILL || signal == self.stop_signal
    }
}

/// The first twelve characters of a container's id.
pub fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn binding(binding: &PortBinding) -> Option<Binding> {
    let port = binding.host_port.as_deref()?.parse().ok().filter(|port| *port > 0)?;
    let text = binding.host_ip.as_deref().unwrap_or_default();
    let ip: Option<IpAddr> = if text.is_empty() { None } else { Some(text.parse().ok()?) };
    let v6 = ip.is_some_and(|ip| ip.is_ipv6());
    Some(Binding { ip: ip.filter(|ip| !ip.is_unspecified()), v6, port })
}

fn attachment(endpoint: EndpointSettings) -> Attachment {
    Attachment {
        network_id: endpoint.network_id.unwrap_or_default(),
        v4: endpoint.ip_address.and_then(|ip| ip.parse().ok()),
        v6: endpoint.global_ipv6_address.and_then(|ip| ip.parse().ok()),
    }
}

/// The number of a signal written as the engine accepts it: `SIGTERM`, `term`, `15`,
/// `SIGRTMIN+3`. `None` for unknown names.
pub fn parse_signal(text: &str) -> Option<u8> {
    /// First real-time signal as containers see it (glibc keeps 32 and 33 for itself).
    const RTMIN: u8 = 34;
    const RTMAX: u8 = 64;
    if let Ok(number) = text.parse::<u8>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: u8 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return RTMIN.checked_add(offset).filter(|number| *number <= RTMAX);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset: u8 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse().ok()? };
        return RTMAX.checked_sub(offset).filter(|number| *number >= RTMIN);
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
    u8::try_from(signal as i32).ok()
}

/// Nanoseconds since the epoch of a time as engines write it
/// (`2024-05-01T10:20:30.123456789Z`, or with an offset such as `+02:00`). `None` for other
/// forms, for the engine's year-1 "never", and for times before 1970.
fn nanoseconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let zone = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
            let seconds = (hours * 60 + minutes) * 60;
            if seconds.abs() > 86_400 {
                return None;
            }
            if sign == "+" { seconds } else { -seconds }
        }
    };
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && (1970..=2500).contains(&year)
        && fraction.len() <= 9
        && fraction.bytes().all(|digit| digit.is_ascii_digit());
    if !in_range {
        return None;
    }
    // Days since the epoch of a civil date, with years that begin in March so that the leap day
    // comes last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era_year = shifted - 400 * shifted.div_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted.div_euclid(400) * 146_097 + era_year * 365 + era_year / 4 - era_year / 100
        + day_of_year
        - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    let seconds = u64::try_from(seconds).ok()?;
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_the_engine_writes_them() {
        for (text, expected) in [
            ("15", Some(15)),
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("SIGQUIT", Some(3)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("RTMAX-60", None),
            ("RTMIN+x", None),
            ("0", None),
            ("65", None),
            ("999", None),
            ("SIGNONSENSE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), expected, "{text}");
        }
    }

    #[test]
    fn times_are_read_to_the_nanosecond() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:01.5Z", Some(1_500_000_000)),
            ("2000-03-01T00:00:00Z", Some(951_868_800_000_000_000)),
            ("2024-02-29T12:34:56.123456789Z", Some(1_709_210_096_123_456_789)),
            ("0001-01-01T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-02-29T14:34:56+02:00", Some(1_709_210_096_000_000_000)),
            ("2024-02-29T12:34:56-x", None),
            ("2024-02-29T12:34:56", None),
            ("2024-02-29T12:34:56.12345678901Z", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn ports_are_read_with_their_protocol() {
        for (text, expected) in [
            ("80/tcp", Some((80, Protocol::Tcp))),
            ("53/udp", Some((53, Protocol::Udp))),
            ("443", Some((443, Protocol::Tcp))),
            ("9/sctp", Some((9, Protocol::Sctp))),
            ("0/tcp", None),
            ("65536/tcp", None),
            ("80/icmp", None),
            ("80-90/tcp", None),
        ] {
            let read = Port::parse(text).map(|port| (port.number, port.protocol));
            assert_eq!(read, expected, "{text}");
        }
    }
}
