//! Keys and lock holders.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lenient::{integer, list, null_as_default};

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvPair {
    /// How often its lock was taken.
    #[serde(deserialize_with = "integer")]
    pub lock_index: u64,
    /// Full path.
    #[serde(deserialize_with = "null_as_default")]
    pub key: String,
    /// Opaque number of the user.
    #[serde(deserialize_with = "integer")]
    pub flags: u64,
    /// Opaque bytes; base64 on the wire, `null` when empty.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub value: Vec<u8>,
    /// Who holds its lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
}

fn to_base64<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.serialize_str(&STANDARD.encode(value))
    }
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(Vec::new()),
        Some(text) => STANDARD.decode(text).map_err(serde::de::Error::custom),
    }
}

/// A lock holder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Session {
    /// UUID.
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    pub id: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// The node it lives on and dies with.
    #[serde(deserialize_with = "null_as_default")]
    pub node: String,
    /// Nanoseconds during which its keys stay unlockable after it was invalidated.
    #[serde(deserialize_with = "integer")]
    pub lock_delay: u64,
    /// `release` or `delete`.
    #[serde(deserialize_with = "null_as_default")]
    pub behavior: String,
    /// Empty or a duration.
    #[serde(rename = "TTL", deserialize_with = "null_as_default")]
    pub ttl: String,
    /// Checks of the node that it depends on.
    #[serde(deserialize_with = "list")]
    pub node_checks: Vec<String>,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
}

/// `PUT /v1/session/create`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SessionDefinition {
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The agent's own node when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// A duration; 15 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_delay: Option<String>,
    /// `release` (default) or `delete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<String>,
    /// A duration between 10 s and a day; none when absent.
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// `serfHealth` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_checks: Option<Vec<String>>,
}
