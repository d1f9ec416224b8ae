//! Configuration: what was written in files and flags, made into the settings of the parts.
//!
//! `file.rs` is the format, this module checks it and fills in what is not said. The result is compared with the one
//! before when the daemon is told to read its configuration again: what is equal is left alone.

mod file;
mod flags;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use muster_client::{Secret, chain};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

pub use flags::{Flags, Subcommand};

use crate::guard::Limits;
use crate::processes::parse_signal;
use crate::render::encode::duration;
use crate::render::hex;
use crate::{child, transaction};
use file::{Command, File, Span};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("`{path}`: {message}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A file is not written as it must be.
    #[error("`{path}`: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// Something is missing, contradictory or out of range.
    #[error("{0}")]
    Invalid(String),
}

/// Everything the daemon was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where last good files and journals are kept.
    pub state_dir: PathBuf,
    /// Levels as the log's filter reads them.
    pub log_level: String,
    /// How long a run that ends by itself may take; `None` for as long as it takes.
    pub timeout: Option<Duration>,
    /// Where the process id is written.
    pub pid_file: Option<PathBuf>,
    /// How the catalog is asked.
    pub catalog: Catalog,
    /// Where the state is shown.
    pub http: Option<SocketAddr>,
    /// The supervised child.
    pub child: Option<child::Settings>,
    /// The groups of files.
    pub groups: Vec<Group>,
    /// The files and folders of the configuration itself, if it is read again when they change.
    pub followed: Vec<PathBuf>,
}

/// How the catalog is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// The agent's address; `None` for what the environment says.
    pub address: Option<String>,
    /// The token; `None` for what the environment says.
    pub token: Option<Token>,
    /// The datacenter of questions that name none.
    pub datacenter: Option<String>,
    /// Whether any server may answer.
    pub consistency: Consistency,
    /// How long one blocking question waits.
    pub wait: Duration,
}

/// Where the token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Here.
    Text(Secret),
    /// In a file, which is read again when it changes.
    File(PathBuf),
}

/// How fresh answers must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// The agent's choice.
    Default,
    /// Any server may answer, also without a leader.
    Stale,
    /// Only a leader that has just made sure it is one.
    Consistent,
}

/// A group of files that change together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// How the files are put in place and into use.
    pub transaction: transaction::Settings,
    /// The templates, one per target.
    pub sources: Vec<Text>,
    /// Templates that the others include.
    pub partials: Vec<PathBuf>,
    /// The limits of calls that say nothing themselves.
    pub limits: Limits,
    /// When changes are put in place.
    pub pace: Pace,
}

/// Where a template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// A file.
    File(PathBuf),
    /// The configuration itself.
    Inline(String),
}

/// When changes are put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long nothing may change before a change is put in place...
    pub quiet_min: Duration,
    /// ...but no longer than this after the first.
    pub quiet_max: Duration,
    /// The least time from one change to the next.
    pub interval_min: Duration,
}

impl Default for Pace {
    /// The first change after a quiet time is in place at once; a burst (an instance with its checks, a scale-up) is
    /// taken together.
    fn default() -> Self {
        Self {
            quiet_min: Duration::from_millis(10),
            quiet_max: Duration::from_millis(100),
            interval_min: Duration::from_millis(200),
        }
    }
}

const VALIDATE_TIMEOUT: Duration = Duration::from_secs(10);
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_mins(1);

impl Config {
    /// Reads the files that `flags` name, and puts what the flags themselves say over them.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file and key it concerns.
    pub fn load(flags: &Flags) -> Result<Self, Error> {
        let mut written = File::default();
        for path in &flags.config {
            written.merge(File::read(path)?);
        }
        flags.apply(&mut written)?;
        let follow = written.auto_reload_config.unwrap_or(true);
        if written.state_dir.is_none() {
            written.state_dir = Some(default_state_dir(flags)?);
        }
        let mut config = Self::from_file(written)?;
        if follow {
            config.followed.clone_from(&flags.config);
        }
        if let Some(text) = &flags.timeout {
            if !flags.once && flags.command != Some(Subcommand::Once) {
                let message =
                    "-timeout: a daemon that goes on for ever has none; give `-once`, too";
                return Err(Error::Invalid(message.to_owned()));
            }
            let timeout =
                duration(text).map_err(|error| Error::Invalid(format!("-timeout: {error}")))?;
            config.timeout = Some(timeout);
        }
        Ok(config)
    }

