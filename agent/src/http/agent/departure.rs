//! Channel for requests to leave, and for the agent's answer that it has left.

use tokio_util::sync::CancellationToken;

/// Between whoever asks the agent to leave and the agent itself.
#[derive(Debug, Clone, Default)]
pub struct Departure {
    wanted: CancellationToken,
    over: CancellationToken,
}

impl Departure {
    /// Nobody wants it yet.
    pub fn new() -> Departure {
        Departure::default()
    }

    /// Asks the agent to leave; again does nothing.
    pub(super) fn want(&self) {
        self.wanted.cancel();
    }

    /// Waits until somebody wants it.
    pub async fn wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// The others know by now, or will not learn it from this agent.
    pub fn conclude(&self) {
        self.over.cancel();
    }

    /// Waits until it is done: whoever is answered after that finds the agent gone everywhere.
    pub(super) async fn concluded(&self) {
        self.over.cancelled().await;
    }
}
