//! `meta.json`: which state an archive holds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::store::{Index, snapshot};

/// Which state it is. Names and order are the reference's; [`Meta::state_format`] is ours.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Meta {
    /// Of this file; the reference knows 1.
    pub version: u64,
    /// Term, index and milliseconds since 1970.
    #[serde(rename = "ID")]
    pub id: String,
    /// The last change in the state.
    pub index: Index,
    /// The term of whoever saved it.
    pub term: u64,
    /// Addresses of the servers, as readers of old know them: a list in MessagePack, in base64.
    peers: String,
    configuration: Configuration,
    /// The position that set the servers.
    pub configuration_index: Index,
    /// Bytes of the state.
    pub size: u64,
    /// The format of our own state; 0 in archives of other programs.
    #[serde(skip_serializing_if = "is_zero")]
    pub state_format: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Configuration {
    servers: Vec<Server>,
}

/// A server as it was when the state was saved. A restore does not look at it: who takes part is
/// the business of the servers that are there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Server {
    /// 0 votes, 1 only listens.
    pub suffrage: u8,
    /// Its UUID.
    #[serde(rename = "ID")]
    pub id: String,
    /// `ip:port`.
    pub address: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(format: &u16) -> bool {
    *format == 0
}

impl Meta {
    /// Of a state at `index`, saved in `term` at `at_ms` by one of `servers`, which agreed on each
    /// other at `configuration_index`.
    pub fn new(
        index: Index,
        term: u64,
        at_ms: u64,
        servers: Vec<Server>,
        configuration_index: Index,
    ) -> Meta {
        let addresses: Vec<&str> = servers.iter().map(|server| server.address.as_str()).collect();
        let peers = rmp_serde::to_vec(&addresses).expect("a list of texts has an encoding");
        Meta {
            version: 1,
            id: format!("{term}-{index}-{at_ms}"),
            index,
            term,
            peers: STANDARD.encode(peers),
            configuration: Configuration { servers },
            configuration_index,
            size: 0,
            state_format: snapshot::FORMAT,
        }
    }

    /// The servers as they were.
    pub fn servers(&self) -> &[Server] {
        &self.configuration.servers
    }

    /// When it was saved, in seconds since 1970: the last part of its ID says it.
    pub(super) fn seconds(&self) -> u64 {
        self.id.rsplit('-').next().and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0) / 1000
    }

    pub(super) fn encode(&self, size: u64) -> Vec<u8> {
        let meta = Meta { size, ..self.clone() };
        let mut bytes = serde_json::to_vec(&meta).expect("text and numbers have an encoding");
        bytes.push(b'\n');
        bytes
    }
}
