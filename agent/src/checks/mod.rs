//! Health checks: what they are, what they decide, and when they run.
//!
//! ```text
//!  client::types::CheckDefinition ──▶ definition.rs  validated, with defaults
//!                                          │
//!  runner.rs  one schedule for all ────────┤ due? ──▶ http.rs tcp.rs script.rs  ──▶ Outcome
//!      ▲                                   │                ttl.rs  alias.rs           │
//!      └────────── status.rs  counts in a row ◀───────────────────────────────────────┘
//!                        │ only what is to be told
//!                        ▼
//!                      local/  keeps it, and corrects the catalog
//! ```
//!
//! A probe knows one run: it takes its definition and answers with an [`Outcome`]. When to run, how
//! many at a time, how often in a row a result must come before it counts, and who is told, is the
//! [`Runner`]'s part and the same for all.

pub mod alias;
mod definition;
pub mod http;
mod output;
mod runner;
pub mod script;
mod status;
pub mod tcp;
pub mod ttl;

pub use definition::{
    Definition, INTERVAL_MIN, Invalid, OUTPUT_BYTES_MAX, Probe, Shared, is_empty, kind,
};
pub use output::Tail;
pub use runner::{First, Report, Runner};
pub use status::{Streak, Thresholds};

pub use crate::store::CheckStatus as Status;

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
