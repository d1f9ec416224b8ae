//! The log: what was promised, in order, durable before anybody hears of it.
//!
//! ```text
//!   library ──▶ Log ──queue──▶ writer thread ──▶ LogStore (wal or sled)
//!                │                  one batch = all that is queued = one fdatasync
//!                └── recent entries, readable at once; older ones through a LogReader
//! ```
//!
//! [`Log`] keeps the recent entries decoded, so the applier and replication seldom touch the disk.
//! Everything durable goes through one thread that owns the [`LogStore`] and takes whatever is
//! queued as one batch: while the disk is busy with one, the next one gathers (group commit).
//! The commit position rides along with the next batch and never costs a flush of its own.
//!
//! A lone server that is asked for one change at a time has nothing to gather: there the library's
//! own thread writes ([`Pace`]), which saves the way to the other thread and back.
//!
//! Without a store (`-dev`) entries live in memory only and are "flushed" at once.

mod disk_quota;
mod frame;
pub(crate) mod fuzzing;
mod record;
pub mod sled;
pub mod wal;
mod writer;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

pub use disk_quota::{DiskQuota, Reservation};
pub use record::{Record, log_id};
pub(in crate::raft) use record::{chained, invalid};

use self::writer::{Job, Writer, stopped};
use super::types::{Entry, LogId, Payload, Types, Vote};

/// Decoded entries that stay in memory once they are on disk. Followers that lag further behind
/// than this, and a restart, read from disk.
const RECENT_BYTES_MAX: usize = 16 << 20;

/// Largest read of replication.
const READ_BYTES_MAX: usize = 1 << 20;

/// Advice for a server whose log or snapshot is damaged. Its votes are in there too,
/// so it must come back as another one: with a node ID of its own.
pub(in crate::raft) const WAY_OUT: &str = "nothing was changed; move this server's data folder away and start it again: it joins its peers as a new server and takes everything from them, after which the old one can be removed (`muster operator raft remove-peer`). If a majority of the servers is lost, see `muster operator recover`; a lone server starts empty and takes a saved snapshot (`muster snapshot restore`)";

/// A durable home of the log. One thread owns it.
pub trait LogStore: Send + 'static {
    /// Writes the records in order. On return they survive power loss, as do all before them.
    /// After an error the store may refuse everything until it is opened again.
    fn write(&mut self, records: &[Record]) -> io::Result<()>;
    /// A view for other threads.
    fn reader(&self) -> Arc<dyn LogReader>;
}

impl LogStore for Box<dyn LogStore> {
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        (**self).write(records)
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        (**self).reader()
    }
}

/// Reads entries that were written.
pub trait LogReader: Send + Sync {
    /// Those entries of `first..=last` that the log holds, in order, at least the first of them;
    /// stops after `bytes_max`.
    fn read(&self, first: u64, last: u64, bytes_max: usize) -> io::Result<Vec<Entry>>;
}

/// Content of a store when it was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// The last vote.
    pub vote: Option<Vote>,
    /// Committed at least up to here.
    pub committed: Option<LogId>,
    /// Everything up to here is gone.
    pub purged: Option<LogId>,
    /// Index of the first entry.
    pub first: Option<u64>,
    /// The last entry; `None` if there is none after `purged`.
    pub last: Option<LogId>,
}

impl Recovered {
    /// A log that is shorter than what it knows to be committed has lost acknowledged writes.
    fn check(&self, directory: &Path) -> io::Result<()> {
        let last = self.last.max(self.purged).map(|id| id.index);
        match self.committed.map(|id| id.index) {
            Some(committed) if last < Some(committed) => Err(invalid(format!(
                "the log in {} was committed up to {committed}, but ends at {}; {WAY_OUT}",
                directory.display(),
                last.map_or_else(|| "nothing".to_owned(), |last| last.to_string())
            ))),
            _ => Ok(()),
        }
    }
}

/// Nothing behind these locks can be left half-done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// The machine's hint to the log: is there anything that a write must not hold up?
#[derive(Debug, Default)]
pub struct Pace {
    /// May the thread that appends wait for the disk? Not if it is the only one that there is.
    may_wait: bool,
    alone: AtomicBool,
    applied: AtomicU64,
}

