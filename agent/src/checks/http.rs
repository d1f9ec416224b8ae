//! Checks that ask: 2xx is passing, 429 is warning, everything else critical.
//!
//! Every run opens a connection of its own and closes it: a check that passes over a kept connection
//! says nothing about whether the next client gets one. Redirects are followed, to encrypted places
//! too, unless the definition says otherwise.

mod proxy;
mod url;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use ::http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, LOCATION, PROXY_AUTHORIZATION, REFERER, USER_AGENT,
};
use ::http::{HeaderName, HeaderValue, Method, Request, Response};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{CheckResult, Status, Tail};
use crate::net::tcp;
use crate::net::tls::{Inside, NOT_TLS, Tls, Verify};
use crate::secrets;
use proxy::Proxies;
use url::Url;

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a proxy's answer to the wish for a tunnel.
const TUNNEL_BYTES_MAX: usize = 8192;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Said to the checked program, unless the definition has its own. Programs are configured to know
/// this name (to leave its requests out of their logs, for one), so it stays the reference's.
const AGENT: &str = "Consul Health Check";

/// Target and form of the request.
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
    /// Verification of the certificate of an `https` target.
    pub verify: Verify,
    /// Ask for the new place when the answer names one; else that answer counts.
    pub follow: bool,
    /// Time for the whole run, redirects and body included.
    pub timeout: Duration,
    /// Bytes of the body that are kept, from its end.
    pub output_bytes_max: usize,
}

/// Those of this process.
static PROXIES: LazyLock<Proxies> = LazyLock::new(|| Proxies::new(|name| std::env::var(name).ok()));

/// One run.
pub async fn probe(target: &Target, tls: &Tls) -> CheckResult {
    probe_through(target, tls, &PROXIES).await
}

async fn probe_through(target: &Target, tls: &Tls, proxies: &Proxies) -> CheckResult {
    let mut tail = Tail::new(target.output_bytes_max);
    let mut head = None;
    let run = async {
        let mut answer = ask(target, tls, proxies).await?;
        head = Some((answer.response.status(), status_line(&answer.response)));
        // A body that breaks off is still an answer.
        while let Some(bytes) = answer.next().await {
            tail.push(&bytes);
        }
        Ok::<(), String>(())
    };
    let result = tokio::time::timeout(target.timeout, run).await;
    let Some((status, line)) = head else {
        return CheckResult::critical(match result {
            Ok(Err(error)) => error,
            _ => format!(
                "{} {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                operation(&target.method),
                Url::parse(&target.url).map_or_else(|error| error, |url| url.to_string())
            ),
        });
    };
    let (method, url) = (&target.method, secrets::text(&target.url));
    let output = format!("HTTP {method} {url}: {line} Output: {}", tail.text());
    CheckResult::new(
        match status.as_u16() {
            200..=299 => Status::Passing,
            429 => Status::Warning,
            _ => Status::Critical,
        },
        output,
    )
}

/// The answer at the end of all redirects.
async fn ask(target: &Target, tls: &Tls, proxies: &Proxies) -> Result<PendingResponse, String> {
    let method = Method::from_bytes(target.method.as_bytes())
        .map_err(|_| format!("net/http: invalid method {:?}", target.method))?;
    let mut url = Url::parse(&target.url)?;
    let mut method = method;
    let mut body = Bytes::from(target.body.clone());
    let mut location = String::new();
    let mut carried = Carried::first(target);
    for _ in 0..=REDIRECTS_MAX {
        let failed =
            |what: String| format!("{} {:?}: {what}", operation(method.as_str()), url.to_string());
        url.supported().map_err(failed)?;
        let mut request = request(&carried, &method, &url, body.clone()).map_err(failed)?;
        let proxy = proxies.of(&url);
        if let Some(proxy) = proxy.filter(|_| !url.is_tls()) {
            by_proxy(&mut request, &url, proxy).map_err(failed)?;
        }
        let answer = send(target, tls, &url, proxy, request).await.map_err(failed)?;
        let next = redirect(&answer.response, &url).filter(|_| target.follow);
        let Some((next, written)) = next else { return Ok(answer) };
        carried = carried.over(&url, &next, &written);
        location = written;
        // 307 and 308 repeat the request; the others ask for the new place.
        if !matches!(answer.response.status().as_u16(), 307 | 308) {
            if method != Method::HEAD {
                method = Method::GET;
            }
            body = Bytes::new();
        }
        url = next;
    }
    // Alone of all errors this one shows the address as the last answer wrote it.
    Err(format!(
        "{} {:?}: stopped after {REDIRECTS_MAX} redirects",
        operation(method.as_str()),
        secrets::text(&location)
    ))
}

/// Target of a redirect, parsed and as it was written.
fn redirect(response: &Response<Incoming>, from: &Url) -> Option<(Url, String)> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let written = response.headers().get(LOCATION)?.to_str().ok()?;
    Some((from.join(written)?, written.to_owned()))
}

/// Headers that a request carries from the definition over redirects, by the rules of the reference's library.
#[derive(Clone)]
struct Carried<'a> {
    target: &'a Target,
    /// Its `Host`: meant for the first address, and for others that are named relative to it.
    host: bool,
    /// Headers with secrets are sent to the same host only.
    secrets: bool,
    /// URL that sent the last redirect.
    referer: Option<String>,
}

