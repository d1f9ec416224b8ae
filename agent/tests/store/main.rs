//! Properties of the store, one claim a module. `log` makes random commands out of few names, so
//! that they meet often; `questions` asks everything that can be asked about those names.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod log;
mod questions;

mod a_restore_replaces_the_state;
mod a_simple_model_agrees;
mod acl_rows;
mod changed_answers_are_woken;
mod commands_survive_encoding;
mod damaged_snapshots_are_refused;
mod earlier_formats_are_read;
mod indexes_never_go_back;
mod same_log_same_bytes;
mod snapshot_and_restore_is_identity;
