//! `jwt`: tokens that an identity provider has signed.

use std::time::Duration;

use serde_json::{Map, Value};

use super::claims::{self, Leeways, Mappings};
use super::jws::Jws;
use super::keys::{Algorithm, Key};
use super::weak::Weak;
use super::{Identity, Refusal, Source};

/// Settings of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    pub(super) keys: Keys,
    pub(super) checks: Checks,
    issuer: String,
    leeways: Leeways,
}

/// Place of the keys of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    Static(Vec<Key>),
    Set(Source),
    Discovery(Source),
}

/// What tokens of all kinds are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checks {
    /// Empty: all that fit the keys.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) audiences: Vec<String>,
    pub(super) mappings: Mappings,
}

impl Checks {
    /// The algorithms as written are judged later, with the rest.
    pub(super) fn take(weak: &mut Weak) -> (Checks, Vec<String>) {
        let written = weak.texts("JWTSupportedAlgs");
        let algorithms = written.iter().filter_map(|name| Algorithm::parse(name)).collect();
        let audiences = weak.texts("BoundAudiences");
        let mappings = Mappings::take(weak);
        (Checks { algorithms, audiences, mappings }, written)
    }

    pub(super) fn validate(&self, written: &[String]) -> Result<(), String> {
        if let Some(unknown) = written.iter().find(|name| Algorithm::parse(name).is_none()) {
            return Err(format!("Invalid supported algorithm: {unknown}"));
        }
        self.mappings.validate()
    }

    /// May a token be signed like that?
    pub(super) fn allow(&self, jws: &Jws<'_>) -> bool {
        jws.algorithm()
            .is_some_and(|found| self.algorithms.is_empty() || self.algorithms.contains(&found))
    }
}

impl Jwt {
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Jwt, String> {
        let mut weak = Weak::new(config);
        let (checks, algorithms) = Checks::take(&mut weak);
        let discovery = Source::take(&mut weak, "OIDCDiscoveryURL", "OIDCDiscoveryCACert");
        let set = Source::take(&mut weak, "JWKSURL", "JWKSCACert");
        let pems = weak.texts("JWTValidationPubKeys");
        let issuer = weak.text("BoundIssuer");
        let leeways = Leeways::take(&mut weak);
        weak.finish()?;

        let named = [!discovery.url.is_empty(), !pems.is_empty(), !set.url.is_empty()];
        if named.iter().filter(|named| **named).count() != 1 {
            return Err("exactly one of 'JWTValidationPubKeys', 'JWKSURL', or 'OIDCDiscoveryURL' must be set for type \"jwt\"".to_owned());
        }
        set.validate()?;
        let mut keys = Vec::with_capacity(pems.len());
        for (place, pem) in pems.iter().enumerate() {
            keys.push(Key::from_pem(pem).ok_or_else(|| format!("error parsing public key JWTValidationPubKeys[{place}]: data does not contain any valid RSA, ECDSA, or ED25519 public keys"))?);
        }
        discovery.validate()?;
        checks.validate(&algorithms)?;
        let keys = match named {
            [true, ..] => Keys::Discovery(discovery),
            [_, true, _] => Keys::Static(keys),
            _ => Keys::Set(set),
        };
        Ok(Jwt { keys, checks, issuer, leeways })
    }

    /// Judges a token with these keys: signature, issuer, times, audience. The claims that have names come back.
    pub(super) fn verify(
        &self,
        token: &str,
        now: Duration,
        keys: &[Key],
    ) -> Result<Identity, Refusal> {
        let token = token.trim();
        if token.is_empty() {
            return Err(Refusal::rejected("missing jwt"));
        }
        let malformed = |what: String| {
            Refusal::rejected(match self.keys {
                Keys::Static(_) => format!("error parsing token: {what}"),
                Keys::Set(_) => format!("error verifying token: oidc: malformed jwt: {what}"),
                Keys::Discovery(_) => {
                    format!("error validating signature: oidc: malformed jwt: {what}")
                }
            })
        };
        let jws = Jws::parse(token).map_err(malformed)?;
        if !self.checks.allow(&jws) || !jws.is_signed_by(keys) {
            return Err(Refusal::UnknownKey(match self.keys {
                Keys::Static(_) => "no known key successfully validated the token signature",
                Keys::Set(_) => "error verifying token: failed to verify id token signature",
                Keys::Discovery(_) => {
                    "error validating signature: failed to verify signature: failed to verify id token signature"
                }
            }));
        }
        let claims = jws.claims()?;
        // A provider that is found by discovery is one issuer.
        let issuer = match &self.keys {
            Keys::Discovery(source) if self.issuer.is_empty() => &source.url,
            _ => &self.issuer,
        };
        claims::judge(&claims, issuer, self.leeways, now)?;
        let strict = !matches!(self.keys, Keys::Discovery(_));
        claims::judge_audience(&claims, &self.checks.audiences, strict)?;
        self.checks.mappings.identity(&claims)
    }
}
