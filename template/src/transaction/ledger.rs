//! What a group remembers on disk: the last good files, and the change under way.
//!
//! ```text
//! <state_dir>/<group>/journal.json   a change that is installed or being installed, and not yet acknowledged
//!                     good.json      the last acknowledged version: which text each file had
//!                     kept.json      the lists that guards may fall back to
//!                     texts/<hash>   the texts that the first two name
//! ```
//!
//! The journal is written before the first file is touched and removed when the program that reads the files has
//! shown that it uses them. So after a crash at any moment it says what to finish and what to put back.
//!
//! A change must not wait for room in the state directory: what the disk does not take is held in memory, and the change
//! goes on. It can be undone from there. After a crash the files differ from the last acknowledged version without a
//! journal, which [`super::recover`] takes for a change that is not acknowledged. No version is acknowledged before all
//! of it is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::private::{self, at, sync_folder};
use crate::render::hex;

/// The format of the files below; a file of another format is refused rather than misread.
const FORMAT: u32 = 1;

/// The folder of one group below the state directory.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    unwritten: Mutex<Unwritten>,
}

/// What the disk did not take: one change, with the texts that it replaces.
#[derive(Debug, Default)]
struct Unwritten {
    journal: Option<Journal>,
    texts: BTreeMap<String, Vec<u8>>,
}

/// A change that is not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// The version being installed; empty when the files were not rendered here.
    pub version: String,
    /// Whether the files show the version to who asks the running program.
    pub shows_version: bool,
    /// The files, in the order of the group.
    pub files: Vec<Entry>,
}

/// One file of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path of the file itself, links resolved.
    pub destination: PathBuf,
    /// The hash of the new text; `None` if the change removes the file.
    pub new: Option<String>,
    /// The text to go back to; `None` if there was no file.
    pub previous: Option<Kept>,
}

/// A text in the ledger, and how its file was protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The name of the text.
    pub hash: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The last acknowledged version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    format: u32,
    /// Its version; empty when the files were not rendered here.
    pub version: String,
    /// Whether its files show the version.
    pub shows_version: bool,
    /// Its files.
    pub files: Vec<(PathBuf, Kept)>,
}

impl Good {
    /// The text of `destination` in this version.
    pub fn file(&self, destination: &Path) -> Option<&Kept> {
        self.files.iter().find(|(path, _)| path == destination).map(|(_, kept)| kept)
    }
}

impl Ledger {
    /// Opens the ledger of `group`, making its folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(state_dir: &Path, group: &str) -> io::Result<Self> {
        let folder = state_dir.join(group);
        private::own_folder(&folder)?;
        private::own_folder(&folder.join("texts"))?;
        Ok(Self { folder, unwritten: Mutex::default() })
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The change under way, if there is one.
    ///
    /// # Errors
    /// The file cannot be read or is of another format.
    pub fn journal(&self) -> io::Result<Option<Journal>> {
        if let Some(journal) = &self.unwritten().journal {
            return Ok(Some(journal.clone()));
        }
        let journal: Option<Journal> = self.read("journal.json")?;
        self.check_format("journal.json", journal.as_ref().map(|journal| journal.format))?;
        Ok(journal)
    }

    /// Notes a change before it begins: on the disk, or in memory while that is full.
    pub fn begin(&self, version: &str, shows_version: bool, files: Vec<Entry>) -> Journal {
        let journal = Journal { format: FORMAT, version: version.to_owned(), shows_version, files };
        let previous = journal.files.iter().filter_map(|entry| entry.previous.as_ref());
        let texts = previous.map(|kept| kept.hash.as_str()).collect();
        let written = self.write_texts(&texts).and_then(|()| self.write("journal.json", &journal));
        self.unwritten().journal = written.as_ref().err().map(|_| journal.clone());
        if let Err(error) = written {
            tracing::warn!(
                %error,
                "a change cannot be noted in the state directory; it is put in place all the same, and noted when there is \
                 room: free some, or set another `state_dir`"
            );
        }
        journal
    }

