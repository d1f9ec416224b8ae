//! Reasons for refusing a registration.

use crate::json::Malformed;
use crate::local::persistence;
use crate::net::tls;

/// A registration is refused. `Display` is the text for the client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not what is written here: wrong JSON, wrong types, unknown names.
    #[error("Request decode failed: {0}")]
    Malformed(String),
    /// Well written, and wrong.
    #[error("{0}")]
    Invalid(String),
    /// Right by itself, but not here and now.
    #[error("{0}")]
    Refused(String),
    /// No such service of this agent.
    #[error("No service registered with ID {0:?}")]
    UnknownService(String),
    /// A definition in a configuration file is wrong.
    #[error("{what}")]
    Configured {
        /// Which one.
        what: String,
        /// The reason.
        #[source]
        source: Box<Error>,
    },
    /// The certificate authorities of checks cannot be read.
    #[error(transparent)]
    Authority(#[from] tls::Error),
    /// Persisted state cannot be read.
    #[error("the agent's own database cannot be opened")]
    Persistence(#[from] persistence::Error),
    /// It would not survive a restart, so it was not done.
    #[error("not done, since the agent could not keep it on its disk: {0}")]
    NotKept(persistence::Error),
    /// A report to a TTL check counts, and would not survive a restart.
    #[error("failed persisting state for check {check:?}: {why}")]
    ReportNotKept {
        /// The check's id.
        check: String,
        /// The reason.
        why: persistence::Error,
    },
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::Malformed(malformed.0)
    }
}
