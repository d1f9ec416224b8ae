//! The library's tasks of one server, run by one task of the runtime.
//!
//! On its way a change passes from the library's core to the log, from there to a forwarder, back
//! to the core, on to the applier, and its outcome to who proposed it. As tasks of their own on a
//! runtime with several threads, each of them might be woken on another thread, and to wake a
//! thread costs more than anything that is handed over. Here they belong to a crew: one task
//! that polls whichever of them is ready, in turn, on the thread where it happens to run.
//!
//! Tasks that a task of the library starts join the same executor. Those that it starts through the runtime's own
//! `spawn` (connections, snapshots) does not.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::task::AtomicWaker;
use openraft::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Polls in a row before other tasks of the thread get their turn.
const POLLS_MAX: usize = 256;

tokio::task_local! {
    /// The executor that a new task of the library joins.
    static EXECUTOR: Executor;
}

/// The library's runtime: the tokio runtime, with its tasks in crews.
#[derive(Debug)]
pub struct ExecutorRuntime(TokioRuntime);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks of one server.
#[derive(Clone, Default)]
pub(super) struct Executor {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Tasks that were added since the last poll.
    added: Mutex<Vec<Task>>,
    /// Tasks to poll, by number. Each is in it at most once.
    ready: Mutex<VecDeque<usize>>,
    /// Is somebody looking at the lists? Then there is no need to wake anybody.
    looking: AtomicBool,
    waker: AtomicWaker,
    next: AtomicUsize,
}

/// Nothing behind these locks can be left half-done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Executor {
    /// Runs `work` so that the tasks it starts join this crew.
    pub(super) async fn attach<T>(&self, work: impl Future<Output = T>) -> T {
        EXECUTOR.scope(self.clone(), work).await
    }

    /// Polls the tasks until the last of them has ended. To be called once the first are hired.
    pub(super) async fn run(self) {
        let mut runnables = HashMap::new();
        let shared = Arc::clone(&self.shared);
        let work = std::future::poll_fn(move |context| shared.poll(&mut runnables, context));
        // The library gives way by itself; a budget of a single task is not meant for many.
        EXECUTOR.scope(self, tokio::task::coop::unconstrained(work)).await;
    }

    fn join(&self, task: Task) {
        lock(&self.shared.added).push(task);
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        if !self.looking.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    fn poll(
        self: &Arc<Self>,
        runnables: &mut HashMap<usize, Runnable>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        self.waker.register(context.waker());
        self.looking.store(true, Ordering::SeqCst);
        for _ in 0..POLLS_MAX {
            for task in std::mem::take(&mut *lock(&self.added)) {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let executor = Arc::clone(self);
                let task_waker =
                    Arc::new(TaskWaker { executor, number, queued: AtomicBool::new(false) });
                task_waker.ring();
                runnables.insert(
                    number,
                    Runnable { task, waker: Waker::from(Arc::clone(&task_waker)), task_waker },
                );
            }
            let next = lock(&self.ready).pop_front();
            let Some(number) = next else {
                if runnables.is_empty() {
                    return Poll::Ready(());
                }
                self.looking.store(false, Ordering::SeqCst);
                // Who rang before that woke nobody: look once more.
                if lock(&self.ready).is_empty() && lock(&self.added).is_empty() {
                    return Poll::Pending;
                }
                self.looking.store(true, Ordering::SeqCst);
                continue;
            };
            // A bell of who has left may ring once more.
            let Some(runnable) = runnables.get_mut(&number) else {
                continue;
            };
            // Before the poll, not after it: a ring that comes meanwhile counts.
            runnable.task_waker.queued.store(false, Ordering::SeqCst);
            if runnable.task.as_mut().poll(&mut Context::from_waker(&runnable.waker)).is_ready() {
                runnables.remove(&number);
            }
        }
        self.looking.store(false, Ordering::SeqCst);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A task of a crew.
struct Runnable {
    task: Task,
    task_waker: Arc<TaskWaker>,
    waker: Waker,
}

/// Puts a task on the list of those to be polled.
struct TaskWaker {
    executor: Arc<Shared>,
    number: usize,
    /// Is it on the list already?
    queued: AtomicBool,
}

impl TaskWaker {
    fn ring(&self) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            lock(&self.executor.ready).push_back(self.number);
            self.executor.wake();
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// A task of the library gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It panicked.
    #[error("a task of agreement panicked")]
    Panicked,
    /// The runtime went away under it.
    #[error("a task of agreement was given up")]
    GivenUp,
}

/// The result of a task of the library.
pub struct Joined<T>(oneshot::Receiver<Result<T, Lost>>);

impl<T> Future for Joined<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(Lost::GivenUp)))
    }
}

impl AsyncRuntime for ExecutorRuntime {
    type JoinError = Lost;
    type JoinHandle<T: Send + 'static> = Joined<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Joined<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let (done, joined) = oneshot::channel();
        let task = async move {
            let result = AssertUnwindSafe(future).catch_unwind().await;
            // Who does not wait for the result does not need it.
            let _ = done.send(result.map_err(|_| Lost::Panicked));
        };
        match EXECUTOR.try_with(Executor::clone) {
            Ok(executor) => executor.join(Box::pin(task)),
            // Started by a handle on the library, outside of its tasks.
            Err(_) => drop(tokio::spawn(task)),
        }
        Joined(joined)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(lost: &Lost) -> bool {
        *lost == Lost::Panicked
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        ExecutorRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}

#[cfg(test)]
#[expect(
    clippy::async_yields_async,
    reason = "a task's result is waited for after the crew has run"
)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    async fn with_crew<T>(work: impl Future<Output = T>) -> T {
        let executor = Executor::default();
        let result = executor.attach(work).await;
        tokio::time::timeout(Duration::from_secs(10), executor.run())
            .await
            .expect("all of them end");
        result
    }

    #[tokio::test]
    async fn tasks_hand_over_to_each_other_and_end() {
        let (first, mut heard) = mpsc::channel(1);
        let (second, mut passed_on) = mpsc::channel(1);
        let joined = with_crew(async {
            drop(ExecutorRuntime::spawn(async move {
                while let Some(number) = heard.recv().await {
                    second.send(number).await.unwrap();
                }
            }));
            drop(ExecutorRuntime::spawn(async move {
                for number in 0..1000 {
                    first.send(number).await.unwrap();
                }
            }));
            ExecutorRuntime::spawn(async move {
                let mut sum = 0;
                while let Some(number) = passed_on.recv().await {
                    sum += number;
                }
                // What a task starts belongs to the crew as well.
                ExecutorRuntime::spawn(async move { sum }).await
            })
        })
        .await;
        assert_eq!(joined.await.unwrap(), Ok(499_500));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_from_outside_is_lost() {
        let executor = Executor::default();
        let (tell, mut heard) = mpsc::channel(1);
        let joined = executor
            .attach(async {
                ExecutorRuntime::spawn(async move { while heard.recv().await.is_some() {} })
            })
            .await;
        let running = tokio::spawn(executor.run());
        for number in 0..20_000 {
            let sent = tokio::time::timeout(Duration::from_secs(10), tell.send(number));
            sent.await.expect("the crew was woken").unwrap();
        }
        drop(tell);
        tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
        assert_eq!(joined.await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_alone() {
        let (panicked, other) = with_crew(async {
            let panicked = ExecutorRuntime::spawn(async { assert_eq!(1, 2, "on purpose") });
            (panicked, ExecutorRuntime::spawn(async { tokio::task::yield_now().await }))
        })
        .await;
        assert_eq!(panicked.await, Err(Lost::Panicked));
        assert_eq!(other.await, Ok(()));
    }
}
