//! The texts of `-help`, and hints for slips of the finger.

use std::fmt::Write as _;

use super::command::{API_FLAGS, CommonFlags, Flag, Group, Program, STALE_FLAG, Spec, Takes};
use crate::spelling;

/// Columns that a text may take.
const WIDTH: usize = 72;

/// The list of all commands.
pub(super) fn overview(program: Program, commands: &[&Spec], groups: &[&Group]) -> String {
    let mut text = format!(
        "Usage: {} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n",
        program.name
    );
    let mut rows = entries("", commands, groups);
    rows.push(("agent", "Runs an agent"));
    list(&mut text, rows);
    text
}

/// The help of commands under a common word.
pub(super) fn group(
    program: Program,
    group: &Group,
    commands: &[&Spec],
    groups: &[&Group],
) -> String {
    let mut text =
        format!("Usage: {} {} <subcommand> [options] [args]\n\n", program.name, group.path);
    about(&mut text, program, group.about);
    text.push_str("\nSubcommands:\n");
    list(&mut text, entries(group.path, commands, groups));
    text
}

/// The help of one command.
pub(super) fn command(program: Program, spec: &Spec) -> String {
    let mut text = format!("Usage: {} {} [options]", program.name, spec.path);
    if !spec.operands.is_empty() {
        let _ = write!(text, " {}", spec.operands);
    }
    text.push_str("\n\n");
    about(&mut text, program, spec.about);
    options(&mut text, "Command Options", spec.flags.iter().collect());
    if spec.common_flags != CommonFlags::None {
        let stale = (spec.common_flags == CommonFlags::StaleApi).then_some(&STALE_FLAG);
        options(&mut text, "HTTP API Options", API_FLAGS.iter().chain(stale).collect());
    }
    text
}

/// Sentence that points to the help of a command.
pub(super) fn where_to_look(program: Program, spec: &Spec) -> String {
    format!("`{} {} -help` lists the flags", program.name, spec.path)
}

/// The last words of the commands directly below a path.
pub(super) fn below(
    path: &str,
    commands: &[&'static Spec],
    groups: &[&'static Group],
) -> Vec<&'static str> {
    entries(path, commands, groups).into_iter().map(|(word, _)| word).collect()
}

/// "Did you mean", if something known is near.
pub(super) fn similar(name: &str, known: &[&str]) -> Option<String> {
    spelling::nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}

fn entries<'a>(path: &str, commands: &[&'a Spec], groups: &[&'a Group]) -> Vec<(&'a str, &'a str)> {
    let word = |full: &'a str| {
        let rest =
            if path.is_empty() { full } else { full.strip_prefix(path)?.strip_prefix(' ')? };
        (!rest.contains(' ')).then_some(rest)
    };
    let commands = commands.iter().filter_map(|spec| Some((word(spec.path)?, spec.synopsis)));
    let groups = groups.iter().filter_map(|group| Some((word(group.path)?, group.synopsis)));
    commands.chain(groups).collect()
}

fn list(text: &mut String, mut rows: Vec<(&str, &str)>) {
    rows.sort_unstable();
    let width = rows.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    for (word, synopsis) in rows {
        let _ = writeln!(text, "    {word:width$}    {synopsis}");
    }
}

/// Paragraphs, indented by two; lines that are indented already are examples.
fn about(text: &mut String, program: Program, about: &str) {
    let about = about.replace("muster ", &format!("{} ", program.name));
    for (i, paragraph) in about.split("\n\n").enumerate() {
        if i > 0 {
            text.push('\n');
        }
        if paragraph.starts_with(' ') {
            for line in paragraph.lines() {
                let _ = writeln!(text, "  {line}");
            }
        } else {
            wrap(text, "  ", paragraph);
        }
    }
}

fn options(text: &mut String, heading: &str, mut flags: Vec<&Flag>) {
    if flags.is_empty() {
        return;
    }
    flags.sort_unstable_by_key(|flag| flag.name);
    let _ = write!(text, "\n{heading}\n");
    for flag in flags {
        let shown = match flag.takes {
            Takes::Switch => String::new(),
            Takes::Text(shown) | Takes::Texts(shown) => format!("=<{shown}>"),
            Takes::Number | Takes::Signed => "=<number>".to_owned(),
            Takes::Duration => "=<duration>".to_owned(),
        };
        let _ = write!(text, "\n  -{}{shown}\n", flag.name);
        wrap(text, "     ", flag.help);
        if matches!(flag.takes, Takes::Texts(_)) {
            text.push_str("     May be given several times.\n");
        }
    }
}

fn wrap(text: &mut String, indent: &str, words: &str) {
    let mut line = String::new();
    for word in words.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{indent}{line}");
}