    fn from_file(file: File) -> Result<Self, Error> {
        let guard = file.guard.unwrap_or_default();
        let child = file.exec.map(exec).transpose()?;
        let mut names = BTreeSet::new();
        let mut destinations = BTreeSet::new();
        let mut groups = Vec::new();
        for written in file.groups {
            let group = group(written, &guard, child.is_some())?;
            let name = &group.transaction.name;
            if !names.insert(name.clone()) {
                return Err(Error::Invalid(format!("there are two groups `{name}`")));
            }
            for target in &group.transaction.targets {
                if !destinations.insert(target.destination.clone()) {
                    let path = target.destination.display();
                    return Err(Error::Invalid(format!(
                        "`{path}` is the destination of two templates"
                    )));
                }
            }
            groups.push(group);
        }
        let http = file.http.map(|http| {
            let wrong =
                || Error::Invalid(format!("http.addr: `{}` is not an address and port", http.addr));
            http.addr.parse().map_err(|_| wrong())
        });
        Ok(Self {
            state_dir: file.state_dir.unwrap_or_default(),
            log_level: log_level(file.log_level.as_deref().unwrap_or("info"))?,
            timeout: None,
            pid_file: file.pid_file,
            catalog: catalog(file.catalog.unwrap_or_default())?,
            http: http.transpose()?,
            child,
            groups,
            followed: Vec::new(),
        })
    }
}

/// The levels of the log's filter: one for everything, or `part=level` for a part of the program, separated by commas.
///
/// # Errors
/// What is not a level: the filter would take it for a part of the program, and log nothing else.
fn log_level(written: &str) -> Result<String, Error> {
    let one = |text: &str| {
        let (part, level) = match text.rsplit_once('=') {
            Some((part, level)) => (Some(part), level),
            None => (None, text),
        };
        let level = match level.trim().to_ascii_lowercase().as_str() {
            "err" => "error".to_owned(),
            "warning" => "warn".to_owned(),
            level @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => level.to_owned(),
            other => {
                return Err(Error::Invalid(format!(
                    "log_level: `{other}` is not a level: `error`, `warn`, `info`, `debug`, `trace`, or such as \
                     `muster_template=debug,warn`"
                )));
            }
        };
        Ok(part.map_or(level.clone(), |part| format!("{part}={level}")))
    };
    Ok(written.split(',').map(one).collect::<Result<Vec<_>, _>>()?.join(","))
}

/// A folder for this daemon alone, below the one that the service manager gives (`STATE_DIRECTORY`), or
/// `/var/lib/muster-template` for root, or the user's own for such things. It is named after the configuration, so that a
/// daemon with another configuration has another folder, and the same one has the same after each start.
fn default_state_dir(flags: &Flags) -> Result<PathBuf, Error> {
    let variable = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let home = || {
        let folder = variable("XDG_STATE_HOME")
            .or_else(|| Some(variable("HOME")?.join(".local/state")))
            .ok_or_else(|| Error::Invalid("`state_dir` is not set, nor is HOME".to_owned()))?;
        Ok(folder.join("muster-template"))
    };
    let base = match variable("STATE_DIRECTORY") {
        Some(folder) => folder,
        None if nix::unistd::geteuid().is_root() => PathBuf::from("/var/lib/muster-template"),
        None => home()?,
    };
    let path = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let files = flags.config.iter().map(|file| path(file).display().to_string());
    let sources: Vec<_> = files.chain(flags.template.iter().cloned()).collect();
    let first = flags.config.first().and_then(|file| file.file_stem());
    let name = first.map_or("template".into(), |name| name.to_string_lossy());
    let name: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .take(40)
        .collect();
    let hash = hex(&Sha256::digest(sources.join("\n"))[..4]);
    Ok(base.join(format!("{name}-{hash}")))
}

