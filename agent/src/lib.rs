//! The Muster agent. Four layers, calls only downward:
//! interfaces (`http`, `dns`, `cli`) → roles (`local`, `checks`, `acl`, `read`) → cluster (`raft`, `rpc`) → state (`store`).

mod accept; // which form of an answer is preferred
pub mod acl; // who asks, and may they?
pub mod archive; // a saved state as a file
pub mod checks; // health checks: definitions, thresholds, probes, their scheduler
pub mod cli; // the command line: an ordinary client of the HTTP API
pub mod config; // files and flags in, the settings of each part out
mod disk; // files that survive a crash and that nobody else reads
pub mod dns; // the DNS interface: question → look-up → rows → answer
pub mod filter; // `?filter=`: the boolean expressions of the API
#[doc(hidden)]
pub mod fuzzing; // every parser as a function of bytes, for `fuzz/`
pub mod gossip; // membership: live members, their details, failures and leaves
mod hcl; // HCL 1 and its JSON as a tree
pub mod http; // the HTTP interface: one file per family of paths
mod json; // what users write as JSON, with the reference's tolerance
pub mod local; // what this agent has registered, and how the catalog is corrected to match
mod net; // blocks of addresses, places for their connections, connections to them
pub mod node; // builds the parts, starts them, stops them in order
mod processes; // those that this agent starts, and orphans that are left to it
pub mod raft; // agreement: the log, the applier, the watches it wakes
pub mod read; // the read path: consistency, blocking, shared answers
pub mod remote_exec; // commands that operators have agents run, if that is allowed
pub mod rpc; // calls between agents: one port, many calls in flight
mod secrets; // what others may see of texts and values that hold some
pub mod sessions; // the leader's timers of session lifetimes
mod spelling; // suggestions for misspelled names
pub mod store; // the state: a pure value, changed by commands, read without locks
pub mod telemetry; // logs and metrics, set up once
pub mod tombstones; // the leader's purge of deleted keys
pub mod upstream; // how a client agent gets its answers from servers
pub mod watches; // queries that the agent follows for its operator
