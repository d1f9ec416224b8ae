//! `validate`.

use std::path::PathBuf;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec};
use crate::config;

pub(super) static VALIDATE: Spec = Spec {
    path: "validate",
    synopsis: "Checks configuration files",
    operands: "FILE_OR_DIRECTORY...",
    about: "Reads configuration files as the agent would, and says what is wrong with them. \
Directories count with all their .json and .hcl files. Do this before a reload or a restart.

    $ muster validate /etc/muster.d",
    flags: &[
        Flag::text("config-format", "json|hcl", "Read all files as this, whatever their names."),
        Flag::switch("quiet", "Print nothing when all is well."),
    ],
    common_flags: CommonFlags::None,
    run: validate,
};

fn validate(call: &Call) -> Outcome {
    if call.operands.is_empty() {
        return Err(Failure::new("Must specify at least one config file or directory"));
    }
    let sources: Vec<PathBuf> = call.operands.iter().map(PathBuf::from).collect();
    let format = call.values.text("config-format").filter(|format| !format.is_empty());
    let config = config::validate(&sources, format)
        .and_then(|config| config.judge_definitions().map(|()| config))
        .map_err(|error| Failure::new(format!("Config validation failed: {error}")))?;
    let stderr = config.warnings.iter().fold(String::new(), |text, line| text + line + "\n");
    let stdout = if call.values.on("quiet") { "" } else { "Configuration is valid!\n" };
    Ok(Output { stderr, ..Output::from(stdout.to_owned()) })
}
