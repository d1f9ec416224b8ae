//! The checks of one service: from `SERVICE_CHECK_*` keys, and from Docker's own `HEALTHCHECK`.
//!
//! | key | check |
//! |---|---|
//! | `CHECK_HTTP`, `CHECK_HTTPS` = path | GET (or `CHECK_HTTP_METHOD`) of that path |
//! | `CHECK_TCP` | connects to address and port |
//! | `CHECK_GRPC` | gRPC health protocol; a value other than a yes is the service to ask for |
//! | `CHECK_TTL` = duration | the program itself reports |
//! | `CHECK_SCRIPT` = command | run by the agent's shell with `$SERVICE_IP` and `$SERVICE_PORT` |
//! | `CHECK_CMD` = command | run by the agent as `check-cmd <container> <port> <command>` |
//! | `CHECK_DOCKER` = command | run by the agent inside the container |
//!
//! The first four are not applied to UDP ports unless the key names the port: they talk TCP.
//!
//! Modifiers: `CHECK_INTERVAL` (10s), `CHECK_TIMEOUT`, `CHECK_INITIAL_STATUS`,
//! `CHECK_DEREGISTER_AFTER`, `CHECK_TLS_SKIP_VERIFY`, `CHECK_GRPC_USE_TLS`, `CHECK_PORT`,
//! `CHECK_NAME`, `CHECK_SUCCESS_BEFORE_PASSING`, `CHECK_FAILURES_BEFORE_CRITICAL`. Further checks
//! of the same service carry a number: `CHECK_2_HTTP`, `CHECK_2_INTERVAL`.
//!
//! Docker's `HEALTHCHECK` becomes a TTL check that follows the engine's verdict, unless
//! `CHECK_DOCKER_HEALTH` says no. While there is no verdict (`starting`) the check is critical:
//! an instance gets no traffic before it said that it can take it. `CHECK_INITIAL_STATUS=passing`
//! turns that round.

use std::net::IpAddr;
use std::time::Duration;

use muster_client::types::{CheckDefinition, Status, format_duration, parse_duration};

use crate::container::{Container, DockerHealth, Port, Protocol, Run};
use crate::metadata::{Metadata, parse_switch};

/// What the agent runs against, and what it may run.
pub struct Target<'a> {
    /// Id of the service the checks belong to.
    pub service_id: &'a str,
    /// Name of that service.
    pub service_name: &'a str,
    /// Host to connect to.
    pub host: &'a str,
    /// Port to connect to.
    pub port: u16,
    /// Port inside the container: keys are looked up for it.
    pub container_port: Port,
    /// False once the agent has refused to run commands.
    pub scripts_allowed: bool,
}

/// A TTL check that the registrator keeps alive, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Id of the check.
    pub check_id: String,
    /// The status it should have.
    pub status: Status,
    /// The text beside it.
    pub output: String,
}

/// Kinds in the order in which the old tool looked for them: the first one given counts.
const KINDS: [&str; 8] = ["http", "https", "cmd", "script", "ttl", "tcp", "grpc", "docker"];

/// Parts of a `CHECK_` key after its number; anything else there belongs to the user.
const MODIFIERS: [&str; 13] = [
    "http_method",
    "https_method",
    "interval",
    "timeout",
    "initial_status",
    "deregister_after",
    "tls_skip_verify",
    "grpc_use_tls",
    "port",
    "name",
    "success_before_passing",
    "failures_before_critical",
    "docker_health",
];

/// Highest number of a numbered check.
const NUMBER_MAX: u8 = 9;

/// Whether `name` (lower-case, without `service_`) is a key of this module.
pub fn is_check_key(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("check_") else { return false };
    let rest = match rest.split_once('_') {
        Some((number, rest)) if number.parse::<u8>().is_ok() => rest,
        _ => rest,
    };
    KINDS.contains(&rest) || MODIFIERS.contains(&rest)
}

