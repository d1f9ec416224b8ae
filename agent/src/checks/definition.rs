//! A check as this agent runs it: validated, with every default filled in.
//!
//! The rules and their texts are the reference's. They are few: it asks for an interval or a TTL and
//! hardly looks at the target; a URL that makes no sense is found out by the first run.

use std::time::Duration;

use muster_client::types::{CheckDefinition, parse_nanos};

use super::status::Thresholds;
use super::{docker, grpc, h2ping, http, os_service, script, tcp, udp};
use crate::checks::flap::FlapLimit;
use crate::net::tls::Verify;

/// The shortest pause between two runs; smaller ones are raised to it.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Bytes of output that are kept when nothing else is said.
pub const OUTPUT_BYTES_MAX: usize = 4096;
/// A service is not taken away for a check that has been critical for less than this, unless the agent
/// is told otherwise.
pub const DEREGISTER_AFTER_MIN: Duration = Duration::from_mins(1);

/// A definition that makes no check. `Display` is the reference's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Kind of probe.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Nothing: its owner reports within this time, or it is critical.
    Ttl(Duration),
    /// A request.
    Http(http::Target),
    /// A connection.
    Tcp(tcp::Target),
    /// A connection over which HTTP/2 is spoken.
    H2Ping(h2ping::Target),
    /// A call of gRPC's health protocol.
    Grpc(grpc::Target),
    /// A datagram.
    Udp(udp::Target),
    /// A look at the operating system's service manager.
    OsService(os_service::Target),
    /// A program.
    Script(script::Command),
    /// A program in a container.
    Docker(docker::Command),
    /// Looks at other checks: of a service of this agent, or of a node and maybe a service there.
    Alias {
        /// Empty: this agent.
        node: String,
        /// Empty: the node's checks.
        service: String,
    },
}

/// Settings that all definitions of an agent share.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Bytes of output that are kept at most.
    pub output_bytes_max: usize,
    /// No service is taken away before its check has been critical for so long.
    pub deregister_after_min: Duration,
    /// Hold back what flaps.
    pub flap_limit: Option<FlapLimit>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            output_bytes_max: OUTPUT_BYTES_MAX,
            deregister_after_min: DEREGISTER_AFTER_MIN,
            flap_limit: None,
        }
    }
}

/// A check, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The probe.
    pub probe: Probe,
    /// Pause between the end of a run and the next. Zero for TTL and alias checks.
    pub interval: Duration,
    /// When a result counts.
    pub thresholds: Thresholds,
    /// Limit for flapping results.
    pub flap_limit: Option<FlapLimit>,
    /// The check's service goes when the check has been critical for so long.
    pub deregister_after: Option<Duration>,
    /// Bytes of output that are kept.
    pub output_bytes_max: usize,
}

impl Definition {
    /// Is it reported to instead of run?
    pub fn ttl(&self) -> Option<Duration> {
        match self.probe {
            Probe::Ttl(ttl) => Some(ttl),
            _ => None,
        }
    }

    /// Validates what a user wrote.
    pub fn new(written: &CheckDefinition, shared: Shared) -> Result<Definition, Invalid> {
        let interval = nanos("Interval", written.interval.as_deref())?;
        let ttl = nanos("TTL", written.ttl.as_deref())?;
        let timeout = positive(nanos("Timeout", written.timeout.as_deref())?);
        validate(written, interval, ttl)?;
        let deregister_after = nanos(
            "DeregisterCriticalServiceAfter",
            written.deregister_critical_service_after.as_deref(),
        )?;
        let output_bytes_max = match usize::try_from(written.output_max_size) {
            Ok(max @ 1..) => max.min(shared.output_bytes_max),
            _ => shared.output_bytes_max,
        };
        let interval = positive(interval).unwrap_or_default();
        let probe = probe(written, ttl, timeout, output_bytes_max)?;
        let interval = match probe {
            Probe::Ttl(_) | Probe::Alias { .. } => Duration::ZERO,
            _ => interval.max(INTERVAL_MIN),
        };
        Ok(Definition {
            probe,
            interval,
            thresholds: Thresholds {
                success_before_passing: written.success_before_passing,
                failures_before_warning: written.failures_before_warning,
                failures_before_critical: written.failures_before_critical,
            },
            flap_limit: shared.flap_limit,
            deregister_after: positive(deregister_after)
                .map(|after| after.max(shared.deregister_after_min)),
            output_bytes_max,
        })
    }
}

