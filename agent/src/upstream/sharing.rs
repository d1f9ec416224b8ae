//! Equal reads that wait for the same change share one call to a server.
//!
//! The first reader begins the call, with its own wait; others join it. Each ends at its own time: one whose time is
//! over before the call's asks once more without waiting, one that has time left when the call ends without a change
//! joins or begins the next. A call ends with the last of those who wait for it, and is forgotten with its end: what it
//! asked may be long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::message::{ForwardedReply, Head, Request};
use super::{Error, Timeout, Upstream};

/// `None`: an answer that is too large to be held in whole.
type Call = BoxFuture<'static, Result<Option<Arc<Head>>, Error>>;

/// Calls under way, by what they ask.
#[derive(Default)]
pub(super) struct Sharing {
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    by_request: HashMap<Request, (u64, WeakShared<Call>)>,
    begun: u64,
}

/// A call under way; it is known for as long as this lives.
struct UnderWay {
    upstream: Upstream,
    /// The shared request.
    key: Request,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut calls = self.upstream.inner.sharing.calls();
        // The next one may have the same question.
        if calls.by_request.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            calls.by_request.remove(&self.key);
        }
    }
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharing").field("calls", &self.calls().by_request.len()).finish()
    }
}

impl Sharing {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock()
    }
}

impl Upstream {
    /// Waits for a change together with all who wait for the same.
    pub(super) async fn wait_together(
        &self,
        request: Request,
        index: u64,
        wait: Duration,
    ) -> Result<ForwardedReply, Error> {
        let waits = self.inner.waits;
        let decided = waits.decide(wait);
        let longest = if decided { waits.with_jitter(wait) } else { waits.longest() };
        let until = Instant::now() + longest;
        let mut left = wait;
        loop {
            let (call, joined) = self.join(&request, index, left);
            let answer = if joined {
                match tokio::time::timeout_at(until, call).await {
                    Ok(answer) => answer?,
                    Err(_) => return self.pass(&request.waiting(None), Timeout::Call).await,
                }
            } else {
                call.await?
            };
            left = until.saturating_duration_since(Instant::now());
            let Some(answer) = answer else {
                // Everybody gets their own.
                return self.pass(&request.waiting(None), Timeout::Call).await;
            };
            // Where the server chooses the time, it has chosen it for all who joined.
            if answer.index() != Some(index) || left.is_zero() || !joined || !decided {
                return Ok(answer.answer());
            }
        }
    }

    /// The call for this request: one that is under way, or a new one.
    fn join(&self, request: &Request, index: u64, wait: Duration) -> (Shared<Call>, bool) {
        let decided = self.inner.waits.decide(wait);
        let key = request.waiting(Some((index, decided.then_some(Duration::ZERO))));
        let mut calls = self.inner.sharing.calls();
        let known = calls.by_request.get(&key).and_then(|(_, call)| call.upgrade());
        // Not one whose answer is there: it may be older than who asks now.
        if let Some(call) = known.as_ref().filter(|call| call.peek().is_none()) {
            let call = call.clone();
            drop(calls);
            return (call, true);
        }
        calls.begun += 1;
        let number = calls.begun;
        let under_way = UnderWay { upstream: self.clone(), key: key.clone(), number };
        let request = request.clone();
        let patience = self.wait(index, wait);
        let call: Call = async move {
            let answer = under_way.upstream.pass(&request, patience).await;
            drop(under_way);
            Ok(answer?.into_whole().map(Arc::new))
        }
        .boxed();
        let call = call.shared();
        if let Some(weak) = call.downgrade() {
            calls.by_request.insert(key, (number, weak));
        }
        drop(calls);
        // Never while the table is locked: a call that ends with its last holder leaves the table.
        drop(known);
        (call, false)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::read::Waits;
    use crate::rpc::Pool;
    use crate::upstream::Settings;

    #[tokio::test]
    async fn calls_are_forgotten_when_they_end_or_nobody_waits() {
        let (_servers, known) = watch::channel(Vec::new());
        let settings = |hold| Settings { hold, rate: None, waits: Waits::default() };
        let question = |n: usize| Request {
            method: "GET".into(),
            path: format!("/v1/kv/{n}"),
            query: "x".repeat(60_000),
            headers: Vec::new(),
            body: bytes::Bytes::new(),
            cut: false,
            upload: None,
            agent: crate::upstream::Agent::default(),
        };
        let gone = Upstream::new(Pool::default(), known.clone(), settings(Duration::ZERO));
        for n in 0..100 {
            assert!(gone.wait_together(question(n), 1, Duration::from_mins(1)).await.is_err());
            assert_eq!(gone.inner.sharing.calls().by_request.len(), 0);
        }
        // A call that does not end by itself, and whose readers go.
        let (call, joined) = gone.join(&question(1), 1, Duration::from_mins(1));
        let (other, shares) = gone.join(&question(1), 1, Duration::from_secs(30));
        assert_eq!((joined, shares), (false, true));
        drop(call);
        assert_eq!(gone.inner.sharing.calls().by_request.len(), 1);
        drop(other);
        assert_eq!(gone.inner.sharing.calls().by_request.len(), 0);
    }
}
