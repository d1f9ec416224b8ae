//! Judges the definitions of services, checks and watches: all of them, in all files, in one message.

use std::path::Path;

use muster_client::types::ServiceDefinition;
use serde_json::Value;

use super::written::Written;
use super::{Config, Error, list_errors};
use crate::local::{self, Configured, Misdefined};
use crate::net::tls::Tls;
use crate::watches;

/// Keys of services, in the order in which their definitions are read.
pub(super) const SERVICES: [&str; 2] = ["service", "services"];
/// Keys of checks that stand alone.
pub(super) const CHECKS: [&str; 2] = ["check", "checks"];
const WATCHES: [&str; 1] = ["watches"];

impl Config {
    /// Judges definitions, and the authorities that checks trust, as an agent does at its start, without one.
    pub fn judge_definitions(&self) -> Result<(), Error> {
        self.judge_definitions_beside(|_| false)
    }

    /// The same for an agent that runs: `exists` knows services that are not of these files.
    pub fn judge_definitions_beside(&self, exists: impl Fn(&str) -> bool) -> Result<(), Error> {
        let own = &self.local;
        Tls::new(&own.authorities).map_err(|error| Error(error.to_string()))?;
        let mut wrong = match Configured::read(own, &own.services, &own.checks, exists) {
            Ok(_) => Vec::new(),
            Err(wrong) => told(&self.written, wrong, &own.services, &own.checks),
        };
        wrong.extend(self.wrong_watches.iter().cloned());
        refuse(&wrong)
    }
}

/// Reads watches; the second list names those that are wrong.
pub(super) fn watches(written: &Written) -> (Vec<watches::Definition>, Vec<String>) {
    let (mut definitions, mut wrong) = (Vec::new(), Vec::new());
    let files = written.files(&WATCHES);
    for (position, value) in written.definitions(&WATCHES).iter().enumerate() {
        match watches::parse(value) {
            Ok(definition) => definitions.push(definition),
            Err(why) => {
                let (file, number) = place(&files, position);
                wrong.push(format!("{file}watches[{number}]: {why}"));
            }
        }
    }
    (definitions, wrong)
}

/// Reads service definitions as an agent would that had them in its own files, so that a mistake in the
/// last of them is found before the first one is registered, and every key of a file works for any agent.
pub(super) fn services(written: &Written) -> Result<Vec<ServiceDefinition>, Error> {
    // Whether scripts may run is up to the agent that runs them.
    let settings = local::Settings { enable_script_checks: true, ..local::Settings::default() };
    let services = written.definitions(&SERVICES);
    match Configured::read(&settings, &services, &[], |_| false) {
        Ok(configured) => Ok(configured.services),
        Err(wrong) => {
            refuse(&told(written, wrong, &services, &[]))?;
            Ok(Vec::new())
        }
    }
}

/// Wrong definitions with their files and reasons.
fn told(
    written: &Written,
    wrong: Vec<Misdefined>,
    services: &[Value],
    checks: &[Value],
) -> Vec<String> {
    let (of_services, of_checks) = (written.files(&SERVICES), written.files(&CHECKS));
    let line = |wrong: Misdefined| {
        let (list, files) =
            if wrong.is_check { (checks, &of_checks) } else { (services, &of_services) };
        let (file, number) = place(files, wrong.position);
        let what = local::described(&list[wrong.position], number, wrong.is_check);
        format!("{file}{what}: {}", chain(&wrong.reason))
    };
    wrong.into_iter().map(line).collect()
}

/// The file of the definition at `position` as a message begins with it, and the definition's place in the file.
fn place(files: &[Option<&Path>], position: usize) -> (String, usize) {
    let file = files.get(position).copied().flatten();
    let number = files[..position.min(files.len())].iter().filter(|other| **other == file).count();
    (file.map(|file| format!("{}: ", file.display())).unwrap_or_default(), number)
}

fn chain(error: &local::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

/// One mistake is told as it is, several are listed.
fn refuse(wrong: &[String]) -> Result<(), Error> {
    match wrong {
        [] => Ok(()),
        [one] => Err(Error(one.clone())),
        several => Err(Error(list_errors(several).trim_end().to_owned())),
    }
}
