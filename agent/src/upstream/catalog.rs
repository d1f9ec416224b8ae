//! The catalog, as an agent that is no server keeps the rows of its node in it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{CALL_MAX, Error, Repeat, Upstream};
use crate::local::{CatalogAccess, Held, LOOK_MAX, Unavailable};
use crate::raft::{self, Consensus};
use crate::rpc::{self, Handlers, Method, Refusal};
use crate::store::{Change, Reply};

/// Interval of looking for a leader while there is none.
const LEADER_RETRY: Duration = Duration::from_millis(50);

/// Request for the catalog's rows of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NodeRequest {
    node: Arc<str>,
    /// If it is not 0: as soon as the rows are others than those with this mark.
    after: u64,
}

/// Adds what a server answers to agents that keep their rows in its catalog. Waits out an election for `hold`.
pub fn answer_claims(handlers: Handlers, consensus: Consensus, hold: Duration) -> Handlers {
    let keeper = consensus.clone();
    handlers
        .on(Method::NodeClaims, move |look: NodeRequest, _| {
            let consensus = consensus.clone();
            async move {
                until_led(hold, || consensus.read_barrier()).await?;
                Ok(Held::watch(&consensus, &look.node, look.after).await)
            }
        })
        .on(Method::Claim, move |change: Change, _| {
            let consensus = keeper.clone();
            async move {
                if !matches!(change, Change::Register(_) | Change::Deregister(_)) {
                    return Err(Refusal::malformed("agents register and deregister, no more"));
                }
                let propose = || Consensus::propose_for_peer(&consensus, change.clone());
                Ok(until_led(hold, propose).await?.0)
            }
        })
}

/// Tries again for as long as nobody leads, and `hold` is not over.
async fn until_led<A, F>(hold: Duration, attempt: impl Fn() -> F) -> Result<A, Refusal>
where
    F: Future<Output = Result<A, raft::Error>>,
{
    let until = Instant::now() + hold;
    loop {
        match attempt().await {
            Err(raft::Error::NoLeader) if Instant::now() < until => {
                tokio::time::sleep(LEADER_RETRY).await;
            }
            done => return done.map_err(Refusal::failed),
        }
    }
}

impl From<Error> for Unavailable {
    fn from(error: Error) -> Unavailable {
        match error {
            // One that died under the question will be back, or another one answers.
            Error::NoServers
            | Error::Unreachable(_)
            | Error::Call(rpc::Error::Unreachable { .. } | rpc::Error::Lost { .. }) => {
                Unavailable::NoLeader(error.to_string())
            }
            Error::Exceeded { .. } => Unavailable::Failed(error.to_string()),
            Error::Call(rpc::Error::Refused { refusal, .. }) => {
                if refusal.text == raft::Error::NoLeader.to_string() {
                    Unavailable::NoLeader(refusal.text)
                } else {
                    Unavailable::Failed(refusal.text)
                }
            }
        }
    }
}

impl CatalogAccess for Upstream {
    fn reachable(&self) -> BoxFuture<'_, ()> {
        self.inner.router.reachable().boxed()
    }

    fn returns(&self) -> watch::Receiver<u64> {
        self.inner.router.returns()
    }

    fn held(&self, node: Arc<str>, after: u64) -> BoxFuture<'_, Result<Held, Unavailable>> {
        async move {
            let limit = if after == 0 { CALL_MAX } else { LOOK_MAX + CALL_MAX };
            let look = NodeRequest { node, after };
            Ok(self.ask(Method::NodeClaims, &look, Repeat::Safe, limit).await?)
        }
        .boxed()
    }

    /// Rows of its own node are written by an agent alone, in an order of its own: twice is as good as once.
    fn propose(&self, change: Change) -> BoxFuture<'_, Result<Reply, Unavailable>> {
        async move { Ok(self.ask(Method::Claim, &change, Repeat::Safe, CALL_MAX).await?) }.boxed()
    }
}
