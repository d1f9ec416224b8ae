//! Public keys of identity providers, and signatures made with their private halves.
//!
//! A key says by its kind which algorithms fit, so that the header of a token never decides how its own signature is
//! read. Symmetric keys and `none` do not exist here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use serde_json::Value;

/// Keys of a set that are looked at; providers have two or three.
const KEYS_MAX: usize = 100;

/// An algorithm of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

const NAMES: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Algorithm> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return None,
        })
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Its name in a set; empty for none.
    id: String,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// As in PKCS#1.
    Rsa(Vec<u8>),
    RsaParts {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// The first public key or certificate of a text.
    pub(super) fn from_pem(text: &str) -> Option<Key> {
        let info = if let Ok(info) = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()) {
            info.to_vec()
        } else {
            let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
            let parsed = ParsedCertificate::try_from(&certificate).ok()?;
            parsed.subject_public_key_info().to_vec()
        };
        let material = public_key_info(&info)?;
        Some(Key { id: String::new(), material })
    }

    /// A key of a set. `None` for what signs nothing here: other kinds, other uses, symmetric ones.
    fn from_jwk(jwk: &Value) -> Option<Key> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::RsaParts { n: stripped(bytes("n")?), e: stripped(bytes("e")?) },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(Key { id: text("kid").unwrap_or_default().to_owned(), material })
    }

    /// May this be the key that a token names? Tokens and keys without a name fit all.
    pub(super) fn is(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| id.is_empty() || self.id.is_empty() || self.id == id)
    }

    /// Says whether the signature was made by this key's private half, and with this algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let by = |with: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(with, key).verify(message, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Rsa(key), _) => algorithm.rsa().is_some_and(|with| by(with, key)),
            (Material::RsaParts { n, e }, _) => algorithm.rsa().is_some_and(|with| {
                RsaPublicKeyComponents { n, e }.verify(with, message, signature).is_ok()
            }),
            (Material::P256(key), Algorithm::Es256) => by(&ECDSA_P256_SHA256_FIXED, key),
            (Material::P384(key), Algorithm::Es384) => by(&ECDSA_P384_SHA384_FIXED, key),
            (Material::Ed25519(key), Algorithm::EdDsa) => by(&ED25519, key),
            _ => false,
        }
    }
}

/// The keys of a set in JSON. One that is odd costs itself alone.
pub(super) fn key_set(body: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Err("no list `keys` in it".to_owned());
    };
    Ok(keys.iter().take(KEYS_MAX).filter_map(Key::from_jwk).collect())
}

/// A number without zeros before it.
fn stripped(number: Vec<u8>) -> Vec<u8> {
    match number.iter().position(|byte| *byte != 0) {
        Some(begin) => number[begin..].to_vec(),
        None => number,
    }
}

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const CURVE_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const CURVE_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519_ID: &[u8] = &[0x2b, 0x65, 0x70];

/// The key in a `SubjectPublicKeyInfo` (RFC 5280): an algorithm with its curve, and the bits.
fn public_key_info(der: &[u8]) -> Option<Material> {
    let (info, _) = element(der, SEQUENCE)?;
    let (algorithm, rest) = element(info, SEQUENCE)?;
    let (bits, _) = element(rest, BIT_STRING)?;
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key.to_vec()))? else {
        return None;
    };
    let (id, parameters) = element(algorithm, OBJECT_ID)?;
    Some(match id {
        RSA => Material::Rsa(key),
        ED25519_ID => Material::Ed25519(key),
        EC => match element(parameters, OBJECT_ID)?.0 {
            CURVE_P256 => Material::P256(key),
            CURVE_P384 => Material::P384(key),
            _ => return None,
        },
        _ => return None,
    })
}

/// Content of the first DER element, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
