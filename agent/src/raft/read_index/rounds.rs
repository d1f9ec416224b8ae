//! One answer for all who ask the same at the same time.
//!
//! ```text
//!   asks ─▶ nothing under way: a round begins
//!   asks ─▶ a round is under way: waits for the next one ─┐
//!   asks ─▶ …                                            ─┴▶ one round for all of them
//! ```
//!
//! Each caller gets the answer of a round that began *after* its question, so that it holds for
//! what had happened by then. However many ask, one round runs at a time.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Waiters for rounds of one kind.
#[derive(Debug)]
pub(in crate::raft) struct Rounds<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    running: bool,
    /// For the round after the one that runs.
    waiting: Vec<oneshot::Sender<T>>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Rounds<T> {
        Rounds { state: Arc::new(Mutex::new(State { running: false, waiting: Vec::new() })) }
    }
}

/// Nothing behind this lock can be left half-done by a panic.
fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock()
}

impl<T: Clone + Send + 'static> Rounds<T> {
    /// The answer of a round that begins from now on. `None`: the round ended without one.
    pub(in crate::raft) async fn ask<F>(&self, round: impl Fn() -> F + Send + 'static) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let begins = {
            let mut state = lock(&self.state);
            state.waiting.push(tell);
            !std::mem::replace(&mut state.running, true)
        };
        if begins {
            // A task of its own: whoever happened to be first may go away.
            let running = Running(Arc::clone(&self.state));
            tokio::spawn(async move {
                while let Some(asked) = running.next() {
                    let answer = round().await;
                    for tell in asked {
                        // Who does not wait any more does not need it.
                        let _ = tell.send(answer.clone());
                    }
                }
            });
        }
        told.await.ok()
    }
}

/// Rounds follow each other as long as somebody asks.
struct Running<T>(Arc<Mutex<State<T>>>);

impl<T> Running<T> {
    fn next(&self) -> Option<Vec<oneshot::Sender<T>>> {
        let mut state = lock(&self.0);
        state.waiting.retain(|tell| !tell.is_closed());
        state.running = !state.waiting.is_empty();
        state.running.then(|| std::mem::take(&mut state.waiting))
    }
}

impl<T> Drop for Running<T> {
    /// Also when a round panics or the runtime ends: those that wait hear that nobody answers.
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if state.running {
            state.running = false;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_during_a_round_share_the_next() {
        let rounds = Arc::new(Rounds::default());
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let ask = || {
            let (rounds, begun, gate) =
                (Arc::clone(&rounds), Arc::clone(&begun), Arc::clone(&gate));
            async move {
                let round = move || {
                    let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                    let gate = Arc::clone(&gate);
                    async move {
                        gate.acquire().await.unwrap().forget();
                        number
                    }
                };
                rounds.ask(round).await
            }
        };
        let first = tokio::spawn(ask());
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..1000).map(|_| tokio::spawn(ask())).collect();
        while lock(&rounds.state).waiting.len() < 1000 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Some(1), "its own round, although others came later");
        for other in others {
            assert_eq!(other.await.unwrap(), Some(2), "a round that began after the question");
        }
        // The next question finds nothing under way.
        gate.add_permits(1);
        assert_eq!(ask().await, Some(3));
    }

    #[tokio::test]
    async fn a_round_that_panics_leaves_nobody_waiting() {
        let rounds: Rounds<u8> = Rounds::default();
        let fails = || async { panic!("on purpose") };
        assert_eq!(rounds.ask(fails).await, None);
        assert_eq!(rounds.ask(|| async { 7 }).await, Some(7));
    }
}
