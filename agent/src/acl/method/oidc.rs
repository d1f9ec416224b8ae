//! `oidc`: people log in at their provider with a web browser (OpenID Connect, authorization code flow with PKCE).
//!
//! Between the two halves of a log-in nothing is kept here. What the second half must know (nonce, verifier, address, end)
//! travels through the browser as the `state`, sealed with a key that follows from the client secret: every server can
//! end what another began, and nobody can fill a memory with beginnings.

use std::time::Duration;

use ::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ::http::{HeaderValue, Method as Verb, Request};
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::claims;
use super::jws::{Claims, Jws};
use super::jwt::Checks;
use super::keys::{Algorithm, Key};
use super::weak::Weak;
use super::{Identity, Refusal, Source};

/// Time that somebody has to log in at the provider.
const STATE_LIFETIME: Duration = Duration::from_mins(10);
/// Leeway of the provider's clock.
const CLOCK_LEEWAY: i64 = 60;
/// Bytes of what a client sends in each field.
const FIELD_BYTES_MAX: usize = 8 * 1024;
/// Bytes that the sealing of a state needs in front.
const SEAL_NONCE_BYTES: usize = 12;

const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Settings of a method.
#[derive(Clone, PartialEq, Eq)]
pub struct Oidc {
    pub(super) provider: Source,
    pub(super) checks: Checks,
    client: String,
    secret: String,
    scopes: Vec<String>,
    acr_values: Vec<String>,
    redirects: Vec<String>,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oidc")
            .field("provider", &self.provider.url)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Beginning of a log-in, as a client asks for it.
#[derive(Clone, Default)]
pub struct Start {
    /// Address to which the browser comes back.
    pub redirect: String,
    /// A secret of the client, asked for again at the end.
    pub client_nonce: String,
}

/// End of a log-in, as the browser brought it.
#[derive(Clone, Default)]
pub struct Callback {
    /// The state of the beginning.
    pub state: String,
    /// The provider's code.
    pub code: String,
    /// The secret of the client.
    pub client_nonce: String,
}

/// What the end must know of the beginning.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    redirect: String,
    nonce: String,
    verifier: String,
    client_nonce: String,
    /// Seconds since 1970.
    ends: u64,
}

/// What a provider gave for a code.
pub(super) struct Tokens {
    id: String,
    access: String,
}

/// Random bytes of a beginning: for the seal, the nonce and the verifier.
pub(super) type Chance = [u8; SEAL_NONCE_BYTES + 16 + 32];

impl Oidc {
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Oidc, String> {
        let mut weak = Weak::new(config);
        let (checks, algorithms) = Checks::take(&mut weak);
        let provider = Source::take(&mut weak, "OIDCDiscoveryURL", "OIDCDiscoveryCACert");
        let client = weak.text("OIDCClientID");
        let secret = weak.text("OIDCClientSecret");
        let scopes = weak.texts("OIDCScopes");
        let acr_values = weak.texts("OIDCACRValues");
        let redirects = weak.texts("AllowedRedirectURIs");
        let verbose = weak.flag("VerboseOIDCLogging");
        // Always used; named by those who switch it on elsewhere.
        weak.flag("OIDCClientUsePKCE");
        weak.finish()?;
        let needed = [
            ("OIDCDiscoveryURL", provider.url.is_empty()),
            ("OIDCClientID", client.is_empty()),
            ("OIDCClientSecret", secret.is_empty()),
            ("AllowedRedirectURIs", redirects.is_empty()),
        ];
        if let Some((name, _)) = needed.iter().find(|(_, missing)| *missing) {
            return Err(format!("'{name}' must be set for type \"oidc\""));
        }
        if verbose {
            return Err("'VerboseOIDCLogging' is not supported: claims are never logged".to_owned());
        }
        let bad: Vec<&str> =
            redirects.iter().map(String::as_str).filter(|it| parts(it).is_none()).collect();
        if !bad.is_empty() {
            return Err(format!("Invalid AllowedRedirectURIs provided: [{}]", bad.join(" ")));
        }
        provider.validate()?;
        checks.validate(&algorithms)?;
        Ok(Oidc { provider, checks, client, secret, scopes, acr_values, redirects })
    }

    /// Judges a beginning before anybody is asked.
    pub(super) fn may_begin(&self, start: &Start) -> Result<(), Refusal> {
        if start.redirect.len() > FIELD_BYTES_MAX || start.client_nonce.len() > FIELD_BYTES_MAX {
            return Err(Refusal::rejected("a field of the request is too long"));
        }
        if !self.redirects.iter().any(|allowed| is_allowed(&start.redirect, allowed)) {
            let what = format!("unauthorized redirect_uri: {}", start.redirect);
            return Err(Refusal::Rejected(what));
        }
        Ok(())
    }