/// The checks that the keys ask for, in order of their numbers.
pub fn from_keys(
    container: &Container,
    metadata: &Metadata,
    target: &Target<'_>,
    warn: &mut impl FnMut(String),
) -> Vec<CheckDefinition> {
    let numbered = (1..=NUMBER_MAX).map(|number| format!("check_{number}_"));
    std::iter::once("check_".to_owned())
        .chain(numbered)
        .filter_map(|prefix| Keys { metadata, target, prefix }.check(container, warn))
        .collect()
}

/// The keys of one check.
struct Keys<'a> {
    metadata: &'a Metadata,
    target: &'a Target<'a>,
    /// `check_` or `check_2_`.
    prefix: String,
}

impl Keys<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.metadata.text(self.target.container_port.number, &format!("{}{name}", self.prefix))
    }

    fn key(&self, name: &str) -> String {
        format!("SERVICE_{}{}", self.prefix, name).to_ascii_uppercase()
    }

    /// A value that must be readable; if it is not, the key is dropped with a warning.
    fn parsed<T>(
        &self,
        name: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        warn: &mut impl FnMut(String),
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(text);
        if value.is_none() {
            warn(format!("`{}`: `{text}` is not {wanted}; ignored", self.key(name)));
        }
        value
    }

    fn duration(&self, name: &str, warn: &mut impl FnMut(String)) -> Option<String> {
        let positive = |text: &str| parse_duration(text).ok().filter(|value| !value.is_zero());
        self.parsed(name, "a duration such as 10s", positive, warn).map(format_duration)
    }

    fn switch(&self, name: &str, warn: &mut impl FnMut(String)) -> bool {
        self.parsed(name, "a yes or no", parse_switch, warn).unwrap_or(false)
    }

    fn check(
        &self,
        container: &Container,
        warn: &mut impl FnMut(String),
    ) -> Option<CheckDefinition> {
        let asked_for = |kind: &&&str| match self.text(kind) {
            None => false,
            Some(_) if self.cannot_answer(kind) => false,
            // `CHECK_TCP=false` is a no; for the others the value is a path or a command.
            Some(text) => !matches!(**kind, "tcp" | "grpc") || parse_switch(text) != Some(false),
        };
        let mut kinds = KINDS.iter().filter(asked_for);
        let kind = *kinds.next()?;
        for other in kinds {
            warn(format!(
                "`{}` is ignored beside `{}`: one check per number, a second one is CHECK_2_…",
                self.key(other),
                self.key(kind)
            ));
        }
        let command = matches!(kind, "script" | "cmd" | "docker");
        if command && !self.target.scripts_allowed {
            warn(format!("`{}` is left out: the agent refuses to run commands", self.key(kind)));
            return None;
        }

        let mut check = CheckDefinition {
            id: Some(self.id()),
            name: self.text("name").map_or_else(
                || format!("Service '{}' check", self.target.service_name),
                ToOwned::to_owned,
            ),
            status: self.parsed("initial_status", "passing, warning or critical", status, warn),
            success_before_passing: self
                .parsed("success_before_passing", "a number", |text| text.parse().ok(), warn)
                .unwrap_or_default(),
            failures_before_critical: self
                .parsed("failures_before_critical", "a number", |text| text.parse().ok(), warn)
                .unwrap_or_default(),
            deregister_critical_service_after: self.duration("deregister_after", warn),
            ..CheckDefinition::default()
        };
        if kind == "ttl" {
            check.ttl = Some(self.duration("ttl", warn)?);
            return Some(check);
        }
        check.interval = Some(self.duration("interval", warn).unwrap_or_else(|| "10s".to_owned()));
        check.timeout = self.duration("timeout", warn);
        let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0);
        let port = self.parsed("port", "a port", port, warn).unwrap_or(self.target.port);
        let address = host_and_port(self.target.host, port);
        let value = self.text(kind).unwrap_or_default();
        match kind {
            "http" | "https" => {
                let slash = if value.starts_with('/') { "" } else { "/" };
                check.http = Some(format!("{kind}://{address}{slash}{value}"));
                check.method = self.text(&format!("{kind}_method")).map(str::to_ascii_uppercase);
                check.tls_skip_verify = self.switch("tls_skip_verify", warn);
            }
            "tcp" => check.tcp = Some(address),
            "grpc" => {
                let service = match parse_switch(value) {
                    Some(_) => String::new(),
                    None => format!("/{value}"),
                };
                check.grpc = Some(format!("{address}{service}"));
                check.grpc_use_tls = self.switch("grpc_use_tls", warn);
                check.tls_skip_verify = self.switch("tls_skip_verify", warn);
            }
            "script" => {
                let script = value
                    .replace("$SERVICE_IP", self.target.host)
                    .replace("$SERVICE_PORT", &port.to_string());
                check.args = shell(script);
            }
            "cmd" => {
                let port = self.target.container_port.number.to_string();
                let words = ["check-cmd", container.short_id(), &port, value];
                check.args = words.map(ToOwned::to_owned).to_vec();
            }
            _ => {
                check.docker_container_id = Some(container.id.clone());
                check.args = shell(value.to_owned());
            }
        }
        Some(check)
    }

    /// A UDP port never answers a check over TCP: keys for all ports do not mean it. A key for
    /// this very port does; there may be TCP on the same number.
    fn cannot_answer(&self, kind: &str) -> bool {
        let Port { number, protocol } = self.target.container_port;
        let over_tcp = matches!(kind, "http" | "https" | "tcp" | "grpc");
        let key = format!("{}{kind}", self.prefix);
        let for_port = self.metadata.get(number, &key).is_some_and(|value| value.for_port);
        protocol != Protocol::Tcp && over_tcp && !for_port
    }

    /// `service:<id>`, the catalog's own name for a single check, and `service:<id>:<n>`.
    fn id(&self) -> String {
        let number = self.prefix.trim_start_matches("check_").trim_end_matches('_');
        let colon = if number.is_empty() { "" } else { ":" };
        format!("service:{}{colon}{number}", self.target.service_id)
    }
}

