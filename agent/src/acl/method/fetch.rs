//! One request to an identity provider over a connection of its own, bounded in bytes and time.

use std::time::Duration;

use ::http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use ::http::{HeaderValue, Request, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;

use crate::net::tcp;
use crate::net::tls::{Inside, Stream, Tls, Verify};

/// Time for a request, connection and answer included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Scheme of a file on this server that is read instead.
const FILE: &str = "file://";

/// Status and body of an answer.
pub(super) type Answer = (u16, Bytes);

/// Asks with a request whose URI is the whole address. The error is ready for people.
pub(super) async fn ask(tls: &Tls, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    match tokio::time::timeout(TIMEOUT, exchange(tls, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer in {} seconds", TIMEOUT.as_secs())),
    }
}

/// The body behind an address, whose status must be 200. Files are read, too.
pub(super) async fn get(tls: &Tls, url: &str, bearer: Option<&str>) -> Result<Bytes, String> {
    if let Some(path) = url.strip_prefix(FILE) {
        return file(path).await;
    }
    let mut request = Request::new(Full::default());
    *request.uri_mut() = url.parse().map_err(|error| format!("Get {url:?}: {error}"))?;
    if let Some(bearer) = bearer {
        let value = HeaderValue::from_str(&format!("Bearer {bearer}"));
        let value = value.map_err(|_| format!("Get {url:?}: the token holds odd bytes"))?;
        request.headers_mut().insert(::http::header::AUTHORIZATION, value);
    }
    let (status, body) =
        ask(tls, request).await.map_err(|error| format!("Get {url:?}: {error}"))?;
    if status != 200 {
        return Err(format!("Get {url:?}: status {status}"));
    }
    Ok(body)
}

async fn file(path: &str) -> Result<Bytes, String> {
    let failed = |error: std::io::Error| format!("open {path}: {error}");
    let found = tokio::fs::metadata(path).await.map_err(failed)?;
    if !found.is_file() || found.len() > BODY_BYTES_MAX as u64 {
        return Err(format!("open {path}: not a file of at most {BODY_BYTES_MAX} bytes"));
    }
    tokio::fs::read(path).await.map(Bytes::from).map_err(failed)
}

async fn exchange(tls: &Tls, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let uri = std::mem::take(request.uri_mut());
    let stream = connect(tls, &uri).await?;
    let authority = uri.authority().map(::http::uri::Authority::as_str).unwrap_or_default();
    let host = HeaderValue::from_str(authority).map_err(|_| "invalid host".to_owned())?;
    let target = uri.path_and_query().map_or("/", |it| it.as_str());
    *request.uri_mut() = target.parse().map_err(|_| "invalid URL".to_owned())?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("muster"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("unable to read response body: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        // Its end may come before the answer is taken out of it.
        _ = connection => {}
    }
    answer.await
}

async fn connect(tls: &Tls, uri: &Uri) -> Result<Box<dyn Stream>, String> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("unsupported protocol scheme \"\"".to_owned());
    };
    if authority.as_str().contains('@') {
        return Err("a name in the address is not supported".to_owned());
    }
    let (port, verify) = match scheme {
        "http" => (80, None),
        "https" => (443, Some(Verify::default())),
        other => return Err(format!("unsupported protocol scheme {other:?}")),
    };
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port));
    match verify {
        None => Ok(Box::new(tcp::connect(&address).await?)),
        verify => tls.dial(&address, verify.as_ref(), Inside::Anything).await,
    }
}
