//! Knowledge about a member: its own details, and the state that others report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::core::Timing;

/// Time on the clock of whoever drives a core. Clocks start at [`TIME_AT_START`], so that what was
/// long before can be written.
pub type Time = Duration;

/// Start value of a driver's clock: longer than anything is remembered.
pub const TIME_AT_START: Time = Duration::from_hours(24 * 365 * 10);

/// The name of a member: unique in its pool.
pub type Name = Arc<str>;

/// Grows with everything a member says of itself; it alone sets it. It starts at the wall clock's
/// milliseconds, so that who comes back is believed without having to deny its own death first.
pub type Incarnation = u64;

/// Facts that a member announces, beyond its identity.
pub type Tags = BTreeMap<String, String>;

/// The tag that tells what a member is.
pub const ROLE: &str = "role";
/// Its value for servers.
pub const SERVER: &str = "consul";
/// The tag that tells in which segment of the network the pool is; the default one has no name.
pub const SEGMENT: &str = "segment";
/// Segments that a server may be in besides the default one, as in the reference.
pub const SEGMENTS_MAX: usize = 64;
/// Letters of a segment's name, each of one byte.
pub const SEGMENT_NAME_MAX: usize = 64;

/// The tag of members that want to be forgotten after another time than the pool's, should they fail.
pub const RECONNECT_TIMEOUT: &str = "rc_tm";

/// Details that a member announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Its name.
    pub name: Name,
    /// Its id, whatever its name or address.
    pub id: Uuid,
    /// Address at which others reach it, by datagrams and by connections.
    pub address: SocketAddr,
    /// Which of its statements this is.
    pub incarnation: Incarnation,
    /// The rest.
    pub tags: Tags,
}

impl Details {
    /// The segment that its pool is in.
    pub fn segment(&self) -> &str {
        self.tags.get(SEGMENT).map_or("", String::as_str)
    }

    /// Time for which it is remembered in this state, in a pool of this timing.
    pub(super) fn remembered(&self, state: State, timing: &Timing) -> Duration {
        let own = || muster_client::types::parse_duration(self.tags.get(RECONNECT_TIMEOUT)?).ok();
        match state {
            State::Left => timing.left_timeout,
            _ => own().unwrap_or(timing.reconnect_timeout),
        }
    }
}

/// State of a member, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It answers.
    Alive,
    /// Somebody got no answer; it may still object.
    Suspect,
    /// It did not object in time.
    Failed,
    /// It said good-bye, or somebody did in its stead.
    Left,
}

impl State {
    /// Is it taken to be there?
    pub fn is_live(self) -> bool {
        matches!(self, State::Alive | State::Suspect)
    }
}

/// Status of a member, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is there.
    Alive,
    /// It is about to go.
    Leaving,
    /// It went.
    Left,
    /// It went without a word.
    Failed,
}

/// A member as others than the core see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Details that it announces.
    pub details: Arc<Details>,
    /// Its status.
    pub status: Status,
    /// Somebody else claims its name or its id: who, and from where.
    pub conflict: Option<Arc<str>>,
}

impl Member {
    /// One of its tags.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.details.tags.get(name).map(String::as_str)
    }

    /// Does it say that it is a server?
    pub fn is_server(&self) -> bool {
        self.tag(ROLE) == Some(SERVER)
    }
}

/// A user event, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEvent {
    /// Which event it is: those heard before are not heard again.
    pub id: Uuid,
    /// Its place in the order of events.
    pub ltime: u64,
    /// Its name. Events without a name are no user's: servers tell with them who leads.
    pub name: String,
    /// Its payload.
    pub payload: bytes::Bytes,
    /// Expressions for nodes, services and tags: who does not match does not keep it.
    pub filters: [String; 3],
}

impl UserEvent {
    /// Tells all members who leads the servers now.
    pub fn new_leader(id: Uuid, leader: &str) -> UserEvent {
        let payload = bytes::Bytes::copy_from_slice(leader.as_bytes());
        UserEvent { id, ltime: 0, name: String::new(), payload, filters: Default::default() }
    }

    /// The leader that this event announces, if it does.
    pub fn leader(&self) -> Option<&str> {
        let text = self.name.is_empty().then(|| std::str::from_utf8(&self.payload).ok());
        text.flatten()
    }
}
