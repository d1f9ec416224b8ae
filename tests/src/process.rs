//! Programs under test as child processes: free ports, a folder of their own, an end with the test.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
pub use muster_testing::free_ports;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{self, Reply},
    programs::program,
    wait::eventually,
};

/// How long a server may take until it has a leader.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A child process whose output goes into a file. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// As [`Process::spawn`], with the standard output handed to the caller instead.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_piped(mut command: Command, log: &Path) -> Result<(Self, ChildStdout)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log)?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().expect("it was piped");
        Ok((Self { child, log: log.to_owned() }, stdout))
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id is small")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to process {pid}"))
    }

    /// `kill -9`, and its end is awaited.
    ///
    /// # Errors
    /// When the process had ended by itself, which the caller did not expect: its exit status and log.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("it had ended by itself with {status}\n{}", self.log_tail());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (status, _) = eventually(limit, "end of the process", || {
            self.child.try_wait()?.context("it is still running")
        })?;
        Ok(status)
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When it has ended: how, and the end of its log.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("ended with {status}\n{}", self.log_tail()),
        }
    }

    /// Whether it has ended, and done well.
    ///
    /// # Errors
    /// When it has ended otherwise: how, and the end of its log.
    pub fn has_succeeded(&mut self) -> Result<bool> {
        match self.child.try_wait()? {
            Some(status) if status.success() => Ok(true),
            _ => self.ensure_running().map(|()| false),
        }
    }

    /// The last lines it wrote.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One durable server with a folder and ports that stay the same over restarts.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    http: u16,
    process: Option<Process>,
}

impl Server {
    /// Prepares the folder and the configuration; nothing runs yet.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn prepare() -> Result<Self> {
        Self::prepare_with(json!({}))
    }

    /// As [`Server::prepare`], with configuration keys in addition to the usual ones, or in their place.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn prepare_with(more: Value) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("muster-test-").tempdir()?;
        let [http, dns, server, serf_lan, serf_wan] = free_ports();
        let mut config = json!({
            "node_name": "one",
            "server": true,
            "bootstrap_expect": 1,
            "bind_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"),
            "log_level": "INFO",
            "ports": {
                "http": http, "dns": dns, "server": server, "serf_lan": serf_lan, "serf_wan": serf_wan,
            },
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        fs::write(folder.path().join("config.json"), serde_json::to_vec_pretty(&config)?)?;
        Ok(Self { folder, http, process: None })
    }

    /// Starts it under its own name and waits until it has a leader and knows its own node.
    ///
    /// # Errors
    /// When it ends, or has none in time.
    pub fn start(&mut self) -> Result<Duration> {
        self.start_as(&program("muster"))
    }

    /// As [`Server::start`], with another path to the program.
    ///
    /// # Errors
    /// When it ends, or has no leader in time.
    pub fn start_as(&mut self, program: &Path) -> Result<Duration> {
        self.begin_as(program)?;
        self.ready()
    }

    /// Starts it and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&mut self) -> Result<()> {
        self.begin_as(&program("muster"))
    }

    fn begin_as(&mut self, program: &Path) -> Result<()> {
        ensure!(self.process.is_none(), "it runs already");
        let mut command = Command::new(program);
        command.arg("agent").arg("-config-file").arg(self.folder.path().join("config.json"));
        self.process = Some(Process::spawn(command, &self.folder.path().join("log"))?);
        Ok(())
    }

    /// Waits until it has a leader and knows its own node.
    ///
    /// # Errors
    /// When it ends, or has none in time.
    pub fn ready(&mut self) -> Result<Duration> {
        let process = self.process.as_mut().context("it is not running")?;
        let address = format!("127.0.0.1:{}", self.http);
        let ((), took) = eventually(START_LIMIT, "a leader", || {
            process.ensure_running()?;
            let leader = http::get(&address, "/v1/status/leader")?.json()?;
            ensure!(leader.as_str().is_some_and(|it| !it.is_empty()), "leader {leader}");
            let nodes = http::get(&address, "/v1/catalog/nodes")?;
            ensure!(nodes.json()?.as_array().is_some_and(|it| !it.is_empty()), "no node yet");
            Ok(())
        })
        .with_context(|| process.log_tail())?;
        Ok(took)
    }

    /// Puts keys into its configuration, or others in their place; it reads them at its next start or reload.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, more: &Value) -> Result<()> {
        let file = self.folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more.clone());
        }
        fs::write(file, serde_json::to_vec_pretty(&config)?)?;
        Ok(())
    }

    /// One of its ports, by the name that the configuration has for it.
    ///
    /// # Errors
    /// When the configuration has none of that name.
    pub fn port(&self, name: &str) -> Result<u16> {
        let config: Value =
            serde_json::from_slice(&fs::read(self.folder.path().join("config.json"))?)?;
        let port = config["ports"][name].as_u64().context("no such port")?;
        Ok(u16::try_from(port)?)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended before, or never ran.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("it is not running")?.kill()
    }

    /// The running process.
    ///
    /// # Errors
    /// When none runs.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("it is not running")
    }

    /// Host and port of its HTTP interface.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    /// Its folder, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A GET on a connection of its own.
    ///
    /// # Errors
    /// When no complete answer came.
    pub fn get(&self, path: &str) -> Result<Reply> {
        http::get(&self.address(), path)
    }

    /// A PUT on a connection of its own.
    ///
    /// # Errors
    /// When no complete answer came.
    pub fn put(&self, path: &str, body: &[u8]) -> Result<Reply> {
        http::put(&self.address(), path, body)
    }
}

/// Runs a command to its end and returns what it wrote to its standard output.
///
/// # Errors
/// When it cannot be started or fails: what it wrote to its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("{} is not installed", command.get_program().display())
        }
        _ => error.into(),
    })?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    Ok(out.into_owned())
}
