//! The core of membership under simulated networks, and its driver over real ones.

#![expect(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

mod departures;
mod foca_pool;
mod hostile;
mod oracle;
mod pools;
mod rebuilt;
mod simulation;
mod world;
