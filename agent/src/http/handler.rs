//! Handlers and what they give back: an answer that is there, or one that has to be waited for.

use std::future::Future;
use std::pin::Pin;

use super::error::Error;
use super::extract::Request;
use super::reply::Reply;

/// Result of a handler: a reply, or a future of one.
pub(crate) enum Answer {
    /// At once.
    Now(Reply),
    /// After waiting for something.
    Later(PendingReply),
}

/// An answer that takes time.
pub(crate) type PendingReply = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

/// Handles the requests of one path and method. It is a plain function rather than an async one, so that it decides
/// what is kept while an answer is waited for, and so that what is known at once needs no future of its own.
pub(crate) type Handler = fn(Request) -> Result<Answer, Error>;

/// An answer that `work` will give.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of handlers")]
pub(crate) fn later(
    work: impl Future<Output = Result<Reply, Error>> + Send + 'static,
) -> Result<Answer, Error> {
    Ok(Answer::Later(Box::pin(work)))
}

/// An answer that is there.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of handlers")]
pub(crate) fn now(reply: Reply) -> Result<Answer, Error> {
    Ok(Answer::Now(reply))
}
