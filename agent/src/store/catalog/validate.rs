//! Rules for rows, with the error texts of the reference and its libraries.

use std::collections::BTreeMap;

use super::Service;
use super::read::bare_id;
use crate::store::refusal::Refusal;

const META_PAIRS_MAX: usize = 64;
const META_KEY_MAX: usize = 128;
const META_VALUE_MAX: usize = 512;
const META_KEY_RESERVED: &str = "consul-";

/// A node's id is empty or a UUID; in the words of the reference's library.
pub(in crate::store) fn validate_node_id(id: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Ok(());
    }
    let bytes = id.as_bytes();
    if bytes.len() != 36 {
        return Err(Refusal::NodeId("uuid string is wrong length"));
    }
    if [8, 13, 18, 23].iter().any(|at| bytes[*at] != b'-') {
        return Err(Refusal::NodeId("uuid is improperly formatted"));
    }
    if bare_id(id).len() != 32 || !bare_id(id).bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Refusal::NodeId("uuid contains a character that is no hexadecimal digit"));
    }
    Ok(())
}

/// An instance without an id takes its service's name; without a name it is nothing.
pub(in crate::store) fn validate_service_name(service: &Service) -> Result<(), Refusal> {
    if service.name.is_empty() { Err(Refusal::ServiceNameMissing) } else { Ok(()) }
}

pub(super) fn validate_meta(meta: &BTreeMap<String, String>) -> Result<(), String> {
    if meta.len() > META_PAIRS_MAX {
        return Err(format!(
            "Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"
        ));
    }
    for (key, value) in meta {
        let fault = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_KEY_MAX {
            format!("Key is too long (limit: {META_KEY_MAX} characters)")
        } else if key.starts_with(META_KEY_RESERVED) {
            format!("Key prefix '{META_KEY_RESERVED}' is reserved for internal use")
        } else if value.len() > META_VALUE_MAX {
            format!("Value is too long (limit: {META_VALUE_MAX} characters)")
        } else {
            continue;
        };
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {fault}"));
    }
    Ok(())
}
