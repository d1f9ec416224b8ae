//! Errors of the HTTP interface, and the one place that knows status codes.

use http::StatusCode;

use crate::{acl, archive, filter, raft, read, upstream};

/// A request is refused or failed. `Display` is the body that the client sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong; the text says how.
    #[error("{0}")]
    Invalid(String),
    /// The request is wrong, in the words of those end points that put `Bad request: ` in front.
    #[error("Bad request: {0}")]
    BadRequest(String),
    /// The token may not.
    #[error(transparent)]
    Denied(#[from] acl::Denied),
    /// Refused by this agent's configuration: blocked paths, sources that may not write.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Something that the request names does not exist. May be empty.
    #[error("{0}")]
    NotFound(String),
    /// The end point exists, but not for this method.
    #[error("method {method} not allowed")]
    MethodNotAllowed {
        /// The method of the request.
        method: String,
        /// Methods that are allowed.
        allowed: Vec<&'static str>,
    },
    /// More requests than this agent answers.
    #[error("rate limit reached for this agent: come again in {} s", retry_after.as_secs())]
    TooMany {
        /// When to come again.
        retry_after: std::time::Duration,
    },
    /// More of something than this agent keeps at the same time; the text says of what.
    #[error("{0}")]
    Busy(String),
    /// Something of which there is only so much is taken.
    #[error("{text}: come again in {} s", retry_after.as_secs())]
    Taken {
        /// Accepted values.
        text: &'static str,
        /// When to come again.
        retry_after: std::time::Duration,
    },
    /// A body that does not come.
    #[error("the request's body did not come in time: {0}")]
    TooSlow(String),
    /// A body above its limit.
    #[error("{0}")]
    TooLarge(String),
    /// Answered in a form that this agent does not offer.
    #[error("{0}")]
    Unsupported(String),
    /// A part of the API that is switched off.
    #[error("{0}")]
    Disabled(&'static str),
    /// Understood, and refused by the rules of the catalog, the keys or the sessions. The
    /// reference answers 500 with the plain text, and clients look for that.
    #[error("{0}")]
    Refused(String),
    /// A `?filter=` that is none for these rows. The reference finds that out while it reads, and
    /// answers as for a read that failed.
    #[error("Failed to create boolean expression evaluator: {0}")]
    Filter(#[from] filter::Error),
    /// Another datacenter, which this agent does not know.
    #[error("No path to datacenter")]
    UnknownDatacenter,
    /// This agent is no server, and knows none.
    #[error("No known Consul servers")]
    NoServer,
    /// No server gave an answer.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The read path could not read.
    #[error(transparent)]
    Read(#[from] read::Error),
    /// A saved state that cannot be taken.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The cluster could not agree.
    #[error("{}", with_reason(.0))]
    Consensus(#[from] raft::Error),
    /// An answer that is a status alone, without text.
    #[error("")]
    Status(StatusCode),
}

impl Error {
    /// The status line's code.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Error::Invalid(_) | Error::BadRequest(_) => StatusCode::BAD_REQUEST,
            Error::Denied(_) | Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Error::TooMany { .. }
            | Error::Busy(_)
            | Error::Taken { .. }
            | Error::Upstream(upstream::Error::Exceeded { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Error::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::Disabled(_) => StatusCode::UNAUTHORIZED,
            Error::Refused(_)
            | Error::Filter(_)
            | Error::UnknownDatacenter
            | Error::NoServer
            | Error::Upstream(_)
            | Error::Read(_)
            | Error::Archive(_)
            | Error::Consensus(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Error::Status(status) => *status,
        }
    }

    /// A wrong request.
    pub(crate) fn invalid(text: impl Into<String>) -> Error {
        Error::Invalid(text.into())
    }

    /// Refused by a rule.
    pub(crate) fn refused(text: impl Into<String>) -> Error {
        Error::Refused(text.into())
    }
}

/// Adds the disk's reason, for clients that see nothing but this line.
fn with_reason(error: &raft::Error) -> String {
    match error {
        raft::Error::Storage(reason) => format!("{error}: {reason}"),
        other => other.to_string(),
    }
}
