//! How checks change, and what becomes of them when their agent starts again, as a process.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod process;
mod restarts;
mod rules;
mod stub;