fn shell(command: String) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), command]
}

fn status(text: &str) -> Option<Status> {
    text.to_ascii_lowercase().parse().ok()
}

fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// The TTL check that mirrors Docker's `HEALTHCHECK`; `None` if the container has none or does
/// not want it mirrored. `ttl` is how long the last verdict counts when the registrator is gone.
pub fn from_docker_health(
    container: &Container,
    metadata: &Metadata,
    target: &Target<'_>,
    ttl: Duration,
    warn: &mut impl FnMut(String),
) -> Option<(CheckDefinition, Beat)> {
    let health = container.health?;
    let keys = Keys { metadata, target, prefix: "check_".to_owned() };
    if keys.parsed("docker_health", "a yes or no", parse_switch, warn) == Some(false) {
        return None;
    }
    let (verdict, output) = match (container.run, health) {
        (Run::Paused, _) => (Status::Critical, "the container is paused"),
        (_, DockerHealth::Healthy) => (Status::Passing, "Docker says: healthy"),
        (_, DockerHealth::Unhealthy) => (Status::Critical, "Docker says: unhealthy"),
        (_, DockerHealth::Starting) => {
            let initial = keys.text("initial_status").and_then(status);
            (initial.unwrap_or(Status::Critical), "Docker says: starting")
        }
    };
    Some(ttl_check(target, "docker", "Docker HEALTHCHECK", ttl, verdict, output))
}

/// A TTL check that passes while the registrator lives: with `--ttl`.
pub fn heartbeat(target: &Target<'_>, ttl: Duration) -> (CheckDefinition, Beat) {
    let output = "the registrator is alive";
    ttl_check(target, "registrator", "Registrator heartbeat", ttl, Status::Passing, output)
}

fn ttl_check(
    target: &Target<'_>,
    suffix: &str,
    name: &str,
    ttl: Duration,
    status: Status,
    output: &str,
) -> (CheckDefinition, Beat) {
    let check_id = format!("service:{}:{suffix}", target.service_id);
    let check = CheckDefinition {
        id: Some(check_id.clone()),
        name: name.to_owned(),
        status: Some(status),
        ttl: Some(format_duration(ttl)),
        ..CheckDefinition::default()
    };
    (check, Beat { check_id, status, output: output.to_owned() })
}
