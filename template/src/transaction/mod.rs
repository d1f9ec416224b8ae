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

mod files;
mod ledger;
mod validate;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;

pub use ledger::{Entry, Good, Journal, Kept, Ledger};
pub use validate::Validate;

use crate::render::Texts;
use files::Candidate;

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
    /// Whether the program was shown to use it. If not, the change stays in the journal.
    pub acknowledged: bool,
    /// How long the steps took.
    pub took: Vec<(Step, Duration)>,
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

/// How often a reload that fails is tried, and how long apart at first.
const RELOADS: u32 = 3;
const RELOAD_PAUSE: Duration = Duration::from_millis(100);

/// How often a verification looks: often at first, for a program reloads in milliseconds, then less.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(5);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Changes of one group, one at a time.
pub struct Transaction<'a> {
    settings: &'a Settings,
    ledger: &'a Ledger,
    world: &'a dyn World,
    took: Vec<(Step, Duration)>,
}

impl<'a> Transaction<'a> {
    /// A change of the group that `settings` describe.
    pub fn new(settings: &'a Settings, ledger: &'a Ledger, world: &'a dyn World) -> Self {
        Self { settings, ledger, world, took: Vec::new() }
    }

    /// Puts `texts` in place, or leaves everything as it was. Does nothing if they are in place already.
    ///
    /// # Errors
    /// The step that failed, why, and what the files are now.
    pub async fn commit(mut self, texts: &Texts) -> Result<Committed, Failed> {
        let pending = self.ledger.journal().map_err(|error| untouched(Step::Journal, &error))?;
        let changed = self.changed(texts);
        if changed.is_empty() {
            return match pending {
                // Equal files are no proof that they are in use: the last reload may have been lost.
                Some(journal) => self.put_into_use(journal, false, true).await,
                None => Ok(self.done(texts.version.clone(), changed, true)),
            };
        }
        let candidates = self.stage(texts)?;
        if let Err(failed) = self.validate_candidates(&candidates).await {
            discard(&candidates);
            return Err(failed);
        }
        let journal = match self.begin(texts, &candidates) {
            Ok(journal) => journal,
            Err(failed) => {
                discard(&candidates);
                return Err(failed);
            }
        };
        if let Err(error) = self.install(&candidates) {
            return Err(self
                .roll_back(&journal, Step::Install, error.to_string(), pending.is_some())
                .await);
        }
        let mut committed = self.put_into_use(journal, false, pending.is_some()).await?;
        committed.changed = changed;
        Ok(committed)
    }