fn catalog(written: file::Catalog) -> Result<Catalog, Error> {
    let token = match (written.token, written.token_file) {
        (Some(_), Some(_)) => {
            return Err(Error::Invalid(
                "catalog: `token` and `token_file` exclude each other".to_owned(),
            ));
        }
        (None, Some(path)) => match Secret::from_file(&path) {
            Ok(Some(_)) => Some(Token::File(path)),
            Ok(None) => {
                let message = format!("catalog.token_file: `{}` is empty", path.display());
                return Err(Error::Invalid(message));
            }
            Err(error) => return Err(Error::Invalid(format!("catalog: {}", chain(&error)))),
        },
        (token, None) => token.map(|text| Token::Text(Secret::new(text))),
    };
    let consistency = match written.consistency.as_deref() {
        None | Some("default") => Consistency::Default,
        Some("stale") => Consistency::Stale,
        Some("consistent") => Consistency::Consistent,
        Some(other) => {
            let known = "`default`, `stale` or `consistent`";
            return Err(Error::Invalid(format!("catalog.consistency: `{other}` is not {known}")));
        }
    };
    let wait = written.wait.map_or(WAIT, |span| span.0);
    if wait < Duration::from_secs(1) || wait > Duration::from_mins(10) {
        return Err(Error::Invalid("catalog.wait: must be from 1s to 10m".to_owned()));
    }
    Ok(Catalog {
        address: written.address,
        token,
        datacenter: written.datacenter,
        consistency,
        wait,
    })
}

fn exec(written: file::Exec) -> Result<child::Settings, Error> {
    let invalid = |message: String| Error::Invalid(format!("exec: {message}"));
    let command = not_empty(written.command.supervised_words(), "exec.command")?;
    let reload = match written.reload_signal.as_deref() {
        None | Some("restart") => child::Reload::Restart,
        Some("none") => child::Reload::None,
        Some(signal) => child::Reload::Signal(parse_signal(signal).map_err(invalid)?),
    };
    let stop_signal = written
        .stop_signal
        .map_or(Ok(Signal::SIGTERM), |signal| parse_signal(&signal))
        .map_err(invalid)?;
    let (pause_min, pause_max) = written
        .pause
        .map_or((Duration::from_millis(250), Duration::from_secs(10)), |p| (p.min.0, p.max.0));
    Ok(child::Settings {
        command,
        environment: written.environment,
        pristine: written.pristine,
        restart: written.restart,
        reload,
        stop_signal,
        kill_timeout: span(written.kill_timeout, KILL_TIMEOUT),
        pause_min,
        pause_max: pause_max.max(pause_min),
    })
}

fn group(written: file::Group, preset: &file::Guard, has_child: bool) -> Result<Group, Error> {
    let name = written.name;
    let invalid = |message: String| Error::Invalid(format!("group `{name}`: {message}"));
    if name.is_empty()
        || name.starts_with('.')
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    {
        return Err(invalid(
            "a name has letters, digits, `.`, `_` and `-`, and does not begin with `.`".into(),
        ));
    }
    if written.templates.is_empty() {
        return Err(invalid("it has no template".into()));
    }
    let mut sources = Vec::new();
    let mut targets = Vec::new();
    for template in written.templates {
        let (source, target) = template_of(template).map_err(&invalid)?;
        sources.push(source);
        targets.push(target);
    }
    let validate = written.validate.map(|validate| -> Result<_, Error> {
        let command = words(validate.command, "validate.command")?;
        if validate.shadow.is_some() && !command.iter().any(|word| word.contains("{config}")) {
            return Err(invalid(
                "validate.command: needs `{config}` where the shadow's path shall stand".into(),
            ));
        }
        let timeout = span(validate.timeout, VALIDATE_TIMEOUT);
        Ok(transaction::Validate { command, shadow: validate.shadow, timeout })
    });
    let reload = match written.reload {
        None => transaction::Reload::None,
        Some(file::Reload { child: true, command: None, .. }) if has_child => {
            transaction::Reload::Child
        }
        Some(file::Reload { child: true, command: None, .. }) => {
            return Err(invalid("reload.child: there is no `exec`".into()));
        }
        Some(file::Reload { child: false, command: Some(command), timeout }) => {
            transaction::Reload::Command {
                command: words(command, "reload.command")?,
                timeout: span(timeout, RELOAD_TIMEOUT),
            }
        }
        Some(_) => {
            return Err(invalid("reload: needs either `child = true` or a `command`".into()));
        }
    };
    let verify =
        written.verify.map_or_else(transaction::Verify::default, |verify| transaction::Verify {
            url: verify.url,
            workers: verify.workers,
            timeout: span(verify.timeout, transaction::Verify::default().timeout),
        });
    if let Some(url) = verify.url.as_deref().filter(|url| !url.starts_with("http://")) {
        return Err(invalid(format!("verify.url: `{url}` does not begin with `http://`")));
    }
    let pace = Pace::default();
    let (quiet_min, quiet_max) =
        written.debounce.map_or((pace.quiet_min, pace.quiet_max), |d| (d.min.0, d.max.0));
    if quiet_min > quiet_max {
        return Err(invalid("debounce: `min` is longer than `max`".into()));
    }
    let interval_min = span(written.min_interval, pace.interval_min);
    Ok(Group {
        limits: limits(&written.guard.unwrap_or_default(), preset).map_err(&invalid)?,
        partials: written.partials,
        sources,
        pace: Pace { quiet_min, quiet_max, interval_min },
        transaction: transaction::Settings {
            validate: validate.transpose()?,
            reload,
            verify,
            targets,
            name,
        },
    })
}

