//! Files of this daemon's own: what it remembers of the catalog and of the files it writes may be secret, so nobody else
//! reads them, whatever the umask says, and none of them is ever half a file.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The mode of folders.
const FOLDER: u32 = 0o700;

/// The mode of files.
const FILE: u32 = 0o600;

/// Makes a folder that only its owner enters, and those above it that are missing. One that is there already is left
/// as it is: it may be anybody's.
///
/// # Errors
/// The system's, with the path.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(FOLDER).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(FOLDER)))
        .map_err(|error| at(path, &error))
}

/// The same for a folder that is nobody else's: one that others could enter is closed.
///
/// # Errors
/// The system's, with the path.
pub fn own_folder(path: &Path) -> io::Result<()> {
    make_folder(path)?;
    fs::set_permissions(path, Permissions::from_mode(FOLDER)).map_err(|error| at(path, &error))
}

/// Opens a file for writing, made anew, that only its owner reads.
///
/// # Errors
/// The system's, with the path.
pub fn create(path: &Path) -> io::Result<File> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE).open(path);
    let file = open.map_err(|error| at(path, &error))?;
    // The umask takes bits away, and a file that was there before has its own.
    file.set_permissions(Permissions::from_mode(FILE)).map_err(|error| at(path, &error))?;
    Ok(file)
}

/// Writes a file so that after a crash, or on a full disk, it has either the old or the new content, never a part.
///
/// # Errors
/// The system's, with the path.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let written = create(&beside).and_then(|mut file| {
        file.write_all(text).and_then(|()| file.sync_data()).map_err(|error| at(&beside, &error))
    });
    let renamed =
        written.and_then(|()| fs::rename(&beside, path).map_err(|error| at(path, &error)));
    if let Err(error) = renamed {
        // On a full disk the half of a file takes the room that the next attempt needs.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Makes renames and removals in a folder durable.
///
/// # Errors
/// The system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The error with the path it concerns.
pub fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_reads_them() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("a/b");
        own_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        let file = folder.join("f.json");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        write(&file, b"new").unwrap();
        assert_eq!((mode(&file), fs::read_to_string(&file).unwrap()), (0o600, "new".to_owned()));
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        make_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o755, "as its owner wants it");
        own_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_half_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.json");
        write(&path, b"old").unwrap();
        // Everything written there meets a full disk.
        std::os::unix::fs::symlink("/dev/full", folder.path().join("f.new")).unwrap();
        let error = write(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("f.new"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["f.json"]);
    }
}
