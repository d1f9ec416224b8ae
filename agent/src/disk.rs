//! Files that this agent keeps. Each is whole or is not there, whenever the machine stops; and none is for others to read:
//! values, tokens and keys are in them.
//!
//! Rights do not depend on the umask: 0600 for files, 0700 for folders. What an earlier version, or a library, left more
//! open is tightened at the start.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// The rights of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Folders and files of an agent below its `data_dir`.
const KEPT: [&str; 4] = ["local", "node-id", "raft", "serf"];

/// Makes a folder and those above it, as far as they are missing.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// Options for opening private files, for callers that need more than [`create`].
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// A new and empty file, or an old one that is emptied.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = options().read(true).write(true).create(true).truncate(true).open(path)?;
    // An old one has the rights that it had.
    if file.metadata()?.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// Puts a file with these bytes in the place of the one that may be there, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| rename(&beside, path));
    if written.is_err() {
        // The half of it would only make a full disk fuller.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Gives a file its final name, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        None => Ok(()),
        Some(folder) if folder.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(folder) => sync_folder(folder),
    }
}

/// Makes what was created, renamed or removed in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Temporary name of a file before it is renamed: its whole name and `.new`, so that no two files share it.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(".new");
    path.with_file_name(name)
}

/// Takes the rights of others on all that an agent keeps below its `data_dir`. The folder itself loses them unless
/// something else is in it, too.
pub(crate) fn tighten(data_dir: &Path) -> io::Result<()> {
    let mut shared = false;
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        if KEPT.iter().any(|name| entry.file_name() == *name) {
            tighten_below(&entry.path())?;
        } else {
            shared = true;
        }
    }
    if shared { Ok(()) } else { take_rights(data_dir, FOLDER_MODE) }
}

/// The same for a folder and all that is in it, or for a file.
pub(crate) fn tighten_below(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        // Files come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_file() {
        return take_rights(path, FILE_MODE);
    }
    // Where a link leads is somebody else's.
    if kind.is_dir() {
        take_rights(path, FOLDER_MODE)?;
        for entry in fs::read_dir(path)? {
            tighten_below(&entry?.path())?;
        }
    }
    Ok(())
}

fn take_rights(path: &Path, mode: u32) -> io::Result<()> {
    let changed = fs::metadata(path).and_then(|found| {
        if found.mode() & OTHERS == 0 {
            return Ok(());
        }
        fs::set_permissions(path, Permissions::from_mode(found.mode() & mode))
    });
    match changed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        super::folder(&below).unwrap();
        assert_eq!((mode(&below), mode(&folder.path().join("a"))), (0o700, 0o700));
        let file = below.join("ring.json");
        for bytes in [&b"one"[..], b"", b"two"] {
            // Left by an older version, or by a crash.
            fs::write(beside(&file), "half of it").unwrap();
            fs::set_permissions(beside(&file), Permissions::from_mode(0o644)).unwrap();
            replace(&file, bytes).unwrap();
            assert_eq!((fs::read(&file).unwrap(), mode(&file)), (bytes.to_vec(), 0o600));
        }
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1);
        // Where nothing can be written nothing is left, and the old file stays.
        fs::create_dir(beside(&file)).unwrap();
        replace(&file, b"three").unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        replace(&below.join("missing/file"), b"").unwrap_err();
    }

    #[test]
    fn what_was_open_to_others_is_tightened_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let (wal, members) = (data.join("raft/wal"), data.join("serf/local.members"));
        let outside = folder.path().join("outside");
        for path in [&wal, &data.join("serf"), &outside] {
            fs::create_dir_all(path).unwrap();
        }
        let files = [wal.join("1.wal"), members, data.join("node-id"), outside.join("file")];
        for file in &files {
            fs::write(file, "x").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o664)).unwrap();
        }
        for path in [&data, &data.join("raft"), &wal, &outside] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, data.join("raft/link")).unwrap();
        tighten(&data).unwrap();
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600, 0o600, 0o600, 0o664]);
        let folders = [&data, &data.join("raft"), &wal, &outside].map(|path| mode(path));
        assert_eq!(folders, [0o700, 0o700, 0o700, 0o755]);
        // With the files of others in it, the folder is not the agent's alone.
        fs::write(data.join("else"), "x").unwrap();
        for path in [&data, &data.join("raft")] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        tighten(&data).unwrap();
        assert_eq!((mode(&data), mode(&data.join("raft"))), (0o755, 0o700));
    }
}
