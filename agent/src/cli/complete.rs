//! Shell completion: what may follow on a command line, out of the same definitions as the help, and the
//! lines that tell shells to ask.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::command::{Call, CommonFlags, Failure, Outcome, Output, Program, Spec};
use super::{COMMANDS, GROUPS, flags, help};

pub(super) static COMPLETION: Spec = Spec {
    path: "completion",
    synopsis: "Prints what a shell needs to complete commands",
    operands: "bash|zsh|fish",
    about:
        "Prints the lines with which a shell completes commands and flags by asking this program. \
`muster -autocomplete-install` puts them into the start files of the shells that it finds.

    $ muster completion bash > /usr/share/bash-completion/completions/muster
    $ muster completion fish > ~/.config/fish/completions/muster.fish",
    flags: &[],
    common_flags: CommonFlags::None,
    run: print,
};

fn print(call: &Call) -> Outcome {
    let [shell] = call.operands.as_slice() else {
        return Err(call.misused("A single shell must be given."));
    };
    script(call.program, shell).map(Output::from).ok_or_else(|| {
        Failure::new(format!("there is no completion for `{shell}`"))
            .or_hint(help::similar(shell, &["bash", "zsh", "fish"]))
    })
}

/// The lines for a shell, which call the program back with `COMP_LINE`.
pub(super) fn script(program: Program, shell: &str) -> Option<String> {
    let name = program.name;
    Some(match shell {
        "bash" => format!("complete -o nospace -C {name} {name}\n"),
        "zsh" => format!(
            "#compdef {name}\nautoload -U +X bashcompinit && bashcompinit\ncomplete -o nospace -C {name} {name}\n"
        ),
        "fish" => format!(
            "function __complete_{name}\n    set -lx COMP_LINE (commandline -cp)\n    test -z (commandline -ct)\n    \
             and set COMP_LINE \"$COMP_LINE \"\n    {name}\nend\ncomplete -f -c {name} -a \"(__complete_{name})\"\n"
        ),
        _ => return None,
    })
}

/// The words that may stand at the end of a command line, one per line.
pub(super) fn answer(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let begun = if line.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or("") };
    let mut found = candidates(&words);
    found.retain(|word| word.starts_with(begun));
    found.sort_unstable();
    found.dedup();
    found.iter().fold(String::new(), |text, word| text + word + "\n")
}

fn candidates(words: &[&str]) -> Vec<String> {
    let plain: Vec<&str> =
        words.iter().take_while(|word| !word.starts_with('-')).copied().collect();
    let spec = (1..=plain.len().min(3)).rev().find_map(|count| {
        let path = plain[..count].join(" ");
        COMMANDS.iter().find(|spec| spec.path == path)
    });
    if let Some(spec) = spec {
        return flag_names(spec);
    }
    if plain.first() == Some(&"agent") {
        return crate::config::flag_names().map(|name| format!("-{name}")).collect();
    }
    let mut below: Vec<String> =
        help::below(&plain.join(" "), COMMANDS, GROUPS).into_iter().map(str::to_owned).collect();
    if plain.is_empty() {
        below.push("agent".to_owned());
    }
    below
}

fn flag_names(spec: &'static Spec) -> Vec<String> {
    flags::of(spec).map(|flag| format!("-{}", flag.name)).collect()
}

/// Puts the lines into the start files of the shells that this user has, or takes them out.
pub(super) fn install(program: Program, remove: bool) -> Outcome {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .ok_or_else(|| Failure::new("HOME is not set: there are no start files to change"))?;
    let own = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot tell where this program is: {error}")))?;
    let name = program.name;
    let line = format!("complete -C {} {name}", own.display());
    let mut done = String::new();
    for (file, lines) in [
        (".bashrc", vec![line.clone()]),
        (
            ".zshrc",
            vec![
                "autoload -U +X bashcompinit && bashcompinit".to_owned(),
                format!("complete -o nospace -C {} {name}", own.display()),
            ],
        ),
    ] {
        let path = home.join(file);
        if path.exists() && change(&path, &lines, remove)? {
            let _ = writeln!(done, "{}", path.display());
        }
    }
    let folder = home.join(".config/fish");
    if folder.is_dir() {
        let path = folder.join(format!("completions/{name}.fish"));
        let failed = |error| failed(&path, &error);
        if remove {
            if path.exists() {
                std::fs::remove_file(&path).map_err(failed)?;
                let _ = writeln!(done, "{}", path.display());
            }
        } else {
            std::fs::create_dir_all(folder.join("completions")).map_err(failed)?;
            std::fs::write(&path, script(program, "fish").unwrap_or_default()).map_err(failed)?;
            let _ = writeln!(done, "{}", path.display());
        }
    }
    if done.is_empty() {
        let text =
            if remove { "not installed" } else { "already installed, or no shell was found" };
        return Err(Failure::new(format!("Error executing CLI: {text}")));
    }
    Ok(done.into())
}

/// Adds lines to a file, or takes them out; `false` when there is nothing to do.
fn change(path: &Path, lines: &[String], remove: bool) -> Result<bool, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, &error))?;
    let last = &lines[lines.len() - 1];
    let there = text.lines().any(|line| line == last);
    if there != remove {
        return Ok(false);
    }
    let mut new: String = if remove {
        text.lines()
            .filter(|line| line != last)
            .fold(String::new(), |text, line| text + line + "\n")
    } else {
        text
    };
    if !remove {
        if !new.is_empty() && !new.ends_with('\n') {
            new.push('\n');
        }
        for line in lines {
            if !new.lines().any(|old| old == line) {
                new += line;
                new.push('\n');
            }
        }
    }
    std::fs::write(path, new).map_err(|error| failed(path, &error))?;
    Ok(true)
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot change {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_flags_are_completed() {
        let rows = [
            ("muster cat", "catalog\n"),
            ("muster catalog ", "datacenters\nnodes\nservices\n"),
            ("muster operator raft l", "list-peers\n"),
            ("muster kv put -fl", "-flags\n"),
            ("muster agent -boot", "-bootstrap\n-bootstrap-expect\n"),
            ("muster zzz", ""),
        ];
        for (line, expected) in rows {
            assert_eq!(answer(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_are_added_once_and_taken_out_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(".bashrc");
        std::fs::write(&path, "alias x=y").expect("written");
        let lines = ["complete -C /usr/bin/muster muster".to_owned()];
        assert!(change(&path, &lines, false).expect("changed"));
        assert!(!change(&path, &lines, false).expect("as it was"));
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text, "alias x=y\ncomplete -C /usr/bin/muster muster\n");
        assert!(change(&path, &lines, true).expect("changed"));
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "alias x=y\n");
    }
}
