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
//! A probe knows one run: it takes its definition and answers with an [`Outcome`]. When to run, how
//! many at a time, how often in a row a result must come before it counts, and who is told, is the
//! [`Runner`]'s part and the same for all.

pub mod alias;
mod damper;
mod definition;
pub mod docker;
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
pub mod tls;
pub mod ttl;
pub mod udp;

use std::time::Duration;

pub use damper::{Damping, History};
pub use definition::{
    DEREGISTER_AFTER_MIN, Definition, INTERVAL_MIN, Invalid, OUTPUT_BYTES_MAX, Probe, Shared,
    is_empty, kind,
};
pub use lateness::Late;
pub use output::Tail;
pub use runner::{First, Report, Runner};
pub use status::{Streak, Thresholds};

pub use crate::store::CheckStatus as Status;

/// What probes need besides their definitions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Means {
    /// For encrypted connections.
    pub tls: tls::Tls,
    /// The engine whose containers are looked into.
    pub engine: docker::Engine,
    /// Where the operating system's service manager is asked.
    pub bus: os_service::Bus,
}

/// What one run of a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it is.
    pub status: Status,
    /// What the check has to say, for people.
    pub output: String,
    /// Counts at once, whatever the thresholds: a script that was killed is not half alive.
    pub decisive: bool,
}

impl Outcome {
    /// A result that the thresholds weigh.
    pub fn new(status: Status, output: impl Into<String>) -> Outcome {
        Outcome { status, output: output.into(), decisive: false }
    }

    /// A failure.
    pub fn critical(output: impl Into<String>) -> Outcome {
        Outcome::new(Status::Critical, output)
    }

    /// A result that counts at once.
    #[must_use]
    pub fn decisive(mut self) -> Outcome {
        self.decisive = true;
        self
    }
}

/// What is said of a program whose time was up, with the output it had until then.
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
