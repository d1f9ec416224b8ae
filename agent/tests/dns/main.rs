//! The DNS interface from outside: a whole agent, and what is really on the wire, read with another
//! library's eyes.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod agent;
mod figures;
mod hostile;
mod packets;
mod recursor;
mod sockets;
mod table;
mod wire;
