//! Watches of the configuration: questions that the agent follows for its operator, telling a program or
//! an address of every new answer and of what is different in it.
//!
//! An agent asks itself over its own HTTP interface, as any client would: limits, tokens and forwarding to
//! servers are those of every request.
//!
//! | file | owns |
//! |---|---|
//! | `definition` | watches as files write them |
//! | `question` | types and parameters, the shape of answers |
//! | `changes` | what two answers differ in |

mod changes;
mod definition;
mod question;

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use muster_client::{Client, Consistency, Secret, Settings, Update, WatchSet, WatchSettings};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

pub use changes::Changes;
pub use definition::{Definition, Handler, parse};
pub use question::{Parameters, Question, TYPES};

use crate::checks::{Status, Tail, child, http};
use crate::net::tls::{Tls, Verify};
use crate::secrets;

/// The longest pause after failures.
const BACKOFF_MAX: Duration = Duration::from_mins(3);
/// Bytes of a handler's output that reach the log.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Bytes of changes that a handler gets: variables and headers are bounded by the system.
const CHANGES_BYTES_MAX: usize = 16 * 1024;

/// Those that run, and what they need.
#[derive(Debug)]
pub struct Watches {
    agent: Settings,
    tls: Tls,
    running: Vec<(Definition, CancellationToken)>,
    /// Those with the same token and datacenter share connections.
    sets: HashMap<(Option<String>, Option<String>), WatchSet>,
}

impl Drop for Watches {
    fn drop(&mut self) {
        for (_, stop) in &self.running {
            stop.cancel();
        }
    }
}

impl Watches {
    /// None yet. `agent` is how this agent reaches itself.
    pub fn new(agent: Settings, tls: Tls) -> Watches {
        Watches { agent, tls, running: Vec::new(), sets: HashMap::new() }
    }

    /// Follows these from now on. One that was followed already goes on undisturbed.
    pub fn set(&mut self, definitions: Vec<Definition>) {
        let mut before = std::mem::take(&mut self.running);
        for definition in definitions {
            let same = before.iter().position(|(old, _)| *old == definition);
            let entry = match same {
                Some(position) => before.swap_remove(position),
                None => self.begin(definition),
            };
            self.running.push(entry);
        }
        for (_, stop) in before {
            stop.cancel();
        }
        let asks = |key: &(_, _)| self.running.iter().any(|(it, _)| key == &whose(it));
        self.sets.retain(|key, _| asks(key));
    }

    fn begin(&mut self, definition: Definition) -> (Definition, CancellationToken) {
        let stop = CancellationToken::new();
        match self.share(&definition) {
            Ok(set) => {
                let (followed, tls) = (definition.clone(), self.tls.clone());
                let stopped = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = follow(set, &followed, &tls) => {}
                    }
                });
            }
            Err(error) => tracing::error!(%error, "a watch cannot reach its own agent"),
        }
        (definition, stop)
    }

    /// The set that a watch belongs to.
    fn share(&mut self, definition: &Definition) -> Result<WatchSet, muster_client::Error> {
        if let Some(set) = self.sets.get(&whose(definition)) {
            return Ok(set.clone());
        }
        let set = Client::new(self.settings(definition))?.watch_set();
        self.sets.insert(whose(definition), set.clone());
        Ok(set)
    }

    fn settings(&self, definition: &Definition) -> Settings {
        let mut settings = self.agent.clone();
        settings.datacenter.clone_from(&definition.datacenter);
        if let Some(token) = &definition.token {
            settings.token = Some(Secret::new(token.clone()));
        }
        settings
    }
}

/// Token and datacenter of a watch.
fn whose(definition: &Definition) -> (Option<String>, Option<String>) {
    (definition.token.clone(), definition.datacenter.clone())
}

async fn follow(set: WatchSet, definition: &Definition, tls: &Tls) {
    let consistency = if definition.stale { Consistency::Stale } else { Consistency::Default };
    let settings =
        WatchSettings { consistency, backoff_max: BACKOFF_MAX, ..WatchSettings::default() };
    let mut watch = set.watch(definition.question.query(), settings);
    let mut last: Option<String> = None;
    loop {
        match watch.next().await {
            Update::Value(answer, index) => match definition.question.json(answer) {
                Ok(json) if last.as_ref() == Some(&json) => {}
                Ok(json) => {
                    let changes = Changes::between(last.as_deref(), &json);
                    tell(definition, tls, &json, index, &changes).await;
                    last = Some(json);
                }
                Err(error) => {
                    tracing::warn!(kind = definition.kind, %error, "an answer is no JSON");
                }
            },
            Update::Unreachable(error) => {
                tracing::warn!(kind = definition.kind, %error, "a watch has no answer; trying again");
            }
        }
    }
}

