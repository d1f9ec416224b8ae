//! Side-by-side figures: the same work on Muster and, where given, on the reference, in turn, on
//! the same machine in the same run. Quote ratios, not absolute times.

mod checks;
mod cluster;
mod dns;
mod scenario;
mod server;
mod stack;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use scenario::{Figure, SCENARIOS};

/// The scenario of several servers.
const CLUSTER: &str = "cluster";

/// Load generator and side-by-side figures.
#[derive(Debug, Parser)]
#[command(version)]
struct Line {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// The same work on Muster and on the reference: figures and ratios.
    Compare(Compare),
    /// Container start to catalog to nginx, on the running stack.
    Stack(stack::Args),
}

/// Runs every scenario (or those named) on each server and prints figures and ratios.
#[derive(Debug, Parser)]
struct Compare {
    /// Muster's binary, a release build.
    #[arg(long, default_value = "target/release/muster")]
    muster: PathBuf,
    /// The reference's binary; without it only Muster is measured.
    #[arg(long)]
    consul: Option<PathBuf>,
    /// Scenarios to run, by the start of their names; all without.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Scales the number of requests.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Print the names of the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    match Line::parse().work {
        Work::Compare(args) => compare(&args),
        Work::Stack(args) => stack::run(&args),
    }
}

#[expect(clippy::print_stdout, reason = "a report is what this program makes")]
fn compare(args: &Compare) -> Result<()> {
    if args.list {
        for scenario in SCENARIOS {
            println!("{:<24} {}", scenario.name, scenario.about);
        }
        println!("{CLUSTER:<24} three servers: start, durable writes, death of the leader");
        return Ok(());
    }
    // Thousands of watchers on both ends of loopback.
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{:<44} {:>12} {:>12} {:>8}", "figure", "muster", "reference", "ratio");
    let mut ran = 0;
    for scenario in SCENARIOS {
        if !args.only.is_empty() && !args.only.iter().any(|o| scenario.name.starts_with(o.as_str()))
        {
            continue;
        }
        ran += 1;
        let ours = runtime.block_on(scenario.run(&args.muster, args.scale))?;
        let theirs = match &args.consul {
            Some(binary) => runtime.block_on(scenario.run(binary, args.scale))?,
            None => Vec::new(),
        };
        for (i, figure) in ours.iter().enumerate() {
            print_row(scenario.name, figure, theirs.get(i));
        }
    }
    if args.only.is_empty() || args.only.iter().any(|o| CLUSTER.starts_with(o.as_str())) {
        ran += 1;
        let ours = runtime.block_on(cluster::run(&args.muster, args.scale))?;
        let theirs = match &args.consul {
            Some(binary) => runtime.block_on(cluster::run(binary, args.scale))?,
            None => Vec::new(),
        };
        for (i, figure) in ours.iter().enumerate() {
            print_row(CLUSTER, figure, theirs.get(i));
        }
    }
    if ran == 0 {
        bail!("no scenario starts with {:?}\nhint: --list names them", args.only);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a report is what this program makes")]
fn print_row(scenario: &str, ours: &Figure, theirs: Option<&Figure>) {
    let name = format!("{scenario}: {} [{}]", ours.name, ours.unit);
    match theirs {
        Some(theirs) => {
            // Above 1 is better than the reference, whatever the figure counts.
            let ratio = if ours.more_is_better {
                ours.value / theirs.value
            } else {
                theirs.value / ours.value
            };
            // Nothing against nothing is as good.
            let ratio = if ratio.is_nan() { 1.0 } else { ratio };
            println!("{name:<44} {:>12.1} {:>12.1} {ratio:>7.1}x", ours.value, theirs.value);
        }
        None => println!("{name:<44} {:>12.1} {:>12} {:>8}", ours.value, "-", "-"),
    }
}
