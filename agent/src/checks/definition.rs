//! A check as this agent runs it: validated, with every default filled in.
//!
//! The rules and their texts are the reference's. They are few: it asks for an interval or a TTL and
//! hardly looks at the target; a URL that makes no sense is found out by the first run.

use std::time::Duration;

use muster_client::types::{CheckDefinition, parse_nanos};

use super::status::Thresholds;
use super::{http, script, tcp};

/// The shortest pause between two runs; smaller ones are raised to it.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Bytes of output that are kept when nothing else is said.
pub const OUTPUT_BYTES_MAX: usize = 4096;
/// A service is not taken away for a check that has been critical for less than this.
const DEREGISTER_AFTER_MIN: Duration = Duration::from_mins(1);

/// A definition that makes no check. `Display` is the reference's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// What one run does.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Nothing: its owner reports within this time, or it is critical.
    Ttl(Duration),
    /// A request.
    Http(http::Target),
    /// A connection.
    Tcp(tcp::Target),
    /// A program.
    Script(script::Command),
    /// Looks at other checks: of a service of this agent, or of a node and maybe a service there.
    Alias {
        /// Empty: this agent.
        node: String,
        /// Empty: the node's checks.
        service: String,
    },
}

/// What all definitions of an agent share.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Bytes of output that are kept at most.
    pub output_bytes_max: usize,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { output_bytes_max: OUTPUT_BYTES_MAX }
    }
}

/// A check, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// What a run does.
    pub probe: Probe,
    /// Pause between the end of a run and the next. Zero for TTL and alias checks.
    pub interval: Duration,
    /// When a result counts.
    pub thresholds: Thresholds,
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
                failures_before_critical: written.failures_before_critical,
            },
            deregister_after: positive(deregister_after)
                .map(|after| after.max(DEREGISTER_AFTER_MIN)),
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
            script: !written.args.is_empty(),
            docker: some(&written.docker_container_id),
            alias: some(&written.alias_node) || some(&written.alias_service),
        }
    }
}

