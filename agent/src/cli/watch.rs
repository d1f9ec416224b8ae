//! `watch`: follows a question; prints the first answer, or gives each to a program.

use std::io::Write as _;
use std::process::Stdio;

use muster_client::{Consistency, Update, WatchSettings};
use tokio::io::AsyncWriteExt as _;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::layout;
use super::lock::{Ended, command, interrupted};
use crate::watches::{Changes, Parameters, Question, TYPES};

pub(super) static WATCH: Spec = Spec {
    path: "watch",
    synopsis: "Follows a question and runs a program on every change",
    operands: "[child...]",
    about:
        "Without a child: prints the current answer as JSON and ends. With one: runs it at once \
and again whenever the answer changes, with the answer as JSON on its standard input and the index \
in CONSUL_INDEX; MUSTER_CHANGES says in JSON what is different. Ends when the child fails.
With -follow: prints the answer, and then what changes, until it is interrupted.

    $ muster watch -type=key -key=config/app
    $ muster watch -type=service -service=web -passingonly=true ./update-proxy
    $ muster watch -type=nodes 'jq length'
    $ muster watch -type=service -service=web -follow

Types and what they need: `key` -key, `keyprefix` -prefix, `services`, `nodes`, `service` \
-service, `checks` (-state or -service), `event` (-name).",
    flags: &[
        Flag::switch("follow", "Print the answer, and then every change of it."),
        Flag::text("key", "key", "For type key."),
        Flag::text("name", "name", "For type event: only events of this name."),
        Flag::text(
            "passingonly",
            "true|false",
            "For type service: only instances whose checks all pass.",
        ),
        Flag::text("prefix", "text", "For type keyprefix."),
        Flag::text("service", "name", "For types service and checks."),
        Flag::switch(
            "shell",
            "Run the child by a shell; on by default, -shell=false turns it off.",
        ),
        Flag::text("state", "state", "For type checks: any, passing, warning or critical."),
        Flag::texts("tag", "tag", "For type service: only instances with this tag."),
        Flag::text("type", "type", "What to follow; see above."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: watch,
};

fn watch(call: &Call) -> Outcome {
    let question = question(call)?;
    let consistency = if call.spec.common_flags == CommonFlags::StaleApi && call.values.on("stale")
    {
        Consistency::Stale
    } else {
        Consistency::Default
    };
    let settings = WatchSettings {
        consistency,
        backoff_max: std::time::Duration::from_mins(3),
        ..WatchSettings::default()
    };
    let client = call.client()?;
    wait(async {
        let mut watch = client.watch(question.query(), settings);
        let mut last = None;
        loop {
            let update = tokio::select! {
                update = watch.next() => update,
                () = interrupted() => return Ok(Output::default()),
            };
            match update {
                Update::Value(answer, index) => {
                    let json = question.json(answer).map_err(|error| {
                        Failure::new(format!("Error decoding the answer: {error}"))
                    })?;
                    if call.values.on("follow") {
                        if last.is_none() {
                            print(&(layout::indent(&json, "    ") + "\n"))?;
                        } else if last.as_ref() != Some(&json) {
                            print(&Changes::between(last.as_deref(), &json).to_string())?;
                        }
                        last = Some(json);
                        continue;
                    }
                    if call.operands.is_empty() {
                        return Ok((layout::indent(&json, "    ") + "\n").into());
                    }
                    // After failures the watch tells an unchanged answer: no news for the child.
                    if last.as_ref() == Some(&json) {
                        continue;
                    }
                    let changes = Changes::between(last.as_deref(), &json);
                    if let Some(output) = tell(call, &json, index, &changes).await? {
                        return Ok(output);
                    }
                    last = Some(json);
                }
                Update::Unreachable(error) => {
                    let failure = call.failed("Error querying {} agent", &error);
                    if last.is_none() || !error.is_transient() {
                        return Err(failure);
                    }
                    remark(&format!("{}; trying again", failure.text));
                }
            }
        }
    })?
}

/// Builds the query from the flags.
fn question(call: &Call) -> Result<Question, Failure> {
    let text = |name: &str| call.values.text(name).unwrap_or_default().to_owned();
    let kind = text("type");
    if kind.is_empty() {
        return Err(call.misused("Watch type must be specified"));
    }
    let parameters = Parameters {
        key: text("key"),
        prefix: text("prefix"),
        service: text("service"),
        tags: call.values.all("tag").to_vec(),
        passing_only: passing_only(&text("passingonly"))?,
        state: text("state"),
        name: text("name"),
    };
    Question::new(&kind, &parameters).map_err(|why| {
        let hint = (!TYPES.contains(&kind.as_str()))
            .then(|| super::help::similar(&kind, &TYPES))
            .flatten();
        Failure::new(why).or_hint(hint)
    })
}

fn passing_only(text: &str) -> Result<bool, Failure> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(Failure::new(format!(
            "Failed to parse passingonly flag: strconv.ParseBool: parsing {other:?}: invalid syntax"
        ))),
    }
}

/// Runs the child with an answer. `Some` when the whole command is to end.
async fn tell(
    call: &Call,
    json: &str,
    index: u64,
    changes: &Changes,
) -> Result<Option<Output>, Failure> {
    let mut command = command(call);
    command.stdin(Stdio::piped());
    for name in ["CONSUL_INDEX", "MUSTER_INDEX"] {
        command.env(name, index.to_string());
    }
    command.env("MUSTER_CHANGES", changes.json());
    let failed = |what: String| Failure::new(format!("Error executing handler: {what}"));
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let input = format!("{json}\n");
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A child that does not read its input is none of our business.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let status = tokio::select! {
        (status, ()) = async { tokio::join!(child.wait(), feed) } => status,
        () = interrupted() => {
            super::lock::end(&mut child, |_| {}).await;
            return Ok(Some(Output::default()));
        }
    };
    match Ended::of(status) {
        Ended::Well => Ok(None),
        Ended::Badly(what) => Err(failed(what)),
    }
}

/// Prints something while the command goes on.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe has read enough.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|_| Failure::new(""))
}

/// Says something while the command goes on.
#[expect(clippy::print_stderr, reason = "the command line talks")]
fn remark(text: &str) {
    eprintln!("{text}");
}