async fn tell(definition: &Definition, tls: &Tls, json: &str, index: u64, changes: &Changes) {
    let kind = &definition.kind;
    let mut changed = changes.json();
    if changed.len() > CHANGES_BYTES_MAX {
        r#"{"truncated":true}"#.clone_into(&mut changed);
    }
    match &definition.handler {
        Handler::Script { words, shell } => {
            let mut command = program(words, *shell);
            for product in ["CONSUL", "MUSTER"] {
                command.env(format!("{product}_INDEX"), index.to_string());
            }
            command.env("MUSTER_CHANGES", changed);
            match run(command, json).await {
                Ok(output) => tracing::debug!(kind, output, "a watch's handler was told"),
                Err(why) => {
                    tracing::error!(
                        kind,
                        handler = secrets::command(&words[0]),
                        why,
                        "a watch's handler failed"
                    );
                }
            }
        }
        Handler::Http { url, method, headers, timeout, skip_verify } => {
            let mut headers = headers.clone();
            for (name, value) in [
                ("X-Consul-Index", index.to_string()),
                ("X-Muster-Changes", changed),
                ("Content-Type", "application/json".to_owned()),
            ] {
                headers.entry(name.to_owned()).or_insert_with(|| vec![value]);
            }
            let target = http::Target {
                url: url.clone(),
                method: method.clone(),
                headers,
                body: json.to_owned(),
                verify: Verify { certificate: !skip_verify, name: String::new() },
                follow: true,
                timeout: *timeout,
                output_bytes_max: OUTPUT_BYTES_MAX,
            };
            let outcome = http::probe(&target, tls).await;
            let output = outcome.output;
            if outcome.status == Status::Passing {
                tracing::debug!(kind, output, "a watch's handler was told");
            } else {
                let handler = secrets::text(url);
                tracing::error!(kind, handler = &*handler, output, "a watch's handler failed");
            }
        }
    }
}

/// A program of the operator's: through the user's shell, or word for word.
pub(crate) fn program(words: &[String], shell: bool) -> Command {
    let mut command = if shell {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let mut command = Command::new(shell);
        command.arg("-c").arg(words.join(" "));
        command
    } else {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    };
    // The group is ended as a whole: a shell does not pass signals on to what it runs.
    command.process_group(0).kill_on_drop(true);
    command
}

/// Runs a handler to its end: its last output, or why it failed. All else that it says is read and dropped.
async fn run(mut command: Command, json: &str) -> Result<String, String> {
    command.stdin(Stdio::piped());
    let (mut group, mut output) = child::start(command).map_err(|error| error.to_string())?;
    let stdin = group.child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A handler that does not read its input is none of our business.
            let _ = stdin.write_all(json.as_bytes()).await;
            let _ = stdin.write_all(b"\n").await;
        }
    };
    let mut tail = Tail::new(OUTPUT_BYTES_MAX);
    let end = async {
        child::drain(&mut output, &mut tail).await;
        group.child.wait().await
    };
    let (ended, ()) = tokio::join!(end, feed);
    let exit = ended.map_err(|error| error.to_string())?;
    group.finished = true;
    let text = tail.captured().trim_end().to_owned();
    if exit.success() { Ok(text) } else { Err(format!("{exit}: {text}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        program(&["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()], false)
    }

    #[tokio::test]
    async fn of_what_a_handler_says_the_end_is_kept() {
        let rows: [(&str, Result<&str, &str>); 4] = [
            ("cat; echo said >&2", Ok("[1]\nsaid")),
            ("echo why; exit 3", Err("exit status: 3: why")),
            ("exec <&-; exit 0", Ok("")),
            ("head -c 200000000 /dev/zero; printf end", Ok("end")),
        ];
        for (script, expected) in rows {
            let found = run(shell(script), "[1]").await;
            let text = found.as_ref().map_or_else(String::len, String::len);
            assert!(text <= OUTPUT_BYTES_MAX + 100, "{script}: {text} bytes");
            match expected {
                Ok("end") => assert!(found.is_ok_and(|text| text.ends_with("end")), "{script}"),
                expected => {
                    assert_eq!(found.as_deref().map_err(|why| &**why), expected, "{script}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_handler_that_never_ends_takes_no_memory_and_ends_with_its_watch() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; yes | cat", file.display());
        let memory = || -> usize {
            let status = std::fs::read_to_string("/proc/self/statm").unwrap();
            status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let running = tokio::spawn(async move { run(shell(&script), "[]").await });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !file.exists() {
            assert!(tokio::time::Instant::now() < deadline, "the handler never started");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let before = memory();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(memory() < before + (64 << 20), "{} more bytes", memory() - before);
        running.abort();
        let leader = std::fs::read_to_string(&file).unwrap();
        // All of its group, not the shell alone.
        let group = nix::unistd::Pid::from_raw(leader.trim().parse().unwrap());
        while nix::sys::signal::killpg(group, None).is_ok() {
            assert!(tokio::time::Instant::now() < deadline, "the handler's group still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
