//! `top`: members, servers, services and rates, as they change.
//!
//! `look` asks an agent, `frame` makes lines of two looks (a plain function), `screen` shows them on a
//! terminal and gives it back as it was.

mod frame;
mod look;
mod screen;

use std::io::IsTerminal as _;
use std::time::Duration;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::lock::interrupted;
use frame::{Size, frame};
use look::Observation;
use screen::{Key, Screen};

const INTERVAL: Duration = Duration::from_secs(2);
/// Looks cost an agent something.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

pub(super) static TOP: Spec = Spec {
    path: "top",
    synopsis: "Shows members, servers, services and rates as they change",
    operands: "",
    about: "Shows on the whole terminal what the agent knows: who is there, who agrees on the state, which \
services fare badly, and how much changes. What fares worst stands first. Ends with q. Into a file or a \
pipe, one look is printed.

    $ muster top
    $ muster top -interval=500ms
    $ muster top -once | grep critical",
    flags: &[
        Flag::duration("interval", "Time between two looks; 2s by default, 200ms at least."),
        Flag::switch("once", "Print one look and end."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: top,
};

fn top(call: &Call) -> Outcome {
    call.no_operands()?;
    let client = call.client()?;
    let interval = call.values.duration("interval").unwrap_or(INTERVAL).max(INTERVAL_MIN);
    let failed = |error| call.failed("Error querying {} agent", &error);
    let once = call.values.on("once") || !std::io::stdout().is_terminal();
    wait(async {
        let mut last = Observation::take(&client).await.map_err(failed)?;
        if once {
            let lines = frame(call.program.name, &last, None, Size::UNLIMITED);
            let lines: Vec<String> = lines.into_iter().map(|line| line.text + "\n").collect();
            return Ok(lines.concat().into());
        }
        let mut before: Option<Observation> = None;
        let mut screen = Screen::open()
            .map_err(|error| Failure::new(format!("cannot use the terminal: {error}")))?;
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        let mut trouble = None;
        loop {
            let mut lines = frame(call.program.name, &last, before.as_ref(), Screen::size());
            if let Some(why) = &trouble {
                lines.insert(0, frame::Line::bad(format!("no answer: {why}")));
            }
            if Screen::show(&lines).is_err() {
                return Ok(Output::default());
            }
            tokio::select! {
                () = interrupted() => return Ok(Output::default()),
                key = screen.key() => match key {
                    Key::Quit => return Ok(Output::default()),
                    Key::Redraw => continue,
                },
                _ = tick.tick() => {}
            }
            let looked = tokio::select! {
                looked = Observation::take(&client) => looked,
                () = interrupted() => return Ok(Output::default()),
                () = screen.quit() => return Ok(Output::default()),
            };
            match looked {
                Ok(look) => {
                    before = Some(std::mem::replace(&mut last, look));
                    trouble = None;
                }
                // An agent that restarts comes back; the last look stays meanwhile.
                Err(error) => trouble = Some(super::layout::chain(&error)),
            }
        }
    })?
}
