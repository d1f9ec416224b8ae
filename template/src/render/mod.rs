//! Renders the templates of one group from what is known so far. Pure: facts in, texts out; no network, no clock.
//!
//! Tera's functions are synchronous, and what a template needs is only known once it has run: `service(name=n)` may
//! stand in a loop over `services()`. So a group is rendered in passes. Each pass records which questions were asked
//! ([`Outcome::used`]) and which of them have no answer yet ([`Outcome::missing`]); the missing ones are watched, and
//! the group is rendered again when answers arrive, until nothing is missing.
//!
//! ```text
//! pass 1: services() ── missing          text is worthless, an error too
//! pass 2: service(web), service(api) ── missing
//! pass 3: nothing missing ──▶ Complete, or Failed: now an error is an error
//! ```
//!
//! An unanswered question reads as an empty list or an empty text, so that one pass finds as many questions as it
//! can. Nothing that such a pass produced is ever written.

mod call;
pub(crate) mod encode;
mod filters;
mod functions;
pub(crate) mod left_out;
mod maps;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tera::{Context, ErrorKind, Tera};

pub(crate) use encode::hex;

use crate::facts::{Facts, Query};
use crate::guard::{Limits, Memory, Reason};

/// Stands for the version in a text until all texts of the group are known; the version is a hash over them, so it
/// cannot be known before. Contains a NUL so that no template writes it by chance.
const VERSION_MARK: &str = "\0muster-config-version\0";

/// One template: the name it is called by in errors and in `{% include %}`, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Usually the path of the file.
    pub name: String,
    /// The template itself.
    pub text: String,
}

/// What templates may know besides the facts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    /// The environment variables that `env()` sees.
    pub environment: BTreeMap<String, String>,
    /// The limits of calls that say nothing themselves.
    pub limits: Limits,
}

/// The parsed templates of one group, ready to be rendered any number of times.
pub struct Engine {
    tera: Tera,
    outputs: Vec<String>,
    /// The pass that runs now. Tera's functions are registered once and cannot be handed a different argument for
    /// each render, so they find their inputs and leave their notes here.
    pass: Arc<Mutex<Pass>>,
    /// Held for the whole of a pass, for two passes at a time would find each other's inputs.
    turn: Mutex<()>,
}

/// The inputs and notes of one pass.
#[derive(Default)]
struct Pass {
    facts: Facts,
    memory: Memory,
    surroundings: Arc<Surroundings>,
    now: Option<Instant>,
    used: BTreeSet<Query>,
    missing: BTreeSet<Query>,
    waits: BTreeSet<String>,
    holds: BTreeSet<Hold>,
    calls: BTreeSet<String>,
    left_out: BTreeMap<String, String>,
    again_at: Option<Instant>,
}

/// A list that was replaced by the one served before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// The question.
    pub query: Query,
    /// Why its answer was not used.
    pub reason: Reason,
}

/// What came out of a pass.
#[derive(Debug)]
pub struct Outcome {
    /// All questions asked: these must stay watched.
    pub used: BTreeSet<Query>,
    /// Those without an answer yet.
    pub missing: BTreeSet<Query>,
    /// Lists that were replaced by the ones served before.
    pub holds: BTreeSet<Hold>,
    /// What the texts go without, and why.
    pub left_out: BTreeMap<String, String>,
    /// Whether every template came to its end, so that nothing it asks is unknown but for missing answers.
    pub ended: bool,
    /// When to render again even if nothing changes: a limit runs out then.
    pub again_at: Option<Instant>,
    /// The memory after this pass; to be used by the next one.
    pub memory: Memory,
    /// The texts, or why there are none.
    pub result: Rendered,
}

/// The texts of a group, or why there are none.
#[derive(Debug, PartialEq)]
pub enum Rendered {
    /// Every question had an answer.
    Complete(Texts),
    /// Questions are open, see [`Outcome::missing`].
    Incomplete,
    /// Every question has an answer, but one says that it is too early, such as a key that does not exist yet. Each
    /// text is one reason.
    Waiting(BTreeSet<String>),
    /// A template is wrong.
    Failed(Error),
}

/// The finished texts of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// One text per template, in the order the sources were given.
    pub texts: Vec<String>,
    /// A hash over all of them: equal texts, equal version. 16 hex digits.
    pub version: String,
    /// Whether a template shows the version (`config_version()`), so that it can be asked for after a reload.
    pub shows_version: bool,
}

/// A template that cannot be parsed or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The template's name.
    pub file: String,
    /// The line, from 1; 0 when the error concerns no place in particular.
    pub line: usize,
    /// The column, from 1; 0 likewise.
    pub column: usize,
    /// What is wrong, on one line.
    pub message: String,
    /// The same with the source line and a caret below it.
    pub report: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
        }
    }
}

