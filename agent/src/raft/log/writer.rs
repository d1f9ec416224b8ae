//! The thread that owns the store: whatever is queued becomes one batch.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::{LogStore, Record, Shared, weight};
use crate::raft::types::{Entry, Types};

/// What one batch takes at most, so that its buffer stays small. A larger append is several.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Queued appends beyond this make the library wait. Each is a batch of its own making.
const QUEUE_MAX: usize = 1024;

/// The thread that writes.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What is queued for it.
pub(super) enum Job {
    Append(Vec<Entry>, IOFlushed<Types>),
    Step(Record, Option<oneshot::Sender<io::Result<()>>>),
}

impl Writer {
    pub(super) fn start(store: impl LogStore, shared: Arc<Shared>) -> io::Result<Writer> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || write_batches(store, queue, &shared))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Waits while the queue is full.
    pub(super) async fn enqueue(&self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())
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
fn write_batches(mut store: impl LogStore, mut jobs: mpsc::Receiver<Job>, shared: &Shared) {
    let mut failed: Option<(io::ErrorKind, String)> = None;
    let mut records = Vec::new();
    let mut done: Vec<Done> = Vec::new();
    while let Some(job) = jobs.blocking_recv() {
        let mut bytes = 0;
        let mut next = Some(job);
        while let Some(job) = next {
            bytes += job.take(&mut records, &mut done);
            next = if bytes < BATCH_BYTES_MAX { jobs.try_recv().ok() } else { None };
        }
        let committed = {
            let view = shared.view();
            (view.committed != view.committed_written).then_some(view.committed).flatten()
        };
        records.extend(committed.map(Record::Committed));
        let result = match &failed {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => store.write(&records),
        };
        match &result {
            Ok(()) => {
                let mut view = shared.view();
                for record in &records {
                    if let Record::Entry(entry) = record {
                        view.written = view.written.max(Some(entry.log_id.index));
                    }
                }
                if committed.is_some() {
                    view.committed_written = committed;
                }
                view.shed();
            }
            Err(error) if failed.is_none() => {
                tracing::error!("cannot write the log: {error}");
                // What the disk holds is unknown now: a later success could hide a hole.
                failed = Some((error.kind(), error.to_string()));
            }
            Err(_) => {}
        }
        for done in done.drain(..) {
            done.tell(&result);
        }
        records.clear();
    }
    let committed = {
        let view = shared.view();
        (view.committed != view.committed_written).then_some(view.committed).flatten()
    };
    if let Some(committed) = committed
        && failed.is_none()
        && let Err(error) = store.write(&[Record::Committed(committed)])
    {
        tracing::warn!("cannot write the commit position at the end: {error}");
    }
}

/// Who wants to know that a batch is durable.
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
