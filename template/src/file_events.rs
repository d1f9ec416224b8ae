//! Follows files by events of the system, so that nobody reads them while nothing happens.
//!
//! A watch on a file itself is lost when an editor renames another file onto it. So the folders are watched: the one
//! that holds the file, and the one of each symbolic link on the way to it. While a folder does not exist, the nearest
//! one above it is watched.
//!
//! ```text
//! /etc/app/app.conf ─▶ ..data/app.conf, /etc/app/..data ─▶ ..2026/    watched: /etc/app, /etc/app/..2026
//! /srv/none/app.conf, there is no /srv/none                            watched: /srv
//! ```
//!
//! An event means that a file *may* have changed: who follows it reads it and compares. Events are missing where another
//! machine changes the files, or where a folder further up is renamed: for those, everybody is told to look every
//! [`LOOK_EVERY`]. Where the system grants no watch, they are told every [`POLL_EVERY`].
//!
//! One thread owns the watches. What waits for it is a set of what is followed, never a list of events, so it does not
//! grow with what happens in the folders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// How often all files are looked at although no event tells of them.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The same while a folder cannot be watched.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Writing a file is several events: they are taken together for this long.
const TOGETHER: Duration = Duration::from_millis(20);

/// The most links on the way to one file, as in the kernel.
const LINKS_MAX: usize = 40;

/// Folders that appear while others are being watched are looked for so many times; then at the next event.
const ROUNDS_MAX: usize = 8;

/// Follows files. Clones share the thread, which ends with the last of them and the last [`Followed`].
#[derive(Debug, Clone)]
pub struct FileEvents {
    owner: Arc<Owner>,
}

/// Some paths that are followed together, until this is dropped.
#[derive(Debug)]
pub struct Followed {
    owner: Arc<Owner>,
    id: Id,
    changed: Arc<Notify>,
}

type Id = u64;

#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state().stop = true;
        self.0.wake.notify_one();
    }
}

/// What the handles, the thread and the source of events share. The lock is never held while a watch is made: the source
/// needs it to deliver events.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    followed: BTreeMap<Id, Paths>,
    next_id: Id,
    /// The paths whose events concern somebody.
    entries: BTreeMap<PathBuf, BTreeSet<Id>>,
    /// The folders of which every entry concerns somebody.
    contents: BTreeMap<PathBuf, BTreeSet<Id>>,
    watched: BTreeSet<PathBuf>,
    /// Who is to be told.
    changed: BTreeSet<Id>,
    /// Watched folders that were removed or renamed, and their watches with them.
    lost: BTreeSet<PathBuf>,
    /// Everybody is to be told.
    all: bool,
    /// There is something to do.
    due: bool,
    stop: bool,
}

#[derive(Debug)]
struct Paths {
    paths: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

impl FileEvents {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let follower = Follower::new(Arc::clone(&shared));
        std::thread::Builder::new().name("file-events".to_owned()).spawn(|| follower.run())?;
        Ok(Self { owner: Arc::new(Owner(shared)) })
    }

    /// Begins with no paths.
    pub fn follow(&self) -> Followed {
        let changed = Arc::new(Notify::new());
        let mut state = self.owner.0.state();
        state.next_id += 1;
        let id = state.next_id;
        let paths = Paths { paths: BTreeSet::new(), changed: Arc::clone(&changed) };
        state.followed.insert(id, paths);
        drop(state);
        Followed { owner: Arc::clone(&self.owner), id, changed }
    }
}

impl Followed {
    /// Follows these paths from now on: files, or folders with all that is directly in them. Paths that do not exist are
    /// waited for. Relative ones begin at the working directory.
    pub fn set(&self, paths: impl IntoIterator<Item = PathBuf>) {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let paths: BTreeSet<_> = paths.into_iter().map(absolute).collect();
        let mut state = self.owner.0.state();
        if let Some(followed) = state.followed.get_mut(&self.id).filter(|it| it.paths != paths) {
            followed.paths = paths;
            // What changed before the watches were made is found by looking once.
            state.changed.insert(self.id);
            state.due = true;
            drop(state);
            self.owner.0.wake.notify_one();
        }
    }

