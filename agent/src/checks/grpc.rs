//! Checks that call gRPC's health protocol (`grpc.health.v1.Health/Check`): SERVING is passing.
//!
//! One unary call of two tiny messages: over HTTP/2 that is a header, a frame each way and a trailer.
//! It is spelled out here; a gRPC stack with generated code would cost more to build than all other
//! probes together and would do the same.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use percent_encoding::percent_decode_str;

use super::h2ping::dial;
use super::{CheckResult, Status};
use crate::net::tls::{Tls, Verify};

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer; a health answer has 7.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// `SERVING` of the health protocol.
const SERVING: u64 = 1;

/// Target of the call.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `host:port`, or `host:port/service`.
    pub target: String,
    /// Verification of the certificate; `None` is plain text.
    pub tls: Option<Verify>,
    /// Time for the whole run.
    pub timeout: Duration,
}

impl Target {
    /// Address and service; without a service the server as a whole is meant.
    fn parts(&self) -> (&str, &str) {
        self.target.split_once('/').unwrap_or((&self.target, ""))
    }
}

/// One run.
pub async fn probe(target: &Target, tls: &Tls) -> CheckResult {
    match tokio::time::timeout(target.timeout, call(target, tls)).await {
        Ok(Ok(SERVING)) => {
            CheckResult::new(Status::Passing, format!("gRPC check {}: success", target.target))
        }
        Ok(Ok(_)) => CheckResult::critical("gRPC application didn't report service healthy"),
        Ok(Err(error)) => CheckResult::critical(error),
        Err(_) => CheckResult::critical(failure("DeadlineExceeded", "context deadline exceeded")),
    }
}

/// A failed call in the words of gRPC's users.
fn failure(code: &str, what: &str) -> String {
    format!("rpc error: code = {code} desc = {what}")
}

/// The status that the service is in. The error is ready for people.
async fn call(target: &Target, tls: &Tls) -> Result<u64, String> {
    let (address, service) = target.parts();
    let session = dial(address, target.tls.as_ref(), tls).await.map_err(|error| {
        let what = if error.starts_with("dial ") {
            format!("transport: Error while dialing {error}")
        } else {
            format!("transport: authentication handshake failed: {error}")
        };
        failure("Unavailable", &format!("connection error: desc = {what:?}"))
    })?;
    let broken =
        |error: h2::Error| failure("Unavailable", &format!("transport is closing: {error}"));
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{address}/grpc.health.v1.Health/Check"))
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, HeaderValue::from_static("muster-health-check"))
        .body(())
        .map_err(|error| failure("Internal", &error.to_string()))?;
    let mut requests = session.requests.clone().ready().await.map_err(broken)?;
    let (response, mut body) = requests.send_request(request, false).map_err(broken)?;
    body.send_data(question(service), true).map_err(broken)?;
    let (head, mut answer) = response.await.map_err(broken)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(refused(head.status));
    }
    // An error may come at once, without a body.
    let mut said = verdict(&head.headers)?;
    let message = read(&mut answer).await?;
    if let Some(trailers) = answer.trailers().await.map_err(broken)? {
        said |= verdict(&trailers)?;
    }
    if !said {
        let what = "server closed the stream without sending trailers";
        return Err(failure("Internal", what));
    }
    serving_status(&message).ok_or_else(|| failure("Internal", "the answer is no health answer"))
}

/// `HealthCheckRequest { service }`, framed.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or_default());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// The message of an answer, without its frame.
async fn read(answer: &mut RecvStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(data) = answer.data().await {
        let data = data
            .map_err(|error| failure("Unavailable", &format!("transport is closing: {error}")))?;
        // What was read makes room for more.
        let _ = answer.flow_control().release_capacity(data.len());
        if bytes.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(failure("ResourceExhausted", "the answer is too long"));
        }
        bytes.extend_from_slice(&data);
    }
    match bytes.split_first_chunk::<5>() {
        Some((head, message)) if head[0] == 0 => Ok(message.to_vec()),
        Some(_) => Err(failure("Unimplemented", "the answer is compressed")),
        // An error has none; its trailer says so.
        None => Ok(Vec::new()),
    }
}

/// Field 1 of `HealthCheckResponse`; absent it is 0, which is `UNKNOWN`.
fn serving_status(message: &[u8]) -> Option<u64> {
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => {
                varint(&mut rest)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads `grpc-status` and `grpc-message`; `false` if they are not there.
fn verdict(headers: &HeaderMap) -> Result<bool, String> {
    let Some(code) = headers.get("grpc-status") else { return Ok(false) };
    let text = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let text = percent_decode_str(&text).decode_utf8_lossy().into_owned();
    match code.to_str().ok().and_then(|code| code.parse().ok()) {
        Some(0) => Ok(true),
        Some(code) => Err(failure(name(code), &text)),
        None => Err(failure("Internal", "malformed grpc-status")),
    }
}

/// gRPC's codes.
fn name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("Unknown")
}

/// An answer of HTTP instead of gRPC: a proxy, or another kind of server.
fn refused(status: StatusCode) -> String {
    let code = match status.as_u16() {
        400 => "Internal",
        401 => "Unauthenticated",
        403 => "PermissionDenied",
        404 => "Unimplemented",
        429 | 502..=504 => "Unavailable",
        _ => "Unknown",
    };
    let reason = status.canonical_reason().unwrap_or_default();
    failure(code, &format!("{reason}: HTTP status code {}", status.as_u16()))
}

#[cfg(test)]
mod tests;