    /// Address of the provider's page for this beginning.
    pub(super) fn auth_url(
        &self,
        name: &str,
        document: &Value,
        start: &Start,
        now: Duration,
        chance: Chance,
    ) -> Result<String, Refusal> {
        let page = endpoint(document, "authorization_endpoint")?;
        let (seal, rest) = chance.split_at(SEAL_NONCE_BYTES);
        let (nonce, verifier) = rest.split_at(16);
        let state = State {
            redirect: start.redirect.clone(),
            nonce: URL_SAFE_NO_PAD.encode(nonce),
            verifier: URL_SAFE_NO_PAD.encode(verifier),
            client_nonce: digest(start.client_nonce.as_bytes()),
            ends: (now + STATE_LIFETIME).as_secs(),
        };
        let mut scopes = vec!["openid"];
        scopes.extend(self.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid"));
        let mut query = vec![
            ("client_id", self.client.clone()),
            ("code_challenge", digest(state.verifier.as_bytes())),
            ("code_challenge_method", "S256".to_owned()),
            ("nonce", state.nonce.clone()),
            ("redirect_uri", state.redirect.clone()),
            ("response_type", "code".to_owned()),
            ("scope", scopes.join(" ")),
            ("state", self.seal(name, &state, seal)?),
        ];
        if !self.acr_values.is_empty() {
            query.push(("acr_values", self.acr_values.join(" ")));
        }
        let mark = if page.contains('?') { '&' } else { '?' };
        Ok(format!("{page}{mark}{}", form(&query)))
    }

    fn cipher(&self, name: &str) -> Aes256Gcm {
        let mut key = Sha256::new();
        for part in ["state of a log-in", name, &self.provider.url, &self.client, &self.secret] {
            key.update((part.len() as u64).to_be_bytes());
            key.update(part);
        }
        Aes256Gcm::new_from_slice(&key.finalize()).expect("a digest has the length of a key")
    }

    fn seal(&self, name: &str, state: &State, nonce: &[u8]) -> Result<String, Refusal> {
        let failed = || Refusal::rejected("the state of the log-in cannot be sealed");
        let plain = serde_json::to_vec(state).map_err(|_| failed())?;
        let at = Nonce::try_from(nonce).map_err(|_| failed())?;
        let payload = Payload { msg: &plain, aad: name.as_bytes() };
        let sealed = self.cipher(name).encrypt(&at, payload).map_err(|_| failed())?;
        Ok(URL_SAFE_NO_PAD.encode([nonce, &sealed].concat()))
    }

    /// Opens the state of a beginning. One that ended, of another method or of another client is none.
    pub(super) fn open(
        &self,
        name: &str,
        callback: &Callback,
        now: Duration,
    ) -> Result<State, Refusal> {
        let unknown = || Refusal::rejected("Expired or missing OAuth state.");
        if callback.code.is_empty() || callback.code.len() > FIELD_BYTES_MAX {
            return Err(Refusal::rejected("OAuth core parameter not provided"));
        }
        if callback.state.len() > 4 * FIELD_BYTES_MAX {
            return Err(unknown());
        }
        let bytes = URL_SAFE_NO_PAD.decode(&callback.state).map_err(|_| unknown())?;
        let (nonce, sealed) = bytes.split_at_checked(SEAL_NONCE_BYTES).ok_or_else(unknown)?;
        let at = Nonce::try_from(nonce).map_err(|_| unknown())?;
        let payload = Payload { msg: sealed, aad: name.as_bytes() };
        let plain = self.cipher(name).decrypt(&at, payload).map_err(|_| unknown())?;
        let state: State = serde_json::from_slice(&plain).map_err(|_| unknown())?;
        if state.ends < now.as_secs() {
            return Err(unknown());
        }
        // Digests of both: how far they agree tells nothing of the secret.
        if state.client_nonce != digest(callback.client_nonce.as_bytes()) {
            return Err(Refusal::rejected("the client nonce is not the one of the beginning"));
        }
        Ok(state)
    }

    /// The question to the provider: the code for tokens.
    pub(super) fn exchange(
        &self,
        document: &Value,
        state: &State,
        code: &str,
    ) -> Result<Request<Full<Bytes>>, Refusal> {
        let url = endpoint(document, "token_endpoint")?;
        let mut fields = vec![
            ("code", code.to_owned()),
            ("code_verifier", state.verifier.clone()),
            ("grant_type", "authorization_code".to_owned()),
            ("redirect_uri", state.redirect.clone()),
        ];
        let ways = document.get("token_endpoint_auth_methods_supported").and_then(Value::as_array);
        let in_form = ways.is_some_and(|ways| {
            let has = |way: &str| ways.iter().any(|known| known == way);
            has("client_secret_post") && !has("client_secret_basic")
        });
        if in_form {
            fields.push(("client_id", self.client.clone()));
            fields.push(("client_secret", self.secret.clone()));
        }
        let mut request = Request::new(Full::new(Bytes::from(form(&fields))));
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = url.parse().map_err(|_| odd("token_endpoint"))?;
        let headers = request.headers_mut();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
        if !in_form {
            let escaped = |text: &str| utf8_percent_encode(text, FORM).to_string();
            let pair =
                STANDARD.encode(format!("{}:{}", escaped(&self.client), escaped(&self.secret)));
            let mut value =
                HeaderValue::from_str(&format!("Basic {pair}")).expect("base64 is visible");
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// The provider's answer to that.
    pub(super) fn tokens(status: u16, body: &[u8]) -> Result<Tokens, Refusal> {
        let failed = |what: &str| Refusal::rejected(format!("Error exchanging oidc code: {what}"));
        let answer: Value = serde_json::from_slice(body)
            .map_err(|_| failed(&format!("status {status}, and no JSON")))?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        if status != 200 {
            let error = [text("error"), text("error_description")];
            return Err(failed(&format!("status {status}: {}", error.join(" ").trim())));
        }
        if text("id_token").is_empty() {
            return Err(Refusal::rejected("No id_token found in response."));
        }
        Ok(Tokens { id: text("id_token").to_owned(), access: text("access_token").to_owned() })
    }

    /// Address for more claims, and the token for it, if the provider has both.
    pub(super) fn user_info<'a>(
        document: &'a Value,
        tokens: &'a Tokens,
    ) -> Option<(&'a str, &'a str)> {
        let url = endpoint(document, "userinfo_endpoint").ok()?;
        (!tokens.access.is_empty()).then_some((url, tokens.access.as_str()))
    }

    /// Judges the tokens of a provider: signature, issuer, audience, times, nonce.
    pub(super) fn verify(
        &self,
        document: &Value,
        tokens: &Tokens,
        info: Option<&Claims>,
        state: &State,
        now: Duration,
        keys: &[Key],
    ) -> Result<Identity, Refusal> {
        let wrong = |what: String| Refusal::Rejected(format!("error validating signature: {what}"));
        let jws =
            Jws::parse(&tokens.id).map_err(|what| wrong(format!("oidc: malformed jwt: {what}")))?;
        let allowed = if self.checks.algorithms.is_empty() {
            jws.algorithm().is_some_and(|found| offered(document).contains(&found))
        } else {
            self.checks.allow(&jws)
        };
        if !allowed || !jws.is_signed_by(keys) {
            return Err(Refusal::UnknownKey(
                "error validating signature: failed to verify signature: failed to verify id token signature",
            ));
        }
        let mut claims = jws.claims()?;
        let text = |claims: &Claims, name: &str| {
            claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let issuer = text(&claims, "iss");
        if issuer != self.provider.url {
            return Err(wrong(format!(
                "oidc: id token issued by a different provider, expected {:?} got {issuer:?}",
                self.provider.url
            )));
        }
        let audiences = claims::audiences(&claims)?;
        if !audiences.contains(&self.client.as_str()) {
            return Err(wrong(format!(
                "oidc: expected audience {:?} got {audiences:?}",
                self.client
            )));
        }
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let ends = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "seconds of our time fit")]
        if ends <= (seconds - CLOCK_LEEWAY) as f64 {
            return Err(wrong("oidc: token is expired".to_owned()));
        }
        if text(&claims, "nonce") != state.nonce {
            return Err(Refusal::rejected("Invalid ID token nonce."));
        }
        claims::judge_audience(&claims, &self.checks.audiences, false)?;
        if let Some(info) = info {
            if info.get("sub") != claims.get("sub") {
                return Err(Refusal::rejected("the /userinfo endpoint speaks of another subject"));
            }
            claims.extend(info.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        self.checks.mappings.identity(&claims)
    }
}

/// Algorithms that a provider says it uses; RS256 if it says nothing.
fn offered(document: &Value) -> Vec<Algorithm> {
    let named = document.get("id_token_signing_alg_values_supported").and_then(Value::as_array);
    match named {
        None => vec![Algorithm::Rs256],
        Some(named) => {
            named.iter().filter_map(Value::as_str).filter_map(Algorithm::parse).collect()
        }
    }
}

fn odd(name: &str) -> Refusal {
    Refusal::Unavailable(format!("the provider's `{name}` is no address"))
}

fn endpoint<'a>(document: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    let url = document.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_address = url.starts_with("https://") || url.starts_with("http://");
    if is_address { Ok(url) } else { Err(odd(name)) }
}

fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}

fn form(fields: &[(&str, String)]) -> String {
    let pair =
        |(name, value): &(&str, String)| format!("{name}={}", utf8_percent_encode(value, FORM));
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Scheme, host and rest of an address. `None` if it is none.
fn parts(uri: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if scheme.is_empty() || authority.is_empty() || uri.contains(is_odd) || authority.contains('@')
    {
        return None;
    }
    let colon = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    Some((scheme, &authority[..colon.unwrap_or(authority.len())], path))
}

/// Addresses of this machine may have any port (RFC 8252); all others must be the same letter by letter.
fn is_allowed(uri: &str, allowed: &str) -> bool {
    let Some((scheme, host, path)) = parts(uri) else { return false };
    if ["localhost", "127.0.0.1", "[::1]"].contains(&host) {
        parts(allowed) == Some((scheme, host, path))
    } else {
        uri == allowed
    }
}
