//! `watch`: follows a question; prints the first answer, or gives each to a program.

use std::fmt::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use muster_client::types::KvPair;
use muster_client::{Answer, Consistency, Query, Update, WatchSettings};
use tokio::io::AsyncWriteExt as _;

use super::command::{Call, Door, Failure, Flag, Outcome, Output, Spec, wait};
use super::layout;
use super::lock::{Ended, command, interrupted};

pub(super) static WATCH: Spec = Spec {
    path: "watch",
    synopsis: "Follows a question and runs a program on every change",
    operands: "[child...]",
    about:
        "Without a child: prints the current answer as JSON and ends. With one: runs it at once \
and again whenever the answer changes, with the answer as JSON on its standard input and the index \
in CONSUL_INDEX. Ends when the child fails.

    $ muster watch -type=key -key=config/app
    $ muster watch -type=service -service=web -passingonly=true ./update-proxy
    $ muster watch -type=nodes 'jq length'

Types and what they need: `key` -key, `keyprefix` -prefix, `services`, `nodes`, `service` \
-service, `checks` (-state or -service), `event` (-name).",
    flags: &[
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
    door: Door::StaleApi,
    run: watch,
};

/// How the body of an answer becomes the watch's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    AsIs,
    /// The first pair of a list, or `null`.
    Pair,
    /// A list of pairs, or `null`.
    Pairs,
}

