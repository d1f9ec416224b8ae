//! Agreement: the log stores, the applier and the handle over them.
#![expect(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod log_conformance;
mod log_damage;
mod log_processes;
mod single_server;
mod storage_suite;
mod support;
