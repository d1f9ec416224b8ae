//! The agent's log as a stream, one line per event, for as long as the client listens.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};

use crate::acl::{Access, Resource};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, now};
use crate::http::reply::{Content, Reply};
use crate::telemetry;

/// `?loglevel=` says how much, `?logjson` in which form.
pub(super) fn monitor(request: Request) -> Result<Answer, Error> {
    let node = &request.app.parts.node_name;
    request.authorize(Resource::Agent(node), Access::Read)?;
    let level = request.params.get("loglevel").filter(|level| !level.is_empty()).unwrap_or("INFO");
    let Some(level) = telemetry::level(level) else {
        return Err(Error::BadRequest(format!("Unknown log level: {level}")));
    };
    let json = request.params.get("logjson").is_some_and(|text| !matches!(text, "false" | "0"));
    let Some((lines, dropped)) = telemetry::listen(level, json) else {
        return Err(Error::refused("this agent keeps no log"));
    };
    let pieces = futures::stream::unfold((lines, dropped), |(mut lines, dropped)| async move {
        // What a slow reader missed is said before the next line it gets.
        let line = lines.recv().await?;
        let missed = dropped.swap(0, Ordering::Relaxed);
        let piece = if missed == 0 {
            line
        } else {
            let mut said = format!("[WARN] agent: Monitor dropped {missed} logs\n").into_bytes();
            said.extend_from_slice(&line);
            Bytes::from(said)
        };
        Some((piece, (lines, dropped)))
    });
    let mut reply = Reply::empty();
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply.content = Content::Stream(Box::pin(pieces));
    now(reply)
}
