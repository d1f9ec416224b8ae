//! The files of a group: candidates beside them, renames onto them, and the way back.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::Target;
use super::ledger::{Entry, Kept, Ledger, hash, remove_if_there};
use crate::private::{at, sync_folder};

/// The mode of a file that is new and whose target says nothing.
const MODE_NEW: u32 = 0o644;

/// A text written beside its target, ready to be renamed onto it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The target itself, links resolved.
    pub(super) destination: PathBuf,
    /// Where the text is now.
    pub(super) path: PathBuf,
    /// The hash of the text, and how the file is protected.
    pub(super) kept: Kept,
}

/// The file that `destination` really is: a symbolic link is followed, so that the link stays a link.
pub(super) fn resolve(destination: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(destination) {
        Ok(metadata) if metadata.is_symlink() => {
            fs::canonicalize(destination).or_else(|_| {
                // The link leads nowhere yet: the file is made where it points.
                let link = fs::read_link(destination)?;
                Ok(destination.parent().unwrap_or(Path::new(".")).join(link))
            })
        }
        _ => Ok(destination.to_path_buf()),
    }
}

/// Where the candidate of `destination` is written: beside it, for a rename works only within a file system; hidden
/// and with an ending that no `include *.conf` matches.
pub(super) fn candidate_path(destination: &Path) -> PathBuf {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    destination.with_file_name(format!(".{name}.muster-new"))
}

/// Whether the file has this text already, and the mode and owner its target asks for.
pub(super) fn is_current(target: &Target, text: &[u8]) -> bool {
    let Ok(metadata) = fs::metadata(&target.destination) else { return false };
    target.mode.is_none_or(|mode| metadata.permissions().mode() & 0o7777 == mode)
        && target.uid.is_none_or(|uid| metadata.uid() == uid)
        && target.gid.is_none_or(|gid| metadata.gid() == gid)
        && fs::read(&target.destination).is_ok_and(|current| current == text)
}

/// Writes the candidate of one target: text, mode and owner complete and durable before anything is renamed.
pub(super) fn stage(target: &Target, text: &[u8]) -> io::Result<Candidate> {
    let destination = resolve(&target.destination)?;
    if let Some(folder) = destination.parent().filter(|_| target.create_folders) {
        fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    }
    let current = fs::metadata(&destination).ok();
    let mode = target
        .mode
        .or(current.as_ref().map(|m| m.permissions().mode() & 0o7777))
        .unwrap_or(MODE_NEW);
    let owner = (
        target.uid.or(current.as_ref().map(MetadataExt::uid)),
        target.gid.or(current.as_ref().map(MetadataExt::gid)),
    );
    let path = candidate_path(&destination);
    write_protected(&path, text, mode, owner, (target.uid, target.gid))?;
    let metadata = fs::metadata(&path)?;
    let kept = Kept { hash: hash(text), mode, uid: metadata.uid(), gid: metadata.gid() };
    Ok(Candidate { destination, path, kept })
}

/// Writes a file with its final mode and owner. An owner that was only taken over from the old file may fail (we are
/// not root); one that the configuration `demanded` may not.
fn write_protected(
    path: &Path,
    text: &[u8],
    mode: u32,
    owner: (Option<u32>, Option<u32>),
    demanded: (Option<u32>, Option<u32>),
) -> io::Result<()> {
    // A leftover of a crash may have another owner or mode; a fresh file has none of it. Nobody else may read the
    // text before it has its final mode.
    remove_if_there(path)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| at(path, &error))?;
    let written = fill(file, path, text, mode, owner, demanded);
    if written.is_err() {
        // On a full disk the half of a file takes the room that others need.
        let _ = fs::remove_file(path);
    }
    written
}

fn fill(
    mut file: fs::File,
    path: &Path,
    text: &[u8],
    mode: u32,
    owner: (Option<u32>, Option<u32>),
    demanded: (Option<u32>, Option<u32>),
) -> io::Result<()> {
    file.write_all(text).map_err(|error| at(path, &error))?;
    if let Err(error) = chown(path, owner.0, owner.1)
        && (demanded.0.is_some() || demanded.1.is_some())
    {
        return Err(at(path, &error));
    }
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(|error| at(path, &error))?;
    file.sync_all().map_err(|error| at(path, &error))
}