    /// Writes those of the texts that are in memory only. A file must not name a text that is not on the disk.
    fn write_texts(&self, hashes: &BTreeSet<&str>) -> io::Result<()> {
        let mut unwritten = self.unwritten();
        for hash in hashes {
            if let Some(text) = unwritten.texts.get(*hash) {
                private::write(&self.text_path(hash), text)?;
                unwritten.texts.remove(*hash);
            }
        }
        Ok(())
    }

    fn text_path(&self, hash: &str) -> PathBuf {
        self.folder.join("texts").join(hash)
    }

    /// Notes that the change under way is over.
    ///
    /// # Errors
    /// The disk's.
    pub fn end(&self) -> io::Result<()> {
        *self.unwritten() = Unwritten::default();
        remove_if_there(&self.folder.join("journal.json"))?;
        sync_folder(&self.folder)
    }

    /// The last acknowledged version.
    ///
    /// # Errors
    /// The file cannot be read or is of another format.
    pub fn good(&self) -> io::Result<Option<Good>> {
        let good: Option<Good> = self.read("good.json")?;
        self.check_format("good.json", good.as_ref().map(|good| good.format))?;
        Ok(good)
    }

    /// Makes `files` the last acknowledged version and ends the change under way. Texts nobody names are removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn acknowledge(
        &self,
        version: &str,
        shows_version: bool,
        files: Vec<(PathBuf, Kept)>,
    ) -> io::Result<()> {
        let good = Good { format: FORMAT, version: version.to_owned(), shows_version, files };
        let named: BTreeSet<&str> = good.files.iter().map(|(_, kept)| kept.hash.as_str()).collect();
        self.write_texts(&named)?;
        // A change that was undone needs no new note, nor room for one.
        if self.good().ok().flatten().as_ref() != Some(&good) {
            self.write("good.json", &good)?;
        }
        self.end()?;
        for entry in fs::read_dir(self.folder.join("texts"))? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !named.contains(name))
                && let Err(error) = remove_if_there(&entry.path())
            {
                // The change is noted all the same; it is tried again after the next one.
                tracing::debug!(%error, "a text that nobody needs stays");
            }
        }
        Ok(())
    }

    /// Keeps a text, in memory while the disk is full; returns its hash. A text already kept is not written again.
    pub fn keep(&self, text: &[u8]) -> String {
        let hash = hash(text);
        let path = self.text_path(&hash);
        let written = fs::metadata(&path).is_ok_and(|it| it.len() == text.len() as u64);
        if !written && private::write(&path, text).is_err() {
            self.unwritten().texts.insert(hash.clone(), text.to_owned());
        }
        hash
    }

    /// A text kept before.
    ///
    /// # Errors
    /// It is gone or damaged.
    pub fn text(&self, hash_wanted: &str) -> io::Result<Vec<u8>> {
        if let Some(text) = self.unwritten().texts.get(hash_wanted) {
            return Ok(text.clone());
        }
        let path = self.text_path(hash_wanted);
        let text = fs::read(&path).map_err(|error| at(&path, &error))?;
        if hash(&text) == hash_wanted {
            Ok(text)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` is damaged", path.display()),
            ))
        }
    }

    /// The lists that guards may fall back to, as JSON; `None` when there are none yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kept<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.read("kept.json")
    }

    /// Saves the lists that guards may fall back to, unless they are saved already.
    ///
    /// # Errors
    /// The disk's.
    pub fn save_kept(&self, kept: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(kept)?;
        let path = self.folder.join("kept.json");
        if fs::read(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        private::write(&path, &text)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|error| at(&path, &error.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, &error)),
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        private::write(&self.folder.join(name), &serde_json::to_vec(value)?)
    }

    fn check_format(&self, name: &str, format: Option<u32>) -> io::Result<()> {
        match format {
            None | Some(FORMAT) => Ok(()),
            Some(other) => {
                let path = self.folder.join(name);
                let message =
                    format!("`{}` has format {other}, this program knows {FORMAT}", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

/// The name of a text: the first half of its SHA-256.
pub(super) fn hash(text: &[u8]) -> String {
    hex(&Sha256::digest(text)[..16])
}

/// Removes a file; that it is not there is fine.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, &error)),
        _ => Ok(()),
    }
}
