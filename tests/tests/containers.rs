//! Checks that run a program in a container, on a real engine: what its exit code and its output become, and what is
//! said when the container is paused, stopped or removed under a running check.
//!
//! `MUSTER_REFERENCE=/path/to/consul` holds the reference against the same rows; where it is meant to differ, the row
//! says so.

use std::{
    env,
    path::{Path, PathBuf},
    process::id,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use muster_tests::{compose::docker, http, process::Server, programs::program, wait::eventually};
use serde_json::{Value, json};

/// The longest that a result may take. Checks run every second here.
const SOON: Duration = Duration::from_secs(30);
/// Longer than any wait here: what is reported earlier was not reported because time was up.
const LONG: &str = "10m";
const IMAGE: &str = "debian:bookworm-slim";

/// A container that does nothing, gone with the test.
struct Container {
    name: String,
}

impl Container {
    fn start(purpose: &str) -> Result<Self> {
        let name = format!("muster-exec-{purpose}-{}", id());
        // The first process of a container ignores what would end it; `--init` puts one before it that does not.
        docker(&["run", "--detach", "--init", "--name", &name, IMAGE, "sleep", "infinity"])
            .context("this test needs a container engine: run it by tools/test, or --no-containers without it")?;
        Ok(Self { name })
    }

    fn touch(&self, path: &str) -> Result<()> {
        docker(&["exec", &self.name, "touch", path]).map(drop)
    }

    /// Waits until a program in it has written a file.
    fn has(&self, path: &str) -> Result<()> {
        eventually(SOON, path, || docker(&["exec", &self.name, "test", "-e", path]))?;
        Ok(())
    }

    fn command(&self, what: &str) -> Result<()> {
        docker(&[what, &self.name]).map(drop)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // One that a test removed is gone already.
        let _ = docker(&["rm", "--force", &self.name]);
    }
}

/// An agent whose checks may run programs.
fn agent(program: &Path) -> Result<Server> {
    let mut server = Server::prepare_with(json!({
        "enable_script_checks": true,
        // An output that alone changed is seen at once.
        "check_update_interval": "0s",
    }))?;
    server.start_as(program)?;
    Ok(server)
}

/// Muster, and the reference where it is named.
fn programs() -> Vec<(PathBuf, Who)> {
    let reference = env::var_os("MUSTER_REFERENCE").map(|path| (path.into(), Who::Reference));
    std::iter::once((program("muster"), Who::Muster)).chain(reference).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Muster,
    Reference,
}

fn register(server: &Server, check: &Value) -> Result<()> {
    let body = serde_json::to_vec(check)?;
    let reply = server.put("/v1/agent/check/register", &body)?;
    ensure!(reply.status == 200, "{check}: {} {}", reply.status, reply.text());
    Ok(())
}

/// Status and output of a check as the agent has it.
fn state(server: &Server, id: &str) -> Result<(String, String)> {
    let checks = http::get(&server.address(), "/v1/agent/checks")?.json()?;
    let text = |key: &str| checks[id][key].as_str().unwrap_or_default().to_owned();
    Ok((text("Status"), text("Output")))
}

/// Waits until a check is so, and says so.
fn becomes(server: &Server, id: &str, status: &str, output: &str) -> Result<()> {
    let what = format!("{id} is {status} with {output:?}");
    eventually(SOON, &what, || {
        let found = state(server, id)?;
        ensure!(found.0 == status && found.1 == output, "{found:?}");
        Ok(())
    })?;
    Ok(())
}

/// What one program in a container makes of its check.
struct Row {
    name: &'static str,
    /// In addition to the container and the interval.
    definition: &'static str,
    status: &'static str,
    output: String,
    /// What the reference makes of it, where that is meant to be something else. What it says is only known where it is
    /// not the engine's own words.
    reference: Option<(&'static str, Option<&'static str>)>,
}

fn rows() -> Vec<Row> {
    let row = |name, definition, status, output: &str| Row {
        name,
        definition,
        status,
        output: output.to_owned(),
        reference: None,
    };
    let tail = format!("Captured 4096 of 9000 bytes\n...\n{}", "x".repeat(4096));
    vec![
        row("exit-0", r#"{"Args": ["sh", "-c", "echo fine"]}"#, "passing", "fine\n"),
        row("exit-1", r#"{"Args": ["sh", "-c", "echo so; exit 1"]}"#, "warning", "so\n"),
        Row {
            // It asks for the output of a terminal, which leaves out what went to standard error.
            reference: Some(("critical", Some(""))),
            ..row(
                "exit-2",
                r#"{"Args": ["sh", "-c", "echo bad >&2; exit 2"]}"#,
                "critical",
                "bad\n",
            )
        },
        row("killed", r#"{"Args": ["sh", "-c", "echo now; kill -9 $$"]}"#, "critical", "now\n"),
        row(
            "nine-kilobytes",
            r#"{"Args": ["sh", "-c", "head -c 9000 /dev/zero | tr '\\0' x"]}"#,
            "passing",
            &tail,
        ),
        row(
            "nine-kilobytes-and-a-warning",
            r#"{"Args": ["sh", "-c", "head -c 9000 /dev/zero | tr '\\0' x; exit 1"]}"#,
            "warning",
            &tail,
        ),
        Row {
            // It does without the shell.
            reference: Some(("critical", None)),
            ..row(
                "a-line-for-a-shell",
                r#"{"Shell": "/bin/sh", "Args": ["echo $((20 + 1)); exit 1"]}"#,
                "warning",
                "21\n",
            )
        },
        row(
            "words-stay-apart",
            r#"{"Args": ["printf", "<%s>", "a b", "c'd"]}"#,
            "passing",
            "<a b><c'd>",
        ),
    ]
}

#[test]
fn exit_codes_and_output() -> Result<()> {
    let container = Container::start("rows")?;
    let mut faults = Vec::new();
    for (program, who) in programs() {
        let server = agent(&program)?;
        let rows = rows();
        for row in &rows {
            let mut check: Value = serde_json::from_str(row.definition)?;
            check["ID"] = row.name.into();
            check["Name"] = row.name.into();
            check["DockerContainerID"] = container.name.as_str().into();
            check["Interval"] = "1s".into();
            register(&server, &check)?;
        }
        for row in &rows {
            let (status, output) = match row.reference {
                Some(theirs) if who == Who::Reference => theirs,
                _ => (row.status, Some(&*row.output)),
            };
            let ran = eventually(SOON, row.name, || {
                let found = state(&server, row.name)?;
                let same = output.map_or(!found.1.is_empty(), |output| found.1 == output);
                ensure!(found.0 == status && same, "{found:?}, not {:?}", (status, output));
                Ok(())
            });
            if let Err(fault) = ran {
                faults.push(format!("{who:?}: {fault:#}"));
            }
        }
        let checks = http::get(&server.address(), "/v1/agent/checks")?.json()?;
        ensure!(checks["exit-0"]["Type"] == "docker", "{checks}");
    }
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

/// A check whose program waits in the container until a file appears.
fn waiting(id: &str, container: &Container, timeout: &str) -> Value {
    let script = "echo before; touch /begun; while [ ! -e /go ]; do sleep 0.1; done; echo after";
    json!({
        "ID": id, "Name": id, "DockerContainerID": container.name, "Interval": "1s",
        "Timeout": timeout, "Args": ["sh", "-c", script],
    })
}

/// The program of a paused container stands still, too: its time is up, no second one is started beside it, and when
/// the container goes on, so does the check.
#[test]
fn paused_in_mid_check() -> Result<()> {
    let container = Container::start("paused")?;
    let name = &container.name;
    let server = agent(&program("muster"))?;
    register(&server, &waiting("hangs", &container, "3s"))?;
    container.has("/begun")?;
    container.command("pause")?;
    becomes(&server, "hangs", "critical", "Timed out (3s) running check\n\nbefore\n").or_else(
        |_| {
            // A moment only: the next run is there after a second.
            let still =
                format!("the previous run in container {name} has not ended; no other is started");
            becomes(&server, "hangs", "critical", &still)
        },
    )?;
    // One that had not begun cannot begin.
    register(
        &server,
        &json!({"ID": "late", "Name": "late", "DockerContainerID": name, "Interval": "1s", "Args": ["true"]}),
    )?;
    let refused = format!("create exec failed since container {name} is paused or stopped");
    becomes(&server, "late", "critical", &refused)?;

    container.command("unpause")?;
    becomes(&server, "late", "passing", "")?;
    container.touch("/go")?;
    becomes(&server, "hangs", "passing", "before\nafter\n")
}

/// The end of the container is the end of the run: nobody waits until its time is up.
#[test]
fn stopped_and_removed_in_mid_check() -> Result<()> {
    for (program, who) in programs() {
        let server = agent(&program)?;
        for (how, words) in [
            ("kill", "since container {} is paused or stopped"),
            ("rm", "for unknown container {}"),
        ] {
            let container = Container::start(how)?;
            register(&server, &waiting(how, &container, LONG))?;
            container.has("/begun")?;
            match how {
                "kill" => container.command("kill")?,
                _ => drop(docker(&["rm", "--force", &container.name])?),
            }
            let said = format!("create exec failed {}", words.replace("{}", &container.name));
            becomes(&server, how, "critical", &said).with_context(|| format!("{who:?}"))?;
            if how == "kill" && who == Who::Muster {
                // The same container, running again: so does its check.
                container.command("start")?;
                container.touch("/go")?;
                becomes(&server, how, "passing", "before\nafter\n")?;
            }
        }
    }
    Ok(())
}
