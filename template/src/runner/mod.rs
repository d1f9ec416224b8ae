//! The loop: hears what changed, renders, puts changes in place, keeps the child running.
//!
//! One task owns all state; everything that can happen arrives as one of a few inputs, and after each of them one
//! [`Runner::turn`] brings the world in line. Changes of files run in tasks of their own, one per group at most, so
//! that a group whose program is slow to reload does not hold up another.

mod change;
mod group;
mod report;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use report::{Counts, GroupReport, Report};

use crate::child::{self, Handle};
use crate::config::{self, Config};
use crate::effects::Effects;
use crate::facts::{Facts, Query};
use crate::file_events::{FileEvents, Followed};
use crate::render::Surroundings;
use crate::transaction::{Committed, Failed, Reload, Transaction};
use crate::watches::{Catalog, News, Watches};
use change::{Basis, Refused};
pub(crate) use group::engine;
use group::{Group, Usage};

/// News that wait for the loop; a watch that finds the queue full waits.
const NEWS_MAX: usize = 1024;

/// How long the first answers may take before the child is started with the files of the last run.
const PATIENCE: Duration = Duration::from_secs(2);

/// What can be asked of a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// End.
    Stop,
    /// Read the configuration again.
    Reload,
    /// Pass a signal on to the child.
    Pass(Signal),
}

/// Who asks for the configuration to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The operator.
    BySignal,
    /// An event of one of its files, which may be equal.
    ByFile,
}

/// Whether the daemon ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It runs until it is told to end.
    Forever,
    /// It ends when every group is in place or has failed, or when this time is over.
    Once {
        /// How long it may take; `None` for as long as it takes.
        timeout: Option<Duration>,
    },
}

impl Mode {
    /// When a daemon that was started at `started` gives up.
    fn deadline(self, started: Instant) -> Option<Instant> {
        match self {
            Self::Forever => None,
            Self::Once { timeout } => timeout.map(|timeout| started + timeout),
        }
    }
}

/// How a catalog is made from its settings; asked again when they change.
pub type MakeCatalog = Box<dyn Fn(&config::Catalog) -> Result<Arc<dyn Catalog>, String> + Send>;

/// How the configuration is read again.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, config::Error> + Send>;

/// The daemon.
pub struct Runner {
    config: Config,
    mode: Mode,
    make_catalog: MakeCatalog,
    read_config: ReadConfig,
    surroundings: Arc<Surroundings>,
    facts: Facts,
    watches: Watches,
    news: mpsc::Receiver<(Query, News)>,
    /// Why a question has no fresh answer, for those that have none.
    complaints: BTreeMap<Query, Complaint>,
    heard: bool,
    groups: BTreeMap<String, Group>,
    child: Option<Handle>,
    child_state: Option<watch::Receiver<child::State>>,
    child_started: bool,
    changes: JoinSet<Done>,
    report: watch::Sender<Arc<Report>>,
    started: Instant,
    gave_up_waiting: bool,
    say_at: Option<Instant>,
    files: Files,
    /// Why the configuration could not be read when it was read last.
    misconfigured: Option<String>,
}

/// The files that are followed while the daemon runs.
struct Files {
    templates: Followed,
    destinations: Followed,
    configuration: Followed,
}

/// Why a question has no fresh answer.
struct Complaint {
    why: String,
    /// Whether nobody answered, rather than refused.
    away: bool,
}

