//! Containers for tests.

use std::collections::BTreeMap;

use crate::container::{Attachment, Container, NetworkMode, Run};

/// A running container on the default bridge that exposes nothing.
pub(crate) fn container(name: &str) -> Container {
    let bridge =
        Attachment { network_id: "b0".repeat(32), v4: "172.17.0.2".parse().ok(), v6: None };
    Container {
        id: id_of(name),
        name: name.to_owned(),
        image: "shop/web:1.2".to_owned(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        exposed: [].into(),
        published: BTreeMap::new(),
        network_mode: NetworkMode::Own,
        networks: [("bridge".to_owned(), bridge)].into(),
        run: Run::Running,
        started_at: 1_000,
        health: None,
        stop_signal: 15,
    }
}

/// The id of the container of that name: 64 hexadecimal digits.
pub(crate) fn id_of(name: &str) -> String {
    let hex = name.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("{hex:0<64}")
}