/// Does the definition say nothing at all? Such a one in a service's definition is no check.
pub fn is_empty(written: &CheckDefinition) -> bool {
    let none = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    let zero = |text: &Option<String>| {
        text.as_deref().is_none_or(|text| text.is_empty() || parse_nanos(text) == Some(0))
    };
    let rest = CheckDefinition {
        id: written.id.clone().filter(|text| !text.is_empty()),
        status: written.status,
        header: written.header.clone(),
        args: written.args.clone(),
        grpc_use_tls: written.grpc_use_tls,
        tls_skip_verify: written.tls_skip_verify,
        tcp_use_tls: written.tcp_use_tls,
        h2ping_use_tls: written.h2ping_use_tls,
        disable_redirects: written.disable_redirects,
        failures_before_warning: written.failures_before_warning,
        success_before_passing: written.success_before_passing,
        failures_before_critical: written.failures_before_critical,
        output_max_size: written.output_max_size,
        ..CheckDefinition::default()
    };
    rest == CheckDefinition::default()
        && written.name.is_empty()
        && written.notes.is_empty()
        && none(&written.http)
        && none(&written.method)
        && none(&written.body)
        && none(&written.tcp)
        && none(&written.grpc)
        && none(&written.udp)
        && none(&written.h2ping)
        && none(&written.os_service)
        && none(&written.tls_server_name)
        && none(&written.docker_container_id)
        && none(&written.shell)
        && none(&written.alias_node)
        && none(&written.alias_service)
        && zero(&written.ttl)
        && zero(&written.interval)
        && zero(&written.timeout)
        && zero(&written.deregister_critical_service_after)
}

/// The word for its kind in the API (`Type`).
pub fn kind(written: &CheckDefinition) -> &'static str {
    let given = Given::of(written);
    let has_interval = |text: &Option<String>| {
        text.as_deref().and_then(parse_nanos).is_some_and(|interval| interval > 0)
    };
    let interval = has_interval(&written.interval);
    if given.grpc && interval {
        "grpc"
    } else if given.http && interval {
        "http"
    } else if has_interval(&written.ttl) {
        "ttl"
    } else if given.tcp && interval {
        "tcp"
    } else if given.udp && interval {
        "udp"
    } else if given.h2ping && interval {
        "h2ping"
    } else if given.os_service && interval {
        "os_service"
    } else if given.alias {
        "alias"
    } else if given.script && given.docker {
        "docker"
    } else if given.script {
        "script"
    } else {
        ""
    }
}

/// Which kinds a definition mentions.
#[expect(clippy::struct_excessive_bools, reason = "one for each kind of check")]
struct Given {
    http: bool,
    tcp: bool,
    grpc: bool,
    udp: bool,
    h2ping: bool,
    os_service: bool,
    script: bool,
    docker: bool,
    alias: bool,
}

impl Given {
    fn of(written: &CheckDefinition) -> Given {
        let some = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        Given {
            http: some(&written.http),
            tcp: some(&written.tcp),
            grpc: some(&written.grpc),
            udp: some(&written.udp),
            h2ping: some(&written.h2ping),
            os_service: some(&written.os_service),
            script: !written.args.is_empty(),
            docker: some(&written.docker_container_id),
            alias: some(&written.alias_node) || some(&written.alias_service),
        }
    }
}

