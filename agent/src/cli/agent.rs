//! `muster agent`: starts a node and runs it until a signal ends it.

use std::process::ExitCode;

use super::layout;
use crate::config::{self, Wanted};
use crate::{node, telemetry};

/// Runs the agent that these flags describe. The exit code is the reference's: 0 after leaving
/// gracefully, 1 otherwise.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line talks")]
pub(super) fn run(args: &[String]) -> ExitCode {
    let config = match config::from_args(args) {
        Ok(Wanted::Help) => {
            print!("{}", config::help());
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Agent(config)) => *config,
        Err(error) => {
            eprintln!("==> {error}");
            return ExitCode::FAILURE;
        }
    };
    // Before anything is written: a definition that is wrong must not leave half a start behind.
    if let Err(error) = config.judge_definitions() {
        eprintln!("==> {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = telemetry::start(&config.log) {
        eprintln!("==> {}", layout::chain(&error));
        return ExitCode::FAILURE;
    }
    let args = args.to_vec();
    node::run(config, move || match config::from_args(&args)? {
        Wanted::Agent(config) => Ok(*config),
        Wanted::Help => Err(config::Error("the arguments ask for help".into())),
    })
}
