//! The thread that prepares the next segment, gives back what a quiet log does not need and removes
//! old segments, so that the writer never waits for the file system.
//!
//! Only zeros are ever added or cut off, so it does not matter which size a crash leaves behind.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::super::lock;
use super::{
    PREAMBLE_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER, header, path,
};
use crate::disk;
use crate::raft::log::disk_quota::{DiskQuota, QuotaSource};

/// Zeros are written and flushed in pieces, so that a batch's flush never waits behind many.
const PIECE: usize = 1 << 20;

/// Pause before a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A log that was hardly written to for so long gives back what it does not need.
const IDLE: Duration = Duration::from_secs(10);

/// Kept for what nobody asks room for: votes, cuts and purges.
const SLACK: u64 = 32 << 10;

/// A file of zeros behind its header.
pub(super) struct Spare {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    pub(super) bytes: u64,
}

/// The segment that is written to.
pub(super) struct Current {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    pub(super) bytes: u64,
    /// Up to here; `None`: something is being written, and its size must stay.
    pub(super) used: Option<u64>,
}

pub(super) struct Ahead {
    prepare_tasks: mpsc::Sender<PrepareTask>,
    prepared: Arc<PreparedSegments>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by the writer and the thread.
struct PreparedSegments {
    quota: DiskQuota,
    state: Mutex<PreparedState>,
    changed: Condvar,
}

struct PreparedState {
    current: Current,
    spare: Option<Spare>,
    /// The thread is gone.
    closed: bool,
    /// The log is about to end.
    ending: bool,
    /// Reason why the last attempt to make space failed.
    failure: Option<(io::ErrorKind, String)>,
}

enum PrepareTask {
    Prepare { number: u64, bytes: u64 },
    Grow(u64),
    Remove(PathBuf),
    End,
}

impl Ahead {
    pub(super) fn start(
        directory: PathBuf,
        quota: &DiskQuota,
        current: Current,
        spare: Option<Spare>,
    ) -> io::Result<Ahead> {
        let (prepare_tasks, queue) = mpsc::channel();
        let state = PreparedState { current, spare, closed: false, ending: false, failure: None };
        let prepared = Arc::new(PreparedSegments {
            quota: quota.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        // Before its first write a log has no pace that would ask for more.
        prepared.shrink();
        quota.supplied_by(Asked {
            prepare_tasks: prepare_tasks.clone(),
            prepared: Arc::clone(&prepared),
        });
        let thread = std::thread::Builder::new().name("raft-log-ahead".to_owned()).spawn({
            let closing = Closing(Arc::clone(&prepared));
            move || Preparer::new(directory, &closing.0).work(&queue)
        })?;
        Ok(Ahead { prepare_tasks, prepared, thread: Some(thread) })
    }

    /// Asks for a segment to be prepared, unless it is there.
    pub(super) fn want(&self, number: u64, bytes: u64) {
        let there = lock(&self.prepared.state).spare.as_ref().is_some_and(|it| it.number == number);
        if !there {
            self.send(PrepareTask::Prepare { number, bytes });
        }
    }

    /// Bytes that a frame may take behind `at` in this segment, and at the beginning of the next.
    pub(super) fn left(&self, at: usize) -> (u64, u64) {
        let state = lock(&self.prepared.state);
        let spare = state.spare.as_ref().map_or(SEGMENT_BYTES_MIN, |spare| spare.bytes);
        (state.current.bytes.saturating_sub(at as u64), usable(spare))
    }

    /// Is there room for so many bytes at `at`? Then they are about to be written.
    pub(super) fn begin(&self, at: usize, bytes: usize) -> bool {
        let mut state = lock(&self.prepared.state);
        let fits = (at + bytes) as u64 <= state.current.bytes;
        if fits {
            state.current.used = None;
        }
        fits
    }

    /// They are written, up to `at`.
    pub(super) fn done(&self, at: usize) {
        let mut state = lock(&self.prepared.state);
        state.current.used = Some(at as u64);
        self.prepared.publish(&state);
    }

    /// Goes on to the next segment, of at least so many bytes. On a full disk this waits until there
    /// is room again: what was promised room never comes here then, what a leader sent does.
    pub(super) fn advance(&self, number: u64, bytes: u64) -> io::Result<Arc<File>> {
        let mut state = lock(&self.prepared.state);
        loop {
            let fitting = |it: &mut Spare| it.number == number && it.bytes >= bytes;
            if let Some(Spare { file, bytes, .. }) = state.spare.take_if(fitting) {
                let used = Some(SEGMENT_HEADER as u64);
                state.current = Current { number, file: Arc::clone(&file), bytes, used };
                self.prepared.publish(&state);
                return Ok(file);
            }
            if (state.closed || state.ending)
                && let Some((kind, text)) = &state.failure
            {
                return Err(io::Error::new(*kind, text.clone()));
            }
            if state.closed {
                return Err(io::Error::other("segments are not prepared any more"));
            }
            // None yet, or too small for what must go into it; asked again for a disk that was full.
            self.send(PrepareTask::Grow(bytes));
            self.prepared.changed.wait_for(&mut state, RETRY);
        }
    }

    pub(super) fn remove(&self, path: PathBuf) {
        self.send(PrepareTask::Remove(path));
    }

    fn send(&self, chore: PrepareTask) {
        // A thread that is gone shows when its segment is missing.
        let _ = self.prepare_tasks.send(chore);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.send(PrepareTask::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that prepares log segments ended by a panic");
        }
    }
}

/// Handle of those who need space on the thread.
struct Asked {
    prepare_tasks: mpsc::Sender<PrepareTask>,
    prepared: Arc<PreparedSegments>,
}

impl QuotaSource for Asked {
    fn ask(&self, bytes: u64) {
        let _ = self.prepare_tasks.send(PrepareTask::Grow(bytes));
    }

    fn end(&self) {
        lock(&self.prepared.state).ending = true;
        self.prepared.changed.notify_all();
    }
}

/// However the thread ends, nobody waits for it.
struct Closing(Arc<PreparedSegments>);

impl Drop for Closing {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.changed.notify_all();
    }
}

/// Bytes for frames in a new segment of so many bytes.
fn usable(bytes: u64) -> u64 {
    bytes.saturating_sub((SEGMENT_HEADER + PREAMBLE_BYTES_MAX) as u64)
}

/// A segment in which frames may take so much.
fn sized_for(bytes: u64) -> u64 {
    let whole = bytes + (SEGMENT_HEADER + PREAMBLE_BYTES_MAX) as u64 + SLACK;
    whole.next_power_of_two().clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

impl PreparedSegments {
    /// Tells what there is room for. What is under way fits the rest of this segment, or what does
    /// not fit it fits the next one: the larger of both counts.
    fn publish(&self, state: &PreparedState) {
        // What is being written tells itself when it is done.
        let Some(used) = state.current.used else {
            return;
        };
        let rest = state.current.bytes.saturating_sub(used);
        let next = state.spare.as_ref().map_or(0, |spare| usable(spare.bytes));
        self.quota.holds(rest.max(next).saturating_sub(SLACK));
    }

    /// A segment has become larger, wherever it is by now.
    fn grown(&self, number: u64, bytes: u64) {
        let mut state = lock(&self.state);
        if let Some(spare) = state.spare.as_mut().filter(|spare| spare.number == number) {
            spare.bytes = bytes;
        } else if state.current.number == number {
            state.current.bytes = bytes;
        }
        self.publish(&state);
        drop(state);
        self.changed.notify_all();
    }

    /// Is there anything to give back?
    fn is_large(&self) -> bool {
        let state = lock(&self.state);
        state.spare.as_ref().is_some_and(|spare| spare.bytes > SEGMENT_BYTES_MIN)
            || state.current.rest() > 2 * SEGMENT_BYTES_MIN
    }

    /// Cuts zeros off, unless they are promised to somebody.
    fn shrink(&self) {
        let mut state = lock(&self.state);
        let PreparedState { current, spare, .. } = &mut *state;
        let Some(used) = current.used else {
            return;
        };
        let rest = current.rest().min(SEGMENT_BYTES_MIN);
        let next = spare.as_ref().map_or(0, |_| usable(SEGMENT_BYTES_MIN));
        if !self.quota.holds_only(rest.max(next).saturating_sub(SLACK)) {
            return;
        }
        if let Some(spare) = spare.as_mut().filter(|spare| spare.bytes > SEGMENT_BYTES_MIN) {
            cut(&spare.file, &mut spare.bytes, SEGMENT_BYTES_MIN);
        }
        if current.rest() > 2 * SEGMENT_BYTES_MIN {
            cut(&current.file, &mut current.bytes, used + SEGMENT_BYTES_MIN);
        }
        self.publish(&state);
    }
}

impl Current {
    fn rest(&self) -> u64 {
        self.bytes.saturating_sub(self.used.unwrap_or(self.bytes))
    }
}

fn cut(file: &File, bytes: &mut u64, to: u64) {
    match file.set_len(to) {
        Ok(()) => *bytes = to,
        Err(error) => tracing::debug!("a log segment stays larger than it need be: {error}"),
    }
}

/// The thread's own.
struct Preparer<'a> {
    directory: PathBuf,
    prepared: &'a PreparedSegments,
    /// The segment to prepare, until that works.
    due: Option<(u64, u64)>,
    /// The segment that was written to at the last look, and how much of it was used.
    seen: (u64, u64),
}

impl Preparer<'_> {
    fn new(directory: PathBuf, prepared: &PreparedSegments) -> Preparer<'_> {
        Preparer { directory, prepared, due: None, seen: (0, 0) }
    }

