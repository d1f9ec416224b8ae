//! Builds the parts, starts them, stops them in order; alone knows them all.
//!
//! `start` is the order of a start, `settings` what each part gets from the configuration,
//! `banner` what people see of it; here is the life after it: signals, reload, stop.

mod banner;
mod descriptors;
mod identity;
mod known;
mod own_name;
mod peers_file;
mod pool;
mod reload;
mod role;
mod segments;
mod servers;
mod settings;
mod start;
mod systemd;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Config};
use crate::gossip::{self, Pools};
use crate::local::{self, Local};
use crate::raft::{self, Consensus};
use crate::watches::Watches;
use crate::{dns, http};

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version that this agent's members and service `consul` show: that of the reference whose API it
/// speaks, for clients that look before they use a feature.
pub const REFERENCE_VERSION: &str = "1.8.7";

/// A node could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something about the file system.
    #[error("{what}")]
    Io {
        /// The attempted step.
        what: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The identity of this node cannot be read.
    #[error("{0}")]
    Identity(String),
    /// A mode that does not exist yet.
    #[error("{0}")]
    NotSupported(String),
    /// The agent's own services and checks.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// A gossip pool.
    #[error(transparent)]
    Gossip(#[from] gossip::Error),
    /// Consensus.
    #[error("consensus could not start")]
    Raft(#[from] raft::Error),
}

/// Starts a node and runs it until a signal or a broken part ends it. `reread` reads the
/// configuration again, for a reload.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the banner and the last word of an agent"
)]
pub fn run(config: Config, reread: impl Fn() -> Result<Config, config::Error>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("==> cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("==> Starting Muster agent...");
    let graceful = (config.leave_on_terminate, !config.skip_leave_on_interrupt);
    let pid_file = config.pid_file.clone();
    let code = runtime.block_on(async move {
        let mut node = match Box::pin(Node::start(config)).await {
            Ok(node) => node,
            Err(e) => {
                eprintln!("==> {}", chain(&e));
                return ExitCode::FAILURE;
            }
        };
        systemd::ready();
        let code = node.until_ended(graceful, &reread).await;
        systemd::stopping();
        let code = tokio::select! {
            () = node.stop() => code,
            reason = out_of_patience() => {
                warn!(reason, "ending at once");
                1
            }
        };
        info!("Exit code: code={code}");
        ExitCode::from(code)
    });
    if let Some(path) = pid_file
        // An agent that could not start leaves alone what another one wrote.
        && std::fs::read_to_string(&path).is_ok_and(|it| it.trim() == std::process::id().to_string())
    {
        // Already gone is as good as removed.
        let _ = std::fs::remove_file(path);
    }
    // Tasks that ignore their cancellation must not hold the process back.
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}

/// For another server to lead before the one that leads stops. An election takes about as long.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// For the other servers to agree to go on without one that leaves; as the reference waits.
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// Longest time for an agent to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// Returns why a stop is cut short: whoever asked asks again, or it takes too long.
async fn out_of_patience() -> &'static str {
    let stream = |kind| signal(kind).expect("the runtime handles signals");
    let (mut int, mut term) = (stream(SignalKind::interrupt()), stream(SignalKind::terminate()));
    tokio::select! {
        _ = int.recv() => "a second signal",
        _ = term.recv() => "a second signal",
        () = tokio::time::sleep(STOP_TIME_MAX) => "the stop takes too long",
    }
}

/// An error with its sources, once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Which part ended, in words.
fn part(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) if error.is_panic() => "unknown: it panicked".to_owned(),
        Some(Err(_)) => "unknown: it was cancelled".to_owned(),
        None => "all".to_owned(),
    }
}

