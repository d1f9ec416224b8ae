//! Follows the files of a configuration and tells when what they hold has changed (`auto_reload_config`).
//!
//! Editors, deployments and Kubernetes replace files rather than write into them, and swap links to folders. So the
//! folders that a path leads through are watched, not the files; after each event, and every half minute in case
//! events are lost or not to be had, the contents are compared with those that were read last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Links that a path may lead through, as for the system itself.
const LINKS_MAX: usize = 40;

/// The pace of following.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time without events after which the files are looked at: who writes several times is waited for.
    pub quiet: Duration,
    /// Longest wait for such a time.
    pub quiet_max: Duration,
    /// Interval of looking at the files without an event.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            quiet: Duration::from_millis(250),
            quiet_max: Duration::from_secs(2),
            look: Duration::from_secs(30),
        }
    }
}

/// Files and folders to follow, and what they held when they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    paths: BTreeMap<PathBuf, Files>,
    contents: Contents,
}

/// The files of a folder that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// Those that are read as configuration.
    Configuration,
    /// Every one.
    All,
}

/// Sums of files; `None` is no file, or cannot be read.
type Contents = BTreeMap<PathBuf, Option<[u8; 32]>>;

impl Followed {
    /// Notes what the files at these paths hold. To be called before they are read: a change meanwhile is then told.
    pub(super) fn add<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathBuf>, files: Files) {
        for path in paths {
            self.paths.insert(path.clone(), files);
            self.contents.extend(contents(path, files));
        }
    }

    fn contents_now(&self) -> Contents {
        self.paths.iter().flat_map(|(path, files)| contents(path, *files)).collect()
    }

    /// The folders in which a change of what is followed shows.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for (path, files) in &self.paths {
            lead_through(path, &mut folders);
            for file in files_at(path, *files).iter().filter(|file| file.is_symlink()) {
                lead_through(file, &mut folders);
            }
        }
        folders
    }
}

/// The files at a path: itself, or those of a folder.
fn files_at(path: &Path, files: Files) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return vec![path.to_owned()] };
    let counts = |path: &PathBuf| match files {
        Files::Configuration => super::file::is_configuration(path),
        Files::All => true,
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(counts).collect()
}

fn contents(path: &Path, files: Files) -> Contents {
    let with_sum = |file: PathBuf| {
        let sum = sum(&file).ok();
        (file, sum)
    };
    files_at(path, files).into_iter().map(with_sum).collect()
}

/// The sum of a file's content, which is not held in memory.
fn sum(file: &Path) -> io::Result<[u8; 32]> {
    // Reading a pipe would take what it holds from those who are to have it.
    if !fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (mut file, mut hasher) = (fs::File::open(file)?, Sha256::new());
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize().into()),
            length => hasher.update(&piece[..length]),
        }
    }
}

/// Adds the folders that hold a part of `path`: every link on the way, and where it ends. Of a path that leads
/// nowhere, the last folder that is there.
fn lead_through(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut at = if path.is_absolute() {
        PathBuf::from("/")
    } else {
        let Ok(own) = std::env::current_dir().and_then(fs::canonicalize) else { return };
        own
    };
    let mut links = 0;
    let mut rest = names(path);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                folders.insert(at.clone());
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut inside = names(&target);
                inside.append(&mut rest);
                rest = inside;
            }
            _ if next.exists() => at = next,
            _ => {
                folders.insert(at);
                return;
            }
        }
    }
    if at.is_dir() {
        folders.insert(at.clone());
    }
    folders.extend(at.parent().map(Path::to_owned));
}

/// The names in a path.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(name).collect()
}

/// The folders that are watched.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode: a folder that was made anew under its name is another one.
    folders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watched {
    /// Tells `events` of each change.
    fn new(events: &Arc<Notify>) -> Watched {
        let tell = events.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Looking at the files makes events, too.
            let is_look = event.is_ok_and(|event| match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
                EventKind::Access(_) => true,
                _ => false,
            });
            if !is_look {
                tell.notify_one();
            }
        });
        let watcher = watcher.map_err(|error| {
            let interval = Pace::default().look;
            warn!(%error, ?interval, "changes of configuration files are not told: they are looked at");
        });
        Watched { watcher: watcher.ok(), folders: BTreeMap::new() }
    }

    /// Watches these folders and no others. One that cannot be watched is tried again the next time.
    fn set(&mut self, wanted: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let identity = |folder: &Path| {
            fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
        };
        self.folders.retain(|folder, known| {
            let stays = wanted.contains(folder) && identity(folder) == Some(*known);
            if !stays {
                // One that was removed is not watched any longer.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        for folder in wanted {
            let Some(identity) = identity(folder).filter(|_| !self.folders.contains_key(folder))
            else {
                continue;
            };
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder.clone(), identity)),
                Err(error) => debug!(%error, folder = %folder.display(), "cannot watch a folder"),
            }
        }
    }
}

/// Follows until `stop`. `changed` is told of each change; `followed` is what is followed from now on, with the
/// contents that were read last.
pub async fn follow(
    mut followed: watch::Receiver<Followed>,
    pace: Pace,
    changed: mpsc::Sender<()>,
    stop: CancellationToken,
) {
    let events = Arc::new(Notify::new());
    let mut watched = Watched::new(&events);
    let mut known = followed.borrow_and_update().clone();
    loop {
        let before = known.clone();
        let look = tokio::task::spawn_blocking(move || {
            // Watch first: what changes after the look makes an event.
            watched.set(&before.folders());
            let now = before.contents_now();
            (watched, now)
        });
        let contents;
        (watched, contents) = match look.await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => return,
        };
        if contents != known.contents {
            let files = differences(&known.contents, &contents);
            info!(files, "configuration files have changed");
            known.contents = contents;
            // One that is waiting already reads this change as well.
            let _ = changed.try_send(());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pace.look) => {}
            () = events.notified() => settle(&events, pace).await,
            told = followed.changed() => match told {
                Ok(()) => known = followed.borrow_and_update().clone(),
                Err(_) => return,
            },
        }
    }
}

/// Waits until there are no events for a while.
async fn settle(events: &Notify, pace: Pace) {
    let end = Instant::now() + pace.quiet_max;
    while Instant::now() < end {
        let quiet = Instant::now() + pace.quiet;
        if timeout_at(quiet.min(end), events.notified()).await.is_err() {
            return;
        }
    }
}

/// The files that differ, for the log.
fn differences(before: &Contents, now: &Contents) -> String {
    let names: BTreeSet<&PathBuf> = before.keys().chain(now.keys()).collect();
    let differ = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    differ.map(|name| name.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
