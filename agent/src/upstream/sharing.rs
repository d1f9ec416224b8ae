//! Equal reads that wait for the same change share one call to a server.
//!
//! Whoever asks first begins the call, with its own wait; others join it. Each ends at its own time: one whose time is
//! over before the call's asks once more without waiting, one that has time left when the call ends without a change
//! joins or begins the next. A call ends with the last of those who wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

use super::message::{Answer, Head, Request};
use super::{Error, Patience, Upstream};

/// Calls that nobody waits for any more are looked for when so many more are known than at the last time.
const SWEEP_AFTER: usize = 64;

/// `None`: an answer that is too large to be held in whole.
type Call = BoxFuture<'static, Result<Option<Arc<Head>>, Error>>;

/// Calls under way, by what they ask.
#[derive(Default)]
pub(super) struct Sharing {
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    by_request: HashMap<Request, WeakShared<Call>>,
    sweep_at: usize,
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharing").field("calls", &self.calls().by_request.len()).finish()
    }
}

impl Sharing {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// A call under way whose answer is not there yet: one that is there may be older than who asks now.
    fn find(&self, request: &Request) -> Option<Shared<Call>> {
        let call = self.by_request.get(request)?.upgrade()?;
        call.peek().is_none().then_some(call)
    }

    fn insert(&mut self, request: Request, call: &Shared<Call>) {
        if self.by_request.len() >= self.sweep_at {
            self.by_request
                .retain(|_, call| call.upgrade().is_some_and(|call| call.peek().is_none()));
            self.sweep_at = 2 * self.by_request.len() + SWEEP_AFTER;
        }
        if let Some(weak) = call.downgrade() {
            self.by_request.insert(request, weak);
        }
    }
}

impl Upstream {
    /// Waits for a change together with all who wait for the same.
    pub(super) async fn wait_together(
        &self,
        request: Request,
        index: u64,
        wait: Duration,
    ) -> Result<Answer, Error> {
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
                    Err(_) => return self.pass(&request.waiting(None), Patience::Call).await,
                }
            } else {
                call.await?
            };
            left = until.saturating_duration_since(Instant::now());
            let Some(answer) = answer else {
                // Everybody gets their own.
                return self.pass(&request.waiting(None), Patience::Call).await;
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
        if let Some(call) = calls.find(&key) {
            return (call, true);
        }
        let (upstream, request) = (self.clone(), request.clone());
        let patience = self.wait(index, wait);
        let call: Call =
            async move { Ok(upstream.pass(&request, patience).await?.into_whole().map(Arc::new)) }
                .boxed();
        let call = call.shared();
        calls.insert(key, &call);
        (call, false)
    }
}
