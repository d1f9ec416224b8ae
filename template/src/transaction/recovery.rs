//! Puts the files in order after a crash, and makes them from the last good version when they are gone.

use std::io;
use std::path::PathBuf;

use super::files;
use super::{Entry, Journal, Ledger, Settings};

/// What an earlier run left behind, after it was put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was under way.
    Clean,
    /// A complete change waits to be acknowledged.
    Pending,
    /// A half-made change was undone; that too waits to be acknowledged.
    Undone,
}

/// Puts the files in order after a crash; to be called before anything reads them.
///
/// # Errors
/// The journal cannot be read, or a text it names is gone.
pub fn recover(ledger: &Ledger) -> io::Result<Recovered> {
    let Some(journal) = ledger.journal()? else { return note_unnoted(ledger) };
    let mut complete = true;
    for entry in &journal.files {
        complete &= files::current_hash(&entry.destination)? == entry.new;
    }
    if complete {
        return Ok(Recovered::Pending);
    }
    files::restore(ledger, &journal.files)?;
    note_way_back(ledger, &journal)?;
    Ok(Recovered::Undone)
}

/// Finds a change whose journal the disk did not take: files that differ from the last acknowledged version. Whether the
/// program was told of them is not known, so it is told again.
fn note_unnoted(ledger: &Ledger) -> io::Result<Recovered> {
    let Some(good) = ledger.good()? else { return Ok(Recovered::Clean) };
    let mut entries = Vec::new();
    for (destination, kept) in &good.files {
        if let Some(hash) = files::current_hash(destination)? {
            let (destination, previous) = (destination.clone(), Some(kept.clone()));
            entries.push(Entry { destination, new: Some(hash), previous });
        }
    }
    let same = |entry: &Entry| entry.new == entry.previous.as_ref().map(|kept| kept.hash.clone());
    if entries.iter().all(same) {
        return Ok(Recovered::Clean);
    }
    ledger.begin("", false, entries);
    Ok(Recovered::Pending)
}

/// Writes the journal of a change that was undone: its new files are the previous ones of `journal`.
pub(super) fn note_way_back(ledger: &Ledger, journal: &Journal) -> io::Result<Journal> {
    let good = ledger.good()?;
    let (version, shows) =
        good.map_or_else(Default::default, |good| (good.version, good.shows_version));
    let entries = journal.files.iter().map(|entry| Entry {
        destination: entry.destination.clone(),
        new: entry.previous.as_ref().map(|kept| kept.hash.clone()),
        previous: entry.previous.clone(),
    });
    Ok(ledger.begin(&version, shows, entries.collect()))
}

/// Puts the last good files where files are missing, so that the program that reads them can start although nothing
/// is known of the services yet. Returns the files it made.
///
/// # Errors
/// The disk's, or a text that is gone.
pub fn install_last_good(settings: &Settings, ledger: &Ledger) -> io::Result<Vec<PathBuf>> {
    let Some(good) = ledger.good()? else { return Ok(Vec::new()) };
    let mut made = Vec::new();
    for target in &settings.targets {
        let destination = files::resolve(&target.destination)?;
        if let (false, Some(kept)) = (destination.exists(), good.file(&destination)) {
            files::put_back(ledger, &destination, kept)?;
            made.push(destination);
        }
    }
    files::sync(made.iter().map(PathBuf::as_path))?;
    Ok(made)
}
