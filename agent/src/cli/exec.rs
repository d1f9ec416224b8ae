//! `exec`: runs a command on the agents that allow it, and prints what comes back.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use muster_client::types::SessionDefinition;
use muster_client::{Client, Error, PutOptions, ReadOptions, ServiceQuery};
use tokio::time::Instant;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::event::filters;
use super::lock::interrupted;
use crate::remote_exec::{EVENT, Job, Kind, Summons};

/// Without news for this long all is said.
const QUIET: Duration = Duration::from_secs(2);
/// Time for followers to receive the job.
const REPLICATION: Duration = Duration::from_millis(200);
/// The session outlives a lost connection by this.
const TTL: Duration = Duration::from_secs(15);
/// Between renewals.
const RENEWAL: Duration = Duration::from_secs(5);

pub(super) static EXEC: Spec = Spec {
    path: "exec",
    synopsis: "Runs a command on many nodes",
    operands: "[-|command...]",
    about: "Has agents run a command and prints what it prints there, until nothing came for the time of \
-wait. With `-` the standard input is run as a script. Only agents whose configuration says \
`disable_remote_exec = false` take part; none do by default, for who may write keys and fire events \
then runs programs on their machines.

    $ muster exec uptime
    $ muster exec -service=web -tag=v2 'systemctl reload nginx'
    $ muster exec -node='^db' - < check.sh

Exits with 2 if the command failed on a node or a node did not end in time.",
    flags: &[
        Flag::text("node", "regexp", "Only nodes whose names match."),
        Flag::text("prefix", "key", "Where job and answers are kept meanwhile; `_rexec` by default."),
        Flag::text("service", "regexp", "Only agents with a matching service."),
        Flag::switch(
            "shell",
            "Run the command by a shell; on by default, -shell=false turns it off.",
        ),
        Flag::text("tag", "regexp", "Only agents whose -service has a matching tag."),
        Flag::switch("verbose", "Say what is being done."),
        Flag::duration("wait", "End when nothing came for this long; 2s by default."),
        Flag::duration("wait-repl", "How long servers have to learn of the job; 200ms by default."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: exec,
};

fn exec(call: &Call) -> Outcome {
    let quiet = call.values.duration("wait").unwrap_or(QUIET);
    let job = job(call, quiet)?;
    let filters = filters(call)?;
    let client = call.client()?;
    wait(async {
        let session = tokio::select! {
            session = session(call, &client) => session?,
            () = interrupted() => return Err(Failure::new("")),
        };
        say(call, &format!("Created remote execution session: {session}"));
        let prefix = call.values.text("prefix").unwrap_or(EVENT).to_owned();
        let summons = Summons { prefix, session };
        let run = Run { call, client: &client, summons: &summons, quiet };
        let done = tokio::select! {
            done = run.whole(&job, &filters) => done,
            lost = run.renew() => Err(lost),
            () = interrupted() => Err(Failure::new("")),
        };
        // The session first: no agent can write any more once its keys are taken away.
        let _ = client.session().destroy(&summons.session).await;
        let _ = client.kv().delete_tree(&format!("{}/", summons.folder())).await;
        done
    })?
}

/// Builds the job from the flags.
fn job(call: &Call, quiet: Duration) -> Result<Job, Failure> {
    let shell = call.values.text("shell") != Some("false");
    let line = call.operands.join(" ");
    let missing = || call.misused("Must specify a command to execute");
    if line == "-" {
        if !shell {
            return Err(Failure::new("Cannot configure -shell=false when reading from stdin"));
        }
        let mut script = Vec::new();
        std::io::stdin()
            .read_to_end(&mut script)
            .map_err(|error| Failure::new(format!("Failed to read stdin: {error}")))?;
        let script = Kind::Script(script).asks_for_something().ok_or_else(missing)?;
        return Ok(Job::new(script, quiet));
    }
    let kind = if shell { Kind::Command(&line) } else { Kind::Words(&call.operands) };
    Ok(Job::new(kind.asks_for_something().ok_or_else(missing)?, quiet))
}

/// A session that takes its keys along when it ends.
async fn session(call: &Call, client: &Client) -> Result<String, Failure> {
    let failed = |error: Error| call.failed("Error querying {} agent", &error);
    let own = client.agent().self_().await.map_err(failed)?;
    let (here, node) = (&own["Config"]["Datacenter"], &own["Config"]["NodeName"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut definition = SessionDefinition {
        name: "Remote Exec".to_owned(),
        behavior: Some("delete".to_owned()),
        ttl: Some(format!("{}s", TTL.as_secs())),
        ..SessionDefinition::default()
    };
    if let Some(elsewhere) = client.settings().datacenter.as_deref()
        && !elsewhere.is_empty()
        && here != elsewhere
    {
        say(call, "Remote exec in foreign datacenter, using Session TTL");
        let none = "Failed to create session: Failed to find Consul server in remote datacenter";
        let servers = client
            .health()
            .service("consul", &ServiceQuery::passing(), &ReadOptions::default())
            .await
            .map_err(|error| call.failed(none, &error))?;
        let server = servers.value.into_iter().next().ok_or_else(|| Failure::new(none))?;
        let server = server.node.node;
        say(call, &format!("Binding session to remote node {server}@{elsewhere}"));
        definition.name = format!("Remote Exec via {}@{}", text(node), text(here));
        definition.node = Some(server);
        definition.node_checks = Some(Vec::new());
    }
    client
        .session()
        .create(&definition)
        .await
        .map_err(|error| call.failed("Failed to create session", &error))
}

struct Run<'a> {
    call: &'a Call,
    client: &'a Client,
    summons: &'a Summons,
    /// Without news for this long all is said.
    quiet: Duration,
}

/// Progress of a node, read from a key below the job, in the order in which it happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Acknowledged,
    Output,
    Exit,
}

/// Answers so far.
#[derive(Debug, Default)]
struct Heard {
    acknowledged: usize,
    ended: usize,
    failed: usize,
}

impl Run<'_> {
    async fn whole(&self, job: &Job, filters: &[(&str, String)]) -> Outcome {
        let call = self.call;
        let spec = serde_json::to_vec(job)
            .map_err(|error| Failure::new(format!("Failed to create job spec: {error}")))?;
        let key = self.summons.place("").job();
        let held =
            PutOptions { acquire: Some(self.summons.session.clone()), ..PutOptions::default() };
        match self.client.kv().put(&key, spec, &held).await {
            Ok(true) => {}
            Ok(false) => {
                let text = format!("Failed to create job file: failed to acquire key {key}");
                return Err(Failure::new(text));
            }
            Err(error) => return Err(call.failed("Failed to create job file", &error)),
        }
        say(call, "Uploaded remote execution spec");
        tokio::time::sleep(call.values.duration("wait-repl").unwrap_or(REPLICATION)).await;
        let payload = serde_json::to_vec(self.summons)
            .map_err(|error| Failure::new(format!("Failed to fire event: {error}")))?;
        let id = self
            .client
            .event()
            .fire(EVENT, payload, filters)
            .await
            .map_err(|error| call.failed("Failed to fire event", &error))?;
        say(call, &format!("Fired remote execution event: {id}"));
        self.collect().await
    }

    /// Prints what nodes tell until they tell nothing more.
    async fn collect(&self) -> Outcome {
        let begin = Instant::now();
        let folder = format!("{}/", self.summons.folder());
        let mut options = ReadOptions::default();
        let mut seen = BTreeSet::new();
        let mut heard = Heard::default();
        let keys = self.client.kv();
        let mut last = begin;
        loop {
            // Who is known to work is given more time.
            let patience =
                if heard.acknowledged > heard.ended { self.quiet * 2 } else { self.quiet };
            let found = tokio::select! {
                found = keys.keys(&folder, "", &options) => found,
                () = tokio::time::sleep_until(last + patience) => break,
            };
            let found =
                found.map_err(|error| self.call.failed("Failed to read results", &error))?;
            options.index = Some(found.meta.index);
            options.wait = Some(self.quiet.max(Duration::from_millis(100)));
            let mut fresh: Vec<_> = found
                .value
                .into_iter()
                .filter(|key| seen.insert(key.clone()))
                .filter_map(|key| {
                    let (node, progress) = progress(key.strip_prefix(&folder)?)?;
                    Some((node.to_owned(), progress, key.clone()))
                })
                .collect();
            fresh.sort();
            for (node, progress, key) in fresh {
                self.tell(&node, progress, &key, &mut heard).await?;
                last = Instant::now();
            }
        }
        let Heard { acknowledged, ended, failed } = heard;
        print(&format!("{ended} / {acknowledged} node(s) completed / acknowledged\n"))?;
        say(self.call, &format!("Completed in {:.2} seconds", begin.elapsed().as_secs_f64()));
        let mut output = Output::default();
        if acknowledged == 0 {
            let off = "remote execution is off unless an agent's configuration says \
                       `disable_remote_exec = false`";
            output.stderr = format!("hint: no agent took the job: {off}\n");
        } else if ended < acknowledged {
            output
                .stderr
                .push_str("hint: some nodes did not end in time; -wait gives them longer\n");
        }
        output.code = if failed > 0 || ended < acknowledged { 2 } else { 0 };
        Ok(output)
    }

    async fn tell(
        &self,
        node: &str,
        progress: Progress,
        key: &str,
        heard: &mut Heard,
    ) -> Result<(), Failure> {
        let verbose = self.call.values.on("verbose");
        if progress == Progress::Acknowledged {
            heard.acknowledged += 1;
            return if verbose { print(&lines("==>", node, "acknowledged")) } else { Ok(()) };
        }
        let value = match self.client.kv().get(key, &ReadOptions::default()).await {
            Ok(found) => found.value.map(|pair| pair.value).unwrap_or_default(),
            Err(error) => {
                return Err(self.call.failed(&format!("Failed to read key '{key}'"), &error));
            }
        };
        let text = String::from_utf8_lossy(&value);
        if progress == Progress::Exit {
            heard.ended += 1;
            // An exit that cannot be read is none to be proud of.
            let code = text.trim().parse::<i64>().unwrap_or(-1);
            heard.failed += usize::from(code != 0);
            return print(&lines("==>", node, &format!("finished with exit code {code}")));
        }
        match (value.is_empty(), verbose) {
            (true, true) => print(&lines("==>", node, "heartbeat received")),
            (true, false) => Ok(()),
            (false, _) => print(&lines("   ", node, &text)),
        }
    }

    /// Keeps the session; returns when that failed.
    async fn renew(&self) -> Failure {
        loop {
            tokio::time::sleep(RENEWAL).await;
            match self.client.session().renew(&self.summons.session).await {
                Ok(Some(_)) => {}
                Ok(None) => return Failure::new("Session renew failed: the session is gone"),
                Err(error) if error.is_transient() => {}
                Err(error) => return self.call.failed("Session renew failed", &error),
            }
        }
    }
}

/// The node that a key tells of, and what.
fn progress(key: &str) -> Option<(&str, Progress)> {
    if let Some(node) = key.strip_suffix("/ack") {
        return Some((node, Progress::Acknowledged));
    }
    if let Some(node) = key.strip_suffix("/exit") {
        return Some((node, Progress::Exit));
    }
    key.rsplit_once("/out/").map(|(node, _)| (node, Progress::Output))
}

/// Each line after the name of its node.
fn lines(mark: &str, node: &str, text: &str) -> String {
    let lines: Vec<String> =
        text.split('\n').map(|line| format!("{mark} {node}: {line}\n")).collect();
    format!("{}\n", lines.concat().trim_end())
}

/// Says what is being done, if that is wanted.
fn say(call: &Call, text: &str) {
    if call.values.on("verbose") {
        // Whoever closed the pipe has read enough.
        let _ = print(&format!("{text}\n"));
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|_| Failure::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_of_nodes() {
        let rows = [
            ("job", None),
            ("n1/ack", Some(("n1", Progress::Acknowledged))),
            ("n1/exit", Some(("n1", Progress::Exit))),
            ("n1/out/0001a", Some(("n1", Progress::Output))),
            ("n1", None),
        ];
        for (key, expected) in rows {
            assert_eq!(progress(key), expected, "{key}");
        }
    }

    #[test]
    fn every_line_names_its_node() {
        assert_eq!(lines("   ", "n1", "a\n\nb\n"), "    n1: a\n    n1: \n    n1: b\n    n1:\n");
        assert_eq!(lines("==>", "n1", "acknowledged"), "==> n1: acknowledged\n");
    }
}
