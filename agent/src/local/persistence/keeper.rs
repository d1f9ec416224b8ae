//! The thread that owns the database.
//!
//! ```text
//!   wait for writes ─▶ room? ─▶ each batch: one transaction ─▶ flush, sync ─▶ do what was to be done, answer
//!        ▲               │ no          │ fails                     │ fails
//!        └── refuse ◀────┘             └────▶ close, refuse all ◀──┘
//!            all but removals                 the next writes: open again, undo what was refused
//! ```
//!
//! Removals are tried without room, too: little is written, and whoever makes room begins with them.
//!
//! sled keeps its first error for ever, so after one the database is closed and opened again. What was refused may be
//! on the disk by then: the values from before are written over it ahead of everything else. Sled's `flush` alone
//! hands writes to the kernel, which is enough to survive a crash of the process, and all that reports to TTL checks
//! need: they are many, and old in a moment. After definitions the file is synchronised as well.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use sled::IVec;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _};

use super::{Error, FORMAT, Kind, PersistedState, Write};
use crate::disk;

/// sled keeps pages in memory up to this; the drawer is small.
const CACHE_BYTES: u64 = 4 << 20;
/// Batches that one sync makes durable at most.
const BATCH_MAX: usize = 1024;
/// Free space without which nothing is begun: what sled may take at once, a segment of its file.
const ROOM_BYTES: u64 = 512 << 10;
/// On a full disk no report of any check is kept; the log hears of it now and then.
const COMPLAINTS_APART: Duration = Duration::from_secs(10);
/// The lock on a database that was just closed is given up by threads of its own.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// Writes that belong together, and whom to tell.
pub(super) struct Batch {
    pub(super) writes: Vec<Write>,
    /// Called once, when they are durable or refused.
    pub(super) finish: Box<dyn FnOnce(Result<(), Error>) + Send>,
}

impl Batch {
    fn only_removes(&self) -> bool {
        self.writes.iter().all(|write| write.value.is_none())
    }

    fn bytes(&self) -> usize {
        let bytes = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, Vec::len);
        self.writes.iter().map(bytes).sum()
    }
}

/// The values that some keys had; `None`: they were not there.
type Before = Vec<(Kind, String, Option<IVec>)>;

/// The database and what there is to undo in it.
pub(super) struct Keeper {
    path: PathBuf,
    /// `None` after an error.
    open: Option<Open>,
    /// Of writes that were refused, oldest first. They are undone before anything else is written.
    undo: Before,
    /// The last time that the log heard of a refusal.
    told: Option<Instant>,
}

struct Open {
    database: sled::Db,
    trees: [sled::Tree; 3],
    /// The database's file, to synchronise it.
    file: File,
}

impl Open {
    fn at(path: &Path) -> Result<Open, Error> {
        let failed = |source| Error::Open { path: path.to_owned(), source };
        // Definitions can hold secrets (headers of checks): nobody else may look.
        disk::folder(path).map_err(failed)?;
        let database = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        let tree = |kind: Kind| database.open_tree(kind.tree());
        let [services, checks, ttl] = Kind::ALL;
        let trees = [tree(services)?, tree(checks)?, tree(ttl)?];
        disk::tighten_below(path).map_err(failed)?;
        let file = File::open(path.join("db")).map_err(failed)?;
        Ok(Open { database, trees, file })
    }

    /// Applies writes all together or not at all; answers what was there before.
    fn apply(&self, writes: &[Write]) -> Result<Before, Error> {
        let [services, checks, ttl] = &self.trees;
        let done = (services, checks, ttl).transaction(|(services, checks, ttl)| {
            let mut before = Vec::with_capacity(writes.len());
            for Write { kind, key, value } in writes {
                let tree = match kind {
                    Kind::Services => services,
                    Kind::Checks => checks,
                    Kind::Ttl => ttl,
                };
                let old = match value {
                    Some(value) => tree.insert(key.as_bytes(), value.as_slice())?,
                    None => tree.remove(key.as_bytes())?,
                };
                before.push((*kind, key.clone(), old));
            }
            Ok::<_, ConflictableTransactionError<()>>(before)
        });
        done.map_err(|error| match error {
            TransactionError::Storage(error) => Error::Database(error),
            TransactionError::Abort(()) => Error::Closed,
        })
    }