/// The reference's rules, in its order.
fn validate(written: &CheckDefinition, interval: i64, ttl: i64) -> Result<(), Invalid> {
    let given = Given::of(written);
    let newer = given.udp || given.h2ping || given.os_service;
    let runs = given.script || given.http || given.tcp || given.grpc || newer;
    let wrong = |text: &str| Err(Invalid(text.to_owned()));
    if interval > 0 && ttl > 0 {
        wrong("Interval and TTL cannot both be specified")
    } else if runs && interval <= 0 {
        wrong(if newer {
            "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"
        } else {
            "Interval must be > 0 for Script, HTTP, or TCP checks"
        })
    } else if runs && given.alias {
        wrong("Interval cannot be set for Alias checks")
    } else if given.alias && ttl > 0 {
        wrong("TTL must be not be set for Alias checks")
    } else if !runs && !given.alias && ttl <= 0 {
        wrong("TTL must be > 0 for TTL checks")
    } else {
        Ok(())
    }
}

/// Builds the probe of a valid definition.
fn probe(
    written: &CheckDefinition,
    ttl: i64,
    timeout: Option<Duration>,
    output_bytes_max: usize,
) -> Result<Probe, Invalid> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let tls = |on: bool| {
        on.then(|| Verify {
            certificate: !written.tls_skip_verify,
            name: text(&written.tls_server_name),
        })
    };
    let timeout_or = |default| timeout.unwrap_or(default);
    Ok(match kind(written) {
        "ttl" => Probe::Ttl(positive(ttl).unwrap_or_default()),
        "http" => Probe::Http(http::Target {
            url: text(&written.http),
            method: written.method.clone().filter(|m| !m.is_empty()).unwrap_or("GET".into()),
            headers: written.header.clone(),
            body: text(&written.body),
            verify: tls(true).unwrap_or_default(),
            follow: !written.disable_redirects,
            timeout: timeout_or(http::TIMEOUT),
            output_bytes_max,
        }),
        "tcp" => Probe::Tcp(tcp::Target {
            address: text(&written.tcp),
            tls: tls(written.tcp_use_tls),
            timeout: timeout_or(tcp::TIMEOUT),
        }),
        "udp" => Probe::Udp(udp::Target {
            address: text(&written.udp),
            timeout: timeout_or(udp::TIMEOUT),
        }),
        "h2ping" => Probe::H2Ping(h2ping::Target {
            address: text(&written.h2ping),
            tls: tls(written.h2ping_use_tls.unwrap_or(true)),
            timeout: timeout_or(h2ping::TIMEOUT),
        }),
        "grpc" => Probe::Grpc(grpc::Target {
            target: text(&written.grpc),
            tls: tls(written.grpc_use_tls),
            timeout: timeout_or(grpc::TIMEOUT),
        }),
        "os_service" => Probe::OsService(os_service::Target {
            unit: text(&written.os_service),
            timeout: timeout_or(os_service::TIMEOUT),
        }),
        "script" => Probe::Script(script::Command {
            args: written.args.clone(),
            timeout: timeout_or(script::TIMEOUT),
            output_bytes_max,
        }),
        "docker" => Probe::Docker(docker::Command {
            container: docker::container(&text(&written.docker_container_id)).map_err(Invalid)?,
            shell: text(&written.shell),
            args: written.args.clone(),
            timeout: timeout_or(docker::TIMEOUT),
            output_bytes_max,
        }),
        "alias" => {
            Probe::Alias { node: text(&written.alias_node), service: text(&written.alias_service) }
        }
        // `validate` lets nothing else through.
        _ => return Err(Invalid("TTL must be > 0 for TTL checks".to_owned())),
    })
}

/// A duration as written, in nanoseconds; it may be negative, and is then as good as none.
fn nanos(field: &str, text: Option<&str>) -> Result<i64, Invalid> {
    match text {
        None | Some("") => Ok(0),
        Some(text) => parse_nanos(text)
            .ok_or_else(|| Invalid(format!("{field}: time: invalid duration {text}"))),
    }
}

fn positive(nanos: i64) -> Option<Duration> {
    u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests;
