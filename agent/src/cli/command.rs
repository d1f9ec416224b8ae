//! A command, its arguments, and its result.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use muster_client::{Client, Consistency, Error, ReadOptions, Response, Secret, Settings};

use super::flags::Values;
use super::layout;

/// Under which name the program was called: scripts that know it as `consul` get its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Program {
    /// The word to type.
    pub(super) name: &'static str,
    /// Name of the product in texts.
    pub(super) product: &'static str,
}

impl Program {
    pub(super) const MUSTER: Program = Program { name: "muster", product: "Muster" };
    pub(super) const CONSUL: Program = Program { name: "consul", product: "Consul" };

    /// From the first argument of the process.
    pub(super) fn called(path: &str) -> Program {
        match Path::new(path).file_stem() {
            Some(stem) if stem == "consul" => Program::CONSUL,
            _ => Program::MUSTER,
        }
    }
}

/// A command.
pub(super) struct Spec {
    /// Its words, as typed.
    pub(super) path: &'static str,
    /// One line for the list of commands.
    pub(super) synopsis: &'static str,
    /// Operands that may follow the options.
    pub(super) operands: &'static str,
    /// The text of `-help`, in paragraphs; indented lines stay as they are.
    pub(super) about: &'static str,
    /// Its own flags, in alphabetical order.
    pub(super) flags: &'static [Flag],
    /// Says whether it talks to an agent, and so has the flags for that.
    pub(super) common_flags: CommonFlags,
    pub(super) run: fn(&Call) -> Outcome,
}

/// Which of the common flags a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommonFlags {
    /// It needs no agent.
    None,
    /// Address of the agent, token and TLS.
    Api,
    /// Also `-stale`: it reads what servers may know less freshly.
    StaleApi,
}

/// Commands under a common first word.
pub(super) struct Group {
    pub(super) path: &'static str,
    pub(super) synopsis: &'static str,
    pub(super) about: &'static str,
}

/// A flag.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) help: &'static str,
}

/// Type of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing: it stands alone (`-flag=false` is possible).
    Switch,
    /// A text, shown as this in the help.
    Text(&'static str),
    /// The same, and it may come several times.
    Texts(&'static str),
    /// A whole number from 0.
    Number,
    /// A whole number.
    Signed,
    /// Such as `15s`.
    Duration,
}

impl Flag {
    pub(super) const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag { name, takes: Takes::Switch, help }
    }
    pub(super) const fn text(name: &'static str, shown: &'static str, help: &'static str) -> Flag {
        Flag { name, takes: Takes::Text(shown), help }
    }
    pub(super) const fn texts(name: &'static str, shown: &'static str, help: &'static str) -> Flag {
        Flag { name, takes: Takes::Texts(shown), help }
    }
    pub(super) const fn number(name: &'static str, help: &'static str) -> Flag {
        Flag { name, takes: Takes::Number, help }
    }
    pub(super) const fn signed(name: &'static str, help: &'static str) -> Flag {
        Flag { name, takes: Takes::Signed, help }
    }
    pub(super) const fn duration(name: &'static str, help: &'static str) -> Flag {
        Flag { name, takes: Takes::Duration, help }
    }
}

/// The flags of every command that talks to an agent.
pub(super) static API_FLAGS: &[Flag] = &[
    Flag::text("datacenter", "name", "Ask about this datacenter instead of the agent's own."),
    Flag::text(
        "http-addr",
        "address",
        "Where the agent is: `host:port`, `http://host:port` or `unix:///path`. Also \
         MUSTER_HTTP_ADDR or CONSUL_HTTP_ADDR; 127.0.0.1:8500 by default.",
    ),
    Flag::text(
        "token",
        "secret",
        "Who asks. Also MUSTER_HTTP_TOKEN or CONSUL_HTTP_TOKEN. A token given here can be seen in \
         the list of processes: prefer -token-file.",
    ),
    Flag::text(
        "token-file",
        "path",
        "File that holds the token. Also MUSTER_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN_FILE.",
    ),
];

/// The flag of commands that may read from any server.
pub(super) static STALE_FLAG: Flag = Flag::switch(
    "stale",
    "Let any server answer, even without a leader. Sooner, but perhaps not the latest state.",
);

/// The flag of every command that prints a table.
pub(super) const FORMAT_FLAG: Flag =
    Flag::text("format", "pretty|json", "A table for people, or JSON for programs.");

/// Result of a command.
pub(super) type Outcome = Result<Output, Failure>;

/// Output of a command that succeeded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    /// Remarks for people.
    pub(super) stderr: String,
    pub(super) code: u8,
}

impl From<String> for Output {
    fn from(text: String) -> Output {
        Output { stdout: text.into_bytes(), ..Output::default() }
    }
}

impl From<Vec<u8>> for Output {
    fn from(stdout: Vec<u8>) -> Output {
        Output { stdout, ..Output::default() }
    }
}

/// Output of a command that failed.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// On the standard output, before the error.
    pub(super) stdout: Vec<u8>,
    pub(super) text: String,
    /// Advice for the user.
    pub(super) hint: Option<String>,
    pub(super) code: u8,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), code: 1, ..Failure::default() }
    }
    #[must_use]
    pub(super) fn with_code(self, code: u8) -> Failure {
        Failure { code, ..self }
    }
    /// With a hint, unless it has one already.
    #[must_use]
    pub(super) fn or_hint(mut self, hint: impl Into<Option<String>>) -> Failure {
        self.hint = self.hint.or_else(|| hint.into());
        self
    }
}

