//! The command line: `agent` starts a node; everything else is an ordinary client of the HTTP API.

/// Runs the command that the arguments name.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