/// Resolves when agreement ended on a server.
async fn failed(consensus: Option<&Consensus>) -> String {
    match consensus {
        Some(consensus) => consensus.failed().await,
        None => std::future::pending().await,
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Only of a server.
    consensus: Option<Consensus>,
    local: Local,
    names: Arc<dns::Handler>,
    pools: Pools,
    data_dir: Option<std::path::PathBuf>,
    id: String,
    /// The configuration as it was read last, to compare a new one with.
    running: Config,
    /// The same, with what waits for a restart as it was before.
    effective: Config,
    /// Configuration as `/v1/agent/self` shows it.
    shown: http::Shown,
    /// Questions that are followed for the operator; a reload changes them.
    watches: Watches,
    /// Access to catalog, keys and sessions.
    backend: http::Backend,
    /// Limits on clients; a reload changes them.
    limits: http::Limits,
    wishes: mpsc::Receiver<http::ReloadRequest>,
    /// Told when configuration files have changed, if they are followed.
    file_changes: mpsc::Receiver<()>,
    /// The files that were read last.
    followed: watch::Sender<config::Followed>,
    /// Ends the agent's part in the catalog, before all others.
    claiming: CancellationToken,
    shutdown: CancellationToken,
    leave: http::Departure,
    tasks: JoinSet<&'static str>,
}

impl Node {
    /// Waits for the end: a signal, a request to leave, or a part that ended unasked.
    /// Returns the exit code.
    async fn until_ended(
        &mut self,
        (leave_on_term, leave_on_int): (bool, bool),
        reread: &impl Fn() -> Result<Config, config::Error>,
    ) -> u8 {
        let stream = |kind| signal(kind).expect("the runtime handles signals");
        let (mut int, mut term, mut hup) = (
            stream(SignalKind::interrupt()),
            stream(SignalKind::terminate()),
            stream(SignalKind::hangup()),
        );
        // Without a watchdog nobody has to hear that the agent is alive.
        let mut alive = systemd::watchdog().map(tokio::time::interval);
        let mut tick = async || match &mut alive {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        };
        loop {
            let (name, graceful) = tokio::select! {
                () = tick() => {
                    systemd::alive();
                    continue;
                }
                _ = int.recv() => ("interrupt", leave_on_int),
                _ = term.recv() => ("terminated", leave_on_term),
                _ = hup.recv() => {
                    // What came of it is in the log.
                    let _ = self.reload(reread).await;
                    continue;
                }
                Some(()) = self.file_changes.recv() => {
                    // What came of it is in the log.
                    let _ = self.reload(reread).await;
                    continue;
                }
                Some(wish) = self.wishes.recv() => {
                    // Whoever asked may have gone away.
                    let _ = wish.send(self.reload(reread).await);
                    continue;
                }
                () = self.leave.wanted() => ("leave", true),
                reason = failed(self.consensus.as_ref()) => {
                    error!(reason, "agreement ended: what this server says would grow old");
                    return 1;
                }
                ended = self.tasks.join_next() => {
                    error!(part = part(ended), "a part of the agent ended unasked");
                    return 1;
                }
            };
            info!(signal = name, graceful, "stopping");
            if !graceful {
                return 1;
            }
            return tokio::select! {
                () = self.say_goodbye() => 0,
                reason = out_of_patience() => {
                    warn!(reason, "stopping without a proper good-bye");
                    1
                }
            };
        }
    }

    /// Leaves the pool, as a server also the agreement: those that stay go on without this one.
    async fn say_goodbye(&self) {
        // Who has left must not come back to correct the catalog.
        self.claiming.cancel();
        if let Some(consensus) = &self.consensus {
            consensus.hand_over(HAND_OVER_MAX).await;
        }
        self.pools.leave().await;
        if let Some(consensus) = &self.consensus
            && let Err(error) = consensus.leave(RELEASE_MAX).await
        {
            warn!(
                "this server is still counted among those that agree: {}; remove it with `muster operator raft remove-peer`",
                chain(&error)
            );
        }
        peers_file::forget(self.data_dir.as_deref(), &self.pools).await;
    }

    /// Stops the parts in reverse order of their start.
    async fn stop(mut self) {
        self.leave.conclude();
        if let Some(consensus) = &self.consensus {
            // A restart of one server after the other need not cost an election each time.
            consensus.hand_over(HAND_OVER_MAX).await;
        }
        self.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
            warn!("some requests were still open after 5 s and were cut");
        }
        if let Some(consensus) = &self.consensus {
            consensus.shutdown().await;
        }
        info!("shutdown complete");
    }
}
