//! The log file. A new one begins when the current one is too large or too old, and old ones go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::LogFile;

/// Name of the file where only a folder is given.
const DEFAULT_NAME: &str = "muster";
/// The log is for its owner and group.
const MODE: u32 = 0o640;

/// The current file, and what decides when it ends.
#[derive(Debug)]
pub(super) struct Rotating {
    settings: LogFile,
    folder: PathBuf,
    stem: String,
    ending: String,
    current: File,
    bytes: u64,
    begun: Instant,
    /// Said once, not with every line.
    failed: bool,
}

impl Rotating {
    pub(super) fn open(settings: LogFile) -> io::Result<Rotating> {
        let text = settings.path.to_string_lossy();
        let is_folder = text.ends_with('/') || settings.path.is_dir();
        let (folder, name) = if is_folder {
            (settings.path.clone(), DEFAULT_NAME.to_owned())
        } else {
            let name = settings.path.file_name().map(|name| name.to_string_lossy().into_owned());
            let folder = settings.path.parent().filter(|path| !path.as_os_str().is_empty());
            (
                folder.unwrap_or(Path::new(".")).to_owned(),
                name.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
            )
        };
        let (stem, ending) = match name.rsplit_once('.') {
            Some((stem, ending)) if !stem.is_empty() => (stem.to_owned(), format!(".{ending}")),
            _ => (name, ".log".to_owned()),
        };
        let current = begin(&folder, &stem, &ending)?;
        Ok(Rotating {
            settings,
            folder,
            stem,
            ending,
            current,
            bytes: 0,
            begun: now(),
            failed: false,
        })
    }

    /// Writes a line. A full disk must not stop the agent: it is said once, and lines are lost.
    pub(super) fn write(&mut self, line: &[u8]) {
        let written = self.rotate().and_then(|()| self.current.write_all(line));
        match written {
            Ok(()) => {
                self.bytes += line.len() as u64;
                self.failed = false;
            }
            Err(error) if !self.failed => {
                self.failed = true;
                // The log itself is what failed: standard error is what is left.
                let _ = writeln!(io::stderr(), "==> the log file cannot be written: {error}");
            }
            Err(_) => {}
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let LogFile { age_max, bytes_max, .. } = self.settings;
        let old = !age_max.is_zero() && now().saturating_duration_since(self.begun) >= age_max;
        let large = bytes_max > 0 && self.bytes >= bytes_max;
        if !old && !large {
            return Ok(());
        }
        self.prune();
        self.current = begin(&self.folder, &self.stem, &self.ending)?;
        (self.bytes, self.begun) = (0, now());
        Ok(())
    }

    /// Removes the oldest files, so that with the next one as many are kept as was asked for.
    fn prune(&self) {
        let keep = match self.settings.files_max {
            0 => return,
            count => usize::try_from(count).unwrap_or(0),
        };
        let mut files = self.files();
        let surplus = files.len().saturating_sub(keep);
        for file in files.drain(..surplus) {
            // Gone already is as good.
            let _ = std::fs::remove_file(file);
        }
    }

    /// All files of this log, the oldest first: their names carry the moment at which they began.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<(u128, PathBuf)> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?;
                let moment = name.strip_prefix(&self.stem)?.strip_prefix('-')?;
                let moment = moment.strip_suffix(&self.ending)?.parse().ok()?;
                Some((moment, path))
            })
            .collect();
        files.sort();
        files.into_iter().map(|(_, path)| path).collect()
    }
}

/// Two files that begin within one tick of the clock must not share a name.
fn begin(folder: &Path, stem: &str, ending: &str) -> io::Result<File> {
    let mut moment = wall_nanos();
    loop {
        let path = folder.join(format!("{stem}-{moment}{ending}"));
        let opened = OpenOptions::new().append(true).create_new(true).mode(MODE).open(&path);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => moment += 1,
            opened => return opened,
        }
    }
}

fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "names of files carry wall time")]
fn wall_nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(path: PathBuf, bytes_max: u64, files_max: i64) -> LogFile {
        LogFile { path, age_max: Duration::from_hours(24), bytes_max, files_max }
    }

    #[test]
    fn a_full_file_is_followed_by_another_and_old_ones_go() {
        for (files_max, expected) in [(0, 5), (2, 3), (-1, 1)] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("agent.log");
            let mut log = Rotating::open(settings(path, 10, files_max)).expect("opened");
            for number in 0..9 {
                log.write(format!("line {number}\n").as_bytes());
            }
            let files = log.files();
            assert_eq!(files.len(), expected, "{files:?}");
            let last = std::fs::read_to_string(files.last().expect("one")).expect("text");
            assert_eq!(last, "line 8\n");
        }
    }

    #[test]
    fn a_folder_gets_a_file_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = Rotating::open(settings(folder.path().into(), 0, 0)).expect("opened");
        log.write(b"x\n");
        let files = log.files();
        assert_eq!(files.len(), 1);
        assert!(files[0].to_string_lossy().ends_with(".log"));
        assert!(Rotating::open(settings("/nonexistent/x/y.log".into(), 0, 0)).is_err());
    }
}
