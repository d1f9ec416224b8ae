//! A running agent of our own, and the program's other commands against it.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_client::{Client, Secret, Settings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster");

/// How long anything may take; far above what it takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// Looks again after a moment: there is nobody to wake a test that waits for another process.
#[expect(clippy::disallowed_methods, reason = "between two looks, with a deadline; not async")]
fn moment() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        moment();
    }
}

/// An agent in development mode, ended when dropped.
pub(crate) struct Agent {
    process: Child,
    address: String,
    ports: [u16; 5],
    node: String,
    /// Sent with every command; empty: none.
    token: String,
    folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    /// Starts one and waits until it has a leader.
    pub(crate) fn start() -> Agent {
        Agent::start_with(|_| String::new(), &[])
    }

    /// Starts one with further keys, written as the fields of a JSON object, and with further variables
    /// in its environment; `{folder}` in them is the agent's folder.
    pub(crate) fn start_with(
        keys: impl Fn(&Path) -> String,
        environment: &[(&str, &str)],
    ) -> Agent {
        Agent::start_program(PROGRAM, keys, environment)
    }

    /// The same with another program, which takes the same configuration.
    pub(crate) fn start_program(
        program: &str,
        keys: impl Fn(&Path) -> String,
        environment: &[(&str, &str)],
    ) -> Agent {
        Agent::start_secured(program, keys, environment, "")
    }

    /// The same, where the agent shows itself to this token only.
    pub(crate) fn start_secured(
        program: &str,
        keys: impl Fn(&Path) -> String,
        environment: &[(&str, &str)],
        token: &str,
    ) -> Agent {
        // Another program may take a port between our look and the agent's: then try others.
        for _ in 0..5 {
            if let Some(agent) = Agent::try_start(program, &keys, environment, token) {
                return agent;
            }
        }
        panic!("no agent could be started");
    }

    fn try_start(
        program: &str,
        keys: &impl Fn(&Path) -> String,
        environment: &[(&str, &str)],
        token: &str,
    ) -> Option<Agent> {
        let folder = tempfile::tempdir().unwrap();
        let sockets = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http, dns, server, lan, wan] =
            sockets.each_ref().map(|s| s.local_addr().unwrap().port());
        drop(sockets);
        // A name that no other agent has: what answers there must be ours.
        let node = format!("cli-test-{:08}-{http:05}", std::process::id());
        let config = folder.path().join("agent.json");
        let text = format!(
            r#"{{"node_name":"{node}","log_level":"warn","ports":{{"http":{http},"dns":{dns},
                "server":{server},"serf_lan":{lan},"serf_wan":{wan}}}}}"#
        );
        std::fs::write(&config, text).unwrap();
        let more = folder.path().join("more.json");
        std::fs::write(&more, format!("{{{}}}", keys(folder.path()))).unwrap();
        let log = std::fs::File::create(folder.path().join("out.log")).unwrap();
        let here = folder.path().to_str().unwrap();
        let process = Command::new(program)
            .args(["agent", "-dev", "-bind=127.0.0.1", "-config-file"])
            .arg(&config)
            .arg("-config-file")
            .arg(&more)
            .envs(environment.iter().map(|(name, value)| (name, value.replace("{folder}", here))))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut agent = Agent {
            process,
            address: format!("127.0.0.1:{http}"),
            ports: [http, dns, server, lan, wan],
            node,
            token: token.to_owned(),
            folder,
        };
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if agent.process.try_wait().unwrap().is_some() {
                return None;
            }
            // The node enters the catalog after a leader was elected.
            let (code, out, _) = agent.run(&["catalog", "nodes"]);
            if code == 0 && out.contains(&agent.node) {
                return Some(agent);
            }
            moment();
        }
        panic!("the agent does not get ready");
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the further keys of the configuration; a reload takes them over.
    pub(crate) fn configure(&self, keys: &str) {
        std::fs::write(self.folder().join("more.json"), format!("{{{keys}}}")).unwrap();
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("out.log")).unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for its end: its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        until("the agent ends", || match self.process.try_wait().unwrap() {
            None => false,
            Some(status) => {
                code = status.code();
                true
            }
        });
        code
    }

    /// `host:port` of its HTTP interface.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// HTTP, DNS, RPC, LAN, WAN.
    pub(crate) fn ports(&self) -> [u16; 5] {
        self.ports
    }

    pub(crate) fn client(&self) -> Client {
        let address = self.address.clone();
        let token = (!self.token.is_empty()).then(|| Secret::new(&*self.token));
        Client::new(Settings { address, token, ..Settings::default() }).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("MUSTER_HTTP_ADDR", &self.address).env("SHELL", "/bin/sh");
        for name in ["MUSTER_HTTP_TOKEN", "CONSUL_HTTP_TOKEN", "MUSTER_HTTP_SSL", "CONSUL_HTTP_SSL"]
        {
            command.env_remove(name);
        }
        if !self.token.is_empty() {
            command.env("MUSTER_HTTP_TOKEN", &self.token);
        }
        command
    }

    /// Starts a command that goes on.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::null()).spawn().unwrap()
    }

    /// The same, with its output in a file.
    pub(crate) fn spawn_into(&self, args: &[&str], file: &Path) -> Child {
        let file = std::fs::File::create(file).unwrap();
        self.command(args).stdin(Stdio::null()).stdout(file).spawn().unwrap()
    }

    /// Runs a command to its end: exit code, output, errors.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        self.run_with(args, b"")
    }

    /// The same with something on the standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> (i32, String, String) {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Runs a line of a shell; `$0` in it is the program.
    pub(crate) fn run_shell(&self, line: &str) -> (i32, String, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line, PROGRAM]).env("MUSTER_HTTP_ADDR", &self.address);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Runs a command and compares everything.
    #[track_caller]
    pub(crate) fn expect(&self, args: &[&str], code: i32, out: &str, err: &str) {
        let found = self.run(args);
        assert_eq!(found, (code, out.to_owned(), err.to_owned()), "{args:?}");
    }
}
