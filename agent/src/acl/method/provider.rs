//! Identity providers: their keys, their end points, their reviews.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ::http::{HeaderValue, Method as Verb, Request};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use tokio::time::Instant;

use super::fetch;
use super::jwt::{Jwt, Keys};
use super::keys::{self, Key};
use super::kubernetes::Kubernetes;
use super::oidc::{Callback, Oidc, Start};
use super::{Identity, Invalid, Method, Refusal, Source};
use crate::net::tls::Tls;

/// Pause between two fetches because of a key that is unknown: tokens of strangers are cheap to make.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);
/// Age at which keys are fetched again: a key that was taken back counts for so long.
const AGE_MAX: Duration = Duration::from_mins(10);
/// Providers whose keys are kept.
const KEPT_MAX: usize = 64;

/// The providers of all methods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Providers {
    kept: Arc<Mutex<Kept>>,
    refresh_pause: Duration,
}

impl Default for Providers {
    fn default() -> Providers {
        Providers { kept: Arc::default(), refresh_pause: REFRESH_PAUSE }
    }
}

/// By address and authorities.
type Kept = BTreeMap<(String, String), Arc<Cell>>;

type Cell = tokio::sync::Mutex<Option<Fetched>>;

/// What a provider said of itself.
#[derive(Debug, Clone)]
struct Fetched {
    at: Instant,
    keys: Arc<[Key]>,
    /// Its discovery document; nothing for a mere set of keys.
    document: Arc<Value>,
}

impl Providers {
    /// Looks for unknown keys after another pause than usual.
    #[cfg(test)]
    pub(super) fn with_pause(refresh_pause: Duration) -> Providers {
        Providers { refresh_pause, ..Providers::default() }
    }

    /// Judges what the settings of a method say of the network: can its provider be asked?
    pub async fn check(&self, method: &Method) -> Result<(), Invalid> {
        let (source, result) = match method {
            Method::Jwt(Jwt { keys: Keys::Set(source), .. }) => (source, fetch_set(source).await),
            Method::Jwt(Jwt { keys: Keys::Discovery(source), .. })
            | Method::Oidc(Oidc { provider: source, .. }) => (source, discover(source).await),
            Method::Jwt(Jwt { keys: Keys::Static(_), .. }) | Method::Kubernetes(_) => return Ok(()),
        };
        match result {
            Ok(_) => Ok(()),
            Err(what) => Err(Invalid(format!(
                "Invalid Auth Method: error checking {}: {what}",
                source.keys.0
            ))),
        }
    }

    /// Verifies the token that somebody logs in with.
    pub async fn verify(&self, method: &Method, token: &str) -> Result<Identity, Refusal> {
        match method {
            Method::Jwt(jwt) => match &jwt.keys {
                Keys::Static(keys) => jwt.verify(token, now(), keys),
                Keys::Set(source) | Keys::Discovery(source) => {
                    let discovery = matches!(jwt.keys, Keys::Discovery(_));
                    self.with_keys(source, discovery, |fetched| {
                        jwt.verify(token, now(), &fetched.keys)
                    })
                    .await
                }
            },
            Method::Kubernetes(kubernetes) => review(kubernetes, token).await,
            Method::Oidc(_) => {
                Err(Refusal::rejected("auth method of type \"oidc\" needs a web browser to log in"))
            }
        }
    }

    /// Address of the provider's page on which a log-in begins.
    pub async fn begin(&self, name: &str, oidc: &Oidc, start: &Start) -> Result<String, Refusal> {
        oidc.may_begin(start)?;
        let fetched = self.fetched(&oidc.provider, true, AGE_MAX).await?;
        oidc.auth_url(name, &fetched.document, start, now(), rand::random())
    }

    /// Ends a log-in that a web browser came back from.
    pub async fn end(
        &self,
        name: &str,
        oidc: &Oidc,
        callback: &Callback,
    ) -> Result<Identity, Refusal> {
        let state = oidc.open(name, callback, now())?;
        let fetched = self.fetched(&oidc.provider, true, AGE_MAX).await?;
        let unavailable =
            |what: String| Refusal::Unavailable(format!("error exchanging oidc code: {what}"));
        let tls = trust(&oidc.provider).map_err(unavailable)?;
        let request = oidc.exchange(&fetched.document, &state, &callback.code)?;
        let (status, body) = fetch::ask(&tls, request).await.map_err(unavailable)?;
        let tokens = Oidc::tokens(status, &body)?;
        let info = match Oidc::user_info(&fetched.document, &tokens) {
            None => None,
            Some((url, access)) => {
                let body = fetch::get(&tls, url, Some(access)).await.map_err(|what| {
                    Refusal::Unavailable(format!("error reading /userinfo endpoint: {what}"))
                })?;
                Some(serde_json::from_slice(&body).map_err(|error| {
                    Refusal::rejected(format!("error reading /userinfo endpoint: {error}"))
                })?)
            }
        };
        self.with_keys(&oidc.provider, true, |fetched| {
            oidc.verify(&fetched.document, &tokens, info.as_ref(), &state, now(), &fetched.keys)
        })
        .await
    }

