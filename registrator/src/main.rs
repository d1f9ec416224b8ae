//! muster-registrator: arguments in, exit code out.

use anyhow::Context as _;
use muster_client::Client;
use muster_registrator::agent::Agent;
use muster_registrator::args::Args;
use muster_registrator::docker::Engine;
use muster_registrator::reconcile::Status;
use muster_registrator::{identity, orphans, probe, runner};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let args = Args::read();
    start_logs(&args);
    tokio::runtime::Runtime::new().context("cannot start the runtime")?.block_on(run(args))
}

/// Ours at the chosen level, everybody else's from `warn`: the engine's client logs every answer.
fn start_logs(args: &Args) {
    let level = args.log_level.to_string().to_lowercase();
    let filter = format!("warn,muster_registrator={level},muster_client={level}");
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    if args.log_json {
        subscriber.json().init();
    } else {
        subscriber.init();
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let engine = Engine::new(&args.engine_address()?)?;
    let client = Client::new(args.client_settings()?)?;
    let mut plan = args.plan_settings()?;
    let policy = args.policy()?;
    let (status_to, status) = watch::channel(Status::default());
    if let Some(address) = args.http_addr {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (--http-addr)"))?;
        tokio::spawn(probe::serve(listener, status));
    }

    let stop = stop_on_signals()?;
    orphans::collect().context("cannot wait for SIGCHLD")?;
    let found = tokio::select! {
        found = identity::discover(&engine, args.instance.clone()) => found,
        () = stop.cancelled() => return Ok(()),
    };
    info!(
        instance = found.instance,
        engine = engine.address(),
        catalog = client.settings().address,
        version = env!("CARGO_PKG_VERSION"),
        "muster-registrator starts"
    );
    plan.instance = found.instance;
    plan.address.own_networks = found.networks;
    let settings = runner::Settings {
        plan,
        policy,
        on_exit: args.on_exit(),
        attempts_max: args.attempts_max(),
    };
    runner::run(engine, Agent::new(client), settings, status_to, stop).await?;
    Ok(())
}

/// SIGTERM and SIGINT end the loop in an orderly way.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}
