//! The command line: `agent` starts a node; everything else is an ordinary client of the HTTP API.

mod agent;

use std::process::ExitCode;

/// Runs the command that the arguments name.
#[expect(clippy::print_stderr, reason = "the command line talks")]
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((command, rest)) if command == "agent" => agent::run(rest),
        _ => {
            eprintln!("Usage: muster agent [options]");
            ExitCode::from(127)
        }
    }
}