/// The reference's rules, in its order.
fn validate(written: &CheckDefinition, interval: i64, ttl: i64) -> Result<(), Invalid> {
    let given = Given::of(written);
    let runs = given.script || given.http || given.tcp || given.grpc;
    let wrong = |text: &str| Err(Invalid(text.to_owned()));
    if interval > 0 && ttl > 0 {
        wrong("Interval and TTL cannot both be specified")
    } else if runs && interval <= 0 {
        wrong("Interval must be > 0 for Script, HTTP, or TCP checks")
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

/// What a valid definition runs.
fn probe(
    written: &CheckDefinition,
    ttl: i64,
    timeout: Option<Duration>,
    output_bytes_max: usize,
) -> Result<Probe, Invalid> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(match kind(written) {
        "ttl" => Probe::Ttl(positive(ttl).unwrap_or_default()),
        "http" if http::is_tls(&text(&written.http)) => {
            return Err(Invalid("HTTPS checks are not supported yet".into()));
        }
        "http" => Probe::Http(http::Target {
            url: text(&written.http),
            method: written.method.clone().filter(|m| !m.is_empty()).unwrap_or("GET".into()),
            headers: written.header.clone(),
            body: text(&written.body),
            tls_verify: !written.tls_skip_verify,
            timeout: timeout.unwrap_or(http::TIMEOUT),
            output_bytes_max,
        }),
        "tcp" => Probe::Tcp(tcp::Target {
            address: text(&written.tcp),
            timeout: timeout.unwrap_or(tcp::TIMEOUT),
        }),
        "script" => Probe::Script(script::Command {
            args: written.args.clone(),
            timeout: timeout.unwrap_or(script::TIMEOUT),
            output_bytes_max,
        }),
        "alias" => {
            Probe::Alias { node: text(&written.alias_node), service: text(&written.alias_service) }
        }
        "grpc" => return Err(Invalid("gRPC checks are not supported yet".into())),
        _ => return Err(Invalid("Docker checks are not supported yet".into())),
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
mod tests {
    use super::*;

    /// Names and values.
    type Fields<'a> = &'a [(&'a str, &'a str)];

    fn written(fields: Fields<'_>) -> CheckDefinition {
        let mut check = CheckDefinition::default();
        for (name, value) in fields {
            let value = (*value).to_owned();
            match *name {
                "interval" => check.interval = Some(value),
                "ttl" => check.ttl = Some(value),
                "http" => check.http = Some(value),
                "tcp" => check.tcp = Some(value),
                "grpc" => check.grpc = Some(value),
                "args" => check.args = vec![value],
                "docker" => check.docker_container_id = Some(value),
                "alias" => check.alias_service = Some(value),
                "timeout" => check.timeout = Some(value),
                "deregister" => check.deregister_critical_service_after = Some(value),
                "name" => check.name = value,
                other => panic!("{other}"),
            }
        }
        check
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let check = written(&[("http", "HTTPS://x"), ("interval", "1s")]);
        let error = Definition::new(&check, Shared::default()).unwrap_err();
        assert_eq!(error.to_string(), "HTTPS checks are not supported yet");
    }

    #[test]
    fn texts_of_the_reference() {
        let both = "Interval and TTL cannot both be specified";
        let interval = "Interval must be > 0 for Script, HTTP, or TCP checks";
        let ttl = "TTL must be > 0 for TTL checks";
        let rows: [(Fields<'_>, &str); 17] = [
            (&[("interval", "1s"), ("ttl", "1s")], both),
            (&[("http", "x"), ("interval", "1s"), ("ttl", "1s")], both),
            (&[("http", "x")], interval),
            (&[("http", "x"), ("ttl", "1s")], interval),
            (&[("tcp", "x")], interval),
            (&[("grpc", "x")], interval),
            (&[("args", "x"), ("interval", "-1s")], interval),
            (
                &[("alias", "x"), ("interval", "1s"), ("tcp", "x")],
                "Interval cannot be set for Alias checks",
            ),
            (&[("alias", "x"), ("ttl", "1s")], "TTL must be not be set for Alias checks"),
            (&[], ttl),
            (&[("name", "x")], ttl),
            (&[("interval", "1s")], ttl),
            (&[("ttl", "-5s")], ttl),
            (&[("docker", "x"), ("interval", "1s")], ttl),
            (&[("ttl", "x")], "TTL: time: invalid duration x"),
            (&[("grpc", "x"), ("interval", "1s")], "gRPC checks are not supported yet"),
            (
                &[("docker", "x"), ("args", "x"), ("interval", "1s")],
                "Docker checks are not supported yet",
            ),
        ];
        for (fields, text) in rows {
            let error = Definition::new(&written(fields), Shared::default()).unwrap_err();
            assert_eq!(error.to_string(), text, "{fields:?}");
        }
    }

    #[test]
    fn kinds_and_their_defaults() {
        let rows: [(Fields<'_>, &str, u64); 6] = [
            (&[("ttl", "10s")], "ttl", 0),
            (&[("http", "http://x"), ("interval", "10s")], "http", 10_000),
            (&[("tcp", "x:1"), ("interval", "1ms")], "tcp", 1_000),
            (&[("args", "/bin/true"), ("interval", "1m")], "script", 60_000),
            (&[("alias", "web")], "alias", 0),
            (&[("alias", "web"), ("interval", "1s")], "alias", 0),
        ];
        for (fields, expected, interval_ms) in rows {
            let written = written(fields);
            assert_eq!(kind(&written), expected);
            let definition = Definition::new(&written, Shared::default()).unwrap();
            assert_eq!(definition.interval, Duration::from_millis(interval_ms), "{fields:?}");
            assert_eq!(definition.output_bytes_max, 4096);
            assert_eq!(definition.deregister_after, None);
        }
    }

    #[test]
    fn limits_are_raised_and_lowered() {
        let mut check = written(&[("ttl", "10s"), ("deregister", "5s")]);
        check.output_max_size = 10_000;
        let definition = Definition::new(&check, Shared { output_bytes_max: 100 }).unwrap();
        assert_eq!(definition.deregister_after, Some(Duration::from_mins(1)));
        assert_eq!(definition.output_bytes_max, 100);
        check.output_max_size = 5;
        check.deregister_critical_service_after = Some("90m".into());
        let definition = Definition::new(&check, Shared { output_bytes_max: 100 }).unwrap();
        assert_eq!(definition.deregister_after, Some(Duration::from_mins(90)));
        assert_eq!(definition.output_bytes_max, 5);
    }

    #[test]
    fn a_definition_that_says_nothing_is_empty() {
        assert!(is_empty(&CheckDefinition::default()));
        assert!(is_empty(&written(&[("ttl", "0"), ("http", ""), ("interval", "0s")])));
        for field in ["ttl", "interval", "timeout", "deregister"] {
            assert!(!is_empty(&written(&[(field, "1s")])), "{field}");
        }
        for field in ["http", "tcp", "args", "docker", "alias", "name", "grpc"] {
            assert!(!is_empty(&written(&[(field, "x")])), "{field}");
        }
    }
}