/// What the journal says about a file before it is touched. The way back is the last acknowledged text; without one,
/// what an interrupted change would have gone back to; without that, the file as it is now.
pub(super) fn plan(ledger: &Ledger, candidate: &Candidate) -> io::Result<Entry> {
    let destination = candidate.destination.clone();
    let good = ledger.good()?.and_then(|good| good.file(&destination).cloned());
    let interrupted = ledger.journal()?.and_then(|journal| {
        journal
            .files
            .into_iter()
            .find(|entry| entry.destination == destination)
            .map(|entry| entry.previous)
    });
    let previous = match (good, interrupted) {
        (Some(good), _) => Some(good),
        (None, Some(previous)) => previous,
        (None, None) => keep_current(ledger, &destination)?,
    };
    Ok(Entry { destination, new: Some(candidate.kept.hash.clone()), previous })
}

/// Copies the file as it is now into the ledger.
fn keep_current(ledger: &Ledger, destination: &Path) -> io::Result<Option<Kept>> {
    let text = match fs::read(destination) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(destination, &error)),
    };
    let metadata = fs::metadata(destination)?;
    let mode = metadata.permissions().mode() & 0o7777;
    Ok(Some(Kept { hash: ledger.keep(&text), mode, uid: metadata.uid(), gid: metadata.gid() }))
}

/// Puts a candidate in the place of its target. Not durable before [`sync`].
pub(super) fn install(candidate: &Candidate) -> io::Result<()> {
    put(&candidate.path, &candidate.destination)
}

fn put(from: &Path, onto: &Path) -> io::Result<()> {
    match fs::rename(from, onto) {
        // A file that is itself a mount point (a single file mounted into a container) cannot be replaced, only
        // rewritten; whoever mounted it sees the same file, and a short moment of half a text.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            tracing::warn!(file = %onto.display(), "is a mount point and is rewritten in place, not replaced");
            let text = fs::read(from).map_err(|error| at(from, &error))?;
            let mut file = OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(onto)
                .map_err(|error| at(onto, &error))?;
            file.write_all(&text).map_err(|error| at(onto, &error))?;
            file.sync_all().map_err(|error| at(onto, &error))?;
            remove_if_there(from)
        }
        result => result.map_err(|error| at(onto, &error)),
    }
}

/// Makes the renames of these files durable.
pub(super) fn sync<'a>(destinations: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let mut folders: Vec<&Path> = destinations.filter_map(Path::parent).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
        .into_iter()
        .try_for_each(|folder| sync_folder(folder).map_err(|error| at(folder, &error)))
}

/// Puts every file of a change back to what it was before.
pub(super) fn restore(ledger: &Ledger, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        match &entry.previous {
            None => remove_if_there(&entry.destination)?,
            Some(kept) => put_back(ledger, &entry.destination, kept)?,
        }
        remove_if_there(&candidate_path(&entry.destination))?;
    }
    // A folder that was never made has nothing to lose.
    sync(
        entries
            .iter()
            .map(|entry| entry.destination.as_path())
            .filter(|path| path.parent().is_some_and(Path::exists)),
    )
}

/// Writes a text of the ledger onto its file.
pub(super) fn put_back(ledger: &Ledger, destination: &Path, kept: &Kept) -> io::Result<()> {
    if current_hash(destination)?.as_deref() == Some(kept.hash.as_str()) {
        return Ok(());
    }
    let text = ledger.text(&kept.hash)?;
    if let Some(folder) = destination.parent() {
        fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    }
    let beside = candidate_path(destination);
    write_protected(&beside, &text, kept.mode, (Some(kept.uid), Some(kept.gid)), (None, None))?;
    put(&beside, destination)
}

/// The hash of a file's text; `None` if there is no file.
pub(super) fn current_hash(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(hash(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, &error)),
    }
}

/// Keeps the texts of a change that was installed, and says how its files are protected.
pub(super) fn keep_installed(
    ledger: &Ledger,
    entries: &[Entry],
) -> io::Result<Vec<(PathBuf, Kept)>> {
    let mut files = Vec::new();
    for entry in entries.iter().filter(|entry| entry.new.is_some()) {
        if let Some(kept) = keep_current(ledger, &entry.destination)? {
            files.push((entry.destination.clone(), kept));
        }
    }
    Ok(files)
}