fn watch(call: &Call) -> Outcome {
    let (query, shape) = question(call)?;
    let consistency = if call.spec.door == Door::StaleApi && call.values.on("stale") {
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
        let mut watch = client.watch(query, settings);
        let mut last = None;
        loop {
            let update = tokio::select! {
                update = watch.next() => update,
                () = interrupted() => return Ok(Output::default()),
            };
            match update {
                Update::Value(answer, index) => {
                    let json = json(shape, answer)?;
                    if call.operands.is_empty() {
                        return Ok((layout::indent(&json, "    ") + "\n").into());
                    }
                    // After failures the watch tells an unchanged answer: no news for the child.
                    if last.as_ref() == Some(&json) {
                        continue;
                    }
                    if let Some(output) = tell(call, &json, index).await? {
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

/// What the flags ask.
fn question(call: &Call) -> Result<(Query, Shape), Failure> {
    let text = |name: &str| call.values.text(name).unwrap_or_default();
    let need = |name: &str, what: &str| match text(name) {
        "" => Err(Failure::new(format!("Must specify a single {what} to watch"))),
        given => Ok(given.to_owned()),
    };
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut with = |name: &str, value: &str| parameters.push((name.to_owned(), value.to_owned()));
    let (path, shape) = match text("type") {
        "" => return Err(call.misused("Watch type must be specified")),
        "key" => (format!("/v1/kv/{}", need("key", "key")?), Shape::Pair),
        "keyprefix" => {
            with("recurse", "");
            (format!("/v1/kv/{}", need("prefix", "prefix")?), Shape::Pairs)
        }
        "services" => ("/v1/catalog/services".to_owned(), Shape::AsIs),
        "nodes" => ("/v1/catalog/nodes".to_owned(), Shape::AsIs),
        "service" => {
            let path = format!("/v1/health/service/{}", need("service", "service")?);
            call.values.all("tag").iter().for_each(|tag| with("tag", tag));
            if passing_only(text("passingonly"))? {
                with("passing", "");
            }
            (path, Shape::AsIs)
        }
        "checks" => match (text("service"), text("state")) {
            ("", "") => ("/v1/health/state/any".to_owned(), Shape::AsIs),
            ("", state) => (format!("/v1/health/state/{state}"), Shape::AsIs),
            (service, "") => (format!("/v1/health/checks/{service}"), Shape::AsIs),
            _ => return Err(Failure::new("Cannot specify service and state")),
        },
        "event" => {
            if !text("name").is_empty() {
                with("name", text("name"));
            }
            ("/v1/event/list".to_owned(), Shape::AsIs)
        }
        other => {
            let known = ["key", "keyprefix", "services", "nodes", "service", "checks", "event"];
            return Err(Failure::new(format!("Unsupported watch type: {other}"))
                .or_hint(super::help::similar(other, &known)));
        }
    };
    Ok((Query::Path { path, parameters }, shape))
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

/// The answer as one line of JSON.
fn json(shape: Shape, answer: Answer) -> Result<String, Failure> {
    let body = match answer {
        Answer::Path(body) => body.unwrap_or_else(|| Bytes::from_static(b"null")),
        // A watch on a path answers with a path's body.
        _ => Bytes::from_static(b"null"),
    };
    let unexpected =
        |error: &dyn std::error::Error| Failure::new(format!("Error decoding the answer: {error}"));
    if shape == Shape::AsIs {
        let text = std::str::from_utf8(&body).map_err(|error| unexpected(&error))?;
        return Ok(layout::compact(text));
    }
    let pairs: Option<Vec<KvPair>> =
        serde_json::from_slice(&body).map_err(|error| unexpected(&error))?;
    let rows: Vec<String> = pairs.iter().flatten().map(pair).collect();
    Ok(match (shape, pairs) {
        (_, None) => "null".to_owned(),
        (Shape::Pair, _) => rows.into_iter().next().unwrap_or_else(|| "null".to_owned()),
        _ => format!("[{}]", rows.join(",")),
    })
}

/// A pair with its fields in the order that programs behind a watch know.
fn pair(pair: &KvPair) -> String {
    let mut text = format!(
        r#"{{"Key":{},"CreateIndex":{},"ModifyIndex":{},"LockIndex":{},"Flags":{},"Value":"#,
        layout::json_text(&pair.key),
        pair.create_index,
        pair.modify_index,
        pair.lock_index,
        pair.flags
    );
    if pair.value.is_empty() {
        text.push_str("null");
    } else {
        let _ = write!(text, "\"{}\"", STANDARD.encode(&pair.value));
    }
    let session = layout::json_text(pair.session.as_deref().unwrap_or_default());
    let _ = write!(text, ",\"Session\":{session}}}");
    text
}

/// Runs the child with an answer. `Some` when the whole command is to end.
async fn tell(call: &Call, json: &str, index: u64) -> Result<Option<Output>, Failure> {
    let mut command = command(call);
    command.stdin(Stdio::piped());
    for name in ["CONSUL_INDEX", "MUSTER_INDEX"] {
        command.env(name, index.to_string());
    }
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
            super::lock::end(&mut child).await;
            return Ok(Some(Output::default()));
        }
    };
    match Ended::of(status) {
        Ended::Well => Ok(None),
        Ended::Badly(what) => Err(failed(what)),
    }
}

/// Says something while the command goes on.
#[expect(clippy::print_stderr, reason = "the command line talks")]
fn remark(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_json() {
        let list = r#"[ {"LockIndex":1,"Key":"a<b","Flags":2,"Value":"aGk=","CreateIndex":3,"ModifyIndex":4} ]"#;
        let row = r#"{"Key":"a\u003cb","CreateIndex":3,"ModifyIndex":4,"LockIndex":1,"Flags":2,"Value":"aGk=","Session":""}"#;
        let rows = [
            (Shape::Pair, Some(list), row.to_owned()),
            (Shape::Pairs, Some(list), format!("[{row}]")),
            (Shape::Pair, None, "null".to_owned()),
            (Shape::Pairs, None, "null".to_owned()),
            (Shape::AsIs, Some("{\n  \"web\": [ ]\n}\n"), r#"{"web":[]}"#.to_owned()),
        ];
        for (shape, body, expected) in rows {
            let answer = Answer::Path(body.map(|body| Bytes::from(body.to_owned())));
            assert_eq!(json(shape, answer).unwrap(), expected);
        }
        assert!(json(Shape::Pair, Answer::Path(Some(Bytes::from_static(b"{")))).is_err());
    }
}
