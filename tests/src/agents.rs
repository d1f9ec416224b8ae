//! Agents of one pool, servers and others, each with its folder, its ports and its configuration, which tests may
//! change between two lives.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{self, Reply},
    process::{Process, free_ports},
    programs::program,
};

/// An agent that may run.
#[derive(Debug)]
pub struct Agent {
    /// Its keys; what is changed here holds from its next start on.
    pub config: Value,
    folder: TempDir,
    process: Option<Process>,
}

impl Agent {
    /// An agent on ports of its own, with `more` in addition to the usual keys or in their place. Nothing runs yet.
    ///
    /// # Errors
    /// When its folder cannot be made, or when `name` could be the beginning of an id: a node that is not there is
    /// then looked up by its id, and once in a while somebody else is found.
    pub fn prepare(name: &str, more: &Value) -> Result<Self> {
        ensure!(
            name.len() < 2 || !name.bytes().all(|it| it.is_ascii_hexdigit() || it == b'-'),
            "{name} could be the beginning of a node's id; name it otherwise"
        );
        let folder = tempfile::Builder::new().prefix("muster-test-").tempdir()?;
        let [http, dns, server, serf_lan] = free_ports();
        let mut config = json!({
            "node_name": name,
            "bind_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"),
            "log_level": "DEBUG",
            "retry_interval": "1s",
            "ports": { "http": http, "dns": dns, "server": server, "serf_lan": serf_lan, "serf_wan": -1 },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        Ok(Self { config, folder, process: None })
    }

    /// Starts it and returns at once.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "it runs already");
        let file = self.write_keys()?;
        let mut command = Command::new(program("muster"));
        command.arg("agent").arg("-config-file").arg(file);
        self.process = Some(Process::spawn(command, &self.log_file())?);
        Ok(())
    }

    /// Has it read its keys anew, as they are now.
    ///
    /// # Errors
    /// When it refuses them.
    pub fn reload(&self) -> Result<()> {
        self.write_keys()?;
        self.put("/v1/agent/reload", "").map(drop)
    }

    /// Writes the keys down as they are now; says where.
    fn write_keys(&self) -> Result<PathBuf> {
        let file = self.folder.path().join("config.json");
        fs::write(&file, serde_json::to_vec_pretty(&self.config)?)?;
        Ok(file)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended before, or never ran.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("it is not running")?.kill()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`, or never ran.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = self.process()?.wait(limit)?;
        self.process = None;
        Ok(status)
    }

    /// The running process.
    ///
    /// # Errors
    /// When none runs.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("it is not running")
    }

    /// Was it started, and neither killed nor waited for since?
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Where it keeps what must survive it.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its own id, which it keeps on disk.
    ///
    /// # Errors
    /// When it has none yet.
    pub fn id(&self) -> Result<String> {
        Ok(fs::read_to_string(self.data().join("node-id"))?.trim().to_owned())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// All that it wrote in all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Removes what it keeps on disk.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn wipe(&self) -> Result<()> {
        ensure!(self.process.is_none(), "it runs");
        Ok(fs::remove_dir_all(self.data())?)
    }

    fn port(&self, interface: &str) -> u64 {
        self.config["ports"][interface].as_u64().unwrap_or_default()
    }

    /// Where others meet it.
    pub fn gossip(&self) -> String {
        format!("127.0.0.1:{}", self.port("serf_lan"))
    }

    /// Its HTTP interface.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port("http"))
    }

    /// The port of its DNS interface.
    pub fn dns(&self) -> u16 {
        u16::try_from(self.port("dns")).unwrap_or_default()
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
    /// When no complete answer came, or another status than 200.
    pub fn put(&self, path: &str, body: &str) -> Result<Reply> {
        let reply = http::put(&self.address(), path, body.as_bytes())?;
        ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
        Ok(reply)
    }

    /// What a command of the command line prints when it is given to this agent.
    ///
    /// # Errors
    /// When it fails: all that it printed.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program("muster"));
        command.args(args).env("MUSTER_HTTP_ADDR", self.address()).stdin(Stdio::null());
        crate::process::output(&mut command)
    }

    /// How it sees the pool: a member's name, and its row.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn members(&self) -> Result<Vec<(String, Value)>> {
        let rows = self.get("/v1/agent/members")?.json()?;
        let rows = rows.as_array().cloned().unwrap_or_default().into_iter();
        Ok(rows.map(|row| (row["Name"].as_str().unwrap_or_default().to_owned(), row)).collect())
    }

    /// How it sees one member: 1 is there, 2 about to go, 3 left, 4 failed, 0 unknown.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self, name: &str) -> Result<u64> {
        let row = self.members()?.into_iter().find(|(it, _)| it == name);
        Ok(row.and_then(|(_, row)| row["Status"].as_u64()).unwrap_or(0))
    }

    /// One of its own figures.
    ///
    /// # Errors
    /// When it has none of this name.
    pub fn figure(&self, name: &str) -> Result<u64> {
        let figures = self.get("/v1/agent/metrics")?.json()?;
        let gauges = figures["Gauges"].as_array().cloned().unwrap_or_default();
        let gauge = gauges.iter().find(|it| it["Name"] == name);
        gauge.and_then(|it| it["Value"].as_u64()).with_context(|| format!("no figure {name}"))
    }
}
