//! What the whole-system tests share: they drive the finished programs from outside, as a user does.
//!
//! | module | what it gives |
//! |---|---|
//! | [`programs`] | where the finished programs are; builds them when nobody said so |
//! | [`wait`] | waiting for a condition with a deadline, the only way to wait in these tests |
//! | [`http`] | one HTTP/1.1 connection that tells apart where a request failed |
//! | [`dns`] | one question by DNS, read without a library |
//! | [`process`] | a program on free ports with a folder of its own, ended with the test |
//! | [`agents`] | agents of one pool |
//! | [`disk`] | a running program's disk made slow, or failing |
//! | [`servers`] | servers that agree, and what they hold |
//! | [`compose`] | the stack of `docker-compose.yml` under a project name of its own |
//! | [`hostile`] | a peer of bad will at a server's port for agents |
//! | [`load`] | GETs and POSTs on fresh and reused connections, counted apart |
//!
//! Nothing here uses the project's own client: a fault in it must not hide a fault in the agent.

pub mod agents;
pub mod compose;
pub mod disk;
pub mod dns;
pub mod hostile;
pub mod http;
pub mod load;
pub mod process;
pub mod programs;
pub mod servers;
pub mod wait;