/// A command with its arguments.
pub(super) struct Call {
    pub(super) program: Program,
    pub(super) spec: &'static Spec,
    pub(super) values: Values,
    /// Operands after the flags.
    pub(super) operands: Vec<String>,
}

impl Call {
    /// A client of the agent that flags and environment name.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.settings().and_then(Client::new).map_err(|error| {
            Failure::new(format!(
                "Error connecting to {} agent: {}",
                self.program.product,
                layout::chain(&error)
            ))
        })
    }

    /// The same with another token.
    pub(super) fn client_with_token(&self, secret: &str) -> Result<Client, Failure> {
        let client = self.client()?;
        let token = Some(Secret::new(secret));
        Client::new(Settings { token, ..client.settings().clone() })
            .map_err(|error| Failure::new(layout::chain(&error)))
    }

    fn settings(&self) -> Result<Settings, Error> {
        let mut settings = Settings::from_env()?;
        let text = |name| self.values.text(name).filter(|text| !text.is_empty());
        if let Some(address) = text("http-addr") {
            address.clone_into(&mut settings.address);
        }
        if let Some(token) = text("token") {
            settings.token = Some(Secret::new(token));
        }
        if let Some(path) = text("token-file") {
            settings.token = Secret::from_file(path)?.or(settings.token);
        }
        settings.datacenter = text("datacenter").map(str::to_owned).or(settings.datacenter);
        // Reads and writes may wait for a leader to be elected.
        settings.timeout = Duration::from_mins(1);
        Ok(settings)
    }

    /// Options of a read request.
    pub(super) fn options(&self) -> ReadOptions {
        let stale = self.spec.common_flags == CommonFlags::StaleApi && self.values.on("stale");
        let consistency = if stale { Consistency::Stale } else { Consistency::Default };
        ReadOptions { consistency, ..ReadOptions::default() }
    }

    /// A failure of the agent, after words that say what was tried; `{}` in them is the product.
    pub(super) fn failed(&self, what: &str, error: &Error) -> Failure {
        let what = what.replace("{}", self.program.product);
        let hint = match error {
            Error::Unreachable { .. } => Some(format!(
                "is an agent running there? `{} agent -dev` starts one to try things out; -http-addr says where it is",
                self.program.name
            )),
            Error::Status { text, .. } if error.is_not_found() && text.is_empty() => {
                Some("this agent does not offer that; its version may be older or newer".to_owned())
            }
            Error::Status { text, .. } if error.is_denied() => {
                Some(self.why_denied(text).replace("{}", self.program.name))
            }
            _ => None,
        };
        Failure::new(format!("{what}: {}", layout::chain(error))).or_hint(hint)
    }

    /// Advice for a refusal, by what the server says and by what was sent.
    fn why_denied(&self, text: &str) -> &'static str {
        if text.contains("ACL support disabled") {
            return "access control is off; `acl { enabled = true }` in the configuration of servers and agents turns \
                    it on";
        }
        let with_token = self.settings().is_ok_and(|settings| settings.token.is_some());
        match (with_token, text.contains("ACL not found")) {
            (false, _) => "-token-file or -token say who asks",
            (true, true) => {
                "no token has the secret that was sent: it may be mistyped, removed or at its end"
            }
            (true, false) => {
                "the token that was sent may not do this; `{} acl token read -self -expanded` shows what it may, and \
                 `{} acl explain` which rule decides"
            }
        }
    }

    /// A failure of how the command was called, followed by its help.
    pub(super) fn misused(&self, text: &str) -> Failure {
        Failure::new(format!("{text}\n\n{}", super::help::command(self.program, self.spec)))
    }

    /// Is JSON asked for instead of a table?
    pub(super) fn json(&self) -> Result<bool, Failure> {
        match self.values.text("format").unwrap_or("pretty") {
            "" | "pretty" => Ok(false),
            "json" => Ok(true),
            other => Err(Failure::new(format!(
                "Invalid format, valid formats are {{pretty|json}}: {other}"
            ))),
        }
    }

    /// Rows under a row of headings, as a table or as JSON.
    pub(super) fn table(&self, rows: &[Vec<String>], gap: usize) -> Outcome {
        if self.json()? {
            Ok(layout::objects(rows).into())
        } else {
            Ok(layout::columns(rows, gap).into())
        }
    }

    /// Refuses operands.
    pub(super) fn no_operands(&self) -> Result<(), Failure> {
        match self.operands.len() {
            0 => Ok(()),
            n => Err(Failure::new(format!("Too many arguments (expected 0, got {n})"))),
        }
    }
}

/// Runs a future to its end.
pub(super) fn wait<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let answer = runtime.block_on(work);
    // A name look-up under way must not hold the process back.
    runtime.shutdown_background();
    Ok(answer)
}

/// The rows of an answer. Those that could not be read are named on the standard error.
#[expect(clippy::print_stderr, reason = "the command line talks")]
pub(super) fn rows_of<T>(found: Response<T>) -> T {
    for odd in &found.meta.odd_rows {
        eprintln!("left out, since it cannot be read: {odd}");
    }
    found.value
}