    fn work(mut self, prepare_tasks: &mpsc::Receiver<PrepareTask>) {
        loop {
            let chore = match self.due {
                Some(_) => prepare_tasks.recv_timeout(RETRY),
                None if self.prepared.is_large() => prepare_tasks.recv_timeout(IDLE),
                None => prepare_tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match chore {
                Ok(PrepareTask::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(PrepareTask::Remove(path)) => {
                    if let Err(error) = fs::remove_file(&path) {
                        let path = path.display();
                        tracing::warn!("cannot remove the old log segment {path}: {error}");
                    }
                }
                Ok(PrepareTask::Prepare { number, bytes }) => {
                    self.due = Some((number, bytes));
                    self.prepare();
                }
                Ok(PrepareTask::Grow(bytes)) => self.grow(sized_for(bytes)),
                Err(RecvTimeoutError::Timeout) if self.due.is_some() => self.prepare(),
                Err(RecvTimeoutError::Timeout) => self.rest(),
            }
        }
    }

    fn prepare(&mut self) {
        let Some((number, bytes)) = self.due else {
            return;
        };
        // On a disk that is nearly full a small one still serves most writes.
        let made = prepare(&self.directory, number, bytes).map(|file| (file, bytes));
        let made = made.or_else(|error| {
            if bytes == SEGMENT_BYTES_MIN {
                return Err(error);
            }
            let file = prepare(&self.directory, number, SEGMENT_BYTES_MIN)?;
            Ok((file, SEGMENT_BYTES_MIN))
        });
        match made {
            Ok((file, bytes)) => {
                self.due = None;
                let mut state = lock(&self.prepared.state);
                state.failure = None;
                state.spare = Some(Spare { number, file, bytes });
                drop(state);
                self.prepared.quota.accept();
                self.prepared.grown(number, bytes);
            }
            Err(error) => {
                let text = self.failed(number, &error);
                self.prepared.quota.refuse(&error, text);
            }
        }
    }

    fn grow(&mut self, bytes: u64) {
        if let Some((_, due)) = &mut self.due {
            *due = bytes.max(*due);
            self.prepare();
            return;
        }
        let Some((number, file, before)) = lock(&self.prepared.state)
            .spare
            .as_ref()
            .filter(|spare| spare.bytes < bytes)
            .map(|spare| (spare.number, Arc::clone(&spare.file), spare.bytes))
        else {
            // What was asked for has come true meanwhile.
            let state = lock(&self.prepared.state);
            self.prepared.publish(&state);
            return;
        };
        // It may be taken while this goes on: what was promised of it does not change.
        match zero(&file, before, bytes).and_then(|()| file.sync_all()) {
            Ok(()) => {
                lock(&self.prepared.state).failure = None;
                self.prepared.quota.accept();
                self.prepared.grown(number, bytes);
            }
            Err(error) => {
                // The half of it would only make a full disk fuller.
                let _ = file.set_len(before);
                let text = self.failed(number, &error);
                self.prepared.quota.deny(&error, text);
            }
        }
    }

    fn failed(&self, number: u64, error: &io::Error) -> String {
        let name = path(&self.directory, number);
        let text = format!("no room for the log's next segment {}: {error}", name.display());
        lock(&self.prepared.state).failure = Some((error.kind(), text.clone()));
        self.prepared.changed.notify_all();
        text
    }

    /// Nothing was to be done for a while.
    fn rest(&mut self) {
        let (number, used) = {
            let state = lock(&self.prepared.state);
            (state.current.number, state.current.used)
        };
        let Some(used) = used else {
            return;
        };
        let (before, seen) = std::mem::replace(&mut self.seen, (number, used));
        if number == before && used - seen < SEGMENT_BYTES_MIN {
            self.prepared.shrink();
        }
    }
}

/// Makes a segment of zeros under its name; it is whole or it is not there.
pub(super) fn prepare(directory: &Path, number: u64, bytes: u64) -> io::Result<Arc<File>> {
    let name = path(directory, number);
    let beside = name.with_extension("tmp");
    let made = fill(&beside, number, bytes).and_then(|file| {
        disk::rename(&beside, &name)?;
        Ok(file)
    });
    if made.is_err() {
        // The half of it would only make a full disk fuller.
        let _ = fs::remove_file(&beside);
    }
    made.map(Arc::new)
}

fn fill(path: &Path, number: u64, bytes: u64) -> io::Result<File> {
    let file = disk::create(path)?;
    zero(&file, 0, bytes)?;
    file.write_all_at(&header(number), 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Writes zeros up to `bytes`.
fn zero(file: &File, mut at: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE];
    while at < bytes {
        let piece = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        file.write_all_at(&zeros[..piece], at)?;
        file.sync_data()?;
        at += piece as u64;
    }
    Ok(())
}
