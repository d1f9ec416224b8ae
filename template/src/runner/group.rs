//! One group of files as the loop sees it: its templates, what they want, and what is in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::change::{Basis, Change, Refused};
use super::report::{GroupReport, ago};
use super::schedule::{Retry, Schedule};
use crate::config::{self, Text};
use crate::effects::Effects;
use crate::facts::{Facts, Query};
use crate::guard::Memory;
use crate::render::{Engine, Hold, Outcome, Rendered, Source, Surroundings, Texts};
use crate::suspects::{known_of, without};
use crate::transaction::{
    Acknowledged, Committed, Failed, Ledger, Recovered, Target, install_last_good, recover,
};

/// A group and its state.
pub(super) struct Group {
    pub(super) settings: config::Group,
    pub(super) ledger: Arc<Ledger>,
    pub(super) schedule: Schedule,
    pub(super) report: GroupReport,
    /// What the templates ask; these questions must stay watched.
    pub(super) used: BTreeSet<Query>,
    /// What the last pass asked that came to its end.
    used_in_full: BTreeSet<Query>,
    pub(super) missing: BTreeSet<Query>,
    /// Whether the program uses the files that are in place.
    pub(super) usage: Usage,
    /// When to ask it again.
    pub(super) acknowledge: Retry,
    /// Why the last change that is in place is not noted.
    unnoted: Option<String>,
    /// The files were put in place, or found so, in this run.
    pub(super) placed: bool,
    /// Something it depends on has changed since it was rendered.
    pub(super) dirty: bool,
    pub(super) again_at: Option<Instant>,
    pub(super) memory: Memory,
    /// The newest complete texts.
    pub(super) wanted: Option<Texts>,
    /// The version that is in place.
    current: Option<String>,
    /// The version that is being put in place now.
    changing: Option<String>,
    engine: Option<Arc<Engine>>,
    /// What the newest texts were made from.
    basis: Basis,
    /// What those in use were made from: whatever differs is suspect when a check refuses the newest.
    before: Basis,
    /// What the check refuses.
    refused: Vec<Refused>,
    broken: Option<String>,
    waiting: Option<String>,
    /// When it is said next what the group waits for.
    say_at: Option<Instant>,
    /// Why the templates cannot be rendered.
    unrendered: Option<String>,
    /// Why the last change is not in place.
    failure: Option<String>,
    /// What the texts go without.
    left_out: BTreeMap<String, String>,
    holds: BTreeSet<Hold>,
    /// The templates as they were read last, or why they could not be.
    sources: Result<Sources, String>,
    environment: Arc<Surroundings>,
}

/// Whether a program uses the files that are in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// It has shown that it does, or nobody asks for that.
    Shown,
    /// It did not run when they were put there: it reads them when it starts, and need not be told.
    Unread,
    /// It was told, or is still to be told, and has not shown it.
    Unshown,
    /// It has shown it, but that could not be noted.
    Unnoted,
}

/// How long a group may wait for an answer or a key before that is said, and how often it is repeated.
const SAY_AFTER: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_mins(1);

/// So many questions without an answer are named.
const NAMED_MAX: usize = 20;

/// The texts of the templates of a group.
#[derive(Debug, Default, PartialEq)]
struct Sources {
    outputs: Vec<Source>,
    partials: Vec<Source>,
}

impl Group {
    /// Opens the group, putting its files in order if the last run ended in the middle of a change.
    pub(super) fn open(
        settings: config::Group,
        state_dir: &Path,
        environment: Arc<Surroundings>,
    ) -> io::Result<Self> {
        let name = &settings.transaction.name;
        let ledger = Ledger::open(state_dir, name)?;
        let recovered = recover(&ledger)?;
        if recovered != Recovered::Clean {
            tracing::warn!(
                group = name,
                ?recovered,
                "the last run ended in the middle of a change"
            );
        }
        let memory = ledger.kept()?.map(Memory::load).unwrap_or_default();
        let mut group = Self {
            schedule: Schedule::new(settings.pace),
            ledger: Arc::new(ledger),
            report: GroupReport::default(),
            used: BTreeSet::new(),
            used_in_full: BTreeSet::new(),
            missing: BTreeSet::new(),
            // A program that we supervise was started anew, or will be, after the files were put in order.
            usage: if recovered == Recovered::Clean { Usage::Shown } else { Usage::Unread },
            acknowledge: Retry::default(),
            unnoted: None,
            changing: None,
            placed: false,
            dirty: true,
            again_at: None,
            memory,
            wanted: None,
            current: None,
            engine: None,
            basis: Basis::default(),
            before: Basis::default(),
            refused: Vec::new(),
            broken: None,
            waiting: None,
            say_at: None,
            unrendered: None,
            failure: None,
            left_out: BTreeMap::new(),
            holds: BTreeSet::new(),
            sources: Ok(Sources::default()),
            environment,
            settings,
        };
        group.load();
        Ok(group)
    }

