//! The command line: today's flags, and those of the well-known registrator under their old names
//! where they mean the same. Here is what may be written; `meaning` turns it into the settings of each part.

mod meaning;
mod values;

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use values::{Token, milliseconds, normalise, seconds};

/// Watches Docker and registers containers in the catalog by itself.
///
/// Containers say by labels (or environment) how: SERVICE_NAME, SERVICE_TAGS, SERVICE_80_NAME,
/// SERVICE_CHECK_HTTP=/health and so on; anything else that begins with SERVICE_ becomes Meta. A
/// container's HEALTHCHECK becomes a check too. What is registered carries the mark
/// `muster-registrator=<instance>`; nothing else in the catalog is ever touched.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "one per switch of the command line")]
#[command(name = "muster-registrator", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Args {
    /// The agent: muster://host:port, consul://host:port, http://host:port or unix:///path;
    /// default: MUSTER_HTTP_ADDR (CONSUL_HTTP_ADDR), else 127.0.0.1:8500
    ///
    /// Other settings of the connection come from MUSTER_HTTP_AUTH, MUSTER_HTTP_CONNECTIONS_MAX (or CONSUL_…).
    #[arg(value_name = "CATALOG")]
    pub catalog: Option<String>,

    /// The token to call the agent with; default: --token-file, else MUSTER_HTTP_TOKEN_FILE, else
    /// MUSTER_HTTP_TOKEN (or CONSUL_…). Other users of this machine see it in the list of processes
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file", help_heading = "Where")]
    pub token: Option<Token>,

    /// A file with the token; it is read again when it changes
    #[arg(long, value_name = "PATH", help_heading = "Where")]
    pub token_file: Option<std::path::PathBuf>,

    /// Docker: unix:///path, tcp://host:port or http://host:port; default: /var/run/docker.sock,
    /// else /tmp/docker.sock. A proxy that allows GET on /containers and /events is enough
    #[arg(long, env = "DOCKER_HOST", value_name = "ADDRESS", help_heading = "Where")]
    pub docker_host: Option<String>,

    /// Name of this registrator: mark of ownership and first part of service ids; must stay the
    /// same over restarts and differ between registrators of one agent. Default: the host's name,
    /// or in a container without a host name of its own, the container's name
    #[arg(long, value_name = "NAME", help_heading = "Where")]
    pub instance: Option<String>,

    /// Serve GET /healthz there
    #[arg(long, value_name = "IP:PORT", help_heading = "Where")]
    pub http_addr: Option<std::net::SocketAddr>,

    /// published: host address and published port. internal: container address and its own port.
    /// auto: published where it is, else internal. Label: SERVICE_ADDRESS_MODE
    #[arg(long, value_enum, default_value = "published", help_heading = "Addresses")]
    pub address_mode: ModeArg,

    /// The same as --address-mode=internal
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", hide_default_value = true, hide_possible_values = true,
        value_name = "BOOL", help_heading = "Addresses")]
    pub internal: bool,

    /// Address of the host for published ports: an IP or the name of an interface; default: the
    /// agent's own address. Label: SERVICE_IP
    #[arg(long, value_name = "IP|INTERFACE", help_heading = "Addresses")]
    pub ip: Option<String>,

    /// Network whose addresses are registered (name, id, or the part after Compose's project);
    /// default: one that the registrator shares, else the first by name. Label: SERVICE_NETWORK
    #[arg(long, value_name = "NAME", help_heading = "Addresses")]
    pub network: Option<String>,

    /// Families: 4, 6, or dual for both (the second as a tagged address)
    #[arg(long, value_enum, default_value = "4", help_heading = "Addresses")]
    pub ip_family: FamilyArg,

    /// Label that holds a container's address; `/mask` is cut
    #[arg(long, alias = "useIpFromLabel", value_name = "LABEL", help_heading = "Addresses")]
    pub use_ip_from_label: Option<String>,

    /// Register loopback addresses too, which no other machine can reach
    #[arg(long, help_heading = "Addresses")]
    pub allow_loopback: bool,

    /// Only ports that have a SERVICE_NAME or `SERVICE_<port>_NAME`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", hide_default_value = true, hide_possible_values = true,
        value_name = "BOOL", help_heading = "What")]
    pub explicit: bool,

    /// Only containers with this label: label=NAME or label=NAME=VALUE; all that are given
    /// must match
    #[arg(long, value_name = "FILTER", help_heading = "What")]
    pub filter: Vec<String>,

    /// Tags of every service, separated by commas
    #[arg(
        long,
        value_name = "TAGS",
        default_value = "",
        hide_default_value = true,
        help_heading = "What"
    )]
    pub tags: String,

    /// Add `-<port>` to names: auto (several ports), always, never
    #[arg(long, value_enum, default_value = "auto", help_heading = "What")]
    pub name_suffix: SuffixArg,

    /// Put this before every service name
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        help_heading = "What"
    )]
    pub service_prefix: String,

    /// When a container ends: always deregister, only on-success (exit 0 or by signal), never.
    /// Label: SERVICE_DEREGISTER
    #[arg(long, value_enum, default_value = "always", help_heading = "When")]
    pub deregister: DeregisterArg,

    /// When the registrator ends: keep the services, deregister them, or put them in maintenance
    /// until it is back
    #[arg(long, value_enum, default_value = "keep", help_heading = "When")]
    pub on_exit: OnExitArg,

    /// How often all containers are inspected, and all services compared, though nothing hints at
    /// a change; writes nothing when equal; 0: never. A bare number means seconds
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds,
        help_heading = "When")]
    pub resync: Duration,

    /// Give every service a TTL check that the registrator keeps passing: services expire when
    /// the registrator is gone for that long
    #[arg(long, value_name = "TIME", default_value = "0", hide_default_value = true,
        value_parser = seconds, help_heading = "When")]
    pub ttl: Duration,

    /// How often TTL checks are reported; default: a third of their TTL
    #[arg(long, value_name = "TIME", default_value = "0", hide_default_value = true,
        value_parser = seconds, help_heading = "When")]
    pub ttl_refresh: Duration,

    /// How long Docker's last HEALTHCHECK verdict counts when the registrator is gone
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds,
        help_heading = "When")]
    pub health_ttl: Duration,

    /// A container that still runs this long after its stop signal is registered again
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = seconds,
        help_heading = "When")]
    pub drain_timeout: Duration,

    /// How long at most a service is held back whose container restarts again and again; 0: never
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds,
        help_heading = "When")]
    pub restart_hold_max: Duration,

    /// First pause after a failure, doubled up to 5 s (a refusal: 60 s). A bare number means ms
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = milliseconds,
        help_heading = "When")]
    pub retry_interval: Duration,

    /// Give up after so many failed attempts to reach the agent at the start; -1: never
    #[arg(
        long,
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true,
        help_heading = "When"
    )]
    pub retry_attempts: i64,

    /// Accepted from the old registrator; removing what is left over is always on
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "true", hide = true)]
    pub cleanup: bool,

    /// error, warn, info, debug or trace
    #[arg(
        long,
        env = "MUSTER_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL",
        help_heading = "Logs"
    )]
    pub log_level: tracing::Level,

    /// Logs as JSON, one object per line
    #[arg(long, help_heading = "Logs")]
    pub log_json: bool,
}

