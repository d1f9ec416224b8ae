//! Identity of a node: its datacenter, its name, which is the host's by default, its id and its metadata.

use std::collections::BTreeMap;

use crate::config::Error;
use crate::config::written::Written;

/// The agent's datacenter, in lower case.
pub(super) fn datacenter(written: &Written) -> Result<String, Error> {
    let datacenter = written.text("datacenter").unwrap_or("dc1").to_lowercase();
    if datacenter.is_empty() {
        return Err(Error("datacenter cannot be empty".into()));
    }
    check_datacenter("datacenter", &datacenter)?;
    Ok(datacenter)
}

/// The node's name.
pub(super) fn node_name(written: &Written) -> Result<String, Error> {
    let name = match written.filled("node_name") {
        Some(name) => name.to_owned(),
        None => host_name()?,
    };
    check_node_name(&name)?;
    Ok(name)
}

/// The node's id, if one is given.
pub(super) fn node_id(written: &Written) -> Result<Option<String>, Error> {
    let Some(text) = written.filled("node_id") else { return Ok(None) };
    let id = uuid::Uuid::parse_str(text)
        .map_err(|error| Error(format!("node_id `{text}` is not a UUID: {error}")))?;
    Ok(Some(id.to_string()))
}

/// The name of this host.
fn host_name() -> Result<String, Error> {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            Error("node_name cannot be empty\nhint: this host has no name; give -node".into())
        })
}

/// Refuses a name that no other member would accept.
fn check_node_name(name: &str) -> Result<(), Error> {
    crate::gossip::node_name(name).map_err(|unfit| {
        Error(format!("node_name is not usable: {unfit}\nhint: give another one with -node"))
    })
}

/// Refuses pairs that the catalog would not take.
pub(super) fn check_meta(meta: &BTreeMap<String, String>) -> Result<(), Error> {
    if meta.len() > 64 {
        return Err(Error(
            "node_meta invalid: Node metadata cannot contain more than 64 key/value pairs".into(),
        ));
    }
    for (key, value) in meta {
        let why = if key.is_empty() {
            "Key cannot be blank"
        } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            "Key contains invalid characters"
        } else if key.len() > 128 {
            "Key is too long (limit: 128 characters)"
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use"
        } else if value.len() > 512 {
            "Value is too long (limit: 512 characters)"
        } else {
            continue;
        };
        return Err(Error(format!(
            "node_meta invalid: Couldn't load metadata pair ('{key}', '{value}'): {why}"
        )));
    }
    Ok(())
}

/// Refuses a datacenter that could not be part of a name.
pub(super) fn check_datacenter(key: &str, name: &str) -> Result<(), Error> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if name.bytes().all(plain) {
        return Ok(());
    }
    Err(Error(format!("{key} cannot be \"{name}\". Please use only [a-z0-9-_]")))
}
