//! One change of a group, from texts to a version in use.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::files::{self, Candidate};
use super::recovery::note_way_back;
use super::{
    Acknowledged, After, Committed, Failed, Journal, Ledger, Reload, Settings, Step, Told,
    Validate, World, ledger, validate,
};
use crate::render::Texts;

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
                None => Ok(self.done(texts.version.clone(), changed, Acknowledged::Yes)),
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

    /// Asks the check whether `texts` would do, and leaves everything as it was.
    ///
    /// # Errors
    /// They would not, or nobody can say now.
    pub async fn check(mut self, texts: &Texts) -> Result<(), Failed> {
        let Some(validate) = self.settings.validate.as_ref() else { return Ok(()) };
        if validate.shadow.is_none() && self.ledger.journal().is_ok_and(|pending| pending.is_some())
        {
            let error = io::Error::other("another change is not over");
            return Err(untouched(Step::Validate, &error));
        }
        let candidates = self.stage(texts)?;
        if validate.shadow.is_some() {
            let checked = self.validate_candidates(&candidates).await;
            discard(&candidates);
            return checked;
        }
        // The check looks at the files themselves: they are put in place for it, and taken back whatever it says.
        let begun = self.begin(texts, &candidates);
        let journal = begun.inspect_err(|_| discard(&candidates))?;
        let checked = match self.install(&candidates) {
            Ok(()) => self.validate(validate, &[]).await,
            Err(error) => Err(error.to_string()),
        };
        match (self.go_back(&journal, false).await, checked) {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(message)) => {
                Err(Failed { step: Step::Validate, message, after: After::RolledBack })
            }
            (Err(why), _) => {
                Err(Failed { step: Step::Validate, message: why.clone(), after: After::Stuck(why) })
            }
        }
    }

    /// Finishes a change that was installed but not acknowledged. `fresh` says that the program was started after
    /// the files were in place and so need not be told.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn acknowledge(self, fresh: bool) -> Result<Committed, Failed> {
        match self.ledger.journal().map_err(|error| untouched(Step::Journal, &error))? {
            Some(journal) => self.put_into_use(journal, fresh, true).await,
            None => Ok(self.done(String::new(), Vec::new(), Acknowledged::Yes)),
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
            Ok(self.ledger.begin(&texts.version, texts.shows_version, entries))
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
            Ok(Told::NotRunning) => {
                return Ok(self.done(journal.version, Vec::new(), Acknowledged::NotRunning));
            }
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
        let acknowledged = match self.mark_good(&journal) {
            Ok(()) => Acknowledged::Yes,
            // The change is in use; only the note of it is missing, so the worst is one more reload after a crash.
            Err(error) => Acknowledged::NotNoted(error.to_string()),
        };
        Ok(self.done(journal.version, Vec::new(), acknowledged))
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
                    // The command is about a program that does not run yet, or is not proven by one that does: it
                    // waits until then.
                    Reload::Command { .. } if self.waits_for_child() => Ok(Told::NotRunning),
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

    /// Whether nothing can be shown by a reload now because the supervised child, which shows it, does not run.
    fn waits_for_child(&self) -> bool {
        let verify = &self.settings.verify;
        (verify.url.is_some() || verify.workers) && self.world.child_is_down()
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

    fn done(self, version: String, changed: Vec<PathBuf>, acknowledged: Acknowledged) -> Committed {
        Committed { version, changed, acknowledged, took: self.took }
    }
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
