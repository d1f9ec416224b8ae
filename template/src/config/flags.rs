//! The command line.
//!
//! Flags that mean what they mean in consul-template keep their names, and every long flag may have one dash or two.
//! Flags of consul-template that would ask for something this program does not do are refused by name, never ignored.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Parser;

use super::Error;
use super::file::{Catalog, Command, Exec, File, Group, MinMax, Reload, Span, Template};
use crate::render::encode;

/// Renders templates from services and keys, and makes the program that reads the files follow.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "muster-template", version, about)]
pub struct Flags {
    /// A file of configuration (TOML or JSON), or a folder of them; may be given several times, later ones win.
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// A template and where its text goes: `in:out[:command]`; the command runs after each change.
    #[arg(long, global = true, value_name = "IN:OUT[:COMMAND]")]
    pub template: Vec<String>,
    /// The agent to ask, such as `127.0.0.1:8500` or `unix:///run/muster.sock`.
    #[arg(long, global = true, alias = "addr", alias = "http-addr", value_name = "ADDRESS")]
    pub consul_addr: Option<String>,
    /// The token to ask with.
    #[arg(long, global = true, alias = "token", value_name = "TOKEN", hide_env_values = true)]
    pub consul_token: Option<String>,
    /// A file with the token to ask with.
    #[arg(long, global = true, alias = "token-file", value_name = "PATH")]
    pub consul_token_file: Option<PathBuf>,
    /// A program to keep running while its files change.
    #[arg(long, global = true, value_name = "COMMAND")]
    pub exec: Option<String>,
    /// The signal that makes it read its files again; a restart when not given.
    #[arg(long, global = true, value_name = "SIGNAL")]
    pub exec_reload_signal: Option<String>,
    /// The signal that ends it.
    #[arg(long, global = true, value_name = "SIGNAL")]
    pub exec_kill_signal: Option<String>,
    /// How long it may take to end.
    #[arg(long, global = true, value_name = "DURATION")]
    pub exec_kill_timeout: Option<String>,
    /// How long nothing may change before a change is put in place, and the longest wait: `min[:max]`.
    #[arg(long, global = true, value_name = "MIN[:MAX]")]
    pub wait: Option<String>,
    /// Render once, then end.
    #[arg(long, global = true)]
    pub once: bool,
    /// With `-once`: how long it may take.
    #[arg(long, global = true, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Only parse the templates, then end.
    #[arg(long, global = true)]
    pub parse_only: bool,
    /// How much is logged: `error`, `warn`, `info`, `debug` or `trace`.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// A file that shall hold the process id.
    #[arg(long, global = true, value_name = "PATH")]
    pub pid_file: Option<PathBuf>,
    /// Where last good files are kept.
    #[arg(long, global = true, value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// Where the state is shown: `/healthz`, `/readyz`, `/v1/templates`, `/metrics`.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub status_addr: Option<String>,
    /// What to do; `run` when not given.
    #[command(subcommand)]
    pub command: Option<Subcommand>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Subcommand {
    /// Keep the files up to date until told to end (the default).
    Run,
    /// Write the files once, then end.
    Once,
    /// Parse configuration and templates, and list what they ask for.
    Check,
    /// Print the texts, written from a file of made-up answers.
    Render {
        /// The answers, as JSON; see docs/template-functions.md.
        #[arg(long, value_name = "FILE")]
        data: PathBuf,
        /// Print to standard output (nothing else is supported).
        #[arg(long)]
        stdout: bool,
    },
    /// Ask a running daemon how it is.
    Status,
}

/// consul-template's flags that ask for something else than this program does.
const REFUSED: [(&str, &str); 24] = [
    ("--dry", "use `render --data <file>`, which prints and writes nothing"),
    (
        "--consul-ssl",
        "TLS to an agent is not spoken yet: ask the agent of this machine, by http:// or unix://",
    ),
    ("--consul-retry", "retries never end and need no settings"),
    ("--consul-auth", "set MUSTER_HTTP_AUTH to `user:password`, or give a token"),
    ("--consul-transport", "the transport needs no settings"),
    ("--consul-namespace", "there are no namespaces"),
    ("--vault", "Vault is not supported"),
    ("--nomad", "Nomad is not supported"),
    ("--dedup", "equal questions share one watch anyway"),
    ("--default-left-delimiter", "delimiters cannot be changed"),
    ("--default-right-delimiter", "delimiters cannot be changed"),
    (
        "--max-stale",
        "set `catalog.consistency = \"stale\"` in the configuration: any server answers then",
    ),
    ("--retry", "retries never end and need no settings"),
    ("--block-query-wait", "set `catalog.wait` in the configuration"),
    (
        "--reload-signal",
        "HUP reads the configuration again; `-exec-reload-signal` is the child's signal",
    ),
    (
        "--kill-signal",
        "TERM, INT and QUIT end the program; `-exec-kill-signal` is the child's signal",
    ),
    ("--dump-signal", "`muster-template status` shows the state at any time"),
    ("--exec-splay", "there is no splay; use several groups or `min_interval`"),
    ("--exec-env", "use `exec.environment` in the configuration"),
    ("--syslog", "log to standard error, and let the service manager keep it"),
    ("--log-file", "log to standard error, and let the service manager keep it"),
    ("--log-rotate", "log to standard error, and let the service manager keep it"),
    ("--template-error-fatal", "an error keeps the last good files; it never ends the program"),
    ("--error-on-missing-key", "a field that does not exist is always an error"),
];

impl Flags {
    /// Reads the arguments of the program, its own name first.
    ///
    /// # Errors
    /// What clap says, and what is refused.
    pub fn parse_from_arguments(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let arguments: Vec<_> = arguments.into_iter().map(two_dashes).collect();
        for argument in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
            if let Some((flag, why)) = REFUSED.iter().find(|(flag, _)| argument.starts_with(flag)) {
                let message = format!("`{flag}` is not supported: {why}\n");
                return Err(clap::Error::raw(clap::error::ErrorKind::UnknownArgument, message));
            }
        }
        Self::try_parse_from(arguments)
    }

