//! The program this daemon keeps running, such as nginx in the foreground.
//!
//! ```text
//!             start            ends               pause over
//!  Waiting ─────────▶ Running ───────▶ Pausing ─────────────▶ Running
//!                        │  restart = never: Ended(code)
//!                        └─ stop: stop_signal, kill_timeout, KILL ─▶ Ended
//! ```
//!
//! One task owns the process; everybody else holds a [`Handle`]. The child outlives everything but its own settings:
//! a reload of the daemon's configuration does not touch it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::private;
use crate::processes::{self, Process};

/// How the child is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables added to its environment.
    pub environment: BTreeMap<String, String>,
    /// Whether only those variables are its environment.
    pub pristine: bool,
    /// What to do when it ends by itself.
    pub restart: Restart,
    /// How it is told to read its files again.
    pub reload: Reload,
    /// How it is told to end.
    pub stop_signal: Signal,
    /// How long it may take to end before it is killed.
    pub kill_timeout: Duration,
    /// The first pause before it is started again; doubles up to `pause_max`.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

/// What to do when the child ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Start it again.
    #[default]
    Always,
    /// Start it again unless its exit code is 0.
    OnFailure,
    /// End the daemon with the child's exit code.
    Never,
}

/// How the child is told to read its files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// By this signal.
    Signal(Signal),
    /// By a restart.
    Restart,
    /// Not at all.
    None,
}

/// What the child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was not started yet.
    Waiting,
    /// It runs.
    Running {
        /// Its process id.
        pid: i32,
        /// How often it was started, this time included.
        starts: u64,
    },
    /// It ended and will be started again.
    Pausing {
        /// Its last exit code.
        code: i32,
    },
    /// It ended for good, with this exit code.
    Ended {
        /// The exit code.
        code: i32,
    },
}

/// A child that ran at least this long is healthy: its next end is a new story, with a short pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// A program needs a moment before it handles signals; until then most signals would end it.
const DEAF_AFTER_START: Duration = Duration::from_millis(250);

/// How long what an ended child left behind may take to end by itself. Workers of a proxy let go of its ports at once,
/// and have this long for the requests under way.
const ORPHANS_GRACE: Duration = Duration::from_millis(500);

/// Wishes that wait for the child's task; more than this, and who wishes waits.
const WISHES_MAX: usize = 16;

enum Wish {
    Start,
    Reload(oneshot::Sender<Result<bool, String>>),
    Signal(Signal),
    Stop,
}

/// Tells the child's task what to do, and shows what the child does. When the last handle is dropped, the child is
/// stopped.
#[derive(Debug, Clone)]
pub struct Handle {
    wishes: mpsc::Sender<Wish>,
    state: watch::Receiver<State>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "Start",
            Self::Reload(_) => "Reload",
            Self::Signal(_) => "Signal",
            Self::Stop => "Stop",
        })
    }
}

impl Handle {
    /// Starts the child unless it runs or waits to run.
    pub async fn start(&self) {
        // The task ends only after the child; then there is nothing to start.
        let _ = self.wishes.send(Wish::Start).await;
    }

