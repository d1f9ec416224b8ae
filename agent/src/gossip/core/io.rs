//! Inputs and outputs of a core, and its timing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::gossip::member::{Name, Tags, UserEvent};
use crate::gossip::message::{Message, Request, Response};

/// The paces of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// One member is asked each.
    pub probe_interval: Duration,
    /// An answer is expected within; then others are asked to ask.
    pub probe_timeout: Duration,
    /// Number of other members asked.
    pub indirect_probes: usize,
    /// Shortest time to object, in probe intervals, for ten members and fewer.
    pub suspicion_mult: u32,
    /// While nobody shares a doubt, so many times the shortest; 1 is SWIM without Lifeguard.
    pub suspicion_max_mult: u32,
    /// Largest health score of an agent; 0 is SWIM without Lifeguard.
    pub awareness_max: u32,
    /// News are passed on each.
    pub gossip_interval: Duration,
    /// To how many members.
    pub gossip_nodes: usize,
    /// Members that went are told for this long: they may be wrongly thought gone.
    pub gossip_to_gone: Duration,
    /// News are sent this often, times the logarithm of the pool.
    pub retransmit_mult: u32,
    /// All is exchanged with one member each, less often in large pools.
    pub exchange_interval: Duration,
    /// A failed member is looked for each.
    pub reconnect_interval: Duration,
    /// A failed member is forgotten after.
    pub reconnect_timeout: Duration,
    /// A member that left is forgotten after.
    pub left_timeout: Duration,
}

impl Default for Timing {
    /// The reference's local network.
    fn default() -> Timing {
        Timing {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            suspicion_mult: 4,
            suspicion_max_mult: 6,
            awareness_max: 7,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_gone: Duration::from_secs(30),
            retransmit_mult: 4,
            exchange_interval: Duration::from_secs(30),
            reconnect_interval: Duration::from_secs(30),
            reconnect_timeout: Duration::from_hours(72),
            left_timeout: Duration::from_hours(24),
        }
    }
}

/// Ties a question over a connection to its answer.
pub type Token = u64;

/// A question over a connection has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The other machine is there, and says that nobody listens.
    pub refused: bool,
    /// For people.
    pub reason: String,
}

impl<T: Into<String>> From<T> for Unanswered {
    /// Nothing but a reason is known.
    fn from(reason: T) -> Unanswered {
        Unanswered { refused: false, reason: reason.into() }
    }
}

/// Input of a core.
#[derive(Debug)]
pub enum Input {
    /// Time passed: see `Core::deadline`. What was heard by then goes first: an agent that was
    /// stopped for a while finds its answers waiting, and must not judge before it has read them.
    Tick,
    /// A datagram came.
    Packet(Vec<Message>),
    /// Somebody asks over a connection.
    Asked {
        /// Goes with the answer.
        token: Token,
        /// The question.
        request: Request,
    },
    /// A question of this core over a connection has ended.
    Answered {
        /// Of [`Output::Ask`].
        token: Token,
        /// The answer, or the reason why there is none.
        result: Result<Response, Unanswered>,
    },
    /// Meet the pool through whoever lives there.
    Join {
        /// Goes with [`Output::Joined`].
        token: Token,
        /// Its address.
        address: SocketAddr,
    },
    /// Say good-bye.
    Leave,
    /// Declare a failed member gone, and forget it if `prune`.
    ForceLeave {
        /// Name of the member.
        name: Name,
        /// At once.
        prune: bool,
    },
    /// Tell all members something.
    Fire(UserEvent),
    /// Say something else of oneself from now on.
    SetTags(Tags),
}

/// Output of a core: an effect that the driver carries out.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Destination.
        to: SocketAddr,
        /// Content.
        messages: Vec<Message>,
    },
    /// Connect, ask, and hand the answer back as [`Input::Answered`].
    Ask {
        /// Goes with the answer.
        token: Token,
        /// Destination.
        to: SocketAddr,
        /// The question.
        request: Request,
        /// For how long at most.
        patience: Duration,
    },
    /// Answer a question that came as [`Input::Asked`].
    Response {
        /// Of the question.
        token: Token,
        /// The answer.
        answer: Response,
    },
    /// A join has ended.
    Joined {
        /// Of [`Input::Join`].
        token: Token,
        /// Well, or why not.
        result: Result<(), String>,
    },
    /// Something is now otherwise than it was.
    Notice(Notice),
    /// The good-bye is said.
    Gone,
}

/// A change that the agent is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A member is there that was not.
    Joined(Name),
    /// A member says something else of itself, or somebody disputes its name.
    Updated(Name),
    /// A member is gone without a word.
    Failed(Name),
    /// A member went.
    Left(Name),
    /// A member that was gone is forgotten.
    Reaped(Name),
    /// A user's event came.
    Event(Arc<UserEvent>),
    /// Worth a line in the log.
    Warning(String),
}

/// Counters of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Members asked.
    pub probes: u64,
    /// Of these, silent at first.
    pub probes_indirect: u64,
    /// Doubts that this agent began.
    pub suspicions: u64,
    /// Doubts about this agent itself that it denied.
    pub refutations: u64,
    /// Members declared failed here, for nobody else had done so before.
    pub failures: u64,
    /// Statements that were not believed.
    pub refused: u64,
}
