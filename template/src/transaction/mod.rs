//! Replaces the files of a group as one change: either the program that reads them uses all of them, or they are as
//! they were.
//!
//! ```text
//! stage ─▶ validate ─▶ journal ─▶ install ─▶ reload ─▶ verify ─▶ acknowledge
//!   │          │                     └─────────┴─────────┴──────▶ roll back, reload
//!   └──────────┴──▶ the files were never touched
//! ```
//!
//! | crash after   | found at the next start                    | done then                          |
//! |---------------|--------------------------------------------|------------------------------------|
//! | stage         | candidates beside the files                | rendered anew                      |
//! | journal       | a journal, old files                       | files put back, reloaded           |
//! | install       | a journal, new files                       | validated, reloaded, verified      |
//! | half of it    | a journal, some new files                  | files put back, reloaded           |
//! | reload        | a journal, new files                       | reloaded and verified once more    |
//! | acknowledge   | nothing                                    | nothing                            |
//!
//! So a reload is never lost: what was written but not shown to be in use stays in the journal. What touches the
//! world beyond the files (commands, signals, requests) goes through [`World`], so that every step can be made to
//! fail in a test.

mod change;
mod files;
mod ledger;
mod recovery;
mod validate;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub use change::Transaction;
pub use ledger::{Entry, Good, Journal, Kept, Ledger};
pub use recovery::{Recovered, install_last_good, recover};
pub use validate::Validate;

/// One file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the text goes. A symbolic link is followed.
    pub destination: PathBuf,
    /// Permission bits; `None` keeps those of the file, `0644` for a new one.
    pub mode: Option<u32>,
    /// Owner; `None` keeps it.
    pub uid: Option<u32>,
    /// Group; `None` keeps it.
    pub gid: Option<u32>,
    /// Whether missing folders are made.
    pub create_folders: bool,
}

/// How a group's files are put into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The group's name, for logs and the environment of its commands.
    pub name: String,
    /// The files, in the order of the texts.
    pub targets: Vec<Target>,
    /// What must accept the files before they are used.
    pub validate: Option<Validate>,
    /// What makes the program read them again.
    pub reload: Reload,
    /// What shows that it did.
    pub verify: Verify,
}

/// What makes a program read its files again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reload {
    /// Nothing; it looks by itself.
    #[default]
    None,
    /// The supervised child is told, as its own settings say.
    Child,
    /// A command.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
}

/// What shows that a program uses the new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// A URL that answers 2xx; with the version in the body, if a template of the group shows it.
    pub url: Option<String>,
    /// Whether new child processes of the supervised child are a sign, when there is no URL.
    pub workers: bool,
    /// How long to wait for it.
    pub timeout: Duration,
}

impl Default for Verify {
    fn default() -> Self {
        Self { url: None, workers: false, timeout: Duration::from_secs(5) }
    }
}

/// The steps of a change, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Candidates are written beside the files.
    Stage,
    /// The program's own check accepts them.
    Validate,
    /// The change is noted.
    Journal,
    /// The candidates are renamed onto the files.
    Install,
    /// The program is told.
    Reload,
    /// The program shows that it uses them.
    Verify,
    /// They become the last good version.
    Acknowledge,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stage => "stage",
            Self::Validate => "validate",
            Self::Journal => "journal",
            Self::Install => "install",
            Self::Reload => "reload",
            Self::Verify => "verify",
            Self::Acknowledge => "acknowledge",
        })
    }
}

/// What a change needs of the world beyond its files.
#[async_trait]
pub trait World: Send + Sync {
    /// Runs a command to its end; the error is its output or why it did not run.
    async fn run(
        &self,
        command: &[String],
        environment: &[(String, String)],
        timeout: Duration,
    ) -> Result<(), String>;

    /// Whether there is a supervised child that was not started yet, or has ended and will be started again.
    fn child_is_down(&self) -> bool {
        false
    }

    /// Tells the supervised child to read its files again.
    async fn reload_child(&self) -> Result<Told, String>;

    /// The process ids of the children of the supervised child.
    fn workers(&self) -> BTreeSet<i32>;

    /// The body that a URL answers with on a fresh connection; the error is anything but a 2xx.
    async fn get(&self, url: &str) -> Result<String, String>;

    /// Called before each step; an error makes the step fail. Here to let tests fail or die at any step.
    fn before(&self, _step: Step) -> io::Result<()> {
        Ok(())
    }
}

/// What happened to a wish to tell the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was told.
    Yes,
    /// It does not run now, and will read the files when it starts.
    NotRunning,
}

/// A change that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The version now in place.
    pub version: String,
    /// The files that differ from before; empty if nothing had to be done.
    pub changed: Vec<PathBuf>,
    /// Whether that is over, or what is still to be done about it.
    pub acknowledged: Acknowledged,
    /// How long the steps took.
    pub took: Vec<(Step, Duration)>,
}

/// Whether a change that is in place is over. If not, it stays in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledged {
    /// The program uses it, and that is noted.
    Yes,
    /// The program does not run; it reads the files when it starts.
    NotRunning,
    /// The program uses it, but the state directory does not take the note of it.
    NotNoted(String),
}

/// A change that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step} failed: {message}; {after}")]
pub struct Failed {
    /// The step that failed.
    pub step: Step,
    /// Why: for commands their own output.
    pub message: String,
    /// What the files are now.
    pub after: After,
}

/// What a failed change left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The files were never touched.
    Untouched,
    /// The files are as before, and the program was told if it could have seen others.
    RolledBack,
    /// The way back failed too; it stays in the journal.
    Stuck(String),
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched => f.write_str("the files are untouched"),
            Self::RolledBack => f.write_str("rolled back"),
            Self::Stuck(why) => write!(f, "rolling back failed: {why}"),
        }
    }
}
