//! Checks that ask: 2xx is passing, 429 is warning, everything else critical.
//!
//! Every run opens a connection of its own and closes it: a check that passes over a kept connection
//! says nothing about whether the next client gets one. Redirects are followed, to encrypted places
//! too, unless the definition says otherwise.

mod url;

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, LOCATION, USER_AGENT};
use ::http::{HeaderName, HeaderValue, Method, Request, Response};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::tls::{Inside, NOT_TLS, Tls, Verify};
use super::{Outcome, Status, Tail, tcp};
use url::Url;

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Said to the checked program, unless the definition has its own. Programs are configured to know
/// this name (to leave its requests out of their logs, for one), so it stays the reference's.
const AGENT: &str = "Consul Health Check";

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `http://...` or `https://...`.
    pub url: String,
    /// As written; any token is a method.
    pub method: String,
    /// Values by name.
    pub headers: BTreeMap<String, Vec<String>>,
    /// May be empty.
    pub body: String,
    /// How the certificate of an `https` target is looked at.
    pub verify: Verify,
    /// Ask for the new place when the answer names one; else that answer counts.
    pub follow: bool,
    /// Time for the whole run, redirects and body included.
    pub timeout: Duration,
    /// Bytes of the body that are kept, from its end.
    pub output_bytes_max: usize,
}

/// One run.
pub async fn probe(target: &Target, tls: &Tls) -> Outcome {
    let mut tail = Tail::new(target.output_bytes_max);
    let mut head = None;
    let run = async {
        let response = ask(target, tls).await?;
        head = Some((response.status(), status_line(&response)));
        let mut body = response.into_body();
        // A body that breaks off is still an answer.
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(bytes) = frame.data_ref() {
                tail.push(bytes);
            }
        }
        Ok::<(), String>(())
    };
    let result = tokio::time::timeout(target.timeout, run).await;
    let Some((status, line)) = head else {
        return Outcome::critical(match result {
            Ok(Err(error)) => error,
            _ => format!(
                "{} {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                operation(&target.method),
                target.url
            ),
        });
    };
    let output = format!("HTTP {} {}: {line} Output: {}", target.method, target.url, tail.text());
    Outcome::new(
        match status.as_u16() {
            200..=299 => Status::Passing,
            429 => Status::Warning,
            _ => Status::Critical,
        },
        output,
    )
}

/// The answer at the end of all redirects.
async fn ask(target: &Target, tls: &Tls) -> Result<Response<Incoming>, String> {
    let method = Method::from_bytes(target.method.as_bytes())
        .map_err(|_| format!("net/http: invalid method {:?}", target.method))?;
    let mut url = Url::parse(&target.url)?;
    let mut method = method;
    let mut body = Bytes::from(target.body.clone());
    for hop in 0..=REDIRECTS_MAX {
        let failed =
            |what: String| format!("{} {:?}: {what}", operation(method.as_str()), url.to_string());
        url.supported().map_err(failed)?;
        let request = request(target, &method, &url, body.clone(), hop).map_err(failed)?;
        let response = send(target, tls, &url, request).await.map_err(failed)?;
        let next = redirect(&response, &url).filter(|_| target.follow);
        let Some(next) = next else { return Ok(response) };
        // 307 and 308 repeat the request; the others ask for the new place.
        if !matches!(response.status().as_u16(), 307 | 308) {
            if method != Method::HEAD {
                method = Method::GET;
            }
            body = Bytes::new();
        }
        url = next;
    }
    Err(format!(
        "{} {:?}: stopped after {REDIRECTS_MAX} redirects",
        operation(method.as_str()),
        url.to_string()
    ))
}

fn redirect(response: &Response<Incoming>, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    from.join(response.headers().get(LOCATION)?.to_str().ok()?)
}

/// The request of one hop. The first goes out with all that the definition says; later ones do
/// without its `Host`, which was meant for the first address.
fn request(
    target: &Target,
    method: &Method,
    url: &Url,
    body: Bytes,
    hop: usize,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = url.target().parse().map_err(|_| "invalid URL".to_owned())?;
    let headers = request.headers_mut();
    for (name, values) in &target.headers {
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("net/http: invalid header field name {name:?}"))?;
        if field == HOST && hop > 0 {
            continue;
        }
        for value in values {
            let value = HeaderValue::from_str(value).map_err(|_| {
                format!("net/http: invalid header field value {value:?} for key {name}")
            })?;
            headers.append(field.clone(), value);
        }
    }
    let host = HeaderValue::from_str(url.authority()).map_err(|_| "invalid host".to_owned())?;
    headers.entry(HOST).or_insert(host);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("text/plain, text/*, */*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(user) = url.user() {
        let secret = base64::engine::general_purpose::STANDARD.encode(user);
        if let Ok(value) = HeaderValue::from_str(&format!("Basic {secret}")) {
            headers.entry(AUTHORIZATION).or_insert(value);
        }
    }
    Ok(request)
}

/// Sends one request over a connection of its own.
async fn send(
    target: &Target,
    tls: &Tls,
    url: &Url,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let stream = tcp::connect(&url.address()).await?;
    if !url.is_tls() {
        return exchange(stream, request).await;
    }
    let connecting = tls.connect(stream, url.host(), &target.verify, Inside::Anything);
    let stream = connecting.await.map_err(|what| {
        // What else would answer like that where a URL points?
        if what == NOT_TLS {
            "http: server gave HTTP response to HTTPS client".into()
        } else {
            what
        }
    })?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the response: when its body was read or dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            "EOF".to_owned()
        } else {
            error.to_string()
        }
    })
}

/// Code and reason, as the server wrote them.
fn status_line(response: &Response<Incoming>) -> String {
    let code = response.status();
    let reason = match response.extensions().get::<hyper::ext::ReasonPhrase>() {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => code.canonical_reason().unwrap_or_default().to_owned(),
    };
    format!("{} {reason}", code.as_str())
}

/// The method as errors spell it: `Get`, `Put`.
fn operation(method: &str) -> String {
    let mut letters = method.chars();
    match letters.next() {
        Some(first) => first.to_string() + &letters.as_str().to_lowercase(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