    /// Tells the child to read its files again. `false` if it does not run now: it will read them when it starts.
    ///
    /// # Errors
    /// It could not be told.
    pub async fn reload(&self) -> Result<bool, String> {
        let (answer, answered) = oneshot::channel();
        let ended = || "the child has ended".to_owned();
        self.wishes.send(Wish::Reload(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Passes a signal on to the child.
    pub async fn signal(&self, signal: Signal) {
        let _ = self.wishes.send(Wish::Signal(signal)).await;
    }

    /// Ends the child and waits until it has ended. Returns its exit code.
    pub async fn stop(&self) -> i32 {
        let _ = self.wishes.send(Wish::Stop).await;
        let mut state = self.state.clone();
        match state.wait_for(|state| matches!(state, State::Ended { .. })).await.map(|state| *state)
        {
            Ok(State::Ended { code }) => code,
            // The task is gone, and with it the child.
            _ => 0,
        }
    }

    /// What the child does now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Follows what the child does.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

/// Makes a child that waits to be started. `record` is a file that says which process it is, so that after a crash of
/// this daemon the next one finds the child it left behind; that one is ended before another is started, for both want
/// the same ports.
pub fn supervise(settings: Settings, record: PathBuf) -> Handle {
    let (wishes, inbox) = mpsc::channel(WISHES_MAX);
    let (shown, state) = watch::channel(State::Waiting);
    tokio::spawn(Supervisor { settings, inbox, shown, starts: 0, record }.run());
    Handle { wishes, state }
}

/// A process by its id and the moment it started, which together name it for as long as the machine runs.
#[derive(Debug, PartialEq, Eq)]
struct Alive {
    pid: i32,
    started: u64,
}

impl Alive {
    fn of(pid: i32) -> Option<Self> {
        let stat = processes::Stat::of(pid).filter(|stat| !stat.dead)?;
        Some(Self { pid, started: stat.started })
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    fn is_still(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Whether what it started is still there although it is gone itself. No other process gets its id while its group
    /// lives; a group of that id whose processes are older, or that has a leader, is another one.
    fn has_orphans(&self) -> bool {
        let members = processes::group(self.pid);
        !members.is_empty()
            && !members.contains_key(&self.pid)
            && members.values().all(|started| *started >= self.started)
    }
}

impl std::fmt::Display for Alive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} {}", self.pid, self.started)
    }
}

struct Supervisor {
    settings: Settings,
    inbox: mpsc::Receiver<Wish>,
    shown: watch::Sender<State>,
    starts: u64,
    record: PathBuf,
}

/// Why the child does not run any more.
enum End {
    Itself(i32),
    Stopped(i32),
    ToRestart,
}

impl Supervisor {
    async fn run(mut self) {
        if !self.wait_for_start(None).await {
            self.shown.send_replace(State::Ended { code: 0 });
            return;
        }
        self.end_left_behind().await;
        let mut pause = self.settings.pause_min;
        loop {
            let started = Instant::now();
            let end = match self.start() {
                Ok(process) => {
                    let pid = process.pid();
                    let end = self.attend(process, started).await;
                    self.end_orphans(pid).await;
                    end
                }
                Err(error) => {
                    tracing::error!(command = ?self.settings.command, %error, "the child cannot be started");
                    End::Itself(127)
                }
            };
            let code = match end {
                End::ToRestart => continue,
                End::Stopped(code) => {
                    self.forget();
                    self.shown.send_replace(State::Ended { code });
                    return;
                }
                End::Itself(code) => code,
            };
            let again = match self.settings.restart {
                Restart::Always => true,
                Restart::OnFailure => code != 0,
                Restart::Never => false,
            };
            tracing::warn!(code, again, "the child ended by itself");
            self.forget();
            if !again {
                self.shown.send_replace(State::Ended { code });
                return;
            }
            if started.elapsed() >= HEALTHY_AFTER {
                pause = self.settings.pause_min;
            }
            self.shown.send_replace(State::Pausing { code });
            if !self.wait_for_start(Some(Instant::now() + pause)).await {
                self.shown.send_replace(State::Ended { code });
                return;
            }
            pause = (pause * 2).min(self.settings.pause_max);
        }
    }

    /// Waits for a wish to start, or for `due`. `false` means to stop.
    async fn wait_for_start(&mut self, due: Option<Instant>) -> bool {
        loop {
            let wish = tokio::select! {
                wish = self.inbox.recv() => wish,
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => return true,
            };
            match wish {
                // While pausing, only the pause decides: files that changed do not make a crashing child start faster.
                Some(Wish::Start) if due.is_none() => return true,
                Some(Wish::Reload(answer)) => drop(answer.send(Ok(false))),
                Some(Wish::Start | Wish::Signal(_)) => {}
                Some(Wish::Stop) | None => return false,
            }
        }
    }

    fn start(&mut self) -> io::Result<Process> {
        let (program, arguments) =
            self.settings.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments);
        if self.settings.pristine {
            command.env_clear();
        }
        command.envs(&self.settings.environment);
        let process = processes::spawn(&mut command)?;
        self.starts += 1;
        tracing::info!(pid = process.pid(), command = ?self.settings.command, "started the child");
        self.shown.send_replace(State::Running { pid: process.pid(), starts: self.starts });
        let noted = Alive::of(process.pid())
            .map(|alive| private::write(&self.record, alive.to_string().as_bytes()));
        if let Some(Err(error)) = noted {
            tracing::warn!(file = %self.record.display(), %error, "cannot note which process the child is");
        }
        Ok(process)
    }

    /// Forgets the child that has ended.
    fn forget(&self) {
        // A record that stays names a process that is gone, which is found out before it is acted upon.
        let _ = fs::remove_file(&self.record);
    }

    /// Ends the child of a daemon that died before this one.
    async fn end_left_behind(&self) {
        let Ok(text) = fs::read_to_string(&self.record) else { return };
        let Some(left) = Alive::parse(&text) else { return self.forget() };
        if !left.is_still() {
            if left.has_orphans() {
                self.end_orphans(left.pid).await;
            }
            return self.forget();
        }
        tracing::warn!(pid = left.pid, "ending the child that the last run left behind");
        let pid = Pid::from_raw(left.pid);
        let deadline = Instant::now() + self.settings.kill_timeout;
        // That it ends by itself meanwhile is fine.
        let _ = kill(pid, self.settings.stop_signal);
        while left.is_still() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if left.is_still() {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        self.end_orphans(left.pid).await;
        self.forget();
    }

    /// Ends what a child that is gone left behind.
    async fn end_orphans(&self, pid: i32) {
        processes::end_group(pid, self.settings.stop_signal, ORPHANS_GRACE).await;
    }

    /// Carries out wishes until the child ends.
    async fn attend(&mut self, mut process: Process, started: Instant) -> End {
        loop {
            let wish = tokio::select! {
                code = process.wait() => return End::Itself(code.unwrap_or(-1)),
                wish = self.inbox.recv() => wish,
            };
            if matches!(wish, Some(Wish::Reload(_) | Wish::Signal(_))) {
                sleep_until(started + DEAF_AFTER_START).await;
            }
            match (wish, self.settings.reload) {
                (Some(Wish::Start), _) => {}
                (Some(Wish::Signal(signal)), _) => {
                    if let Err(error) = process.signal(signal) {
                        tracing::warn!(%signal, %error, "the child did not get a signal");
                    }
                }
                (Some(Wish::Reload(answer)), Reload::None) => drop(answer.send(Ok(true))),
                (Some(Wish::Reload(answer)), Reload::Signal(signal)) => {
                    drop(answer.send(
                        process.signal(signal).map(|()| true).map_err(|error| error.to_string()),
                    ));
                }
                (Some(Wish::Reload(answer)), Reload::Restart) => {
                    self.stop(&mut process).await;
                    drop(answer.send(Ok(true)));
                    return End::ToRestart;
                }
                (Some(Wish::Stop) | None, _) => return End::Stopped(self.stop(&mut process).await),
            }
        }
    }

    /// Asks the child to end, and kills it with all it started if it does not in time.
    async fn stop(&self, process: &mut Process) -> i32 {
        if let Err(error) = process.signal(self.settings.stop_signal) {
            tracing::debug!(%error, "the child has ended already");
        }
        if let Ok(code) = timeout(self.settings.kill_timeout, process.wait()).await {
            return code.unwrap_or(-1);
        }
        tracing::warn!(timeout = ?self.settings.kill_timeout, "the child does not end; killing it");
        process.kill_group();
        process.wait().await.unwrap_or(-1)
    }
}
