//! The DNS interface: names of nodes and services as every program can ask for them.
//!
//! ```text
//! packet ─ wire ─▶ query ─ name ─▶ Lookup ─ lookup(store) ─▶ rows ─ answer ─▶ Prepared ─ write ─▶ packet
//!                     │                    └─ or a server, by RPC ┘     │ kept until it changes
//!                     └─ not ours: recursor ─▶ another server's answer, as it is
//! ```
//!
//! `name`, `lookup`, `answer` and `write` are plain functions of their input. `handler` puts them
//! together, `server` owns the sockets. What the store says is [`Rows`], a value that can travel:
//! an agent without a catalog asks a server for it through [`Remote`], and does all else itself.

mod answer;
mod cache;
mod datagram;
mod draft;
mod handler;
mod limit;
mod lookup;
mod meta;
mod name;
mod recursor;
mod server;
mod settings;
mod source;
mod stale_cache;
mod wire;
mod write;

pub use handler::{Handler, answer_packet};
pub use lookup::{Address, InstanceRow, Lookup, NodeRow, OwnerRow, Rows, look};
pub use server::{Listener, serve};
pub use settings::{Settings, SoaTimes, Strategy, TtlMap};
pub use source::{Freshness, Remote, Source, Unavailable, find};
pub use wire::Name;
pub use write::Transport;

/// Reads bytes as a packet of either kind; for [`crate::fuzzing`].
pub(crate) fn read_anything(packet: &[u8]) {
    let (store, settings) = (crate::store::Store::default(), Settings::default());
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Some(answer) = answer_packet(packet, transport, &store, &settings, 1) {
            assert!(wire::parse_reply(&answer).is_some(), "an answer of ours is one");
        }
    }
    let _ = wire::parse_reply(packet).is_some();
}
