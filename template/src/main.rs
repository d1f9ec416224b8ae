//! muster-template: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_template::cli::main(std::env::args_os())
}