impl Pace {
    /// The pace of a log that is appended to by the tasks of this runtime.
    pub fn here() -> Pace {
        let may_wait = Handle::try_current().is_ok_and(|runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::MultiThread
                && runtime.metrics().num_workers() > 1
        });
        Pace { may_wait, ..Pace::default() }
    }

    /// Everything up to `index` is applied, and its proposers have their answers.
    pub(super) fn applied(&self, index: u64) {
        self.applied.store(index, Ordering::Release);
    }

    /// Is this server the only one? Others must be sent an entry while it is written here.
    pub(super) fn alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Release);
    }

    /// Is an entry after `last` the only thing that is under way?
    fn is_idle(&self, last: Option<LogId>) -> bool {
        self.may_wait
            && self.alone.load(Ordering::Acquire)
            && last.is_some_and(|last| last.index == self.applied.load(Ordering::Acquire))
    }
}

/// The log as the library sees it. Clones are views of the same log.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    writer: Option<Arc<Writer>>,
    pace: Arc<Pace>,
}

struct Shared {
    view: Mutex<View>,
    reader: Option<Arc<dyn LogReader>>,
}

/// The newest truth about the log, ahead of the disk.
#[derive(Default)]
struct View {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The commit position that the disk knows.
    committed_written: Option<LogId>,
    purged: Option<LogId>,
    /// Index of the first entry that is held.
    first: Option<u64>,
    last: Option<LogId>,
    /// The newest entries without a gap up to `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// Entries up to this index may leave `recent`: the disk has them.
    written: Option<u64>,
}

impl Log {
    /// A log in memory: gone with the process.
    pub fn in_memory() -> Log {
        let shared = Shared { view: Mutex::default(), reader: None };
        Log { shared: Arc::new(shared), writer: None, pace: Arc::default() }
    }

    /// A log kept by `store`, which holds what `recovered` says.
    pub fn over(store: impl LogStore, recovered: &Recovered) -> io::Result<Log> {
        let view = View {
            vote: recovered.vote,
            committed: recovered.committed,
            committed_written: recovered.committed,
            purged: recovered.purged,
            first: recovered.first,
            last: recovered.last.or(recovered.purged),
            written: recovered.last.map(|id| id.index),
            ..View::default()
        };
        let shared = Arc::new(Shared { view: Mutex::new(view), reader: Some(store.reader()) });
        let writer = Writer::start(store, Arc::clone(&shared))?;
        Ok(Log { shared, writer: Some(Arc::new(writer)), pace: Arc::default() })
    }

    /// With what the machine tells it.
    #[must_use]
    pub fn with_pace(mut self, pace: Arc<Pace>) -> Log {
        self.pace = pace;
        self
    }

    /// First index that is still there, and the last one (0 and 0: an empty log).
    pub fn bounds(&self) -> (u64, u64) {
        let view = self.shared.view();
        (view.first.unwrap_or(0), view.last.map_or(0, |id| id.index))
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.shared.view()
    }

    async fn enqueue(&self, job: Job) -> io::Result<()> {
        let Some(writer) = &self.writer else {
            job.done_at_once();
            return Ok(());
        };
        writer.enqueue(job).await
    }

    /// Queues one step and waits until it is durable.
    async fn step(&self, record: Record) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.enqueue(Job::Step(record, Some(done))).await?;
        durable.await.map_err(|_| stopped())?
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    /// Entries of `first..end`, from memory where possible.
    fn read(&self, first: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (from_disk, recent) = {
            let view = self.view();
            let Some(held) = view.first else {
                return Ok(Vec::new());
            };
            let first = first.max(held);
            let end = end.min(view.last.map_or(0, |id| id.index + 1));
            if first >= end {
                return Ok(Vec::new());
            }
            let recent_first = view.recent.front().map_or(end, |entry| entry.log_id.index);
            let from_disk = (first < recent_first).then(|| (first, recent_first.min(end) - 1));
            let recent = view.copy_recent(first.max(recent_first), end, bytes_max);
            (from_disk, recent)
        };
        let Some((first, last)) = from_disk else {
            return Ok(recent);
        };
        let Some(reader) = &self.reader else {
            return Err(io::Error::other(format!("log entry {first} is missing from memory")));
        };
        let mut entries = reader.read(first, last, bytes_max)?;
        let reached_last = entries.last().is_some_and(|entry| entry.log_id.index == last);
        // A purge may have been quicker than this read.
        if entries.is_empty() && self.view().first.is_some_and(|held| held <= last) {
            return Err(io::Error::other(format!("log entries {first} to {last} are missing")));
        }
        if reached_last {
            entries.extend(recent);
        }
        Ok(entries)
    }
}

