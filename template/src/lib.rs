//! The template daemon: turns services and keys into files, and makes the program that reads them follow.
//!
//! ```text
//! watches ─▶ facts ─▶ render ─▶ guard ─▶ transaction: stage, validate, commit, reload, verify ─▶ nginx
//!                                                      └──────── or roll back ────────┘
//! ```
//!
//! Three promises shape it: files are never written from incomplete data, a reload is never lost, and the daemon
//! never dies because the catalog is away.

pub mod answers;
pub mod child;
pub mod cli;
pub mod config;
pub mod effects;
pub mod facts;
pub mod file_events;
pub mod fixture;
pub mod guard;
pub mod private;
pub mod processes;
pub mod render;
pub mod runner;
pub mod source;
pub mod status;
pub mod suspects;
pub mod transaction;
pub mod watches;
