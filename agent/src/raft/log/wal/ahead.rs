//! The thread that prepares the next segment and removes old ones, so that the writer never waits
//! for the file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::Room;
use super::{SEGMENT_BYTES, Segment, header, path};

/// Zeros are written and flushed in pieces, so that a batch's flush never waits behind many.
const PIECE: usize = 1 << 20;

/// How soon a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Ahead {
    chores: Option<mpsc::Sender<Chore>>,
    prepared: mpsc::Receiver<(u64, Arc<File>)>,
    /// Found prepared when the log was opened.
    found: Option<(u64, Arc<File>)>,
    wanted: Option<u64>,
    thread: Option<JoinHandle<()>>,
}

enum Chore {
    Prepare(u64),
    Remove(PathBuf),
}

impl Ahead {
    pub(super) fn start(directory: PathBuf, room: Room) -> io::Result<Ahead> {
        let (chores, queue) = mpsc::channel();
        let (done, prepared) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("raft-log-ahead".to_owned())
            .spawn(move || work(&directory, &queue, &done, &room))?;
        Ok(Ahead {
            chores: Some(chores),
            prepared,
            found: None,
            wanted: None,
            thread: Some(thread),
        })
    }

    /// There is such a segment already.
    pub(super) fn have(&mut self, segment: Segment) {
        self.found = Some((segment.number, segment.file));
    }

    /// Asks for a segment to be prepared; at most one is asked for at a time.
    pub(super) fn want(&mut self, number: u64) {
        if self.found.as_ref().is_none_or(|found| found.0 != number) {
            self.wanted = Some(number);
            self.send(Chore::Prepare(number));
        }
    }

    /// The segment that was asked for. Waits for it, on a full disk until there is room again:
    /// new writes are refused meanwhile, those under way fit the segment before.
    pub(super) fn take(&mut self, number: u64, room: &Room) -> io::Result<Arc<File>> {
        if let Some((_, file)) = self.found.take_if(|found| found.0 == number) {
            return Ok(file);
        }
        if self.wanted != Some(number) {
            self.want(number);
        }
        match self.prepared.recv() {
            Ok((prepared, file)) if prepared == number => Ok(file),
            Ok((prepared, _)) => {
                Err(io::Error::other(format!("segment {prepared} came instead of {number}")))
            }
            Err(_) => Err(room
                .refusal()
                .unwrap_or_else(|| io::Error::other("segments are not prepared any more"))),
        }
    }

    pub(super) fn remove(&self, path: PathBuf) {
        self.send(Chore::Remove(path));
    }

    fn send(&self, chore: Chore) {
        if let Some(chores) = &self.chores {
            // A thread that is gone shows when its segment is missing.
            let _ = chores.send(chore);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.chores = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that prepares log segments ended by a panic");
        }
    }
}

fn work(
    directory: &Path,
    chores: &mpsc::Receiver<Chore>,
    done: &mpsc::Sender<(u64, Arc<File>)>,
    room: &Room,
) {
    let mut due: Option<u64> = None;
    loop {
        let chore = if due.is_some() {
            match chores.recv_timeout(RETRY) {
                Ok(chore) => Some(chore),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match chores.recv() {
                Ok(chore) => Some(chore),
                Err(_) => return,
            }
        };
        match chore {
            Some(Chore::Remove(path)) => {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!("cannot remove the old log segment {}: {error}", path.display());
                }
            }
            Some(Chore::Prepare(number)) => due = Some(number),
            None => {}
        }
        let Some(number) = due else {
            continue;
        };
        match prepare(directory, number, SEGMENT_BYTES) {
            Ok(file) => {
                due = None;
                room.accept();
                if done.send((number, file)).is_err() {
                    return;
                }
            }
            Err(error) => {
                let name = path(directory, number);
                let text =
                    format!("no room for the log's next segment {}: {error}", name.display());
                room.refuse(&error, text);
            }
        }
    }
}

/// Makes a segment of zeros under its name; it is whole or it is not there.
pub(super) fn prepare(directory: &Path, number: u64, bytes: u64) -> io::Result<Arc<File>> {
    let name = path(directory, number);
    let beside = name.with_extension("tmp");
    let made = fill(&beside, number, bytes).and_then(|file| {
        fs::rename(&beside, &name)?;
        sync_directory(directory)?;
        Ok(file)
    });
    if made.is_err() {
        // The half of it would only make a full disk fuller.
        let _ = fs::remove_file(&beside);
    }
    made.map(Arc::new)
}

fn fill(path: &Path, number: u64, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; PIECE];
    let mut at = 0;
    while at < bytes {
        let piece = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        file.write_all_at(&zeros[..piece], at)?;
        file.sync_data()?;
        at += piece as u64;
    }
    file.write_all_at(&header(number), 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Makes names in a directory survive power loss.
pub(in crate::raft) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
