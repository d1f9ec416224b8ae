//! Snapshots: the state as a file, so that the log before it can be purged.
//!
//! | module | what it does |
//! |---|---|
//! | `files` | writes, keeps and reads the files |
//! | `policy` | decides when a snapshot is due, and how much of the log stays behind it |
//! | `transfer` | sends a snapshot to a server that is too far behind for the log |
//! | `restore` | replaces the whole state by a saved one |

pub mod files;
pub mod policy;
mod restore;
pub(super) mod transfer;
