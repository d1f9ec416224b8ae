//! Signed tokens in compact form: `header.payload.signature`, each in base64 (RFC 7515).

use std::fmt;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine as _};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::Refusal;
use super::keys::{Algorithm, Key};

/// Longest token. Some providers list hundreds of groups.
pub(super) const TOKEN_BYTES_MAX: usize = 128 * 1024;

/// A token whose signature has not been looked at.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    /// `None` for one that is not known here.
    algorithm: Option<Algorithm>,
    key_id: Option<String>,
    /// Its header demands an understanding that nobody here has.
    critical: bool,
    message: &'a [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Claims of a token that nobody has verified yet, or that a key has.
pub(super) type Claims = Map<String, Value>;

impl Jws<'_> {
    /// Takes a token apart. The error continues a sentence of its caller.
    pub(super) fn parse(token: &str) -> Result<Jws<'_>, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("the token is longer than {TOKEN_BYTES_MAX} bytes"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("square/go-jose: compact JWS format must have three parts".to_owned());
        };
        let message = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let (header, payload) = (decode(header)?, decode(payload)?);
        let signature = decode(signature)?;
        let Unique(header) = serde_json::from_slice(&header).map_err(|error| error.to_string())?;
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        Ok(Jws {
            algorithm: text("alg").and_then(Algorithm::parse),
            key_id: text("kid").map(str::to_owned),
            critical: header.contains_key("crit"),
            message,
            payload,
            signature,
        })
    }

    /// The algorithm of the header, if it is one that exists here.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// Says whether one of these keys made the signature.
    pub(super) fn is_signed_by(&self, keys: &[Key]) -> bool {
        let Some(algorithm) = self.algorithm.filter(|_| !self.critical) else { return false };
        keys.iter().any(|key| {
            key.is(self.key_id.as_deref()) && key.verifies(algorithm, self.message, &self.signature)
        })
    }

    /// The claims. A name that is there twice is refused: readers could take either.
    pub(super) fn claims(&self) -> Result<Claims, Refusal> {
        serde_json::from_slice(&self.payload)
            .map(|Unique(claims)| claims)
            .map_err(|error| Refusal::rejected(format!("failed to unmarshal claims: {error}")))
    }
}

fn decode(part: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(part).map_err(|error| {
        let place = match error {
            DecodeError::InvalidByte(place, _) | DecodeError::InvalidLastSymbol(place, _) => place,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => part.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {place}")
    })
}

/// An object without a name that is there twice.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Map<String, Value>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Unique)
    }
}
