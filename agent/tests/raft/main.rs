//! Agreement: the log stores, the applier and the handle over them.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that fails here has failed; its output says in which round"
)]

mod agents;
mod catching_up;
mod cluster;
mod clusters;
mod departures;
mod faults;
mod full_disk;
mod hostile;
mod linear;
mod log_conformance;
mod log_damage;
mod log_processes;
mod log_segments;
mod old_formats;
mod processes;
mod rebuilt;
mod recovered;
mod restarts;
mod single_server;
mod slow_disks;
mod stopped;
mod storage_suite;
mod support;
