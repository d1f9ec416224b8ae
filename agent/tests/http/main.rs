//! The HTTP interface and the read path, from outside: a server in memory and plain sockets.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod agent;
mod check_times;
mod checks;
mod clients;
mod crowds;
mod effective;
mod hostile;
mod limits;
mod paging;
mod rows;
mod sessions;
mod sets;
mod snapshots;
mod stalled;
mod streams;
mod support;
mod waits;
mod watches;
