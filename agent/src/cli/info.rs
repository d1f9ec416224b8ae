//! `info`.

use std::fmt::Write as _;

use serde_json::Value;

use super::command::{Call, CommonFlags, FORMAT_FLAG, Outcome, Output, Spec, wait};
use super::layout::indent;

pub(super) static INFO: Spec = Spec {
    path: "info",
    synopsis: "Prints figures of the agent",
    operands: "",
    about: "Prints what the agent tells of its parts, for looking into troubles.",
    flags: &[FORMAT_FLAG],
    common_flags: CommonFlags::Api,
    run: info,
};

fn info(call: &Call) -> Outcome {
    let json = call.json()?;
    let about = wait(call.client()?.agent().self_())?
        .map_err(|error| call.failed("Error querying agent", &error))?;
    let stats = &about["Stats"];
    let text = if json { indent(&stats.to_string(), "    ") + "\n" } else { sections(stats) };
    let mut output: Output = text.into();
    if let Some(why) = stats["raft"]["no_leader_because"].as_str() {
        output.stderr = format!("hint: {why}\n");
    }
    Ok(output)
}

fn sections(stats: &Value) -> String {
    let mut text = String::new();
    let mut sections: Vec<_> = stats.as_object().into_iter().flatten().collect();
    sections.sort_by_key(|(name, _)| name.as_str());
    for (name, figures) in sections {
        let _ = writeln!(text, "{name}:");
        let mut figures: Vec<_> = figures.as_object().into_iter().flatten().collect();
        figures.sort_by_key(|(name, _)| name.as_str());
        for (name, figure) in figures {
            let shown = figure.as_str().map_or_else(|| figure.to_string(), str::to_owned);
            let _ = writeln!(text, "\t{name} = {shown}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_figures_are_sorted() {
        let stats =
            serde_json::json!({"raft": {"term": "2", "state": "Leader"}, "agent": {"n": 3}});
        assert_eq!(sections(&stats), "agent:\n\tn = 3\nraft:\n\tstate = Leader\n\tterm = 2\n");
        assert_eq!(sections(&Value::Null), "");
    }
}
