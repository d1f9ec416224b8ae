//! Every parser that reads what others wrote, as one function of bytes each: whatever they are, it
//! neither panics nor takes more time or memory than they are worth. `fuzz/` feeds them.
//!
//! Claims about any input are asserted here, too: what is written after it was read reads as
//! the same, and a refused body is the client's mistake.

use crate::checks::Shared;
use crate::config;
use crate::filter::rows::Placed;
use crate::filter::{Filter, schema};
use crate::gossip::wire;
use crate::http::fuzzing as interface;
use crate::local::{Source, definition};
use crate::raft;
use crate::store::{Command, Node, snapshot};

/// A parser and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("command", command),
    ("config", config),
    ("definition", definition),
    ("dns", dns),
    ("filter", filter),
    ("gossip", gossip),
    ("log", log),
    ("register", register),
    ("request", request),
    ("rpc", rpc),
    ("snapshot", snapshot),
    ("txn", txn),
];

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// A change as it stands in the log and goes between servers.
fn command(bytes: &[u8]) {
    if let Ok(command) = Command::decode(bytes) {
        let again = Command::decode(&command.encode()).expect("what was written is understood");
        assert_eq!(again, command);
    }
}

/// Configuration files, in both languages.
fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    config::read_anything(&text, "hcl");
    config::read_anything(&text, "json");
}

/// Definitions of services and checks, from a request or a file.
fn definition(bytes: &[u8]) {
    let Ok(value) = crate::json::value(bytes) else { return };
    for source in [Source::Api, Source::Config] {
        let _ = definition::service(value.clone(), source, Shared::default());
        let _ = definition::check(value.clone(), source, Shared::default());
    }
}

/// `?filter=`, and its verdict on a row.
fn filter(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (node, service) = (Node::default(), interface::service());
    let row = Placed { node: &node, service: &service };
    for schema in [&schema::NODE, &schema::CATALOG_SERVICE, &schema::SERVICE, &schema::CHECK] {
        if let Ok(filter) = Filter::parse(&text, schema) {
            let _ = filter.matches(&row);
        }
    }
}

/// Records and segments of the log.
fn log(bytes: &[u8]) {
    raft::log::fuzzing::segment(bytes);
    raft::log::fuzzing::record(bytes);
}

/// Bodies that register, deregister and create sessions.
fn register(bytes: &[u8]) {
    interface::catalog(bytes);
}

/// A request's target and headers, and times as the API writes them.
fn request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = muster_client::types::parse_nanos(&text);
    interface::request(&text);
}

/// Packets of DNS: questions, and what other name servers answer.
fn dns(bytes: &[u8]) {
    crate::dns::read_anything(bytes);
}

/// Packets and streams of gossip.
fn gossip(bytes: &[u8]) {
    for segment in ["", "alpha"] {
        if let Ok(messages) = wire::read_datagram(segment, bytes) {
            let again = wire::read_datagram(segment, &wire::datagram(segment, &messages));
            assert_eq!(again.expect("what was written is understood").len(), messages.len());
        }
    }
    let _ = (wire::read_question(bytes).is_ok(), wire::read_answer(bytes).is_ok());
}

/// Frames of calls between agents.
fn rpc(bytes: &[u8]) {
    crate::rpc::read_anything(bytes);
}

/// Snapshots of the state.
fn snapshot(bytes: &[u8]) {
    if let Ok(store) = snapshot::read(bytes) {
        let mut written = Vec::new();
        snapshot::write(&store, &mut written).expect("memory takes what was read");
        let again = snapshot::read(&written[..]).expect("what was written is understood");
        assert_eq!(again.counts(), store.counts());
    }
}

/// The operations of a transaction.
fn txn(bytes: &[u8]) {
    interface::transaction(bytes);
}