    /// Puts what the flags say over what files say.
    pub(super) fn apply(&self, file: &mut File) -> Result<(), Error> {
        let catalog = file.catalog.get_or_insert_with(Catalog::default);
        if let Some(address) = &self.consul_addr {
            catalog.address = Some(address.clone());
        }
        if let Some(token) = &self.consul_token {
            (catalog.token, catalog.token_file) = (Some(token.clone()), None);
        }
        if let Some(path) = &self.consul_token_file {
            (catalog.token, catalog.token_file) = (None, Some(path.clone()));
        }
        if self.log_level.is_some() {
            file.log_level.clone_from(&self.log_level);
        }
        if self.pid_file.is_some() {
            file.pid_file.clone_from(&self.pid_file);
        }
        if self.state_dir.is_some() {
            file.state_dir.clone_from(&self.state_dir);
        }
        if let Some(addr) = &self.status_addr {
            file.http = Some(super::file::Http { addr: addr.clone() });
        }
        self.apply_exec(file)?;
        let debounce = self.wait.as_deref().map(wait).transpose()?;
        for (number, text) in self.template.iter().enumerate() {
            let mut group = template(text, number)?;
            if let (true, None) = (file.exec.is_some(), &group.reload) {
                group.reload = Some(Reload { child: true, command: None, timeout: None });
            }
            file.groups.push(group);
        }
        if debounce.is_some() {
            file.groups.iter_mut().for_each(|group| group.debounce = group.debounce.or(debounce));
        }
        Ok(())
    }

    fn apply_exec(&self, file: &mut File) -> Result<(), Error> {
        if let Some(command) = &self.exec {
            file.exec = Some(Exec {
                command: Command::Text(command.clone()),
                environment: std::collections::BTreeMap::new(),
                pristine: false,
                // As in consul-template, the child's end is the daemon's end; a file can say otherwise.
                restart: crate::child::Restart::Never,
                reload_signal: None,
                stop_signal: None,
                kill_timeout: None,
                pause: None,
            });
        }
        let Some(exec) = &mut file.exec else { return Ok(()) };
        if let Some(signal) = &self.exec_reload_signal {
            exec.reload_signal = Some(signal.clone());
        }
        if let Some(signal) = &self.exec_kill_signal {
            exec.stop_signal = Some(signal.clone());
        }
        if let Some(text) = &self.exec_kill_timeout {
            let timeout = encode::duration(text)
                .map_err(|error| Error::Invalid(format!("-exec-kill-timeout: {error}")))?;
            exec.kill_timeout = Some(Span(timeout));
        }
        Ok(())
    }
}

/// `-consul-addr` as `--consul-addr`: Go's flags have one dash, ours two. A number or a short flag stays.
fn two_dashes(argument: OsString) -> OsString {
    let bytes = argument.as_encoded_bytes();
    let single = bytes.len() > 2 && bytes[0] == b'-' && bytes[1].is_ascii_alphabetic();
    if !single {
        return argument;
    }
    let mut double = OsString::from("-");
    double.push::<&OsStr>(argument.as_ref());
    double
}

/// `in:out[:command]` as a group of its own. A `:` in the command is part of it.
fn template(text: &str, number: usize) -> Result<Group, Error> {
    let mut parts = text.splitn(3, ':');
    let (source, destination) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if source.is_empty() || destination.is_empty() {
        return Err(Error::Invalid(format!("-template: `{text}` is not `in:out[:command]`")));
    }
    let destination = std::path::absolute(destination)
        .map_err(|error| Error::Invalid(format!("-template: `{destination}`: {error}")))?;
    let command = parts.next().filter(|command| !command.is_empty());
    let reload = command.map(|command| Reload {
        child: false,
        command: Some(Command::Text(command.to_owned())),
        timeout: None,
    });
    Ok(Group {
        // The number keeps names apart; the file's name makes them readable. Both are the same at the next start.
        name: format!("{number}-{}", name_of(&destination)),
        reload,
        templates: vec![Template {
            source: Some(source.into()),
            destination,
            create_folders: true,
            ..Template::default()
        }],
        ..Group::default()
    })
}

fn name_of(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .collect()
}

/// `min[:max]`; without a maximum it is four times the minimum, as in consul-template.
fn wait(text: &str) -> Result<MinMax, Error> {
    let wrong = |error: String| Error::Invalid(format!("-wait: {error}"));
    let (min, max) = text.split_once(':').map_or((text, None), |(min, max)| (min, Some(max)));
    let min = encode::duration(min).map_err(wrong)?;
    let max = max.map(encode::duration).transpose().map_err(wrong)?.unwrap_or(min * 4);
    Ok(MinMax { min: Span(min), max: Span(max) })
}
