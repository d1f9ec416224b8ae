//! `kubernetes`: tokens of service accounts, which the cluster's API server reviews.

use serde_json::{Map, Value, json};

use super::identity::ServiceAccount;
use super::jws::Jws;
use super::weak::Weak;
use super::{Identity, Refusal, Source};

/// A name that a service account has here, other than its own.
const NAME_ANNOTATION: &str = "consul.hashicorp.com/service-name";
/// Whom a service account logs in as.
const USER_PREFIX: &str = "system:serviceaccount:";

/// Settings of a method.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The API server.
    pub(super) server: Source,
    /// Token of the account that may ask for reviews.
    pub(super) own_token: String,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("server", &self.server.url).finish_non_exhaustive()
    }
}

impl Kubernetes {
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Kubernetes, String> {
        let mut weak = Weak::new(config);
        let mut server = Source::take(&mut weak, "Host", "CACert");
        let own_token = weak.text("ServiceAccountJWT");
        weak.finish()?;
        if server.url.is_empty() {
            return Err("Config.Host is required".to_owned());
        }
        if server.ca.is_empty() {
            return Err("Config.CACert is required".to_owned());
        }
        if !server.has_authorities() {
            return Err("error parsing kubernetes ca cert: data does not contain any valid RSA or ECDSA certificates".to_owned());
        }
        if own_token.is_empty() {
            return Err("Config.ServiceAccountJWT is required".to_owned());
        }
        Jws::parse(&own_token)
            .map_err(|what| format!("Config.ServiceAccountJWT is not a valid JWT: {what}"))?;
        if !server.url.contains("://") {
            server.url = format!("https://{}", server.url);
        }
        server.url.truncate(server.url.trim_end_matches('/').len());
        Ok(Kubernetes { server, own_token })
    }

    /// The question to the API server. What is no token at all is refused here.
    pub(super) fn review(token: &str) -> Result<Value, Refusal> {
        Jws::parse(token).map_err(|what| {
            Refusal::rejected(format!("failed to parse and validate JWT: {what}"))
        })?;
        Ok(json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token},
            "status": {"user": {}},
        }))
    }

    /// The account that a review vouches for.
    pub(super) fn reviewed(answer: &Value) -> Result<ServiceAccount, Refusal> {
        let failed = |what: &str| Refusal::rejected(format!("lookup failed: {what}"));
        let text = |place: &str| answer.pointer(place).and_then(Value::as_str).unwrap_or_default();
        let error = text("/status/error");
        if !error.is_empty() {
            return Err(failed(error));
        }
        if answer.pointer("/status/authenticated") != Some(&Value::Bool(true)) {
            return Err(failed("service account jwt not authenticated"));
        }
        let user = text("/status/user/username");
        let mut parts = user.strip_prefix(USER_PREFIX).unwrap_or_default().split(':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), None) if is_name(namespace) && is_name(name) => {
                Ok(ServiceAccount {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    uid: text("/status/user/uid").to_owned(),
                })
            }
            _ => Err(failed("unexpected username format")),
        }
    }

    /// The identity, after its annotations have been read.
    pub(super) fn identity(mut account: ServiceAccount, object: &Value) -> Identity {
        let annotations = object.pointer("/metadata/annotations");
        let name = annotations.and_then(|all| all.get(NAME_ANNOTATION)).and_then(Value::as_str);
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            name.clone_into(&mut account.name);
        }
        Identity::ServiceAccount(account)
    }
}

/// Names are parts of an address that is asked: nothing but what Kubernetes allows.
fn is_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed) && !name.starts_with('.')
}
