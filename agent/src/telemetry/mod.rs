//! Logs: what is said reaches standard output, files, syslog and whoever listens over HTTP.
//!
//! One event becomes one line, written by `line` in the shape that log collectors know from the
//! reference. The level can change while the agent runs, and a listener may hear more than the log
//! holds: events that nobody wants are not even built.
//!
//! | file | owns |
//! |---|---|
//! | `line` | an event as text or as JSON |
//! | `file` | the log file and its rotation |
//! | `syslog` | the socket of the system's log |
//! | `seldom` | which of many equal events get a line |
//! | `figures` | how often and how long, for `/v1/agent/metrics` |

mod file;
mod line;
pub mod metrics;
mod seldom;
mod syslog;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{self, Context, Layer, SubscriberExt as _};

use line::Record;
pub(crate) use line::{escaped, is_unsafe};
pub(crate) use seldom::Seldom;

/// Lines that may wait for one listener; further ones are dropped and counted.
const LISTENER_LINES_MAX: usize = 512;

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
    /// A file as well.
    pub file: Option<LogFile>,
    /// Facility of the system's log (`LOCAL0`), if it is to hear of everything.
    pub syslog: Option<String>,
}

/// A log file and its rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// A name; the moment at which a file begins is put into it. Or a folder, with a slash at its end.
    pub path: PathBuf,
    /// A new file begins after this.
    pub age_max: Duration,
    /// A new file begins before this many bytes; 0: never.
    pub bytes_max: u64,
    /// Files kept besides the current one: 0 all of them, below zero none.
    pub files_max: i64,
}

/// The log cannot be written where it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log file.
    #[error("log_file `{}` cannot be opened", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The system's log.
    #[error("syslog cannot be reached")]
    Syslog(#[source] std::io::Error),
    /// Not one of its facilities.
    #[error("syslog_facility `{0}` is unknown: use KERN, USER, DAEMON, ... or LOCAL0 to LOCAL7")]
    Facility(String),
}

/// State shared between the subscriber and those who change it.
struct Log {
    json: bool,
    /// Levels of the log itself.
    own: ArcSwap<Targets>,
    /// Levels that any listener wants.
    wanted: ArcSwap<Targets>,
    sinks: Mutex<Sinks>,
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Default)]
struct Sinks {
    level: Option<Level>,
    file: Option<file::Rotating>,
    syslog: Option<syslog::Syslog>,
}

/// Somebody who reads the log over HTTP.
struct Listener {
    level: Level,
    json: bool,
    lines: mpsc::Sender<Bytes>,
    dropped: Arc<AtomicU64>,
}

static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// Starts logging. A second call changes nothing.
pub fn start(settings: &Settings) -> Result<(), Error> {
    let level = level(&settings.level).unwrap_or(Level::INFO);
    let file = match &settings.file {
        None => None,
        Some(wanted) => Some(
            file::Rotating::open(wanted.clone())
                .map_err(|source| Error::File { path: wanted.path.clone(), source })?,
        ),
    };
    let syslog = settings.syslog.as_deref().map(syslog::Syslog::open).transpose()?;
    let own = match std::env::var("MUSTER_LOG") {
        Ok(directives) => directives.parse().unwrap_or_else(|_| targets(level)),
        Err(_) => targets(level),
    };
    let log = Arc::new(Log {
        json: settings.json,
        own: ArcSwap::from_pointee(own.clone()),
        wanted: ArcSwap::from_pointee(own),
        sinks: Mutex::new(Sinks { level: Some(level), file, syslog }),
        listeners: Mutex::default(),
    });
    if LOG.set(Arc::clone(&log)).is_ok() {
        let subscriber = tracing_subscriber::registry().with(EventLayer(log));
        // Only a subscriber of somebody else could be there already, and it stays.
        let _ = tracing::subscriber::set_global_default(subscriber);
    }
    Ok(())
}

/// From now on the log holds what is at least this important.
pub fn set_level(text: &str) {
    if let (Some(log), Some(level)) = (LOG.get(), level(text)) {
        log.sinks().level = Some(level);
        log.own.store(Arc::new(targets(level)));
        log.rebuild();
    }
}