/// A change that ended.
struct Done {
    group: String,
    result: Result<Committed, Failed>,
    /// What new texts were made from, and what was left out for them.
    made: Option<(Basis, Vec<Refused>)>,
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The catalog's settings are wrong.
    #[error("catalog: {0}")]
    Catalog(String),
    /// The state directory cannot be used.
    #[error("state of group `{group}`")]
    State {
        /// The group.
        group: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Runner {
    /// Opens all groups, repairing what an earlier run left behind. Nothing is asked or started before [`run`].
    ///
    /// # Errors
    /// The catalog's settings or the state directory.
    ///
    /// [`run`]: Runner::run
    pub fn new(
        config: Config,
        mode: Mode,
        events: &FileEvents,
        make_catalog: MakeCatalog,
        read_config: ReadConfig,
    ) -> Result<Self, Error> {
        let surroundings = Arc::new(Surroundings {
            environment: std::env::vars().collect(),
            ..Surroundings::default()
        });
        let catalog = make_catalog(&config.catalog).map_err(Error::Catalog)?;
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let mut runner = Self {
            mode,
            make_catalog,
            read_config,
            surroundings,
            facts: Facts::default(),
            watches: Watches::new(catalog, sender),
            news,
            complaints: BTreeMap::new(),
            heard: false,
            groups: BTreeMap::new(),
            child: None,
            child_state: None,
            child_started: false,
            changes: JoinSet::new(),
            report: watch::Sender::default(),
            started: Instant::now(),
            gave_up_waiting: false,
            say_at: None,
            files: Files {
                templates: events.follow(),
                destinations: events.follow(),
                configuration: events.follow(),
            },
            misconfigured: None,
            config,
        };
        for settings in runner.config.groups.clone() {
            runner.open(settings)?;
        }
        // Who asks from the first moment on is told that nothing is in place yet.
        runner.publish();
        Ok(runner)
    }

    fn open(&mut self, mut settings: config::Group) -> Result<(), Error> {
        let name = settings.transaction.name.clone();
        if self.mode != Mode::Forever && settings.transaction.reload == Reload::Child {
            settings.transaction.reload = Reload::None;
            settings.transaction.verify = crate::transaction::Verify::default();
        }
        let group = Group::open(settings, &self.config.state_dir, Arc::clone(&self.surroundings))
            .map_err(|source| Error::State { group: name.clone(), source })?;
        self.groups.insert(name, group);
        Ok(())
    }

    /// Follows the state of the daemon.
    pub fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.report.subscribe()
    }

    /// Runs until told to stop, until the child has ended for good, or once. Returns the exit code.
    pub async fn run(mut self, mut control: mpsc::Receiver<Control>) -> i32 {
        if self.mode == Mode::Forever {
            self.supervise();
        }
        self.follow_files();
        let code = loop {
            self.turn().await;
            if let Some(code) = self.finished() {
                break code;
            }
            let due = self.due();
            tokio::select! {
                Some((query, news)) = self.news.recv() => {
                    self.hear(&query, news);
                    // Everything that arrived meanwhile is one change.
                    while let Ok((query, news)) = self.news.try_recv() {
                        self.hear(&query, news);
                    }
                }
                Some(done) = self.changes.join_next(), if !self.changes.is_empty() => self.done(done),
                asked = control.recv() => match asked {
                    None | Some(Control::Stop) => break 0,
                    Some(Control::Reload) => self.reload(Asked::BySignal).await,
                    Some(Control::Pass(signal)) => if let Some(child) = &self.child { child.signal(signal).await },
                },
                () = child_moved(self.child_state.as_mut()) => {
                    let runs = matches!(self.child.as_ref().map(Handle::state), Some(child::State::Running { .. }));
                    let unread = |group: &&mut Group| runs && group.usage == Usage::Unread;
                    self.groups.values_mut().filter(unread).for_each(|group| group.acknowledge.hurry());
                }
                () = self.files.templates.changed() => {
                    self.groups.values_mut().for_each(Group::look_at_sources);
                }
                () = self.files.destinations.changed() => {
                    let now = Instant::now();
                    self.groups.values_mut().for_each(|group| group.look_at_destinations(now));
                }
                () = self.files.configuration.changed() => self.reload(Asked::ByFile).await,
                () = until(due) => {}
            }
        };
        self.stop().await;
        code
    }

    /// Follows the files that are read and written now.
    fn follow_files(&self) {
        let groups = || self.groups.values();
        self.files.templates.set(groups().flat_map(Group::source_paths).cloned());
        self.files.destinations.set(groups().flat_map(Group::destination_paths).cloned());
        if self.mode == Mode::Forever {
            self.files.configuration.set(self.config.followed.iter().cloned());
        }
    }

    /// Takes in what a watch heard.
    fn hear(&mut self, query: &Query, news: News) {
        let now = Instant::now();
        match news {
            News::Answer(value) => {
                self.heard = true;
                if self.complaints.remove(query).is_some() {
                    tracing::info!(%query, "answers again");
                }
                let allowed = self.facts.refuse(query, None);
                if self.facts.set(query.clone(), value) || allowed {
                    self.blame(query, now);
                }
            }
            News::Unreachable(why) => self.complain(query, why, true),
            News::Refused(why) => {
                if self.facts.refuse(query, Some(why.clone())) {
                    self.blame(query, now);
                }
                self.complain(query, why, false);
            }
        }
    }

    /// Notes that the groups that ask `query` are to be rendered again.
    fn blame(&mut self, query: &Query, now: Instant) {
        let concerned = self.groups.values_mut().filter(|group| group.used.contains(query));
        concerned.for_each(|group| group.blame(query, self.started, now));
    }

    fn complain(&mut self, query: &Query, why: String, away: bool) {
        if !self.complaints.contains_key(query) {
            tracing::warn!(%query, "no answer: {why}; what is known stays in use");
        }
        self.complaints.insert(query.clone(), Complaint { why, away });
    }

    /// Brings everything in line with what is known.
    async fn turn(&mut self) {
        let now = Instant::now();
        for group in self.groups.values_mut() {
            if group.dirty || group.again_at.is_some_and(|at| at <= now) {
                group.render(&self.facts, now);
            }
        }
        let wanted: BTreeSet<Query> =
            self.groups.values().flat_map(|group| group.used.iter().cloned()).collect();
        self.watches.want(&wanted);
        self.facts.retain(|query| wanted.contains(query));
        self.complaints.retain(|query, _| wanted.contains(query));
        self.start_changes(now);
        self.start_child(now).await;
        self.say(now);
        self.publish();
    }

    /// Says what the groups wait for, and notes when that is to be said next.
    fn say(&mut self, now: Instant) {
        let why = |query: &Query| Some(self.complaints.get(query)?.why.clone());
        self.say_at = self.groups.values_mut().filter_map(|group| group.say(now, why)).min();
    }

    /// Starts the changes that are due, and those that wait for a program that runs now.
    fn start_changes(&mut self, now: Instant) {
        let effects = Effects { child: self.child.clone() };
        for (name, group) in self.groups.iter_mut().filter(|(_, group)| !group.busy()) {
            let due = group.schedule.due().is_some_and(|due| due <= now);
            let (settings, ledger) =
                (group.settings.transaction.clone(), Arc::clone(&group.ledger));
            let (effects, name) = (effects.clone(), name.clone());
            if let (true, Some(change)) = (due, group.change(effects.clone())) {
                group.begin(&change.texts.version, now);
                self.changes.spawn(async move {
                    let outcome = change.run().await;
                    Done {
                        group: name,
                        result: outcome.result,
                        made: Some((outcome.basis, outcome.refused)),
                    }
                });
            } else if self.child_started && group.acknowledge_due(now) {
                // What has shown already that it uses the files is not told once more.
                let fresh = group.usage == Usage::Unnoted
                    || group.usage == Usage::Unread && settings.reload == Reload::Child;
                group.begin("", now);
                self.changes.spawn(async move {
                    let result =
                        Transaction::new(&settings, &ledger, &effects).acknowledge(fresh).await;
                    Done { group: name, result, made: None }
                });
            }
        }
    }

    /// Starts the child when all files it may read are in place; or, when the catalog is away, with the files of the
    /// last run, for an old configuration serves better than none.
    async fn start_child(&mut self, now: Instant) {
        if self.child_started {
            return;
        }
        let impatient = !self.complaints.is_empty() || now >= self.started + PATIENCE;
        if impatient && !self.gave_up_waiting {
            self.gave_up_waiting = true;
            // What runs once either succeeds or changes nothing.
            self.groups
                .values()
                .filter(|group| self.mode == Mode::Forever && !group.placed && !group.busy())
                .for_each(Group::install_last_good);
        }
        let ready = |group: &Group| {
            group.placed
                || (!group.busy()
                    && group.files_exist()
                    && (impatient || group.trouble().is_some()))
        };
        if self.groups.values().all(ready) {
            if let Some(child) = &self.child {
                child.start().await;
            }
            self.child_started = true;
            // Those that waited for it are looked at again.
            self.groups.values_mut().for_each(|group| group.acknowledge.hurry());
            self.start_changes(now);
        }
    }

    /// Makes the child that the configuration asks for; it waits for its files.
    fn supervise(&mut self) {
        let record = self.config.state_dir.join("child");
        let settings = self.config.child.clone();
        self.child = settings.map(|settings| child::supervise(settings, record));
        self.child_state = self.child.as_ref().map(Handle::watch);
        self.child_started = false;
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done { group, result, made }) => {
                if let Some(group) = self.groups.get_mut(&group) {
                    let now = Instant::now();
                    if let (Ok(_), Some((basis, refused))) = (&result, made) {
                        group.in_use(basis, refused);
                    }
                    group.done(result, now);
                    // What somebody did to the files during the change was not looked at.
                    group.look_at_destinations(now);
                }
            }
            // A change never panics; should it, the journal is in order at the next start, and only there.
            Err(error) => {
                tracing::error!(%error, "a change ended unasked");
                std::process::abort();
            }
        }
    }

    /// When something is due although nothing happens.
    fn due(&self) -> Option<Instant> {
        let groups = self.groups.values();
        let dues = groups.flat_map(|group| {
            let change = group.schedule.due().filter(|_| group.wanted.is_some());
            let acknowledge = group.acknowledge.at().filter(|_| self.child_started);
            // A change under way ends by itself and is heard of then.
            [change.or(acknowledge).filter(|_| !group.busy()), group.again_at]
        });
        let patience =
            (!self.child_started && !self.gave_up_waiting).then(|| self.started + PATIENCE);
        let deadline = self.mode.deadline(self.started);
        dues.flatten().chain(patience).chain(self.say_at).chain(deadline).min()
    }

    /// The exit code, if there is nothing more to do.
    fn finished(&self) -> Option<i32> {
        if let Some(child::State::Ended { code }) = self.child.as_ref().map(Handle::state) {
            tracing::warn!(code, "the child has ended, and so do we");
            return Some(code);
        }
        if self.mode != Mode::Forever && self.groups.values().all(Group::settled) {
            return Some(i32::from(self.groups.values().any(|group| group.trouble().is_some())));
        }
        if self.mode.deadline(self.started).is_some_and(|deadline| deadline <= Instant::now()) {
            for reason in self.report.borrow().unready() {
                tracing::error!("not done in time: {reason}");
            }
            return Some(1);
        }
        None
    }

    /// Reads the configuration again and changes only what is different.
    async fn reload(&mut self, asked: Asked) {
        let config = match (self.read_config)() {
            Ok(config) => config,
            Err(error) => {
                let why = error.to_string();
                if asked == Asked::BySignal || self.misconfigured.as_ref() != Some(&why) {
                    let stays = "the configuration is wrong; the one before stays in use";
                    tracing::error!(error = why, "{stays}");
                }
                self.misconfigured = Some(why);
                return;
            }
        };
        self.misconfigured = None;
        if asked == Asked::ByFile && config == self.config {
            return;
        }
        if config.catalog != self.config.catalog {
            match (self.make_catalog)(&config.catalog) {
                Ok(catalog) => self.watches.replace(catalog),
                Err(error) => {
                    tracing::error!(
                        error,
                        "the configuration is wrong; the one before stays in use"
                    );
                    return;
                }
            }
        }
        if config.state_dir != self.config.state_dir || config.http != self.config.http {
            tracing::warn!("`state_dir` and `http` change only when the program is started again");
        }
        let config = Config { state_dir: self.config.state_dir.clone(), ..config };
        let before = std::mem::replace(&mut self.config, config);
        let names: BTreeSet<_> =
            self.config.groups.iter().map(|group| group.transaction.name.clone()).collect();
        self.groups.retain(|name, _| names.contains(name));
        for settings in self.config.groups.clone() {
            match self.groups.get_mut(&settings.transaction.name) {
                Some(group) if group.settings == settings => {}
                Some(group) => group.reconfigure(settings),
                None => {
                    if let Err(error) = self.open(settings) {
                        tracing::error!(%error, "a new group cannot be used");
                    }
                }
            }
        }
        if self.config.child != before.child {
            tracing::info!("the settings of the child have changed; it is replaced");
            if let Some(child) = self.child.take() {
                child.stop().await;
            }
            self.supervise();
        }
        self.follow_files();
        tracing::info!(groups = self.groups.len(), "read the configuration again");
    }

    fn publish(&mut self) {
        for group in self.groups.values_mut() {
            group.refresh(|query| Some(self.complaints.get(query)?.why.clone()));
        }
        let supervised = self.config.child.is_some() && self.mode == Mode::Forever;
        let state =
            supervised.then(|| self.child.as_ref().map_or(child::State::Waiting, Handle::state));
        let child = state.map(|state| match state {
            child::State::Waiting => "waits for its files".to_owned(),
            child::State::Running { pid, starts } => {
                format!("runs as process {pid}, started {starts} times")
            }
            child::State::Pausing { code } => {
                format!("ended with code {code} and will be started again")
            }
            child::State::Ended { code } => format!("ended with code {code}"),
        });
        let away = self.complaints.iter().find(|(_, complaint)| complaint.away);
        let refused: BTreeMap<_, _> = (self.complaints.iter())
            .filter(|(_, complaint)| !complaint.away)
            .map(|(query, complaint)| (query.to_string(), complaint.why.clone()))
            .collect();
        let reachable = (self.heard || !self.complaints.is_empty()).then_some(away.is_none());
        let error = away.map(|(query, complaint)| format!("{query}: {}", complaint.why));
        self.report.send_replace(Arc::new(Report {
            catalog_reachable: reachable,
            catalog_error: error,
            refused,
            watches: self.watches.len(),
            child,
            child_runs: matches!(state, Some(child::State::Running { .. })),
            groups: self
                .groups
                .iter()
                .map(|(name, group)| (name.clone(), group.report.clone()))
                .collect(),
        }));
    }

    /// Ends everything. A change under way is left to the journal, as after a crash: waiting for it could take longer
    /// than whoever stops us is willing to wait.
    async fn stop(mut self) {
        self.changes.shutdown().await;
        if let Some(child) = &self.child {
            child.stop().await;
        }
    }
}

/// Waits until the child's state changes; for ever without a child.
async fn child_moved(child: Option<&mut watch::Receiver<child::State>>) {
    match child {
        Some(child) => {
            if child.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// Waits until `due`; for ever without.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
