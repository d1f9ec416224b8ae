//! The thread that writes: whatever is queued becomes one batch. A lone write of a server that has
//! nothing else to do skips the queue: see [`Writer::write_here`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{LogStore, Record, Shared, lock, weight};
use crate::raft::types::{Entry, LogId, Types};

/// Largest batch, so that its buffer stays small. A larger append is split.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Queued appends beyond this make the library wait. Each is a batch of its own making.
const QUEUE_MAX: usize = 1024;

/// A disk that flushed its last batch within this time is quick: the hand-over to another thread
/// and back costs about as much as the flush itself.
const QUICK: Duration = Duration::from_millis(1);

/// The store, and the thread that writes to it.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    batcher: Arc<Mutex<Batcher>>,
    /// Jobs that are queued or being written by the thread.
    queued: Arc<AtomicUsize>,
}

/// A queued job.
pub(super) enum Job {
    Append(Vec<Entry>, IOFlushed<Types>),
    Step(Record, Option<oneshot::Sender<io::Result<()>>>),
}

impl Writer {
    pub(super) fn start(store: impl LogStore, shared: Arc<Shared>) -> io::Result<Writer> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let batcher = Arc::new(Mutex::new(Batcher {
            store: Box::new(store),
            shared,
            records: Vec::new(),
            done: Vec::new(),
            failed: None,
            quick: false,
        }));
        let queued = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::Builder::new().name("raft-log".to_owned()).spawn({
            let (batcher, queued) = (Arc::clone(&batcher), Arc::clone(&queued));
            move || write_batches(&batcher, queue, &queued)
        })?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread), batcher, queued })
    }

    /// Waits while the queue is full.
    pub(super) async fn enqueue(&self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        self.queued.fetch_add(1, Ordering::AcqRel);
        jobs.send(job).await.map_err(|_| stopped())
    }

    /// Writes on the calling thread, which waits for the disk; gives the job back if others are
    /// before it, or if the disk is not quick enough for that.
    pub(super) fn write_here(&self, job: Job) -> Result<(), Job> {
        // Who holds the pen writes; what was queued before it was taken comes first.
        let Some(mut batcher) = self.batcher.try_lock() else {
            return Err(job);
        };
        if !batcher.quick || self.queued.load(Ordering::Acquire) > 0 {
            return Err(job);
        }
        batcher.take(job);
        batcher.write();
        Ok(())
    }
}

impl Drop for Writer {
    /// Lets the thread finish what is queued.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's writer ended by a panic");
        }
    }
}

pub(super) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log's writer has stopped")
}

/// The writer thread: whatever is queued becomes one batch.
fn write_batches(batcher: &Mutex<Batcher>, mut jobs: mpsc::Receiver<Job>, queued: &AtomicUsize) {
    while let Some(job) = jobs.blocking_recv() {
        let mut batcher = lock(batcher);
        let (mut bytes, mut count) = (0, 0);
        let mut next = Some(job);
        while let Some(job) = next {
            bytes += batcher.take(job);
            count += 1;
            next = if bytes < BATCH_BYTES_MAX { jobs.try_recv().ok() } else { None };
        }
        batcher.write();
        queued.fetch_sub(count, Ordering::AcqRel);
    }
    lock(batcher).close();
}

/// The store with what a batch is gathered in.
struct Batcher {
    store: Box<dyn LogStore>,
    shared: Arc<Shared>,
    records: Vec<Record>,
    done: Vec<Done>,
    /// The first error; the disk's content after it is unknown: a later success could hide a hole.
    failed: Option<(io::ErrorKind, String)>,
    /// Was the last flush?
    quick: bool,
}

impl Batcher {
    /// Adds a job to the batch, returns about how many bytes it is.
    fn take(&mut self, job: Job) -> usize {
        job.take(&mut self.records, &mut self.done)
    }

    /// The commit position, if the disk does not know it yet.
    fn committed(&self) -> Option<LogId> {
        let view = self.shared.view();
        (view.committed != view.committed_written).then_some(view.committed).flatten()
    }

    /// Makes the batch durable and tells who waits for it.
    fn write(&mut self) {
        let committed = self.committed();
        self.records.extend(committed.map(Record::Committed));
        let result = if let Some((kind, text)) = &self.failed {
            Err(io::Error::new(*kind, text.clone()))
        } else {
            let began = Instant::now();
            let written = self.store.write(&self.records);
            self.quick = began.elapsed() < QUICK;
            written
        };
        match &result {
            Ok(()) => {
                let mut view = self.shared.view();
                for record in &self.records {
                    if let Record::Entry(entry) = record {
                        view.written = view.written.max(Some(entry.log_id.index));
                    }
                }
                if committed.is_some() {
                    view.committed_written = committed;
                }
                view.shed();
            }
            Err(error) if self.failed.is_none() => {
                tracing::error!("cannot write the log: {error}");
                self.failed = Some((error.kind(), error.to_string()));
            }
            Err(_) => {}
        }
        self.records.clear();
        for done in self.done.drain(..) {
            done.tell(&result);
        }
    }

    /// Writes what rides along with batches and found none.
    fn close(&mut self) {
        if let Some(committed) = self.committed()
            && self.failed.is_none()
            && let Err(error) = self.store.write(&[Record::Committed(committed)])
        {
            tracing::warn!("cannot write the commit position at the end: {error}");
        }
    }
}

/// Callback for a batch that is durable.
enum Done {
    Append(IOFlushed<Types>),
    Step(oneshot::Sender<io::Result<()>>),
}

impl Job {
    /// For a log in memory.
    pub(super) fn done_at_once(self) {
        let (mut records, mut done) = (Vec::new(), Vec::new());
        self.take(&mut records, &mut done);
        for done in done {
            done.tell(&Ok(()));
        }
    }

    /// Moves this job's records into the batch, returns about how many bytes they are.
    fn take(self, records: &mut Vec<Record>, done: &mut Vec<Done>) -> usize {
        match self {
            Job::Append(entries, flushed) => {
                let bytes = entries.iter().map(weight).sum();
                records.extend(entries.into_iter().map(Record::Entry));
                done.push(Done::Append(flushed));
                bytes
            }
            Job::Step(record, answer) => {
                records.push(record);
                done.extend(answer.map(Done::Step));
                64
            }
        }
    }
}

impl Done {
    fn tell(self, result: &io::Result<()>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match self {
            Done::Append(flushed) => flushed.io_completed(result),
            // Who does not wait any more does not need the answer.
            Done::Step(answer) => drop(answer.send(result)),
        }
    }
}
