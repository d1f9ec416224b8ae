//! Membership: who is in the pool, what each says of itself, who went without a word.
//!
//! ```text
//! core/       a value: inputs and time in, outputs out (SWIM with Lifeguard, meetings, events)
//! broadcast   news on their way   suspicion   terms of doubt   vivaldi   places in the network
//! message ─ wire ─ keyring        what is said, as bytes, encrypted
//! driver      sockets, timers, one task that owns the core
//! validate    limits on what members say, heard and said alike
//! newcomers   how many new names may come in   connections   of others, and their bounds
//! members     the handle to a pool: who is there now, and news of it
//! pools       the handle of everybody else: all pools of an agent as one
//! ```
//!
//! A member is known by its name; its identity is its id, its address and its incarnation. Tags
//! travel with each statement of a member.

mod broadcast;
mod connections;
pub mod core;
mod driver;
mod join;
mod keyring;
mod member;
mod members;
pub mod message;
mod newcomers;
mod pools;
mod suspicion;
mod validate;
pub mod vivaldi;
pub mod wire;

pub use self::core::{Core, Timing};
pub use driver::{Error, Settings, start};
pub use join::{Joining, rejoin};
pub use keyring::{Keyring, Order, Report, WrongKey};
pub use member::{
    Details, Incarnation, Member, Name, RECONNECT_TIMEOUT, ROLE, SEGMENT, SEGMENT_NAME_MAX,
    SEGMENTS_MAX, SERVER, State, Status, TIME_AT_START, Tags, Time, UserEvent,
};
pub use members::{MemberList, Members, Refused};
pub use newcomers::{NEW_NAMES_A_MINUTE, Newcomers};
pub use pools::Pools;
pub use validate::{Unfit, node_name};
