//! Requests, bounds, errors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::{Connector, target};
use crate::gate::{Gate, Kind, Pass};
use crate::token::Token;
use crate::{Meta, ReadOptions, Response, Settings};

/// The largest answer that is read: far above any catalog, far below what fells a client.
const BODY_BYTES_MAX: usize = 512 * 1024 * 1024;

/// As much of an error's body goes into the error: some proxies answer with whole pages.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// What stays as it is in a path; everything else is escaped.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b':');

/// What stays as it is in a parameter.
const PARAMETER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a call failed, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there; trying again may help.
    #[error("no agent answers at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long; trying again may help.
    #[error("{address} did not answer within {after:?}")]
    TimedOut {
        /// Where.
        address: String,
        /// The patience that ran out.
        after: Duration,
    },
    /// The server refused or failed.
    #[error("Unexpected response code: {} ({text})", code.as_u16())]
    Status {
        /// HTTP status.
        code: StatusCode,
        /// The server's words.
        text: String,
    },
    /// The server's answer makes no sense.
    #[error("the answer of {path} is not what it should be")]
    Decode {
        /// Which path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than any answer should be.
    #[error("the answer of {path} is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge {
        /// Which path.
        path: String,
    },
    /// The number of connections cannot be used.
    #[error("the number of connections to an agent is `{value}`: use {min} to {max}")]
    Connections {
        /// As given.
        value: usize,
        /// The smallest.
        min: usize,
        /// The largest.
        max: usize,
    },
    /// The address cannot be used.
    #[error("`{address}` is not an address of an agent: {why}")]
    Address {
        /// As given.
        address: String,
        /// What to do.
        why: String,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file {path}")]
    TokenFile {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Is it the server's "there is no such thing"?
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Status { code, .. } if *code == StatusCode::NOT_FOUND)
    }

    /// Is it the server's "your token may not"?
    pub fn is_denied(&self) -> bool {
        matches!(self, Error::Status { code, .. }
            if matches!(*code, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED))
    }

    /// The error with all that caused it, on one line; of a refusal, what can be done about it.
    pub fn explained(&self) -> String {
        let text = chain(self);
        if self.is_denied() {
            return format!(
                "{text}: the agent refuses the token, or there is none: give one that may do this by -token, -token-file, \
                 MUSTER_HTTP_TOKEN or MUSTER_HTTP_TOKEN_FILE"
            );
        }
        text
    }

    /// The same for somebody else who must be told.
    pub(crate) fn repeated(&self) -> Error {
        match self {
            Error::TimedOut { address, after } => {
                Error::TimedOut { address: address.clone(), after: *after }
            }
            Error::Status { code, text } => Error::Status { code: *code, text: text.clone() },
            Error::Unreachable { address, source } => {
                Error::Unreachable { address: address.clone(), source: source.to_string().into() }
            }
            Error::TooLarge { path } => Error::TooLarge { path: path.clone() },
            Error::Decode { path, source } => Error::Decode {
                path: path.clone(),
                source: serde::de::Error::custom(source.to_string()),
            },
            Error::Connections { value, min, max } => {
                Error::Connections { value: *value, min: *min, max: *max }
            }
            Error::Address { address, why } => {
                Error::Address { address: address.clone(), why: why.clone() }
            }
            Error::TokenFile { path, source } => Error::TokenFile {
                path: path.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
        }
    }

    /// May the same call succeed a moment later?
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::TimedOut { .. } => true,
            Error::Status { code, .. } => {
                code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// An error with all that caused it, on one line. A cause that the error above it has repeated is not said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Raw {
    /// HTTP status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Raw {
    /// The body as text, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    /// What the headers say of the answer.
    pub fn meta(&self) -> Meta {
        let text = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        Meta {
            index: text("x-consul-index").and_then(|v| v.parse().ok()).unwrap_or(0),
            known_leader: text("x-consul-knownleader").map(|v| v == "true"),
            last_contact: text("x-consul-lastcontact")
                .and_then(|v| v.parse().ok())
                .map(Duration::from_millis),
            cache_hit: text("x-cache").map(|v| v == "HIT"),
            odd_rows: Vec::new(),
        }
    }
}

/// A handle on one agent. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: hyper_util::client::legacy::Client<Connector, Full<Bytes>>,
    settings: Settings,
    token: Token,
    base: String,
    gate: Arc<Gate>,
}

