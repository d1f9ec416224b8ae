//! Auth methods: log-ins of those whom somebody else knows, and what they may do here.
//!
//! ```text
//! bearer token ──▶ jwt / kubernetes / oidc ──▶ Identity ──▶ rules ──▶ Grant ──▶ a token of this cluster
//!                        ▲ keys, reviews
//!                   provider (asks over HTTPS; all else is pure)
//! ```
//!
//! What is verified, and what is bound, is decided by plain values with the time and the keys as arguments.
//! [`Providers`] asks identity providers: bounded in bytes and time, keys kept, unknown ones looked for at most every few
//! seconds.

mod claims;
mod fetch;
mod identity;
mod jws;
mod jwt;
mod keys;
mod kubernetes;
mod login;
mod oidc;
mod provider;
mod rules;
mod weak;

use serde_json::{Map, Value};

pub use identity::{Identity, ServiceAccount};
pub use login::{Login, Names, keep, login, logout};
pub use oidc::{Callback, Start};
pub use provider::Providers;
pub use rules::{Grant, Invalid, Rule, bind, description, validate};

use crate::filter::schema::{self, Schema};
use crate::net::tls::Tls;
use weak::Weak;

/// A method with its settings, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Tokens that a provider has signed.
    Jwt(jwt::Jwt),
    /// Service accounts of Kubernetes.
    Kubernetes(kubernetes::Kubernetes),
    /// People, by a web browser.
    Oidc(oidc::Oidc),
}

/// Why somebody cannot log in. `Display` is the reference's text where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token, or what it says, does not count.
    #[error("{0}")]
    Rejected(String),
    /// No key that is known made the signature.
    #[error("{0}")]
    UnknownKey(&'static str),
    /// No rule grants anything, or no log-in made this token.
    #[error("Permission denied")]
    Denied,
    /// No such method or token.
    #[error("ACL not found")]
    NotFound,
    /// The provider cannot be asked.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    fn rejected(what: impl Into<String>) -> Refusal {
        Refusal::Rejected(what.into())
    }
}

impl Method {
    /// Reads the settings of a method as they were written. What needs the network is [`Providers::check`]'s.
    pub fn parse(kind: &str, config: &Map<String, Value>) -> Result<Method, Invalid> {
        let invalid = |what: String| Invalid(format!("Invalid Auth Method: {what}"));
        match kind {
            "jwt" => jwt::Jwt::parse(config).map(Method::Jwt),
            "kubernetes" => kubernetes::Kubernetes::parse(config).map(Method::Kubernetes),
            "oidc" => oidc::Oidc::parse(config).map(Method::Oidc),
            _ => Err("Type should be one of: [jwt kubernetes oidc]".to_owned()),
        }
        .map_err(invalid)
    }

    /// The fields that selectors of its rules may name.
    fn schema(&self) -> &'static Schema {
        match self {
            Method::Jwt(_) | Method::Oidc(_) => &schema::CLAIMS,
            Method::Kubernetes(_) => &schema::SERVICE_ACCOUNT_IDENTITY,
        }
    }

    /// May names of its rules hold this variable?
    fn has_variable(&self, name: &str) -> bool {
        let mapped = |mappings: &claims::Mappings| {
            name.strip_prefix("value.").is_some_and(|name| mappings.has_value(name))
        };
        match self {
            Method::Jwt(jwt) => mapped(&jwt.checks.mappings),
            Method::Oidc(oidc) => mapped(&oidc.checks.mappings),
            Method::Kubernetes(_) => identity::SERVICE_ACCOUNT_VARIABLES.contains(&name),
        }
    }
}

/// A place that is asked over HTTP, and whom its certificate may be from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    /// Its address; empty if there is none.
    url: String,
    /// Certificates in PEM form; empty: whom the system trusts.
    ca: String,
    /// Names of the two settings.
    keys: (&'static str, &'static str),
}

impl Source {
    fn take(weak: &mut Weak, url: &'static str, ca: &'static str) -> Source {
        Source { url: weak.text(url), ca: weak.text(ca), keys: (url, ca) }
    }

    fn has_authorities(&self) -> bool {
        Tls::trusting(&self.ca).is_some()
    }

    fn validate(&self) -> Result<(), String> {
        let (url, ca) = self.keys;
        if self.url.is_empty() && !self.ca.is_empty() {
            return Err(format!("'{ca}' should not be set unless '{url}' is set"));
        }
        if !self.ca.is_empty() && !self.has_authorities() {
            return Err(format!("error checking {ca}: could not parse CA PEM value successfully"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
