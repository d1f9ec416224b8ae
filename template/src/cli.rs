//! The program: reads flags, sets up logs, runs one of the commands.
//!
//! Exit codes: 0 for a clean end (asked for by TERM or INT too), 1 for a failure, 2 for wrong flags or configuration,
//! otherwise the child's own.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Flags, Subcommand};
use crate::facts::Facts;
use crate::file_events::FileEvents;
use crate::fixture::Fixture;
use crate::guard::Memory;
use crate::render::{Rendered, Surroundings, Texts};
use crate::runner::{Control, Mode, Runner, engine};
use crate::source::HttpCatalog;
use crate::watches::Catalog;
use crate::{private, processes, status};

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

/// How often dead processes are looked for unasked.
const REAP_EVERY: Duration = Duration::from_secs(5);

/// More passes than this, and a template asks for something new each time.
const PASSES_MAX: usize = 100;

/// Runs the program with these arguments, its own name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::parse_from_arguments(arguments) {
        Ok(flags) => flags,
        Err(error) => {
            // Also help and version, which go to standard output and are no error.
            let code = if error.use_stderr() { MISUSED } else { 0 };
            return if error.print().is_ok() { code.into() } else { FAILED.into() };
        }
    };
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(error) => return complain(&error.into(), MISUSED),
    };
    if let Err(error) = logs(&config.log_level) {
        return complain(&error, MISUSED);
    }
    let once = Mode::Once { timeout: config.timeout };
    let done = match flags.command.clone().unwrap_or(Subcommand::Run) {
        Subcommand::Check => Ok(check(&config)),
        _ if flags.parse_only => Ok(check(&config)),
        Subcommand::Render { data, .. } => render(&config, &data),
        Subcommand::Status => in_runtime(show_status(&config)),
        Subcommand::Once => in_runtime(run(config, flags, once)),
        Subcommand::Run if flags.once => in_runtime(run(config, flags, once)),
        Subcommand::Run => in_runtime(run(config, flags, Mode::Forever)),
    };
    match done {
        Ok(code) => code.into(),
        Err(error) => complain(&error, FAILED),
    }
}

#[expect(clippy::print_stderr, reason = "the program's own complaint, before or beside its log")]
fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("muster-template: {error:#}");
    code.into()
}

fn logs(level: &str) -> anyhow::Result<()> {
    // The configuration has made sure that it is none but levels.
    let filter = EnvFilter::try_new(level).with_context(|| format!("log level `{level}`"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

fn in_runtime(work: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Runs the daemon until it ends.
async fn run(config: Config, flags: Flags, mode: Mode) -> anyhow::Result<u8> {
    if config.groups.is_empty() && config.child.is_none() {
        bail!("there is nothing to do: no template is given");
    }
    let _lock = lock(&config.state_dir)?;
    let pid_file = config.pid_file.clone();
    if let Some(path) = &pid_file {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| path.display().to_string())?;
    }
    let http = config.http;
    let events = FileEvents::start().context("cannot follow files")?;
    let for_files = events.clone();
    let make_catalog = move |settings: &crate::config::Catalog| match HttpCatalog::new(
        settings,
        for_files.clone(),
    ) {
        Ok(catalog) => Ok(Arc::new(catalog) as Arc<dyn Catalog>),
        Err(error) => Err(error.explained()),
    };
    let read_config = move || Config::load(&flags);
    let runner = Runner::new(config, mode, &events, Box::new(make_catalog), Box::new(read_config))?;
    let control = signals()?;
    if let Some(address) = http.filter(|_| mode == Mode::Forever) {
        let listener =
            status::listen(address).await.with_context(|| format!("http.addr `{address}`"))?;
        tokio::spawn(status::serve(listener, runner.report()));
    }
    let code = runner.run(control).await;
    if let Some(path) = &pid_file {
        // It may be gone already.
        let _ = std::fs::remove_file(path);
    }
    Ok(u8::try_from(code).unwrap_or(FAILED))
}

/// Makes sure that no other daemon keeps its journals in the same place: two that repair each other's changes would
/// undo them.
fn lock(state_dir: &Path) -> anyhow::Result<nix::fcntl::Flock<std::fs::File>> {
    let path = state_dir.join("lock");
    let opened = private::make_folder(state_dir).and_then(|()| private::create(&path));
    let file = opened.with_context(|| format!("state_dir `{}`", state_dir.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        let path = path.display();
        anyhow::anyhow!(
            "`{path}` is locked ({error}): another muster-template uses this folder for its state; give one of them \
             another: `state_dir` in its configuration, or -state-dir"
        )
    })
}

/// Signals as wishes: TERM, INT and QUIT end the daemon, HUP reads its configuration again, the others are the
/// child's. Dead processes that nobody waits for are collected here too.
fn signals() -> std::io::Result<mpsc::Receiver<Control>> {
    let (sender, control) = mpsc::channel(16);
    let kinds = [
        (SignalKind::terminate(), Control::Stop),
        (SignalKind::interrupt(), Control::Stop),
        (SignalKind::quit(), Control::Stop),
        (SignalKind::hangup(), Control::Reload),
        (SignalKind::user_defined1(), Control::Pass(Signal::SIGUSR1)),
        (SignalKind::user_defined2(), Control::Pass(Signal::SIGUSR2)),
        (SignalKind::window_change(), Control::Pass(Signal::SIGWINCH)),
    ];
    for (kind, wish) in kinds {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(wish).await.is_ok() {}
        });
    }
    let mut children = signal(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            // Now and then too: one that was hidden behind a process of ours is announced only once.
            let _ = tokio::time::timeout(REAP_EVERY, children.recv()).await;
            processes::reap();
        }
    });
    Ok(control)
}