impl View {
    fn push(&mut self, entry: Entry) {
        self.first = self.first.or(Some(entry.log_id.index));
        self.last = Some(entry.log_id);
        self.recent_bytes += weight(&entry);
        self.recent.push_back(entry);
    }

    fn copy_recent(&self, first: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(offset) = self.recent.front().map(|entry| entry.log_id.index) else {
            return Vec::new();
        };
        let position = |index: u64| usize::try_from(index.saturating_sub(offset)).unwrap_or(0);
        let (from, to) = (position(first), position(end).min(self.recent.len()));
        let mut bytes = 0;
        let mut entries = Vec::with_capacity(to.saturating_sub(from).min(1024));
        for entry in self.recent.range(from.min(to)..to) {
            entries.push(entry.clone());
            bytes += weight(entry);
            if bytes >= bytes_max {
                break;
            }
        }
        entries
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map(|id| id.index);
        if keep >= self.last.map(|id| id.index) {
            return;
        }
        while let Some(entry) = self.recent.back()
            && keep.is_none_or(|keep| entry.log_id.index > keep)
        {
            self.recent_bytes -= weight(entry);
            self.recent.pop_back();
        }
        self.last = last;
        self.first = self.first.filter(|first| keep.is_some_and(|keep| keep >= *first));
        self.written = self.written.filter(|_| keep.is_some()).min(keep);
    }

    fn purge(&mut self, upto: LogId) {
        while let Some(entry) = self.recent.front()
            && entry.log_id.index <= upto.index
        {
            self.recent_bytes -= weight(entry);
            self.recent.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        let more = self.last.is_some_and(|last| last.index > upto.index);
        self.first = self.first.map(|first| first.max(upto.index + 1)).filter(|_| more);
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
    }

    /// Lets go of old entries that the disk has.
    fn shed(&mut self) {
        while self.recent_bytes > RECENT_BYTES_MAX
            && let Some(entry) = self.recent.front()
            && self.written.is_some_and(|written| entry.log_id.index <= written)
        {
            self.recent_bytes -= weight(entry);
            self.recent.pop_front();
        }
    }
}

/// Approximate size of an entry in memory.
fn weight(entry: &Entry) -> usize {
    128 + match &entry.payload {
        // Decoded and encoded form.
        Payload::Normal(proposal) => 2 * proposal.encoded().len(),
        _ => 0,
    }
}

/// Reads for one replication stream or for the applier.
#[derive(Clone)]
pub struct Entries {
    shared: Arc<Shared>,
}

impl RaftLogReader<Types> for Entries {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let (first, end) = half_open(&range);
        self.shared.read(first, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.view().vote)
    }

    async fn limited_get_log_entries(&mut self, first: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.shared.read(first, end, READ_BYTES_MAX)
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (first, end)
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Entries;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let view = self.view();
        Ok(LogState { last_purged_log_id: view.purged, last_log_id: view.last })
    }

    async fn get_log_reader(&mut self) -> Entries {
        Entries { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.step(Record::Vote(*vote)).await?;
        self.view().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Durable with the next batch: see the module's text.
        self.view().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.view().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let idle = {
            let mut view = self.view();
            let idle = self.pace.is_idle(view.last);
            for entry in &entries {
                view.push(entry.clone());
            }
            idle
        };
        let mut job = Job::Append(entries, callback);
        if idle && let Some(writer) = &self.writer {
            match writer.write_here(job) {
                Ok(()) => return Ok(()),
                Err(back) => job = back,
            }
        }
        self.enqueue(job).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let purged = {
            let mut view = self.view();
            let purged = view.purged;
            view.truncate_after(last_log_id.max(purged));
            purged
        };
        let after = last_log_id.max(purged).map(|id| id.index);
        self.step(Record::TruncatedAfter(after)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.view().purge(upto);
        self.enqueue(Job::Step(Record::Purged(upto), None)).await
    }
}
