//! `monitor`: the agent's log as it comes.

use std::io::Write as _;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::lock::interrupted;

pub(super) static MONITOR: Spec = Spec {
    path: "monitor",
    synopsis: "Prints the agent's log as it comes",
    operands: "",
    about: "Prints what the agent says from now on, until it is interrupted. The level may be lower than \
that of the agent's own log: what is asked for here is said here only.

    $ muster monitor
    $ muster monitor -log-level=debug
    $ muster monitor -log-json | jq .",
    flags: &[
        Flag::switch("log-json", "One JSON object per line."),
        Flag::text("log-level", "level", "trace, debug, info, warn or err. Info by default."),
    ],
    common_flags: CommonFlags::Api,
    run: monitor,
};

fn monitor(call: &Call) -> Outcome {
    call.no_operands()?;
    let level = call.values.text("log-level").unwrap_or("INFO").to_owned();
    let mut query = vec![("loglevel", level)];
    if call.values.on("log-json") {
        query.push(("logjson", "true".to_owned()));
    }
    let client = call.client()?;
    wait(async {
        let failed = |error| call.failed("Error starting monitor", &error);
        let mut pieces = tokio::select! {
            pieces = client.stream("/v1/agent/monitor", &query) => pieces.map_err(failed)?,
            () = interrupted() => return Ok(Output::default()),
        };
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = interrupted() => return Ok(Output::default()),
            };
            let Ok(Some(bytes)) = piece else {
                // As in the reference, an agent that goes away is told with success.
                let stderr = "Remote side ended the monitor! This usually means that the\n\
                              remote side has exited or crashed.\n"
                    .to_owned();
                return Ok(Output { stderr, ..Output::default() });
            };
            print(&bytes)?;
        }
    })?
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe has read enough.
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|_| Failure::new(""))
}