    /// Waits until one of the paths may have changed since the last time. Safe to cancel.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut state = self.owner.0.state();
        state.followed.remove(&self.id);
        state.due = true;
        drop(state);
        self.owner.0.wake.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one event, or that events were lost.
    fn heard(&self, event: notify::Result<notify::Event>) {
        let mut state = self.state();
        match event {
            Ok(event) if !event.need_rescan() => {
                if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
                {
                    return;
                }
                let moved = matches!(
                    event.kind,
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                );
                for path in &event.paths {
                    state.concerns(path, moved);
                }
            }
            _ => (state.all, state.due) = (true, true),
        }
        if state.due {
            drop(state);
            self.wake.notify_one();
        }
    }
}

impl State {
    /// Notes whom an event of this path concerns.
    fn concerns(&mut self, path: &Path, moved: bool) {
        let within = path.parent().and_then(|folder| self.contents.get(folder));
        let ids: Vec<Id> =
            self.entries.get(path).into_iter().chain(within).flatten().copied().collect();
        self.due |= !ids.is_empty();
        self.changed.extend(ids);
        if moved && self.watched.contains(path) {
            self.lost.insert(path.to_owned());
            self.due = true;
        }
    }
}

/// The folders and entries whose events tell of the followed paths.
#[derive(Debug, Default, PartialEq)]
struct Places {
    folders: BTreeMap<PathBuf, BTreeSet<Id>>,
    entries: BTreeMap<PathBuf, BTreeSet<Id>>,
    contents: BTreeMap<PathBuf, BTreeSet<Id>>,
}

impl Places {
    /// Adds what tells of one path, going through its links one by one.
    fn add(&mut self, id: Id, path: &Path) {
        let mut rest: VecDeque<OsString> = names(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(name);
            let metadata = fs::symlink_metadata(&next).ok();
            let is = |kind: fn(&fs::Metadata) -> bool| metadata.as_ref().is_some_and(kind);
            if is(fs::Metadata::is_dir) && !rest.is_empty() {
                at = next;
                continue;
            }
            self.entry(id, &at, &next);
            if is(fs::Metadata::is_dir) {
                self.folders.entry(next.clone()).or_default().insert(id);
                self.contents.entry(next).or_default().insert(id);
                return;
            }
            let target = Some(&next).filter(|_| is(fs::Metadata::is_symlink) && links < LINKS_MAX);
            let Some(target) = target.and_then(|link| fs::read_link(link).ok()) else { return };
            links += 1;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            names(&target).into_iter().rev().for_each(|name| rest.push_front(name));
        }
    }

    fn entry(&mut self, id: Id, folder: &Path, entry: &Path) {
        self.folders.entry(folder.to_owned()).or_default().insert(id);
        for path in [folder, entry] {
            self.entries.entry(path.to_owned()).or_default().insert(id);
        }
    }
}

/// The names in a path, with `..` as the kernel reads it: after links.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// A folder that is there: by its path another one may be found later.
type Identity = (u64, u64);

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The thread.
struct Follower {
    shared: Arc<Shared>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    /// Folders that cannot be watched, and why.
    unwatched: BTreeMap<PathBuf, String>,
    look_at: Instant,
}

impl Follower {
    fn new(shared: Arc<Shared>) -> Self {
        let look_at = Instant::now() + LOOK_EVERY;
        let (watched, unwatched) = (BTreeMap::new(), BTreeMap::new());
        Self { shared, watcher: None, watched, unwatched, look_at }
    }

    fn run(mut self) {
        while let Some((mut changed, lost)) = self.wait() {
            let all = Instant::now() >= self.look_at;
            changed.extend(self.watch_folders(lost));
            if all {
                let every = if self.unwatched.is_empty() { LOOK_EVERY } else { POLL_EVERY };
                self.look_at = Instant::now() + every;
            }
            // Told only now that the watches are made: what changes after the look is an event.
            let state = self.shared.state();
            for (id, followed) in &state.followed {
                if all || changed.contains(id) {
                    followed.changed.notify_one();
                }
            }
        }
    }