impl Client {
    /// A client of the agent at `settings.address`. Connects when first used.
    pub fn new(settings: Settings) -> Result<Client, Error> {
        let (target, host) = target(&settings.address)?;
        let gate = Gate::of(&target.name(), settings.connections_max)?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_mins(1))
            .build(Connector::new(target, Arc::clone(&gate)));
        let base = format!("http://{host}");
        let token = Token::new(settings.token.clone());
        Ok(Client { inner: Arc::new(Inner { http, settings, token, base, gate }) })
    }

    /// A client as the environment describes it; see [`Settings::from_env`].
    pub fn from_env() -> Result<Client, Error> {
        Client::new(Settings::from_env()?)
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Sends any request and reads the whole answer, whatever its status. `patience` is how long
    /// the server may hold it on purpose.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Bytes,
        patience: Duration,
    ) -> Result<Raw, Error> {
        let settings = &self.inner.settings;
        let request = self.request(method, path, query, Full::new(body))?;
        let after = settings.timeout + patience;
        let kind = if patience.is_zero() { Kind::Call } else { Kind::Wait };
        let work = async {
            let _pass = self.enter(kind).await;
            self.send(request, path).await
        };
        match tokio::time::timeout(after, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::TimedOut { address: settings.address.clone(), after }),
        }
    }

    /// Waits for the right to one request; it counts until the pass is dropped.
    pub(crate) async fn enter(&self, kind: Kind) -> Pass {
        self.inner.gate.enter(kind).await
    }

    /// How often the token has changed; `None`: it never does.
    pub(crate) fn token_edition(&self) -> Option<u64> {
        let token = &self.inner.token;
        token.may_change().then(|| token.current().1)
    }

    /// How many requests may wait for a change at the same time.
    pub(crate) fn waits_max(&self) -> usize {
        self.inner.gate.waits_max()
    }

    /// A request with everything that all of them carry.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Full<Bytes>,
    ) -> Result<http::Request<Full<Bytes>>, Error> {
        let settings = &self.inner.settings;
        let uri = self.uri(path, query)?;
        let mut request = http::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        if let (Some(token), _) = self.inner.token.current() {
            set_secret(request.headers_mut(), "x-consul-token", token.expose())?;
        }
        if let Some(pair) = &settings.basic_auth {
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair.expose());
            set_secret(request.headers_mut(), "authorization", &format!("Basic {encoded}"))?;
        }
        Ok(request)
    }

    /// The head of an answer; its body is still on its way.
    pub(crate) async fn answer(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, Error> {
        self.inner.http.request(request).await.map_err(|error| self.unreachable(Box::new(error)))
    }

    pub(crate) fn unreachable(&self, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::Unreachable { address: self.inner.settings.address.clone(), source: plain(error) }
    }

    async fn send(&self, request: http::Request<Full<Bytes>>, path: &str) -> Result<Raw, Error> {
        let (parts, body) = self.answer(request).await?.into_parts();
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) if e.is::<LengthLimitError>() => {
                return Err(Error::TooLarge { path: path.to_owned() });
            }
            Err(e) => return Err(self.unreachable(e)),
        };
        Ok(Raw { status: parts.status, headers: parts.headers, body })
    }

    fn uri(&self, path: &str, query: &[(&str, String)]) -> Result<Uri, Error> {
        let text = format!("{}{}", self.inner.base, self.path_and_query(path, query));
        text.parse().map_err(|_| Error::Address {
            address: self.inner.settings.address.clone(),
            why: format!("`{path}` makes no URL with it"),
        })
    }

    /// What follows the host in the URL of a request.
    pub(crate) fn path_and_query(&self, path: &str, query: &[(&str, String)]) -> String {
        let mut text = utf8_percent_encode(path, PATH).to_string();
        let datacenter = self.inner.settings.datacenter.as_ref().map(|dc| ("dc", dc));
        let given = query.iter().any(|(name, _)| *name == "dc");
        let all = query.iter().map(|(name, value)| (*name, value));
        for (i, (name, value)) in all.chain(datacenter.filter(|_| !given)).enumerate() {
            text.push(if i == 0 { '?' } else { '&' });
            text.push_str(name);
            if !value.is_empty() {
                text.push('=');
                text.extend(utf8_percent_encode(value, PARAMETER));
            }
        }
        text
    }

    /// `GET` of any path, decoded; 404 and every other status but 200 is an error.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        mut query: Vec<(&str, String)>,
        options: &ReadOptions,
    ) -> Result<Response<T>, Error> {
        options.append(&mut query);
        let raw = self.call(Method::GET, path, &query, Bytes::new(), options.patience()).await?;
        let meta = raw.meta();
        Ok(Response { value: decode(path, &accepted(raw)?)?, meta })
    }

    /// `PUT` of a JSON body to any path; every status but 200 is an error.
    pub async fn put_json(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: &impl Serialize,
    ) -> Result<Raw, Error> {
        let body = serde_json::to_vec(body)
            .map_err(|source| Error::Decode { path: path.to_owned(), source })?;
        self.put(path, query, body.into()).await
    }

    /// `PUT` of any body to any path; every status but 200 is an error.
    pub async fn put(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: Bytes,
    ) -> Result<Raw, Error> {
        accepted(self.call(Method::PUT, path, query, body, Duration::ZERO).await?)
    }
}

/// Turns every status but 200 into an error with the server's words.
pub(crate) fn accepted(raw: Raw) -> Result<Raw, Error> {
    if raw.status == StatusCode::OK {
        Ok(raw)
    } else {
        let body = raw.body.slice(..raw.body.len().min(ERROR_BYTES_MAX));
        let text = String::from_utf8_lossy(&body).trim_end().to_owned();
        Err(Error::Status { code: raw.status, text })
    }
}

pub(crate) fn decode<T: DeserializeOwned>(path: &str, raw: &Raw) -> Result<T, Error> {
    decode_body(path, &raw.body)
}

pub(crate) fn decode_body<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Decode { path: path.to_owned(), source })
}

/// The system's own words, where an error comes from the system: what the layers above it add
/// ("client error (Connect)") tells a person nothing.
fn plain(
    error: Box<dyn std::error::Error + Send + Sync>,
) -> Box<dyn std::error::Error + Send + Sync> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(cause) = next {
        if let Some(system) = cause.downcast_ref::<io::Error>()
            && system.raw_os_error().is_some()
        {
            return Box::new(io::Error::new(system.kind(), system.to_string()));
        }
        next = cause.source();
    }
    error
}

fn set_secret(headers: &mut HeaderMap, name: &'static str, text: &str) -> Result<(), Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Address {
        address: name.into(),
        why: "the token has characters that no header can carry".into(),
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let settings =
            Settings { token: Some(crate::Secret::new("s3cret")), ..Settings::default() };
        let client = Client::new(settings).expect("a good address");
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