impl<'a> Carried<'a> {
    /// The first request carries all.
    fn first(target: &'a Target) -> Carried<'a> {
        Carried { target, host: true, secrets: true, referer: None }
    }

    /// Headers of the next request, after a redirect that was written as `written`.
    fn over(self, from: &Url, to: &Url, written: &str) -> Carried<'a> {
        Carried {
            target: self.target,
            host: self.host && Url::is_relative(written),
            // What another place was not to see is not shown to the one after it, either.
            secrets: self.secrets && to.is_same_place_or_below(from),
            referer: (!from.is_tls() || to.is_tls()).then(|| from.without_user()),
        }
    }

    fn has(&self, field: &HeaderName) -> bool {
        const SECRETS: [&str; 4] = ["authorization", "www-authenticate", "cookie", "cookie2"];
        if *field == HOST {
            self.host
        } else if *field == REFERER && self.referer.is_some() {
            false
        } else {
            self.secrets || !SECRETS.contains(&field.as_str())
        }
    }
}

/// The request of one hop.
fn request(
    carried: &Carried<'_>,
    method: &Method,
    url: &Url,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = url.target().parse().map_err(|_| "invalid URL".to_owned())?;
    let headers = request.headers_mut();
    for (name, values) in &carried.target.headers {
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("net/http: invalid header field name {name:?}"))?;
        if !carried.has(&field) {
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
    if let Some(referer) = &carried.referer {
        let referer = HeaderValue::from_str(referer).map_err(|_| "invalid referer".to_owned())?;
        headers.insert(REFERER, referer);
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("text/plain, text/*, */*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(value) = credentials(url) {
        headers.entry(AUTHORIZATION).or_insert(value);
    }
    Ok(request)
}

/// Name and password of a URL.
fn credentials(url: &Url) -> Option<HeaderValue> {
    let secret = base64::engine::general_purpose::STANDARD.encode(url.user()?);
    HeaderValue::from_str(&format!("Basic {secret}")).ok()
}

/// Tells the proxy the whole address.
fn by_proxy(request: &mut Request<Full<Bytes>>, url: &Url, proxy: &Url) -> Result<(), String> {
    let whole = format!("http://{}{}", url.authority(), url.target());
    *request.uri_mut() = whole.parse().map_err(|_| "invalid URL".to_owned())?;
    if let Some(value) = credentials(proxy) {
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    Ok(())
}

/// Lets the proxy connect to the target.
async fn tunnel(stream: &mut TcpStream, url: &Url, proxy: &Url) -> Result<(), String> {
    let address = url.address();
    let mut wish = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(value) = credentials(proxy).as_ref().and_then(|value| value.to_str().ok()) {
        let _ = write!(wish, "Proxy-Authorization: {value}\r\n");
    }
    wish.push_str("\r\n");
    let broken = |error: std::io::Error| format!("proxyconnect tcp: {error}");
    stream.write_all(wish.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // Byte by byte: what follows belongs to the target.
        if answer.len() == TUNNEL_BYTES_MAX {
            return Err("proxyconnect tcp: the proxy's answer is too long".to_owned());
        }
        answer.push(stream.read_u8().await.map_err(broken)?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().next().unwrap_or_default();
    let status = line.split_once(' ').map_or("", |(_, rest)| rest);
    if status.starts_with('2') { Ok(()) } else { Err(status.to_owned()) }
}

/// Sends one request over a connection of its own.
async fn send(
    target: &Target,
    tls: &Tls,
    url: &Url,
    proxy: Option<&Url>,
    request: Request<Full<Bytes>>,
) -> Result<PendingResponse, String> {
    let mut stream = match proxy {
        None => tcp::connect(&url.address()).await?,
        Some(proxy) => tcp::connect(&proxy.address())
            .await
            .map_err(|error| format!("proxyconnect tcp: {error}"))?,
    };
    if !url.is_tls() {
        return exchange(stream, request).await;
    }
    if let Some(proxy) = proxy {
        tunnel(&mut stream, url, proxy).await?;
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

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<PendingResponse, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut driver: Option<Driver> = Some(Box::pin(async move {
        // What goes wrong is told to whoever waits for the answer.
        let _ = connection.await;
    }));
    let response = driven(&mut driver, sender.send_request(request)).await;
    let response = response.map_err(|error| {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            "EOF".to_owned()
        } else {
            error.to_string()
        }
    })?;
    Ok(PendingResponse { response, driver })
}

/// Moves the bytes of a connection, until its end.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer on its way. Its connection is driven by whoever reads it, not by a task of its own: with
/// thousands of checks the way from one task to another and back is a good part of what they cost.
/// Dropped, it closes the connection at once.
struct PendingResponse {
    response: Response<Incoming>,
    /// `None` when the connection has ended.
    driver: Option<Driver>,
}

impl PendingResponse {
    /// The next piece of the body.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frame = driven(&mut self.driver, self.response.body_mut().frame()).await?.ok()?;
            if let Ok(bytes) = frame.into_data() {
                return Some(bytes);
            }
        }
    }
}

/// Waits for something that a connection brings, and moves the connection's bytes meanwhile.
async fn driven<T>(driver: &mut Option<Driver>, wanted: impl Future<Output = T>) -> T {
    tokio::pin!(wanted);
    if let Some(connection) = driver {
        tokio::select! {
            biased;
            found = &mut wanted => return found,
            () = connection => {}
        }
        *driver = None;
    }
    wanted.await
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