    /// Waits until something is to be done; `None` at the end.
    fn wait(&mut self) -> Option<(BTreeSet<Id>, BTreeSet<PathBuf>)> {
        let wake = &self.shared.wake;
        let idle = self.look_at.saturating_duration_since(Instant::now());
        let waited = wake.wait_timeout_while(self.shared.state(), idle, |it| !it.due && !it.stop);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let together = if state.due { TOGETHER } else { Duration::ZERO };
        let waited = wake.wait_timeout_while(state, together, |it| !it.stop);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.all) {
            self.look_at = Instant::now();
        }
        state.due = false;
        let changed = std::mem::take(&mut state.changed);
        (!state.stop).then(|| (changed, std::mem::take(&mut state.lost)))
    }

    /// Watches the folders of what is followed now. Returns whose folders were not watched before.
    fn watch_folders(&mut self, lost: BTreeSet<PathBuf>) -> BTreeSet<Id> {
        for folder in lost {
            self.unwatch(&folder);
        }
        let mut told = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let places = self.places();
            let fresh = |(folder, was): (&PathBuf, &Identity)| {
                places.folders.contains_key(folder) && identity(folder) == Some(*was)
            };
            let gone = self.watched.iter().filter(|it| !fresh(*it)).map(|it| it.0.clone());
            for folder in gone.collect::<Vec<_>>() {
                self.unwatch(&folder);
            }
            self.unwatched.retain(|folder, _| places.folders.contains_key(folder));
            let new: Vec<_> =
                places.folders.iter().filter(|it| !self.watched.contains_key(it.0)).collect();
            let watched = new.into_iter().filter(|(folder, _)| self.watch(folder));
            let ids: BTreeSet<Id> = watched.flat_map(|(_, ids)| ids).copied().collect();
            if ids.is_empty() {
                break;
            }
            // Folders that came meanwhile were no event: once more.
            told.extend(ids);
        }
        told
    }

    /// What is to be watched now. From here on its events are understood.
    fn places(&self) -> Places {
        let followed: Vec<_> = {
            let state = self.shared.state();
            state.followed.iter().map(|(id, it)| (*id, it.paths.clone())).collect()
        };
        let mut places = Places::default();
        for (id, paths) in &followed {
            for path in paths {
                places.add(*id, path);
            }
        }
        let mut state = self.shared.state();
        state.entries.clone_from(&places.entries);
        state.contents.clone_from(&places.contents);
        state.watched = places.folders.keys().cloned().collect();
        places
    }

    /// Watches one folder; whether it is watched now.
    fn watch(&mut self, folder: &Path) -> bool {
        let Some(identity) = identity(folder) else { return false };
        match self.try_watch(folder) {
            Ok(()) => {
                self.watched.insert(folder.to_owned(), identity);
                self.unwatched.remove(folder);
                true
            }
            Err(error) => {
                let why = error.to_string();
                if self.unwatched.get(folder) != Some(&why) {
                    let folder = folder.display();
                    tracing::warn!(
                        "cannot watch `{folder}`: {why}; its files are read every {POLL_EVERY:?} instead. More watches: \
                         sysctl fs.inotify.max_user_watches, fs.inotify.max_user_instances"
                    );
                }
                self.unwatched.insert(folder.to_owned(), why);
                self.look_at = self.look_at.min(Instant::now() + POLL_EVERY);
                false
            }
        }
    }

    fn try_watch(&mut self, folder: &Path) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let shared = Arc::clone(&self.shared);
                let watcher = notify::recommended_watcher(move |event| shared.heard(event))?;
                none.insert(watcher)
            }
        };
        watcher.watch(folder, RecursiveMode::NonRecursive)
    }

    fn unwatch(&mut self, folder: &Path) {
        if self.watched.remove(folder).is_some()
            && let Some(watcher) = &mut self.watcher
        {
            // A folder that is gone took its watch along.
            let _ = watcher.unwatch(folder);
        }
    }
}

#[cfg(test)]
mod tests;