    fn flush(&self, sync: bool) -> Result<(), Error> {
        self.database.flush()?;
        let synced = if sync { self.file.sync_data() } else { Ok(()) };
        synced.map_err(|error| Error::Database(sled::Error::Io(error)))
    }
}

impl Keeper {
    /// Opens the database and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Keeper, PersistedState), Error> {
        let open = Open::at(path).map_err(|error| not_started(path, error))?;
        let [services, checks, ttl] = &open.trees;
        let kept = PersistedState {
            services: read(services, Kind::Services)?,
            checks: read(checks, Kind::Checks)?,
            reports: read(ttl, Kind::Ttl)?,
        };
        let keeper =
            Keeper { path: path.to_owned(), open: Some(open), undo: Vec::new(), told: None };
        Ok((keeper, kept))
    }

    /// The thread's life: ends when nobody holds the drawer any more.
    pub(super) fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok(first) = batches.recv() {
            let mut waiting = vec![first];
            waiting.extend(batches.try_iter().take(BATCH_MAX - 1));
            if let Err(error) = self.has_room(waiting.iter().map(Batch::bytes).sum()) {
                let (removals, others) = waiting.into_iter().partition(Batch::only_removes);
                waiting = removals;
                self.refuse(others, &error);
            }
            if waiting.is_empty() {
                continue;
            }
            match self.keep(&waiting) {
                Ok(()) => waiting.into_iter().for_each(|batch| (batch.finish)(Ok(()))),
                Err(error) => {
                    // Before anybody hears of it, so that what was refused is not there after a restart, either.
                    if !self.undo.is_empty()
                        && let Err(error) = self.opened()
                    {
                        let error = explained(&error);
                        tracing::warn!(error, "refused changes are not undone yet");
                    }
                    self.refuse(waiting, &error);
                }
            }
        }
        // Nobody changes anything any more, but what was refused must not come back.
        if !self.undo.is_empty()
            && let Err(error) = self.opened()
        {
            tracing::error!(error = explained(&error), "refused changes could not be undone");
        }
    }

    fn refuse(&mut self, batches: Vec<Batch>, error: &Error) {
        if batches.is_empty() {
            return;
        }
        let why = explained(error);
        if self.told.is_none_or(|at| at.elapsed() > COMPLAINTS_APART) {
            self.told = Some(Instant::now());
            tracing::error!(error = why, "the agent's own state could not be changed");
        }
        for batch in batches {
            (batch.finish)(Err(Error::NotKept(why.clone())));
        }
    }

    /// Makes all batches durable, or none of them.
    fn keep(&mut self, batches: &[Batch]) -> Result<(), Error> {
        self.opened()?;
        let mut undo = Vec::new();
        let kept = self.try_keep(batches, &mut undo);
        if kept.is_err() {
            self.open = None;
            self.undo.append(&mut undo);
        }
        kept
    }

    fn try_keep(&self, batches: &[Batch], undo: &mut Before) -> Result<(), Error> {
        let open = self.open.as_ref().ok_or(Error::Closed)?;
        let mut sync = false;
        for batch in batches {
            sync |= batch.writes.iter().any(|write| write.kind != Kind::Ttl);
            #[cfg(test)]
            faults::meet(&self.path, faults::Step::Apply)?;
            undo.extend(open.apply(&batch.writes)?);
        }
        #[cfg(test)]
        faults::meet(&self.path, faults::Step::Flush)?;
        open.flush(sync)?;
        #[cfg(test)]
        faults::meet(&self.path, faults::Step::Sync)?;
        Ok(())
    }

    /// Opens the database if an error closed it, and undoes what was refused.
    fn opened(&mut self) -> Result<(), Error> {
        if self.open.is_some() && self.undo.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        faults::meet(&self.path, faults::Step::Open)?;
        let deadline = Instant::now() + CLOSING_MAX;
        let open = loop {
            match Open::at(&self.path) {
                Ok(open) => break open,
                Err(Error::Database(sled::Error::Io(error)))
                    if error.raw_os_error().is_none() && Instant::now() < deadline =>
                {
                    // Not the system's word, but that of the lock.
                    pause();
                }
                Err(error) => return Err(error),
            }
        };
        let undo: Vec<Write> = self
            .undo
            .iter()
            .rev()
            .map(|(kind, key, value)| Write {
                kind: *kind,
                key: key.clone(),
                value: value.as_ref().map(|value| value.to_vec()),
            })
            .collect();
        open.apply(&undo)?;
        open.flush(true)?;
        self.undo.clear();
        self.open = Some(open);
        tracing::info!("the agent's own database is open again");
        Ok(())
    }

    /// Is there room for so many bytes more? A database that runs into the end of the disk is lost until it is opened
    /// again: better to ask before.
    fn has_room(&self, bytes: usize) -> Result<(), Error> {
        let failed =
            |error: nix::Error| Error::Open { path: self.path.clone(), source: error.into() };
        #[cfg(test)]
        if faults::is_careless(&self.path) {
            return Ok(());
        }
        let disk = nix::sys::statvfs::statvfs(&self.path).map_err(failed)?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let needed = ROOM_BYTES + 2 * bytes as u64;
        if free >= needed {
            return Ok(());
        }
        Err(Error::Full {
            path: self.path.clone(),
            free: free >> 10,
            needed: needed.div_ceil(1024),
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, and the lock tells nobody that it is free"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// The error of an agent that cannot start without its database.
fn not_started(path: &Path, error: Error) -> Error {
    let full = match &error {
        Error::Open { source, .. } | Error::Database(sled::Error::Io(source)) => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        _ => false,
    };
    let (path, source) = (path.to_owned(), Box::new(error));
    if full { Error::FullAtStart { path, source } } else { Error::Start { path, source } }
}

/// An error with its reasons.
fn explained(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(reason) = source {
        text += ": ";
        text += &reason.to_string();
        source = reason.source();
    }
    text
}

fn read<T: DeserializeOwned>(from: &sled::Tree, kind: Kind) -> Result<Vec<(String, T)>, Error> {
    let tree = kind.tree();
    from.iter()
        .map(|pair| {
            let (key, value) = pair?;
            let key = String::from_utf8_lossy(&key).into_owned();
            match value.split_first() {
                Some((&FORMAT, json)) => match serde_json::from_slice(json) {
                    Ok(value) => Ok((key, value)),
                    Err(error) => Err(Error::Value { tree, key, what: error.to_string() }),
                },
                Some((format, _)) => {
                    Err(Error::Value { tree, key, what: format!("format {format} is unknown") })
                }
                None => Err(Error::Value { tree, key, what: "it is empty".into() }),
            }
        })
        .collect()
}

/// Faults that tests bring about.
#[cfg(test)]
pub(in crate::local) mod faults {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    use super::Error;

    /// Operation of a database.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::local) enum Step {
        Open,
        Apply,
        Flush,
        /// All is on the disk, and nobody can know.
        Sync,
    }

    #[derive(Debug, Default)]
    struct Plan {
        faults: Vec<Step>,
        careless: bool,
    }

    static PLANS: Mutex<Option<HashMap<PathBuf, Plan>>> = Mutex::new(None);

    fn plan<T>(path: &Path, act: impl FnOnce(&mut Plan) -> T) -> T {
        let mut plans = PLANS.lock();
        act(plans.get_or_insert_default().entry(path.to_owned()).or_default())
    }

    /// The next such steps of the database in this folder fail, one for each.
    pub(in crate::local) fn set(path: &Path, faults: Vec<Step>) {
        plan(path, |plan| plan.faults = faults);
    }

    /// Number of operations still to come.
    pub(in crate::local) fn left(path: &Path) -> usize {
        plan(path, |plan| plan.faults.len())
    }

    /// Nobody asks whether there is room before writing.
    pub(in crate::local) fn be_careless(path: &Path) {
        plan(path, |plan| plan.careless = true);
    }

    pub(super) fn is_careless(path: &Path) -> bool {
        plan(path, |plan| plan.careless)
    }

    pub(super) fn meet(path: &Path, step: Step) -> Result<(), Error> {
        plan(path, |plan| match plan.faults.iter().position(|fault| *fault == step) {
            None => Ok(()),
            Some(at) => {
                plan.faults.remove(at);
                Err(Error::NotKept(format!("a fault at {step:?}")))
            }
        })
    }
}