/// Parses everything and lists what the templates ask for before anything is known.
#[expect(clippy::print_stdout, reason = "the command's output")]
fn check(config: &Config) -> u8 {
    let surroundings =
        Surroundings { environment: std::env::vars().collect(), ..Surroundings::default() };
    let mut code = 0;
    for group in &config.groups {
        println!("group {}", group.transaction.name);
        for target in &group.transaction.targets {
            println!("  writes {}", target.destination.display());
        }
        match engine(group, &surroundings) {
            Ok(engine) => {
                let outcome = engine.render(&Facts::default(), &Memory::default(), Instant::now());
                for query in &outcome.used {
                    println!("  asks   {query}");
                }
                if let Rendered::Failed(error) = outcome.result {
                    println!("  error  {error}");
                    code = FAILED;
                }
            }
            Err(error) => {
                println!("  error  {error}");
                code = FAILED;
            }
        }
    }
    code
}

/// Prints what the templates give with the answers of a file.
fn render(config: &Config, data: &Path) -> anyhow::Result<u8> {
    let place = || data.display().to_string();
    let text = std::fs::read_to_string(data).with_context(place)?;
    let fixture: Fixture = serde_json::from_str(&text).with_context(place)?;
    let surroundings =
        Surroundings { environment: std::env::vars().collect(), ..Surroundings::default() };
    let mut out = std::io::stdout().lock();
    for group in &config.groups {
        let engine = engine(group, &surroundings).map_err(anyhow::Error::msg)?;
        let texts = render_with(&engine, &fixture)?;
        for (target, text) in group.transaction.targets.iter().zip(&texts.texts) {
            if config.groups.len() > 1 || group.transaction.targets.len() > 1 {
                writeln!(out, "> {}", target.destination.display())?;
            }
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(0)
}

fn render_with(engine: &crate::render::Engine, fixture: &Fixture) -> anyhow::Result<Texts> {
    let mut facts = Facts::default();
    for _ in 0..PASSES_MAX {
        let outcome = engine.render(&facts, &Memory::default(), Instant::now());
        match outcome.result {
            Rendered::Complete(texts) => return Ok(texts),
            Rendered::Incomplete => fixture.answer(&outcome.missing, &mut facts),
            Rendered::Waiting(reasons) => {
                bail!("waits: {}", reasons.into_iter().collect::<Vec<_>>().join("; "))
            }
            Rendered::Failed(error) => bail!("{error}\n{}", error.report),
        }
    }
    bail!("the template asks for something new in each of {PASSES_MAX} passes")
}

/// Prints the state of the daemon that this configuration runs.
#[expect(clippy::print_stdout, reason = "the command's output")]
async fn show_status(config: &Config) -> anyhow::Result<u8> {
    use crate::transaction::World as _;
    let Some(address) = config.http else { bail!("the configuration has no `http.addr`") };
    let url = format!("http://{address}/v1/templates");
    let state = crate::effects::Effects::default().get(&url).await.map_err(anyhow::Error::msg)?;
    print!("{state}");
    Ok(0)
}