/// Lines of the log from now on, for as long as the receiver is kept. The count is of lines that were
/// dropped because the receiver did not keep up. `None` where nothing logs.
pub fn listen(level: Level, json: bool) -> Option<(mpsc::Receiver<Bytes>, Arc<AtomicU64>)> {
    let log = LOG.get()?;
    let (lines, receiver) = mpsc::channel(LISTENER_LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    log.listeners().push(Listener { level, json, lines, dropped: Arc::clone(&dropped) });
    log.rebuild();
    Some((receiver, dropped))
}

/// Reads a level as configuration and `?loglevel=` write it.
pub fn level(text: &str) -> Option<Level> {
    Some(match text.to_ascii_lowercase().as_str() {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" => Level::WARN,
        "err" | "error" => Level::ERROR,
        _ => return None,
    })
}

/// Libraries below us say far more than an operator wants at the same level.
fn targets(level: Level) -> Targets {
    let quiet = LevelFilter::from_level(level.min(Level::WARN));
    let quieter = LevelFilter::from_level(level.min(Level::ERROR));
    Targets::new().with_default(level).with_target("openraft", quieter).with_targets(
        ["hyper", "h2", "sled", "tower", "hickory", "foca", "mio"].map(|n| (n, quiet)),
    )
}

impl Log {
    fn sinks(&self) -> MutexGuard<'_, Sinks> {
        self.sinks.lock()
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock()
    }

    /// Works out anew what anybody wants.
    fn rebuild(&self) {
        let loudest = self.listeners().iter().map(|listener| listener.level).max();
        let own = self.own.load();
        let level = self.sinks().level;
        match loudest.filter(|loudest| Some(*loudest) > level) {
            Some(loudest) => self.wanted.store(Arc::new(targets(loudest))),
            None => self.wanted.store(Arc::clone(&own)),
        }
        tracing::callsite::rebuild_interest_cache();
    }

    fn write(&self, metadata: &Metadata<'_>, record: &Record) {
        let mut text = None;
        let mut json = None;
        let mut line = |as_json: bool| -> Bytes {
            let slot = if as_json { &mut json } else { &mut text };
            slot.get_or_insert_with(|| {
                Bytes::from(if as_json { record.json() } else { record.text() })
            })
            .clone()
        };
        if self.own.load().would_enable(metadata.target(), metadata.level()) {
            let line = line(self.json);
            {
                let mut out = std::io::stdout().lock();
                // Nobody reads: there is nobody to tell.
                let _ = out.write_all(b"    ").and_then(|()| out.write_all(&line));
            }
            let mut sinks = self.sinks();
            if let Some(file) = &mut sinks.file {
                file.write(&line);
            }
            if let Some(syslog) = &sinks.syslog {
                syslog.write(*metadata.level(), &line);
            }
        }
        let mut gone = false;
        for listener in self.listeners().iter() {
            if *metadata.level() <= listener.level {
                match listener.lines.try_send(line(listener.json)) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        listener.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => gone = true,
                }
            }
        }
        if gone {
            self.listeners().retain(|listener| !listener.lines.is_closed());
            self.rebuild();
        }
    }
}

/// Receives events from `tracing`.
struct EventLayer(Arc<Log>);

impl<S: Subscriber> Layer<S> for EventLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_event() && self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event() && self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        layer::Filter::<S>::max_level_hint(self.0.wanted.load().as_ref())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.write(event.metadata(), &Record::of(event));
    }
}

impl EventLayer {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        self.0.wanted.load().would_enable(metadata.target(), metadata.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quieter_than_the_agent() {
        let rows = [
            (Level::INFO, "muster_agent::http", Level::INFO, true),
            (Level::INFO, "muster_agent::http", Level::DEBUG, false),
            (Level::TRACE, "hyper::proto", Level::INFO, false),
            (Level::TRACE, "hyper::proto", Level::WARN, true),
            (Level::DEBUG, "openraft::core", Level::WARN, false),
            (Level::ERROR, "sled::io", Level::WARN, false),
        ];
        for (set, target, said, expected) in rows {
            assert_eq!(targets(set).would_enable(target, &said), expected, "{set} {target} {said}");
        }
        assert_eq!(level("Err"), Some(Level::ERROR));
        assert_eq!(level("loud"), None);
    }
}
