//! The command line: `agent` starts a node; everything else is an ordinary client of the HTTP API.
//!
//! | file | owns |
//! |---|---|
//! | `command` | what a command is: its flags, its help, what it gives back |
//! | `flags` | reading flags with one or two dashes |
//! | `help` | the texts of `-help` |
//! | `layout` | columns, JSON and errors as people and scripts expect them |
//! | the others | one command or one family each |
//!
//! A command is an ordinary function from a [`Call`] to the text that it prints;
//! only this file writes that text and ends the process. Names, flags, outputs and exit codes are
//! the reference's, for scripts' sake: 0 done, 1 failed, 127 no such command.

mod acl;
mod agent;
mod catalog;
mod command;
mod complete;
mod control;
mod debug;
mod docs;
mod event;
mod exec;
mod explain;
mod flags;
mod help;
mod info;
mod keyring;
mod kv;
mod kv_edit;
mod kv_transfer;
mod layout;
mod lock;
mod maint;
mod members;
mod monitor;
mod operator;
mod rtt;
mod services;
mod snapshot;
mod top;
mod validate;
mod version;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use command::{Call, Failure, Group, Output, Program, Spec};

/// Every command but `agent`, whose flags are the configuration's, in alphabetical order.
static COMMANDS: &[&Spec] = &[
    &acl::auth_method::CREATE,
    &acl::auth_method::DELETE,
    &acl::auth_method::LIST,
    &acl::auth_method::READ,
    &acl::auth_method::UPDATE,
    &acl::binding_rule::CREATE,
    &acl::binding_rule::DELETE,
    &acl::binding_rule::LIST,
    &acl::binding_rule::READ,
    &acl::binding_rule::UPDATE,
    &acl::setup::BOOTSTRAP,
    &acl::explain::EXPLAIN,
    &acl::policy::CREATE,
    &acl::policy::DELETE,
    &acl::policy::LIST,
    &acl::policy::READ,
    &acl::policy::UPDATE,
    &acl::role::CREATE,
    &acl::role::DELETE,
    &acl::role::LIST,
    &acl::role::READ,
    &acl::role::UPDATE,
    &acl::setup::SET_AGENT_TOKEN,
    &acl::template::LIST,
    &acl::template::PREVIEW,
    &acl::template::READ,
    &acl::token::CLONE,
    &acl::token::CREATE,
    &acl::token::DELETE,
    &acl::token::LIST,
    &acl::token::READ,
    &acl::token_update::UPDATE,
    &acl::setup::TRANSLATE,
    &catalog::DATACENTERS,
    &catalog::NODES,
    &catalog::SERVICES,
    &complete::COMPLETION,
    &debug::DEBUG,
    &docs::DOCS,
    &event::EVENT,
    &exec::EXEC,
    &explain::EXPLAIN,
    &control::FORCE_LEAVE,
    &info::INFO,
    &control::JOIN,
    &keyring::KEYGEN,
    &keyring::KEYRING,
    &kv::DELETE,
    &kv_edit::EDIT,
    &kv_transfer::EXPORT,
    &kv::GET,
    &kv_transfer::IMPORT,
    &kv::PUT,
    &control::LEAVE,
    &lock::LOCK,
    &acl::login::LOGIN,
    &acl::login::LOGOUT,
    &maint::MAINT,
    &members::MEMBERS,
    &operator::autopilot::GET_CONFIG,
    &operator::autopilot::SET_CONFIG,
    &operator::state::STATE,
    &operator::raft::LIST_PEERS,
    &operator::raft::REMOVE_PEER,
    &operator::raft::TRANSFER_LEADER,
    &operator::recover::RECOVER,
    &monitor::MONITOR,
    &control::RELOAD,
    &rtt::RTT,
    &services::DEREGISTER,
    &services::REGISTER,
    &snapshot::INSPECT,
    &snapshot::RESTORE,
    &snapshot::SAVE,
    &top::TOP,
    &validate::VALIDATE,
    &version::VERSION,
    &watch::WATCH,
];

/// Commands that only hold others.
static GROUPS: &[&Group] = &[
    &Group { path: "acl", synopsis: "Manage tokens and what they may", about: acl::ABOUT },
    acl::GROUPS[0],
    acl::GROUPS[1],
    acl::GROUPS[2],
    acl::GROUPS[3],
    acl::GROUPS[4],
    acl::GROUPS[5],
    &Group { path: "catalog", synopsis: "Look into the catalog", about: catalog::ABOUT },
    &Group { path: "kv", synopsis: "Read and write keys", about: kv::ABOUT },
    &Group { path: "operator", synopsis: "Look after the cluster", about: operator::ABOUT },
    &Group {
        path: "operator autopilot",
        synopsis: "Look after how the leader looks after the servers",
        about: operator::autopilot::ABOUT,
    },
    &Group {
        path: "operator raft",
        synopsis: "Look after the agreement between servers",
        about: operator::raft::ABOUT,
    },
    &Group { path: "services", synopsis: "Register services", about: services::ABOUT },
    &Group {
        path: "snapshot",
        synopsis: "Save and restore the state of the servers",
        about: snapshot::ABOUT,
    },
];

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = Program::called(&args.next().unwrap_or_default());
    let args: Vec<String> = args.collect();
    // A shell asks what may follow; it looks at nothing but the output.
    if let Ok(line) = std::env::var("COMP_LINE") {
        return finish(Ok(complete::answer(&line).into()));
    }
    if args == [lock::GUARD] {
        return lock::run_guard();
    }
    if args.first().is_some_and(|command| command == "agent") {
        return agent::run(&args[1..]);
    }
    finish(run(program, &args))
}