    /// Verifies with the keys that are known, and once more with fresh ones if none of those fits.
    async fn with_keys(
        &self,
        source: &Source,
        discovery: bool,
        verify: impl Fn(&Fetched) -> Result<Identity, Refusal>,
    ) -> Result<Identity, Refusal> {
        let fetched = self.fetched(source, discovery, AGE_MAX).await?;
        match verify(&fetched) {
            Err(Refusal::UnknownKey(_)) if fetched.at.elapsed() >= self.refresh_pause => {
                verify(&self.fetched(source, discovery, self.refresh_pause).await?)
            }
            result => result,
        }
    }

    /// What a provider said, at most so long ago. Many who ask at once share one request.
    async fn fetched(
        &self,
        source: &Source,
        discovery: bool,
        age_max: Duration,
    ) -> Result<Fetched, Refusal> {
        let cell = self.cell(source);
        let mut kept = cell.lock().await;
        if let Some(fetched) = kept.as_ref().filter(|fetched| fetched.at.elapsed() < age_max) {
            return Ok(fetched.clone());
        }
        let fresh = if discovery { discover(source).await } else { fetch_set(source).await };
        let fresh = fresh.map_err(|what| {
            Refusal::Unavailable(format!("error checking {}: {what}", source.keys.0))
        })?;
        *kept = Some(fresh.clone());
        Ok(fresh)
    }

    fn cell(&self, source: &Source) -> Arc<Cell> {
        let mut kept = self.kept.lock().expect("nothing panics while it is held");
        let name = (source.url.clone(), source.ca.clone());
        if kept.len() >= KEPT_MAX && !kept.contains_key(&name) {
            // Methods that were deleted leave theirs; the others are fetched again.
            kept.clear();
        }
        Arc::clone(kept.entry(name).or_default())
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver hands the time to what decides")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn trust(source: &Source) -> Result<Tls, String> {
    if source.ca.is_empty() {
        return Ok(Tls::default());
    }
    Tls::trusting(&source.ca).ok_or_else(|| format!("no certificate in `{}`", source.keys.1))
}

async fn fetch_set(source: &Source) -> Result<Fetched, String> {
    let keys = key_set(&trust(source)?, &source.url).await?;
    Ok(Fetched { at: Instant::now(), keys, document: Arc::new(Value::Null) })
}

async fn key_set(tls: &Tls, url: &str) -> Result<Arc<[Key]>, String> {
    let body = fetch::get(tls, url, None)
        .await
        .map_err(|what| format!("fetching keys oidc: get keys failed {what}"))?;
    let keys = keys::key_set(&body)
        .map_err(|what| format!("fetching keys oidc: failed to decode keys: {what}"))?;
    Ok(keys.into())
}

async fn discover(source: &Source) -> Result<Fetched, String> {
    let tls = trust(source)?;
    let base = source.url.trim_end_matches('/');
    let url = format!("{base}/.well-known/openid-configuration");
    let body = fetch::get(&tls, &url, None).await?;
    let document: Value = serde_json::from_slice(&body)
        .map_err(|error| format!("oidc: failed to decode provider discovery object: {error}"))?;
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("issuer") != source.url {
        return Err(format!(
            "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
            source.url,
            text("issuer")
        ));
    }
    // Provider and keys come from one place on the network, never from a file here.
    let set = text("jwks_uri");
    if !set.starts_with("https://") && !set.starts_with("http://") {
        return Err(format!("oidc: jwks_uri {set:?} is no address"));
    }
    let keys = key_set(&tls, set).await?;
    Ok(Fetched { at: Instant::now(), keys, document: Arc::new(document) })
}

async fn review(kubernetes: &Kubernetes, token: &str) -> Result<Identity, Refusal> {
    let question = Kubernetes::review(token)?;
    let tls = trust(&kubernetes.server).map_err(Refusal::Unavailable)?;
    let path = "/apis/authentication.k8s.io/v1/tokenreviews".to_owned();
    let body = Bytes::from(question.to_string());
    let answer = ask_cluster(&tls, kubernetes, Verb::POST, &path, body).await;
    let account = Kubernetes::reviewed(&answer?)?;
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}", account.namespace, account.name);
    let object = ask_cluster(&tls, kubernetes, Verb::GET, &path, Bytes::new()).await;
    let object = object.map_err(|refusal| match refusal {
        Refusal::Unavailable(what) => {
            Refusal::Unavailable(format!("annotation lookup failed: {what}"))
        }
        other => Refusal::rejected(format!("annotation lookup failed: {other}")),
    })?;
    Ok(Kubernetes::identity(account, &object))
}

async fn ask_cluster(
    tls: &Tls,
    kubernetes: &Kubernetes,
    verb: Verb,
    path: &str,
    body: Bytes,
) -> Result<Value, Refusal> {
    let url = format!("{}{path}", kubernetes.server.url);
    let failed = |what: String| Refusal::Unavailable(format!("{verb} {url:?}: {what}"));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = verb.clone();
    *request.uri_mut() = url.parse().map_err(|_| failed("invalid URL".to_owned()))?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", kubernetes.own_token))
        .map_err(|_| failed("the ServiceAccountJWT holds odd bytes".to_owned()))?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, bearer);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (status, body) = fetch::ask(tls, request).await.map_err(failed)?;
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| failed(format!("status {status}: {error}")))?;
    if !(200..300).contains(&status) {
        let message = answer.get("message").and_then(Value::as_str);
        return Err(Refusal::rejected(match message {
            Some(message) => message.to_owned(),
            None => format!("status {status}"),
        }));
    }
    Ok(answer)
}