const EXAMPLES: &str = "\
Examples:
  muster-registrator muster://localhost:8500
      every published port of every container, at the agent's address
  muster-registrator --address-mode=internal --network=mesh --explicit muster://agent1:8500
      container addresses of one network, only what has a SERVICE_NAME
  muster-registrator -ip 192.0.2.7 -resync 30 consul://localhost:8500
      as with the old registrator

Stop signals: a container leaves the catalog when it is sent its stop signal (docker stop), before
it is dead; with the label SERVICE_DRAIN=5s it is shown in maintenance for that time first.";

/// See [`Mode`](crate::address::Mode).
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeArg {
    /// Host address and published port.
    Published,
    /// Container address and its own port.
    Internal,
    /// Published where it is, else internal.
    Auto,
}

/// See [`Family`](crate::address::Family).
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FamilyArg {
    /// IPv4.
    #[value(name = "4")]
    V4,
    /// IPv6.
    #[value(name = "6")]
    V6,
    /// Both.
    Dual,
}

/// See [`NameSuffix`](crate::plan::NameSuffix).
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SuffixArg {
    /// With several ports.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// See [`Deregister`](crate::plan::Deregister).
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DeregisterArg {
    /// Always.
    Always,
    /// After exit code 0 or an end by signal.
    OnSuccess,
    /// Never.
    Never,
}

/// See [`OnExit`](crate::reconcile::OnExit).
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnExitArg {
    /// Keep the services.
    Keep,
    /// Deregister them.
    Deregister,
    /// Put them in maintenance.
    Maintenance,
}

/// A combination of flags that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither address nor interface.
    #[error("--ip: `{0}` is neither an IP address nor an interface with one")]
    Ip(String),
    /// Loopback without consent.
    #[error("--ip: no other machine reaches {0}: give another address, or --allow-loopback")]
    Loopback(IpAddr),
    /// A filter that is no label filter.
    #[error("--filter: `{0}` is not label=NAME or label=NAME=VALUE")]
    Filter(String),
    /// A template.
    #[error("--tags: templates such as `{0}` are not supported: use SERVICE_TAGS per container")]
    TagTemplate(String),
    /// A file that has no token.
    #[error("--token-file: `{}` is empty", .0.display())]
    Token(std::path::PathBuf),
    /// A beat that comes too late.
    #[error("--ttl-refresh must be shorter than {0}")]
    Refresh(&'static str),
    /// A catalog that is not one of ours.
    #[error("catalog `{0}`: {1}")]
    Catalog(String, &'static str),
    /// What the client says about it.
    #[error(transparent)]
    Client(#[from] muster_client::Error),
    /// TLS to the engine.
    #[error("DOCKER_TLS_VERIFY is set, but TLS to Docker is not supported: use its unix socket")]
    DockerTls,
}

impl Args {
    /// Reads the process's arguments; prints and exits on `--help` and on mistakes, as clap does.
    pub fn read() -> Self {
        Self::parse_from(normalise(std::env::args_os()))
    }

    /// Reads arguments; the first is the program's name.
    pub fn try_read(args: &[&str]) -> Result<Self, clap::Error> {
        Self::try_parse_from(normalise(args.iter().map(OsString::from)))
    }
}

#[cfg(test)]
mod tests;