    /// Finishes a change that was installed but not acknowledged. `fresh` says that the program was started after
    /// the files were in place and so need not be told.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn acknowledge(self, fresh: bool) -> Result<Committed, Failed> {
        match self.ledger.journal().map_err(|error| untouched(Step::Journal, &error))? {
            Some(journal) => self.put_into_use(journal, fresh, true).await,
            None => Ok(self.done(String::new(), Vec::new(), true)),
        }
    }

    /// The targets whose files differ from `texts`.
    fn changed(&self, texts: &Texts) -> Vec<PathBuf> {
        let pairs = self.settings.targets.iter().zip(&texts.texts);
        let differing = pairs.filter(|(target, text)| !files::is_current(target, text.as_bytes()));
        differing.map(|(target, _)| target.destination.clone()).collect()
    }

    fn stage(&mut self, texts: &Texts) -> Result<Vec<Candidate>, Failed> {
        let started = Instant::now();
        let mut candidates = Vec::new();
        let mut all = || {
            self.world.before(Step::Stage)?;
            for (target, text) in self.settings.targets.iter().zip(&texts.texts) {
                candidates.push(files::stage(target, text.as_bytes())?);
            }
            Ok(())
        };
        let staged: io::Result<()> = all();
        self.took.push((Step::Stage, started.elapsed()));
        match staged {
            Ok(()) => Ok(candidates),
            Err(error) => {
                discard(&candidates);
                Err(untouched(Step::Stage, &error))
            }
        }
    }

    /// Validates what is staged, if the check can be shown candidates.
    async fn validate_candidates(&mut self, candidates: &[Candidate]) -> Result<(), Failed> {
        let Some(validate) =
            self.settings.validate.as_ref().filter(|validate| validate.shadow.is_some())
        else {
            return Ok(());
        };
        let pairs: Vec<_> = (self.settings.targets.iter().zip(candidates))
            .map(|(target, candidate)| (target.destination.clone(), candidate.path.clone()))
            .collect();
        self.validate(validate, &pairs).await.map_err(|message| Failed {
            step: Step::Validate,
            message,
            after: After::Untouched,
        })
    }

    async fn validate(
        &mut self,
        validate: &Validate,
        candidates: &[(PathBuf, PathBuf)],
    ) -> Result<(), String> {
        let started = Instant::now();
        self.world.before(Step::Validate).map_err(|error| error.to_string())?;
        let result = validate::run(validate, candidates, &self.environment(), self.world).await;
        self.took.push((Step::Validate, started.elapsed()));
        result
    }

    fn begin(&mut self, texts: &Texts, candidates: &[Candidate]) -> Result<Journal, Failed> {
        let started = Instant::now();
        let begun = self.world.before(Step::Journal).and_then(|()| {
            let entries = candidates.iter().map(|candidate| files::plan(self.ledger, candidate));
            let entries = entries.collect::<io::Result<Vec<_>>>()?;
            self.ledger.begin(&texts.version, texts.shows_version, entries)
        });
        self.took.push((Step::Journal, started.elapsed()));
        begun.map_err(|error| untouched(Step::Journal, &error))
    }

    fn install(&mut self, candidates: &[Candidate]) -> io::Result<()> {
        let started = Instant::now();
        for candidate in candidates {
            self.world.before(Step::Install)?;
            files::install(candidate)?;
        }
        let synced =
            files::sync(candidates.iter().map(|candidate| candidate.destination.as_path()));
        self.took.push((Step::Install, started.elapsed()));
        synced
    }

    /// Everything after the files are in place. `seen` says that the program may have read files that were never
    /// acknowledged, so that going back must tell it.
    async fn put_into_use(
        mut self,
        journal: Journal,
        fresh: bool,
        seen: bool,
    ) -> Result<Committed, Failed> {
        if let Some(validate) = self.settings.validate.as_ref() {
            // With a shadow the candidates were validated already, unless they come from before a crash.
            if (validate.shadow.is_none() || seen)
                && let Err(message) = self.validate(validate, &[]).await
            {
                return Err(self.roll_back(&journal, Step::Validate, message, seen).await);
            }
        }
        let workers = self.world.workers();
        let started = Instant::now();
        let told = if fresh { Ok(Told::Yes) } else { self.reload().await };
        self.took.push((Step::Reload, started.elapsed()));
        match told {
            Ok(Told::NotRunning) => return Ok(self.done(journal.version, Vec::new(), false)),
            Ok(Told::Yes) => {}
            Err(message) => {
                return Err(self.roll_back(&journal, Step::Reload, message, true).await);
            }
        }
        let started = Instant::now();
        let verified = self.verify(&journal, &workers, fresh).await;
        self.took.push((Step::Verify, started.elapsed()));
        if let Err(message) = verified {
            return Err(self.roll_back(&journal, Step::Verify, message, true).await);
        }
        let acknowledged = self.mark_good(&journal);
        if let Err(error) = &acknowledged {
            // The change is in use; only the note of it is missing, so the worst is one more reload later.
            tracing::warn!(group = self.settings.name, %error, "cannot note the good version");
        }
        Ok(self.done(journal.version, Vec::new(), acknowledged.is_ok()))
    }

    async fn reload(&self) -> Result<Told, String> {
        let mut pause = RELOAD_PAUSE;
        let mut attempt = 1;
        loop {
            let told = match self.world.before(Step::Reload) {
                Err(error) => Err(error.to_string()),
                Ok(()) => match &self.settings.reload {
                    Reload::None => Ok(Told::Yes),
                    Reload::Child => self.world.reload_child().await,
                    Reload::Command { command, timeout } => self
                        .world
                        .run(command, &self.environment(), *timeout)
                        .await
                        .map(|()| Told::Yes),
                },
            };
            match told {
                Err(message) if attempt < RELOADS => {
                    tracing::warn!(
                        group = self.settings.name,
                        attempt,
                        message,
                        "reload failed; trying again"
                    );
                }
                other => return other,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }

    async fn verify(
        &self,
        journal: &Journal,
        workers: &BTreeSet<i32>,
        fresh: bool,
    ) -> Result<(), String> {
        self.world.before(Step::Verify).map_err(|error| error.to_string())?;
        let verify = &self.settings.verify;
        let deadline = tokio::time::Instant::now() + verify.timeout;
        let mut pause = LOOK_PAUSE_MIN;
        loop {
            let wrong = match &verify.url {
                Some(url) => match tokio::time::timeout_at(deadline, self.world.get(url)).await {
                    Err(_) => Some(format!("`{url}` does not answer")),
                    Ok(Err(message)) => Some(message),
                    Ok(Ok(body)) if journal.shows_version && !body.contains(&journal.version) => {
                        Some(format!("`{url}` does not show version {}", journal.version))
                    }
                    Ok(Ok(_)) => None,
                },
                None if verify.workers && !fresh => {
                    let new = self.world.workers().difference(workers).count();
                    (new == 0).then(|| "there are no new worker processes".to_owned())
                }
                None => None,
            };
            let Some(wrong) = wrong else { return Ok(()) };
            if tokio::time::Instant::now() + pause >= deadline {
                return Err(format!("{wrong} after {:?}", verify.timeout));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_PAUSE_MAX);
        }
    }

    fn mark_good(&mut self, journal: &Journal) -> io::Result<()> {
        let started = Instant::now();
        self.world.before(Step::Acknowledge)?;
        let files = files::keep_installed(self.ledger, &journal.files)?;
        let result = self.ledger.acknowledge(&journal.version, journal.shows_version, files);
        self.took.push((Step::Acknowledge, started.elapsed()));
        result
    }

    /// Puts the files back. The program is told if it may have `seen` the new ones.
    async fn roll_back(
        &self,
        journal: &Journal,
        step: Step,
        message: String,
        seen: bool,
    ) -> Failed {
        let after = match self.go_back(journal, seen).await {
            Ok(()) => After::RolledBack,
            Err(why) => After::Stuck(why),
        };
        Failed { step, message, after }
    }

    async fn go_back(&self, journal: &Journal, seen: bool) -> Result<(), String> {
        files::restore(self.ledger, &journal.files).map_err(|error| error.to_string())?;
        if !seen {
            return self.ledger.end().map_err(|error| error.to_string());
        }
        // From here on the old files are a change like any other: not over before the program was told.
        let back = note_way_back(self.ledger, journal).map_err(|error| error.to_string())?;
        let workers = self.world.workers();
        if self.reload().await? == Told::NotRunning {
            return Ok(());
        }
        if !back.version.is_empty() {
            self.verify(&back, &workers, false).await?;
        }
        let files =
            files::keep_installed(self.ledger, &back.files).map_err(|error| error.to_string())?;
        if files.is_empty() || back.version.is_empty() {
            return self.ledger.end().map_err(|error| error.to_string());
        }
        self.ledger
            .acknowledge(&back.version, back.shows_version, files)
            .map_err(|error| error.to_string())
    }

    fn environment(&self) -> Vec<(String, String)> {
        let paths: Vec<_> = self
            .settings
            .targets
            .iter()
            .map(|target| target.destination.to_string_lossy().into_owned())
            .collect();
        vec![
            ("MUSTER_GROUP".to_owned(), self.settings.name.clone()),
            ("MUSTER_FILES".to_owned(), paths.join(" ")),
        ]
    }

    fn done(self, version: String, changed: Vec<PathBuf>, acknowledged: bool) -> Committed {
        Committed { version, changed, acknowledged, took: self.took }
    }
}

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
    let Some(journal) = ledger.journal()? else { return Ok(Recovered::Clean) };
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

/// Writes the journal of a change that was undone: its new files are the previous ones of `journal`.
fn note_way_back(ledger: &Ledger, journal: &Journal) -> io::Result<Journal> {
    let good = ledger.good()?;
    let (version, shows) =
        good.map_or_else(Default::default, |good| (good.version, good.shows_version));
    let entries = journal.files.iter().map(|entry| Entry {
        destination: entry.destination.clone(),
        new: entry.previous.as_ref().map(|kept| kept.hash.clone()),
        previous: entry.previous.clone(),
    });
    ledger.begin(&version, shows, entries.collect())
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

fn untouched(step: Step, error: &io::Error) -> Failed {
    Failed { step, message: error.to_string(), after: After::Untouched }
}

/// Removes candidates that will not be used. That one stays behind does no harm: the next one replaces it.
fn discard(candidates: &[Candidate]) {
    for candidate in candidates {
        if let Err(error) = ledger::remove_if_there(&candidate.path) {
            tracing::debug!(%error, "a candidate stays behind");
        }
    }
}