/// The request of the arguments.
enum Wanted<'a> {
    Command(&'static Spec, &'a [String]),
    Group(&'static Group, &'a [String]),
    Version,
    /// Completion in the start files of shells.
    Completion {
        remove: bool,
    },
    /// `-help` before any command.
    Overview,
    Unknown(Option<&'a str>),
}

/// Finds the command with the longest name that the arguments begin with.
fn wanted(args: &[String]) -> Wanted<'_> {
    match args.first().map(String::as_str) {
        None => return Wanted::Unknown(None),
        Some("-h" | "-help" | "--help") => return Wanted::Overview,
        Some("-v" | "-version" | "--version") => return Wanted::Version,
        Some("-autocomplete-install" | "--autocomplete-install") => {
            return Wanted::Completion { remove: false };
        }
        Some("-autocomplete-uninstall" | "--autocomplete-uninstall") => {
            return Wanted::Completion { remove: true };
        }
        Some(_) => {}
    }
    let names = args.iter().take_while(|arg| !arg.starts_with('-')).count();
    for words in (1..=names.min(3)).rev() {
        let path = args[..words].join(" ");
        if let Some(spec) = COMMANDS.iter().find(|spec| spec.path == path) {
            return Wanted::Command(spec, &args[words..]);
        }
        if let Some(group) = GROUPS.iter().find(|group| group.path == path) {
            return Wanted::Group(group, &args[words..]);
        }
    }
    Wanted::Unknown(Some(&args[0]))
}

fn run(program: Program, args: &[String]) -> Result<Output, Failure> {
    match wanted(args) {
        Wanted::Command(spec, rest) => {
            if flags::asks_for_help(spec, rest) {
                return Ok(help::command(program, spec).into());
            }
            let (values, operands) = flags::parse(spec, rest)
                .map_err(|failure| failure.or_hint(help::where_to_look(program, spec)))?;
            (spec.run)(&Call { program, spec, values, operands })
        }
        Wanted::Group(group, rest) => {
            let text = help::group(program, group, COMMANDS, GROUPS);
            match rest.first().map(String::as_str) {
                Some("-h" | "-help" | "--help") => Ok(text.into()),
                Some(unknown) if !unknown.starts_with('-') => {
                    let known = help::below(group.path, COMMANDS, GROUPS);
                    Err(Failure::new(text.trim_end()).or_hint(help::similar(unknown, &known)))
                }
                _ => Err(Failure::new(text.trim_end())),
            }
        }
        Wanted::Completion { remove } => complete::install(program, remove),
        Wanted::Version => Ok(version::text(program).into()),
        Wanted::Overview => Ok(help::overview(program, COMMANDS, GROUPS).into()),
        Wanted::Unknown(name) => {
            let text = help::overview(program, COMMANDS, GROUPS);
            let mut known = help::below("", COMMANDS, GROUPS);
            known.push("agent");
            let hint = match name {
                None => None,
                Some(flag) if flag.starts_with('-') => Some(format!(
                    "`{flag}` comes before the command: put flags after it, as in `{} kv get {flag} ...`",
                    program.name
                )),
                Some(name) => help::similar(name, &known)
                    .or_else(|| Some(format!("there is no command `{name}`"))),
            };
            Err(Failure::new(text).with_code(127).or_hint(hint))
        }
    }
}

/// Prints what a command gave back.
#[expect(clippy::print_stderr, reason = "the command line talks")]
fn finish(outcome: Result<Output, Failure>) -> ExitCode {
    match outcome {
        Ok(output) => {
            if let Err(error) = print(&output.stdout) {
                // Whoever closed the pipe has read enough.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    eprintln!("cannot write the output: {error}");
                }
                return ExitCode::FAILURE;
            }
            // A terminal that is gone changes nothing of what was done.
            let _ = write!(io::stderr(), "{}", output.stderr);
            ExitCode::from(output.code)
        }
        Err(failure) => {
            // Some errors come with an answer all the same.
            let _ = print(&failure.stdout);
            if !failure.text.is_empty() {
                eprintln!("{}", failure.text.trim_end());
            }
            if let Some(hint) = failure.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

#[cfg(test)]
mod tests;