impl Error {
    fn new(file: &str, error: &tera::Error) -> Self {
        match error.kind() {
            ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => Self {
                file: report.filename().to_owned(),
                line: report.span().start_line,
                column: report.span().start_col + 1,
                message: report.message().to_owned(),
                report: error.to_string(),
            },
            _ => Self::from_report(file, error.to_string()),
        }
    }

    /// Tera reports unknown functions, filters and includes all together in one text; the first of them, which starts
    /// with `error: ...` and ` --> file:line:column`, becomes the error.
    fn from_report(file: &str, report: String) -> Self {
        let mut lines = report.lines();
        let message = lines.next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
        let place = lines.next().and_then(|line| line.trim().strip_prefix("--> "));
        let mut parts = place.unwrap_or_default().rsplitn(3, ':');
        let (column, line) =
            (parts.next().and_then(|n| n.parse().ok()), parts.next().and_then(|n| n.parse().ok()));
        let file = parts.next().unwrap_or(file).to_owned();
        Self { file, line: line.unwrap_or(0), column: column.unwrap_or(0), message, report }
    }
}

impl Engine {
    /// Parses the templates of a group. `partials` can be included by the others but give no text of their own.
    ///
    /// # Errors
    /// The first template that cannot be parsed, with file, line and column. Unknown functions and filters are found
    /// here, not at the first render.
    pub fn new(
        sources: &[Source],
        partials: &[Source],
        surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let surroundings = Arc::new(surroundings);
        let pass = Arc::new(Mutex::new(Pass { surroundings, ..Pass::default() }));
        let mut tera = Tera::new();
        // The output is configuration, never a page: nothing may be escaped behind the author's back.
        tera.autoescape_on(Vec::<&str>::new());
        filters::register(&mut tera);
        maps::register(&mut tera, &pass);
        functions::register(&mut tera, &pass);
        let all = || {
            partials
                .iter()
                .chain(sources)
                .map(|source| (source.name.as_str(), source.text.as_str()))
        };
        let first = sources.first().map_or("", |source| source.name.as_str());
        tera.add_raw_templates(all()).map_err(|error| Error::new(first, &error))?;
        let outputs = sources.iter().map(|source| source.name.clone()).collect();
        Ok(Self { tera, outputs, pass, turn: Mutex::default() })
    }

    /// Renders every template of the group once.
    pub fn render(&self, facts: &Facts, memory: &Memory, now: Instant) -> Outcome {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut pass = self.pass();
            let surroundings = Arc::clone(&pass.surroundings);
            let (facts, memory) = (facts.clone(), memory.clone());
            *pass = Pass { facts, memory, surroundings, now: Some(now), ..Pass::default() };
        }
        // Every template is rendered even after one failed: the pass is there to find the questions as well.
        let results: Vec<_> = self
            .outputs
            .iter()
            .map(|name| (name, self.tera.render(name, &Context::new())))
            .collect();
        let Pass { used, missing, waits, holds, again_at, mut memory, calls, left_out, .. } =
            std::mem::take(&mut *self.restart());
        let ended = results.iter().all(|(_, text)| text.is_ok());
        let result = if !missing.is_empty() {
            Rendered::Incomplete
        } else if !waits.is_empty() {
            Rendered::Waiting(waits)
        } else {
            // Only a pass that saw everything knows which calls are really made.
            memory.retain(|call| calls.contains(call));
            match results
                .into_iter()
                .map(|(name, text)| text.map_err(|error| Error::new(name, &error)))
                .collect()
            {
                Ok(texts) => Rendered::Complete(seal(texts)),
                Err(error) => Rendered::Failed(error),
            }
        };
        Outcome { used, missing, holds, left_out, ended, again_at, memory, result }
    }

    fn pass(&self) -> std::sync::MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The notes of the pass that just ended, leaving an empty pass with the same surroundings.
    fn restart(&self) -> Box<Pass> {
        let mut pass = self.pass();
        let surroundings = Arc::clone(&pass.surroundings);
        Box::new(std::mem::replace(&mut *pass, Pass { surroundings, ..Pass::default() }))
    }
}

/// Computes the version over all texts and puts it where they ask for it.
fn seal(texts: Vec<String>) -> Texts {
    let mut hash = Sha256::new();
    for text in &texts {
        // The length keeps ["ab", "c"] and ["a", "bc"] apart.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let version = encode::hex(&hash.finalize()[..8]);
    let shows_version = texts.iter().any(|text| text.contains(VERSION_MARK));
    let texts = texts.into_iter().map(|text| text.replace(VERSION_MARK, &version)).collect();
    Texts { texts, version, shows_version }
}

#[cfg(test)]
mod tests;
