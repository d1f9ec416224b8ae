//! Side-by-side figures: the same work on Muster and, where given, on the reference, in turn, on
//! the same machine in the same run. Quote ratios, not absolute times.

mod checks;
mod cluster;
mod dns;
mod etcd;
mod pool;
mod scenario;
mod server;
mod stack;
mod watchers;
mod wire;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use scenario::{Figure, SCENARIOS};

/// The scenario of several servers.
const CLUSTER: &str = "cluster";
/// The scenario of many agents.
const POOL: &str = "pool";

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
    /// The reference's binary; without this, `consul` where it is on the path.
    #[arg(long)]
    consul: Option<PathBuf>,
    /// etcd's binary; without this, `etcd` where it is on the path.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Muster alone, whatever is on the path.
    #[arg(long, conflicts_with_all = ["consul", "etcd"])]
    alone: bool,
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
        println!("{POOL:<24} fifty agents: meeting, idling, death of one, requests through one");
        return Ok(());
    }
    // Thousands of watchers on both ends of loopback.
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let consul = args.other(args.consul.as_ref(), "consul");
    let etcd = args.other(args.etcd.as_ref(), "etcd");
    for (name, binary) in [("consul", &consul), ("etcd", &etcd)] {
        match binary {
            Some(binary) => println!("{name}: {}", binary.display()),
            None if args.alone => println!("{name}: not wanted"),
            None => println!("{name}: not on the path (`--{name} FILE` names it), not measured"),
        }
    }
    println!(
        "{:<52} {:>12} {:>12} {:>8} {:>12} {:>8}",
        "figure", "muster", "reference", "ratio", "etcd", "ratio"
    );
    let is_wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|o| name.starts_with(o.as_str()));
    let mut ran = 0;
    for scenario in SCENARIOS.iter().filter(|scenario| is_wanted(scenario.name)) {
        ran += 1;
        let ours = runtime.block_on(scenario.run(&args.muster, args.scale))?;
        let reference = match &consul {
            Some(binary) => runtime.block_on(scenario.run(binary, args.scale))?,
            None => Vec::new(),
        };
        let etcd = match &etcd {
            Some(binary) => runtime.block_on(etcd::run(scenario.name, binary, args.scale))?,
            None => None,
        };
        print_rows(scenario.name, &ours, &reference, &etcd.unwrap_or_default());
    }
    if is_wanted(CLUSTER) {
        ran += 1;
        let work = |binary: &Path| runtime.block_on(cluster::run(binary, args.scale));
        let reference = consul.as_deref().map_or(Ok(Vec::new()), work)?;
        print_rows(CLUSTER, &work(&args.muster)?, &reference, &[]);
    }
    if is_wanted(POOL) {
        ran += 1;
        let work = |binary: &Path| runtime.block_on(pool::run(binary, args.scale));
        let reference = consul.as_deref().map_or(Ok(Vec::new()), work)?;
        print_rows(POOL, &work(&args.muster)?, &reference, &[]);
    }
    if ran == 0 {
        bail!("no scenario starts with {:?}\nhint: --list names them", args.only);
    }
    Ok(())
}

impl Compare {
    /// A binary that was named, or one of this name on the path.
    fn other(&self, named: Option<&PathBuf>, name: &str) -> Option<PathBuf> {
        if self.alone || named.is_some() {
            return named.cloned();
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    }
}

#[expect(clippy::print_stdout, reason = "a report is what this program makes")]
fn print_rows(scenario: &str, ours: &[Figure], reference: &[Figure], etcd: &[Figure]) {
    for figure in ours {
        let name = format!("{scenario}: {} [{}]", figure.name, figure.unit);
        let mut line = format!("{name:<52} {:>12.1}", figure.value);
        for others in [reference, etcd] {
            let is_same = |other: &&Figure| other.name == figure.name && other.unit == figure.unit;
            match others.iter().find(is_same) {
                None => {
                    let _ = write!(line, " {:>12} {:>8}", "-", "-");
                }
                Some(other) => {
                    // Above 1 is better than the other, whatever the figure counts.
                    let ratio = if figure.more_is_better {
                        figure.value / other.value
                    } else {
                        other.value / figure.value
                    };
                    // Nothing against nothing is as good.
                    let ratio = if ratio.is_nan() { 1.0 } else { ratio };
                    // Nothing against something is no ratio.
                    let ratio =
                        if ratio.is_finite() { format!("{ratio:.1}x") } else { "-".to_owned() };
                    let _ = write!(line, " {:>12.1} {ratio:>8}", other.value);
                }
            }
        }
        println!("{line}");
    }
}
