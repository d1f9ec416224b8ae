//! Jobs and their answers, as both sides write them: names and forms are the
//! reference's, so that its program and its agents take part.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// The name of the event.
pub const EVENT: &str = "_rexec";

/// The payload of the event: where the job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summons {
    /// Keys of all remote executions.
    #[serde(rename = "Prefix")]
    pub prefix: String,
    /// The session that holds all keys of this one.
    #[serde(rename = "Session")]
    pub session: String,
}

impl Summons {
    /// Below which key everything is.
    pub fn folder(&self) -> String {
        let prefix = self.prefix.trim_matches('/');
        if prefix.is_empty() { self.session.clone() } else { format!("{prefix}/{}", self.session) }
    }

    /// Keys for the answers of a node.
    pub fn place(&self, node: &str) -> AnswerPaths {
        AnswerPaths { folder: self.folder(), node: node.to_owned() }
    }
}

/// The keys of one job on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPaths {
    folder: String,
    node: String,
}

impl AnswerPaths {
    /// The job.
    pub fn job(&self) -> String {
        format!("{}/job", self.folder)
    }
    /// Written first.
    pub fn ack(&self) -> String {
        format!("{}/{}/ack", self.folder, self.node)
    }
    /// A piece of output.
    pub fn output(&self, number: usize) -> String {
        format!("{}/{}/out/{number:05x}", self.folder, self.node)
    }
    /// The exit code, written last.
    pub fn exit(&self) -> String {
        format!("{}/{}/exit", self.folder, self.node)
    }
}

/// The job as it is written. One of its first three fields counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Job {
    #[serde(skip_serializing_if = "String::is_empty")]
    command: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    /// In base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    script: String,
    /// Nanoseconds without output after which a sign of life is wanted.
    wait: u64,
}

/// Kind of a job.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A line for a shell.
    Command(&'a str),
    /// A program and its arguments.
    Words(&'a [String]),
    /// A file to be run.
    Script(Vec<u8>),
    /// Nothing that could be run.
    Nothing,
}

impl<'a> Kind<'a> {
    /// `None` if there is nothing to run in it.
    pub fn asks_for_something(self) -> Option<Kind<'a>> {
        let nothing = match &self {
            Kind::Command(line) => line.is_empty(),
            Kind::Words(words) => words.is_empty(),
            Kind::Script(text) => text.is_empty(),
            Kind::Nothing => true,
        };
        (!nothing).then_some(self)
    }
}

impl Job {
    /// A job that does what is asked and gives a sign of life after each `wait` without output.
    pub fn new(kind: Kind<'_>, wait: Duration) -> Job {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let job = Job { wait, ..Job::default() };
        match kind {
            Kind::Command(line) => Job { command: line.to_owned(), ..job },
            Kind::Words(words) => Job { args: words.to_vec(), ..job },
            Kind::Script(text) => Job { script: BASE64_STANDARD.encode(text), ..job },
            Kind::Nothing => job,
        }
    }

    /// Reads what [`Job::new`] or the reference wrote.
    pub(super) fn read(text: &[u8]) -> Result<Job, serde_json::Error> {
        // The reference writes what is empty as null.
        let mut value: serde_json::Value = serde_json::from_slice(text)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        serde_json::from_value(value)
    }

    /// After how long without output a sign of life is wanted.
    pub(super) fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait)
    }

    /// The command or script to run.
    pub fn kind(&self) -> Kind<'_> {
        if !self.script.is_empty() {
            return BASE64_STANDARD.decode(&self.script).map_or(Kind::Nothing, Kind::Script);
        }
        match (self.command.as_str(), self.args.as_slice()) {
            ("", []) => Kind::Nothing,
            ("", words) => Kind::Words(words),
            (line, _) => Kind::Command(line),
        }
    }
}

/// A script in a file of its own, which goes with it.
#[derive(Debug)]
pub(super) struct Script(PathBuf);

impl Script {
    pub(super) fn write(text: &[u8]) -> io::Result<Script> {
        let path = std::env::temp_dir().join(format!("rexec{}", uuid::Uuid::new_v4().simple()));
        // New, and nobody else's to read or write: names in a shared folder can be guessed.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
        let script = Script(path);
        file.write_all(text)?;
        Ok(script)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_written_as_the_reference_writes_them() {
        let command = Job::new(Kind::Command("uptime"), Duration::from_secs(5));
        let words = Job::new(Kind::Words(&["ls".into(), "/".into()]), Duration::ZERO);
        let script = Kind::Script(b"echo script $0\n".to_vec());
        let script = Job::new(script, Duration::from_secs(2));
        let rows = [
            (command, r#"{"Command":"uptime","Wait":5000000000}"#),
            (words, r#"{"Args":["ls","/"],"Wait":0}"#),
            (script, r#"{"Script":"ZWNobyBzY3JpcHQgJDAK","Wait":2000000000}"#),
        ];
        for (job, text) in rows {
            assert_eq!(serde_json::to_string(&job).expect("writable"), text);
            assert_eq!(Job::read(text.as_bytes()).expect("readable"), job);
        }
    }

    #[test]
    fn what_holds_nothing_is_nothing() {
        let rows = [r#"{"Command":"","Script":null,"Wait":1}"#, r#"{"Script":"?"}"#, "{}"];
        for text in rows {
            let job = Job::read(text.as_bytes()).expect("readable");
            assert_eq!(job.kind(), Kind::Nothing, "{text}");
        }
        for text in ["", "[", r#"{"Wait":-1}"#, r#"{"Command":7}"#] {
            assert!(Job::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_the_references() {
        let summons = Summons { prefix: "/_rexec/".into(), session: "s".into() };
        let place = summons.place("n1");
        assert_eq!(place.job(), "_rexec/s/job");
        assert_eq!(place.ack(), "_rexec/s/n1/ack");
        assert_eq!(place.output(26), "_rexec/s/n1/out/0001a");
        assert_eq!(place.exit(), "_rexec/s/n1/exit");
    }
}
