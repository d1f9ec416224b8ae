//! The configuration as it is written, in TOML or JSON. Every unknown key is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::Error;
use crate::child::Restart;
use crate::guard::OnEmpty;
use crate::render::encode;

/// One file of configuration, or several merged.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys of the format")]
pub(super) struct File {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) auto_reload_config: Option<bool>,
    #[serde(alias = "consul")]
    pub(super) catalog: Option<Catalog>,
    pub(super) http: Option<Http>,
    pub(super) exec: Option<Exec>,
    pub(super) guard: Option<Guard>,
    #[serde(default, rename = "group")]
    pub(super) groups: Vec<Group>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Catalog {
    pub(super) address: Option<String>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) datacenter: Option<String>,
    pub(super) consistency: Option<String>,
    pub(super) wait: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    pub(super) addr: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    pub(super) command: Command,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) pristine: bool,
    #[serde(default)]
    pub(super) restart: Restart,
    pub(super) reload_signal: Option<String>,
    pub(super) stop_signal: Option<String>,
    pub(super) kill_timeout: Option<Span>,
    pub(super) pause: Option<MinMax>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guard {
    pub(super) on_empty: Option<OnEmpty>,
    pub(super) min: Option<usize>,
    pub(super) max_shrink: Option<f64>,
    pub(super) confirm_after: Option<Span>,
    pub(super) keep_for: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) debounce: Option<MinMax>,
    pub(super) min_interval: Option<Span>,
    #[serde(default)]
    pub(super) partials: Vec<PathBuf>,
    pub(super) validate: Option<Validate>,
    pub(super) reload: Option<Reload>,
    pub(super) verify: Option<Verify>,
    pub(super) guard: Option<Guard>,
    #[serde(default, rename = "template")]
    pub(super) templates: Vec<Template>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    pub(super) source: Option<PathBuf>,
    pub(super) contents: Option<String>,
    pub(super) destination: PathBuf,
    pub(super) mode: Option<String>,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    #[serde(default = "yes")]
    pub(super) create_folders: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Validate {
    pub(super) command: Command,
    pub(super) shadow: Option<PathBuf>,
    pub(super) timeout: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    #[serde(default)]
    pub(super) child: bool,
    pub(super) command: Option<Command>,
    pub(super) timeout: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) workers: bool,
    pub(super) timeout: Option<Span>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MinMax {
    pub(super) min: Span,
    pub(super) max: Span,
}

/// A command: a list is run as it is; one text is given to `sh -c`, unless it is a single word.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Command {
    Text(String),
    List(Vec<String>),
}

impl Command {
    /// Program and arguments.
    pub(super) fn words(self) -> Vec<String> {
        match self {
            Self::List(words) => words,
            Self::Text(text) if text.contains(char::is_whitespace) => {
                vec!["sh".into(), "-c".into(), text]
            }
            Self::Text(text) if text.is_empty() => Vec::new(),
            Self::Text(text) => vec![text],
        }
    }
}

impl Command {
    /// Program and arguments of a program that is to be signalled: without a shell in between wherever one is not
    /// needed, for the shell would get the signals.
    pub(super) fn supervised_words(self) -> Vec<String> {
        match &self {
            Self::Text(text) => split(text).unwrap_or_else(|| self.words()),
            Self::List(_) => self.words(),
        }
    }
}

/// Splits a command as a shell would; `None` if it takes a shell to understand it.
fn split(text: &str) -> Option<Vec<String>> {
    const SPECIAL: &str = "|&;<>()$`\\*?[]#~%!{}\n";
    const OF_THE_SHELL: [&str; 16] = [
        ".", ":", "case", "cd", "eval", "exec", "exit", "export", "for", "if", "set", "source",
        "trap", "ulimit", "until", "while",
    ];
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in text.chars() {
        match quote {
            Some(mark) if letter == mark => quote = None,
            Some('"') if "$`\\".contains(letter) => return None,
            None if letter == '"' || letter == '\'' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            None if letter.is_whitespace() && letter != '\n' => words.extend(word.take()),
            None if SPECIAL.contains(letter) => return None,
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    let first = words.first()?;
    (quote.is_none() && !first.contains('=') && !OF_THE_SHELL.contains(&first.as_str()))
        .then_some(words)
}

/// A duration written as `300ms`, `1.5s`, `2m`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        encode::duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

fn yes() -> bool {
    true
}

impl File {
    /// Reads one file, or all files of a folder in the order of their names.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            return Self::read_one(path);
        }
        let io = |error: std::io::Error| Error::Read {
            path: path.to_path_buf(),
            message: error.to_string(),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            let name = entry.map_err(io)?.path();
            if name.extension().is_some_and(|ending| ending == "toml" || ending == "json") {
                names.push(name);
            }
        }
        names.sort();
        let mut merged = Self::default();
        for name in names {
            merged.merge(Self::read_one(&name)?);
        }
        Ok(merged)
    }

    fn read_one(path: &Path) -> Result<Self, Error> {
        let path = path.to_path_buf();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::Read { path: path.clone(), message: error.to_string() })?;
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending {
            "json" => serde_json::from_str(&text).map_err(|error| error.to_string()),
            "hcl" | "ctmpl" => {
                Err("HCL is not read here; see docs/template-functions.md for the same in TOML"
                    .into())
            }
            _ => toml::from_str(&text).map_err(|error| error.to_string().trim_end().to_owned()),
        }
        .map_err(|message| Error::Parse { path, message })
    }

    /// Takes over what `later` says; groups are added.
    pub(super) fn merge(&mut self, later: Self) {
        fn take<T>(mine: &mut Option<T>, theirs: Option<T>) {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
        take(&mut self.state_dir, later.state_dir);
        take(&mut self.log_level, later.log_level);
        take(&mut self.pid_file, later.pid_file);
        take(&mut self.auto_reload_config, later.auto_reload_config);
        take(&mut self.catalog, later.catalog);
        take(&mut self.http, later.http);
        take(&mut self.exec, later.exec);
        take(&mut self.guard, later.guard);
        self.groups.extend(later.groups);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_need_no_shell() {
        for (text, expected) in [
            ("nginx", Some(&["nginx"][..])),
            ("nginx -g 'daemon off;'", Some(&["nginx", "-g", "daemon off;"][..])),
            ("a \"b c\"d  '' e", Some(&["a", "b cd", "", "e"][..])),
            ("a | b", None),
            ("a; b", None),
            ("a \"$HOME\"", None),
            ("a $HOME", None),
            ("A=1 b", None),
            ("exec a", None),
            ("exit 7", None),
            ("a 'open", None),
            ("", None),
        ] {
            let expected =
                expected.map(|words| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
            assert_eq!(split(text), expected, "{text}");
        }
    }
}