fn template_of(written: file::Template) -> Result<(Text, transaction::Target), String> {
    let path = written.destination.display();
    let source = match (written.source, written.contents) {
        (Some(source), None) => Text::File(source),
        (None, Some(contents)) => Text::Inline(contents),
        _ => return Err(format!("template for `{path}`: needs either `source` or `contents`")),
    };
    if !written.destination.is_absolute() || written.destination.file_name().is_none() {
        return Err(format!("template: destination `{path}` is not the full path of a file"));
    }
    let mode = written.mode.map(|mode| {
        let parsed = u32::from_str_radix(&mode, 8).ok().filter(|bits| *bits <= 0o7777);
        parsed.ok_or_else(|| format!("template for `{path}`: mode `{mode}` is not such as `0644`"))
    });
    let uid = written.user.map(|user| {
        owner("user", &user, |name| {
            nix::unistd::User::from_name(name).map(|u| u.map(|u| u.uid.as_raw()))
        })
    });
    let gid = written.group.map(|group| {
        owner("group", &group, |name| {
            nix::unistd::Group::from_name(name).map(|g| g.map(|g| g.gid.as_raw()))
        })
    });
    let target = transaction::Target {
        mode: mode.transpose()?,
        uid: uid.transpose()?,
        gid: gid.transpose()?,
        create_folders: written.create_folders,
        destination: written.destination,
    };
    Ok((source, target))
}

/// An owner by number or by name.
fn owner(
    kind: &str,
    text: &str,
    find: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    find(text).ok().flatten().ok_or_else(|| format!("there is no {kind} `{text}`"))
}

fn limits(written: &file::Guard, preset: &file::Guard) -> Result<Limits, String> {
    let limits = Limits::default();
    let max_shrink = written.max_shrink.or(preset.max_shrink).unwrap_or(limits.max_shrink);
    if !(0.0..=1.0).contains(&max_shrink) {
        return Err(format!("guard.max_shrink: a share from 0.0 to 1.0, not {max_shrink}"));
    }
    Ok(Limits {
        on_empty: written.on_empty.or(preset.on_empty).unwrap_or(limits.on_empty),
        min: written.min.or(preset.min).unwrap_or(limits.min),
        max_shrink,
        confirm_after: span(written.confirm_after.or(preset.confirm_after), limits.confirm_after),
        keep_for: span(written.keep_for.or(preset.keep_for), limits.keep_for),
    })
}

fn words(command: Command, key: &str) -> Result<Vec<String>, Error> {
    not_empty(command.words(), key)
}

fn not_empty(words: Vec<String>, key: &str) -> Result<Vec<String>, Error> {
    if words.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid(format!("{key}: is empty")));
    }
    Ok(words)
}

fn span(written: Option<Span>, preset: Duration) -> Duration {
    written.map_or(preset, |span| span.0)
}

#[cfg(test)]
mod tests;