    /// Takes over other settings, keeping what is known and in place.
    pub(super) fn reconfigure(&mut self, settings: config::Group) {
        self.schedule.set_pace(settings.pace);
        self.settings = settings;
        // Other settings may put equal texts elsewhere or into use otherwise.
        self.current = None;
        self.wanted = None;
        self.load();
    }

    /// Reads the templates again. Those that differ are rendered anew.
    pub(super) fn look_at_sources(&mut self) {
        let sources = read(&self.settings);
        if sources != self.sources {
            tracing::info!(group = self.settings.transaction.name, "a template has changed");
            self.parse(sources);
        }
    }

    /// The files of its templates.
    pub(super) fn source_paths(&self) -> impl Iterator<Item = &PathBuf> {
        let sources = self.settings.sources.iter().filter_map(|source| match source {
            Text::File(path) => Some(path),
            Text::Inline(_) => None,
        });
        sources.chain(&self.settings.partials)
    }

    /// The files that it writes.
    pub(super) fn destination_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.settings.transaction.targets.iter().map(|target| &target.destination)
    }

    /// Has the files written again if somebody removed or changed one.
    pub(super) fn look_at_destinations(&mut self, now: Instant) {
        let Some(texts) = self.wanted.as_ref().filter(|_| !self.busy() && self.placed) else {
            return;
        };
        if self.current.as_ref() != Some(&texts.version) {
            return;
        }
        let mut files = self.settings.transaction.targets.iter().zip(&texts.texts);
        let same = |(target, text): (&Target, &String)| {
            fs::read(&target.destination).is_ok_and(|found| found == text.as_bytes())
        };
        if files.all(same) {
            return;
        }
        let group = &self.settings.transaction.name;
        tracing::warn!(
            group,
            "a file was changed or removed by somebody else; it is written again"
        );
        self.current = None;
        self.schedule.changed(now);
    }

    /// Reads and parses the templates.
    fn load(&mut self) {
        let sources = read(&self.settings);
        self.parse(sources);
    }

    /// Parses the templates. If that fails, the ones parsed before stay in use.
    fn parse(&mut self, sources: Result<Sources, String>) {
        self.dirty = true;
        let parsed = sources.as_ref().map_err(Clone::clone);
        let parsed = parsed.and_then(|it| parse(it, &self.settings, &self.environment));
        self.sources = sources;
        match parsed {
            Ok(engine) => {
                self.engine = Some(Arc::new(engine));
                self.broken = None;
            }
            Err(error) => {
                *self.report.counts.failures.entry("parse".to_owned()).or_default() += 1;
                tracing::error!(group = self.settings.transaction.name, "{error}");
                self.broken = Some(error);
            }
        }
    }

    /// Renders with what is known now. Notes what is wanted, missing and held.
    pub(super) fn render(&mut self, facts: &Facts, now: Instant) {
        self.dirty = false;
        self.again_at = None;
        let Some(engine) = self.engine.clone() else { return };
        let (facts, outcome) = self.pass(&engine, facts, now);
        self.report.counts.renders += 1;
        self.memory = outcome.memory;
        let retries = self.refused.iter().map(|refused| refused.until);
        self.again_at = outcome.again_at.into_iter().chain(retries).min();
        self.missing = outcome.missing;
        self.note_holds(outcome.holds);
        self.waiting = None;
        self.note_used(outcome.used, outcome.ended);
        match outcome.result {
            Rendered::Complete(texts) => {
                self.unrendered = None;
                let refused = self.refused.iter();
                let refused = refused.map(|one| (one.suspect.to_string(), one.why.clone()));
                self.note_left_out(outcome.left_out.into_iter().chain(refused).collect());
                self.basis = Basis { facts, memory: self.memory.clone() };
                self.want(texts, now);
            }
            Rendered::Waiting(reasons) => {
                self.unrendered = None;
                self.waiting = Some(reasons.into_iter().collect::<Vec<_>>().join("; "));
            }
            Rendered::Incomplete => {}
            Rendered::Failed(error) => {
                let message = error.to_string();
                if self.unrendered.as_ref() != Some(&message) {
                    *self.report.counts.failures.entry("render".to_owned()).or_default() += 1;
                    tracing::error!(
                        group = self.settings.transaction.name,
                        "{message}\n{}",
                        error.report
                    );
                }
                self.unrendered = Some(message);
            }
        }
    }

    /// Renders what is known without what the check refuses. That is judged anew when something else is known of it,
    /// or after a while: a check may ask more than the catalog, such as whether a name can be resolved.
    fn pass(&mut self, engine: &Engine, facts: &Facts, now: Instant) -> (Facts, Outcome) {
        let same = |refused: &Refused| {
            now < refused.until && known_of(facts, &refused.suspect) == refused.known
        };
        self.refused.retain(same);
        let full = engine.render(facts, &self.memory, now);
        if self.refused.is_empty() {
            return (facts.clone(), full);
        }
        let out = self.refused.iter().map(|refused| refused.suspect.clone()).collect();
        let facts = without(facts, &self.before.facts, &out);
        let mut outcome = engine.render(&facts, &self.memory, now);
        // What is left out is still asked for, or it would never be taken back.
        outcome.used.extend(full.used);
        (facts, outcome)
    }

    /// The change to the newest texts, if there are any.
    pub(super) fn change(&self, effects: Effects) -> Option<Change> {
        Some(Change {
            settings: self.settings.transaction.clone(),
            ledger: Arc::clone(&self.ledger),
            effects,
            engine: Arc::clone(self.engine.as_ref()?),
            texts: self.wanted.clone()?,
            basis: self.basis.clone(),
            before: self.before.clone(),
        })
    }

    /// Notes what the texts in use were made from, and what was left out because the check refuses it.
    pub(super) fn in_use(&mut self, basis: Basis, refused: Vec<Refused>) {
        if !refused.is_empty() {
            self.refused.extend(refused);
            // What was remembered of them must not come back by the guards.
            self.memory = basis.memory.clone();
            self.dirty = true;
        }
        self.before = basis;
    }

    /// Notes which questions a pass asked: they stay watched, others are dropped. A pass that broke off may not have
    /// asked everything, so what the last one asked that came to its end stays, too.
    fn note_used(&mut self, used: BTreeSet<Query>, ended: bool) {
        if ended {
            self.used_in_full.clone_from(&used);
            self.used = used;
        } else {
            self.used = &self.used_in_full | &used;
        }
    }

    /// Says once of each what the texts go without.
    fn note_left_out(&mut self, left_out: BTreeMap<String, String>) {
        let group = &self.settings.transaction.name;
        for (what, why) in left_out.iter().filter(|(what, _)| !self.left_out.contains_key(*what)) {
            tracing::warn!(group, what, why, "left out");
        }
        for what in self.left_out.keys().filter(|what| !left_out.contains_key(*what)) {
            tracing::info!(group, what, "is no longer left out");
        }
        self.left_out = left_out;
    }

    fn want(&mut self, texts: Texts, now: Instant) {
        let version = texts.version.clone();
        let before = self.wanted.replace(texts).map(|wanted| wanted.version);
        let settled_on = if self.busy() { &self.changing } else { &self.current };
        if settled_on.as_ref() == Some(&version) {
            // Nothing differs, or no longer: it changed and changed back before anything was written.
            self.schedule.settled();
            if !self.busy() {
                self.failure = None;
            }
        } else if before.as_ref() != Some(&version)
            || (self.schedule.due().is_none() && !self.busy())
        {
            self.schedule.changed(now);
        }
    }

    fn note_holds(&mut self, holds: BTreeSet<Hold>) {
        for hold in holds.difference(&self.holds) {
            *self.report.counts.held.entry(hold.reason.to_string()).or_default() += 1;
            let (group, query, reason) =
                (&self.settings.transaction.name, &hold.query, hold.reason);
            tracing::warn!(group, %query, %reason, "goes on with the list served before");
        }
        for hold in self.holds.difference(&holds) {
            tracing::info!(group = self.settings.transaction.name, query = %hold.query, "is no longer held back");
        }
        self.holds = holds;
    }

    /// Whether new texts are being put in place. Asking the program whether it uses those of before is something else:
    /// until it has shown that, the group is not ready.
    fn installing(&self) -> bool {
        self.changing.as_ref().is_some_and(|version| !version.is_empty())
    }

    /// Whether a change is being put in place.
    pub(super) fn busy(&self) -> bool {
        self.changing.is_some()
    }

    /// Notes that a change begins; `version` is empty for one that the last run left behind.
    pub(super) fn begin(&mut self, version: &str, now: Instant) {
        self.changing = Some(version.to_owned());
        if !version.is_empty() {
            self.schedule.started(now);
        }
    }

    /// Whether the change that the program has not acknowledged is to be looked after now.
    pub(super) fn acknowledge_due(&self, now: Instant) -> bool {
        let other = self.schedule.due().is_some() && self.wanted.is_some();
        self.usage != Usage::Shown && !other && self.acknowledge.at().is_none_or(|at| at <= now)
    }

    /// Notes how a change went.
    pub(super) fn done(&mut self, result: Result<Committed, Failed>, now: Instant) {
        let name = &self.settings.transaction.name;
        let version = self.changing.take().unwrap_or_default();
        // The journal alone says whether something is left to do: a way back may be unfinished too.
        let over = self.ledger.journal().is_ok_and(|journal| journal.is_none());
        self.usage = if over { Usage::Shown } else { Usage::Unshown };
        if over {
            self.acknowledge.succeeded();
        } else {
            self.acknowledge.failed(now);
        }
        self.unnoted = None;
        match result {
            Ok(committed) => {
                self.schedule.succeeded();
                self.failure = None;
                self.placed = true;
                match &committed.acknowledged {
                    Acknowledged::Yes => {}
                    Acknowledged::NotRunning => self.usage = Usage::Unread,
                    Acknowledged::NotNoted(why) => {
                        self.usage = Usage::Unnoted;
                        self.unnoted = Some(format!(
                            "the version in use cannot be noted: {why}; free room there, or set another `state_dir`"
                        ));
                        tracing::warn!(group = name, why, "cannot note the good version");
                    }
                }
                for (step, time) in &committed.took {
                    self.report.counts.took(&step.to_string(), *time);
                }
                if !committed.changed.is_empty() {
                    self.report.counts.commits += 1;
                    let took = committed
                        .took
                        .iter()
                        .map(|(step, time)| format!("{step} {}ms", time.as_millis()));
                    let took = took.collect::<Vec<_>>().join(", ");
                    tracing::info!(
                        group = name,
                        version,
                        acknowledged = committed.acknowledged == Acknowledged::Yes,
                        took,
                        "changed"
                    );
                }
                self.current = Some(committed.version);
            }
            Err(failed) => {
                *self.report.counts.failures.entry(failed.step.to_string()).or_default() += 1;
                tracing::error!(group = name, version, step = %failed.step, after = %failed.after, "{}", failed.message);
                self.failure = Some(failed.to_string());
                self.schedule.failed(now);
            }
        }
        let wanted = self.wanted.as_ref().map(|wanted| &wanted.version);
        if wanted.is_some() && wanted == self.current.as_ref() {
            self.schedule.settled();
        } else if wanted.is_some() && self.schedule.due().is_none() {
            self.schedule.changed(now);
        }
    }

    /// Puts the last good files where files are missing.
    pub(super) fn install_last_good(&self) {
        let name = &self.settings.transaction.name;
        match install_last_good(&self.settings.transaction, &self.ledger) {
            Ok(made) if made.is_empty() => {}
            Ok(made) => tracing::warn!(group = name, ?made, "starts with the last good files"),
            Err(error) => {
                tracing::error!(group = name, %error, "cannot install the last good files");
            }
        }
    }

    /// Whether all its files are there, from this run or an earlier one.
    pub(super) fn files_exist(&self) -> bool {
        self.settings.transaction.targets.iter().all(|target| target.destination.exists())
    }

    /// Whether a template cannot be parsed, rendered or put in place.
    pub(super) fn trouble(&self) -> Option<&String> {
        self.broken.as_ref().or(self.unrendered.as_ref()).or(self.failure.as_ref())
    }

    /// What it waits for, if anything. `complaints` says of a question why it has no answer.
    fn waits_for(&self, complaints: impl Fn(&Query) -> Option<String>) -> Option<String> {
        if self.missing.is_empty() {
            return self.waiting.clone();
        }
        let told = self.missing.iter().take(NAMED_MAX).map(|query| match complaints(query) {
            Some(why) => format!("{query}: {why}"),
            None => format!("{query}: no answer yet"),
        });
        let mut told = told.collect::<Vec<_>>();
        if let Some(more @ 1..) = self.missing.len().checked_sub(NAMED_MAX) {
            told.push(format!("and {more} more"));
        }
        Some(told.join("; "))
    }

    /// Says what the group waits for: a second after it began to wait, and each minute. Returns when to say it next.
    pub(super) fn say(
        &mut self,
        now: Instant,
        complaints: impl Fn(&Query) -> Option<String>,
    ) -> Option<Instant> {
        let Some(why) = self.waits_for(complaints).filter(|_| self.trouble().is_none()) else {
            self.say_at = None;
            return None;
        };
        let at = *self.say_at.get_or_insert(now + SAY_AFTER);
        if at <= now {
            tracing::warn!(group = self.settings.transaction.name, "still waits: {why}");
            self.say_at = Some(now + SAY_EVERY);
        }
        self.say_at
    }

    /// Whether nothing more will happen unless something changes: for runs that end.
    pub(super) fn settled(&self) -> bool {
        let in_place = self.current.is_some() && self.schedule.due().is_none();
        !self.busy()
            && !self.dirty
            && self.missing.is_empty()
            && self.waiting.is_none()
            && (in_place || self.trouble().is_some())
    }

    /// Brings the report up to date. `complaints` says of a question why it has no answer.
    pub(super) fn refresh(&mut self, complaints: impl Fn(&Query) -> Option<String>) {
        let (state, reason) = if let Some(trouble) = self.trouble() {
            ("failed", Some(trouble.clone()))
        } else if let Some(waiting) = self.waits_for(complaints) {
            ("waiting", Some(waiting))
        } else if !self.placed {
            ("waiting", Some("its files are not in place yet".to_owned()))
        } else if self.installing() || self.schedule.due().is_some() {
            ("changing", None)
        } else if self.usage != Usage::Shown {
            let why = "the program has not shown that it uses the files".to_owned();
            ("waiting", Some(self.unnoted.clone().unwrap_or(why)))
        } else {
            ("current", None)
        };
        let files = self
            .settings
            .transaction
            .targets
            .iter()
            .map(|target| target.destination.display().to_string());
        self.report.state = state;
        self.report.reason = reason;
        self.report.version.clone_from(&self.current);
        self.report.files = files.collect();
        self.report.asks = self.used.iter().map(ToString::to_string).collect();
        self.report.missing = self.missing.iter().map(ToString::to_string).collect();
        self.report.left_out.clone_from(&self.left_out);
        self.report.held = self
            .holds
            .iter()
            .map(|hold| (hold.query.to_string(), hold.reason.to_string()))
            .collect();
    }

    /// Notes what made the group dirty.
    pub(super) fn blame(&mut self, query: &Query, since: Instant, now: Instant) {
        self.dirty = true;
        self.report.last_cause = Some(format!("{query}, after {:.1} s", ago(since, now)));
    }
}

/// Reads and parses the templates of a group.
///
/// # Errors
/// What cannot be read or parsed, on one line, with its place.
pub(crate) fn engine(
    settings: &config::Group,
    surroundings: &Surroundings,
) -> Result<Engine, String> {
    parse(&read(settings)?, settings, surroundings)
}

fn read(settings: &config::Group) -> Result<Sources, String> {
    let read = |path: &PathBuf| match fs::read_to_string(path) {
        Ok(text) => Ok(Source { name: path.display().to_string(), text }),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    };
    let targets = settings.transaction.targets.iter();
    let outputs = settings.sources.iter().zip(targets).map(|(source, target)| match source {
        Text::File(path) => read(path),
        Text::Inline(text) => {
            Ok(Source { name: format!("<{}>", target.destination.display()), text: text.clone() })
        }
    });
    let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    let partials = settings.partials.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(Sources { outputs, partials })
}

fn parse(
    sources: &Sources,
    settings: &config::Group,
    surroundings: &Surroundings,
) -> Result<Engine, String> {
    let surroundings = Surroundings { limits: settings.limits.clone(), ..surroundings.clone() };
    let engine = Engine::new(&sources.outputs, &sources.partials, surroundings);
    engine.map_err(|error| error.to_string())
}
