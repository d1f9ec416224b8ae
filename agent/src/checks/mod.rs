//! Health checks: what they are, what they decide, and when they run.
//!
//! ```text
//!  client::types::CheckDefinition ──▶ definition.rs  validated, with defaults
//!                                          │
//!  runner.rs  one schedule for all ────────┤ due? ──▶ http.rs grpc.rs tcp.rs ... ──▶ Outcome
//!      ▲                                   │          script.rs docker.rs ttl.rs       │
//!      └────────── status.rs  counts in a row ◀────────────────────────────────────────┘
//!                        │ only what is to be told
//!                        ▼
//!                      local/  keeps it, and corrects the catalog
//! ```
//!
//! A probe knows one run: it takes its definition and answers with an [`CheckResult`]. When to run, how
//! many at a time, how often in a row a result must come before it counts, and who is told, is the
//! [`Runner`]'s part and the same for all.

pub mod alias;
pub(crate) mod child;
mod definition;
pub mod docker;
mod flap;
pub mod grpc;
pub mod h2ping;
pub mod http;
mod lateness;
pub mod os_service;
mod output;
mod runner;
pub mod script;
mod status;
pub mod tcp;
pub mod ttl;
pub mod udp;
mod warmup;

use std::time::Duration;

pub use definition::{
    DEREGISTER_AFTER_MIN, Definition, INTERVAL_MIN, Invalid, OUTPUT_BYTES_MAX, Probe, Shared,
    is_empty, kind,
};
pub use flap::{FlapLimit, History};
pub use lateness::Late;
pub use output::Tail;
pub use runner::{First, Report, Runner};
pub use status::{Streak, Thresholds};

use crate::net::tls::Tls;
pub use crate::store::CheckStatus as Status;

/// Resources that probes share. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// For encrypted connections.
    pub tls: Tls,
    /// The engine whose containers are looked into.
    pub engine: docker::Engine,
    /// Connection to the operating system's service manager.
    pub bus: os_service::Bus,
}

/// Result of one run of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Its status.
    pub status: Status,
    /// Output of the check, for people.
    pub output: String,
    /// Counts at once, whatever the thresholds: a script that was killed is not half alive.
    pub decisive: bool,
    /// Nobody listens there, and that was clear at once: perhaps the program has only begun.
    pub unheard: bool,
}

impl CheckResult {
    /// A result that the thresholds weigh.
    pub fn new(status: Status, output: impl Into<String>) -> CheckResult {
        CheckResult { status, output: output.into(), decisive: false, unheard: false }
    }

    /// A failure, in words of our own: a connection that failed, an answer that did not come.
    pub fn critical(output: impl Into<String>) -> CheckResult {
        let output = output.into();
        let unheard = speaks_of_nobody(&output);
        CheckResult { unheard, ..CheckResult::new(Status::Critical, output) }
    }

    /// A result that counts at once.
    #[must_use]
    pub fn decisive(mut self) -> CheckResult {
        self.decisive = true;
        self
    }
}

/// Is it the error of a connection where nobody listens? A port that an engine publishes accepts all
/// the same, and hangs up without a word.
fn speaks_of_nobody(error: &str) -> bool {
    const ENDS: [&str; 3] = ["connection refused", "connection reset by peer", ": EOF"];
    // gRPC quotes the reason.
    let error = error.trim_end_matches('"');
    ENDS.iter().any(|end| error.ends_with(end)) || error.contains("transport is closing: ")
}

/// Output for a program that reached its time-out, with what it had printed.
fn timed_out(timeout: Duration, tail: &Tail) -> String {
    let mut text =
        format!("Timed out ({}) running check", muster_client::types::format_duration(timeout));
    let output = tail.captured();
    if !output.is_empty() {
        text.push_str("\n\n");
        text.push_str(&output);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_connections_where_nobody_listens() {
        for (error, unheard) in [
            ("dial tcp 127.0.0.1:1: connect: connection refused", true),
            ("Get \"http://x/\": dial tcp 127.0.0.1:1: connect: connection refused", true),
            ("Get \"http://x/\": EOF", true),
            ("read udp 127.0.0.1:1: connection refused", true),
            ("Failed to dial to x: dial tcp [::1]:1: connect: connection reset by peer", true),
            (
                "desc = \"transport: Error while dialing dial tcp x: connect: connection refused\"",
                true,
            ),
            ("rpc error: code = Unavailable desc = transport is closing: broken pipe", true),
            ("Get \"/\": stopped after 10 redirects", false),
            ("Get \"https://web.example/x\": 403 Forbidden", false),
            ("dial tcp 192.0.2.1:80: i/o timeout", false),
            ("x509: certificate signed by unknown authority", false),
            ("gRPC application didn't report service healthy", false),
            ("TTL expired", false),
        ] {
            assert_eq!(CheckResult::critical(error).unheard, unheard, "{error}");
        }
        // What a program says of others is its answer.
        let answer = "HTTP GET http://x/: 500 Internal Server Error Output: connection refused";
        assert!(!CheckResult::new(Status::Critical, answer).unheard);
    }
}
