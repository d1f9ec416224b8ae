//! Typed, asynchronous client of the Muster and Consul HTTP API.

pub mod types;
