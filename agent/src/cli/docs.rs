//! `docs`: man pages and completions for packages, out of the same definitions as `-help`.

use std::fmt::Write as _;
use std::path::Path;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Program, Spec, Takes};
use super::{COMMANDS, GROUPS, complete, flags};
use crate::config;

pub(super) static DOCS: Spec = Spec {
    path: "docs",
    synopsis: "Writes man pages and completions",
    operands: "DIRECTORY",
    about: "Writes what packages install: man pages into DIRECTORY/man, completions into \
DIRECTORY/completions. They say what -help says.

    $ muster docs target/docs",
    flags: &[],
    common_flags: CommonFlags::None,
    run: docs,
};

fn docs(call: &Call) -> Outcome {
    let [folder] = call.operands.as_slice() else {
        return Err(call.misused("A single directory must be given."));
    };
    let folder = Path::new(folder);
    let name = call.program.name;
    let mut files = vec![
        (format!("man/{name}.1"), overview(call.program)),
        (format!("man/{name}-agent.1"), agent(call.program)),
    ];
    for spec in COMMANDS {
        let file = format!("man/{name}-{}.1", spec.path.replace(' ', "-"));
        files.push((file, command(call.program, spec)));
    }
    for (shell, file) in [
        ("bash", format!("completions/{name}.bash")),
        ("zsh", format!("completions/_{name}")),
        ("fish", format!("completions/{name}.fish")),
    ] {
        files.push((file, complete::script(call.program, shell).unwrap_or_default()));
    }
    for (file, text) in &files {
        let path = folder.join(file);
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, text));
        written
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(format!("Wrote {} files below {}\n", files.len(), folder.display()).into())
}

/// The first lines of a page.
fn head(title: &str, synopsis: &str, usage: &str) -> String {
    let upper = title.to_uppercase();
    let mut page =
        format!(".TH \"{}\" 1 \"\" \"{}\"\n.SH NAME\n", escaped(&upper), crate::node::VERSION);
    let _ = writeln!(page, "{} \\- {}", escaped(title), escaped(synopsis));
    let _ = writeln!(page, ".SH SYNOPSIS\n{}", escaped(usage));
    page
}

fn overview(program: Program) -> String {
    let name = program.name;
    let mut page = head(
        name,
        "service discovery, health checks and configuration",
        &format!("{name} [--version] [--help] <command> [<args>]"),
    );
    page.push_str(".SH COMMANDS\n");
    let mut rows: Vec<(&str, &str)> =
        COMMANDS.iter().map(|spec| (spec.path, spec.synopsis)).collect();
    rows.extend(GROUPS.iter().map(|group| (group.path, group.synopsis)));
    rows.push(("agent", "Runs an agent"));
    rows.sort_unstable();
    for (path, synopsis) in rows {
        let _ = writeln!(page, ".TP\n.B {}\n{}", escaped(path), escaped(synopsis));
    }
    page
}

fn agent(program: Program) -> String {
    let name = format!("{}-agent", program.name);
    let mut page = head(&name, "runs an agent", &format!("{} agent [options]", program.name));
    page.push_str(".SH DESCRIPTION\n.nf\n");
    for line in config::help().lines() {
        let _ = writeln!(page, "{}", escaped(line));
    }
    page.push_str(".fi\n");
    page
}

fn command(program: Program, spec: &'static Spec) -> String {
    let name = format!("{}-{}", program.name, spec.path.replace(' ', "-"));
    let usage = format!("{} {} [options] {}", program.name, spec.path, spec.operands);
    let mut page = head(&name, spec.synopsis, usage.trim_end());
    page.push_str(".SH DESCRIPTION\n");
    for paragraph in spec.about.split("\n\n") {
        if paragraph.starts_with(' ') {
            let _ = writeln!(page, ".PP\n.nf\n{}\n.fi", escaped(paragraph));
        } else {
            let words: Vec<&str> = paragraph.split_whitespace().collect();
            let _ = writeln!(page, ".PP\n{}", escaped(&words.join(" ")));
        }
    }
    let mut all: Vec<&Flag> = flags::of(spec).collect();
    all.sort_unstable_by_key(|flag| flag.name);
    if !all.is_empty() {
        page.push_str(".SH OPTIONS\n");
    }
    for flag in all {
        let shown = match flag.takes {
            Takes::Switch => String::new(),
            Takes::Text(shown) | Takes::Texts(shown) => format!("=<{shown}>"),
            Takes::Number | Takes::Signed => "=<number>".to_owned(),
            Takes::Duration => "=<duration>".to_owned(),
        };
        let name = format!("-{}{shown}", flag.name);
        let _ = writeln!(page, ".TP\n.B {}\n{}", escaped(&name), escaped(flag.help));
    }
    page
}

/// Text that a page shows as it is: backslashes and hyphens mean something, and so does a dot or a quote at
/// the beginning of a line.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = text.lines().map(|line| {
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        for spec in COMMANDS {
            let page = command(Program::MUSTER, spec);
            assert!(page.starts_with(".TH \"MUSTER"), "{page}");
            for flag in flags::of(spec) {
                assert!(page.contains(&escaped(&format!("-{}", flag.name))), "{}", flag.name);
            }
        }
        assert_eq!(escaped(".x\\n -a"), "\\&.x\\en \\-a");
    }
}
