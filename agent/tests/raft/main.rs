//! Agreement: the log stores, the applier and the handle over them.

mod log_conformance;
mod single_server;
mod storage_suite;
mod support;
