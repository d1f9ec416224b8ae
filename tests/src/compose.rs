//! The stack of `docker-compose.yml`, under a project name of its own and on ports that the engine picks, so that it
//! stands beside whatever else runs on this machine. Dropped, it is taken down whole.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio, id},
};

use anyhow::{Context, Result, ensure};

use crate::{
    process::output,
    programs::{program, workspace},
};

/// The services that hold the catalog.
pub const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];

/// A container of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The short id, which is also the host name inside.
    pub id: String,
    /// Its name, `<project>-web-3`.
    pub name: String,
}

/// A stack.
#[derive(Debug)]
pub struct Stack {
    project: String,
    /// Where the images get the programs from, see `Dockerfile`.
    binaries: String,
    folder: PathBuf,
}

impl Stack {
    /// A stack that does not exist yet. Its images will hold the programs of this workspace.
    ///
    /// # Errors
    /// When no engine answers: how to get one.
    pub fn new(purpose: &str) -> Result<Self> {
        output(Command::new("docker").args(["compose", "version"]))
            .and_then(|_| output(Command::new("docker").arg("info")))
            .context("this test needs a container engine: run it by tools/test, or --no-containers without it")?;
        let binaries = env::var("MUSTER_BINARIES").unwrap_or_else(|_| "host".to_owned());
        let programs = program("muster");
        let folder = programs.parent().and_then(|it| it.strip_prefix(workspace()).ok());
        ensure!(
            binaries != "host" || folder.is_some(),
            "images take only programs from inside this folder, not {}",
            programs.display()
        );
        let folder = folder.map(Path::to_owned).unwrap_or_default();
        Ok(Self { project: format!("muster-{purpose}-{}", id()), binaries, folder })
    }

    /// The project's name.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Runs `docker compose` for this stack.
    ///
    /// # Errors
    /// When it fails: its output.
    pub fn compose(&self, args: &[&str]) -> Result<String> {
        output(self.command().args(args))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .current_dir(workspace())
            .args(["compose", "--project-name", &self.project, "--progress", "plain"])
            .env("MUSTER_BINARIES", &self.binaries)
            .env("MUSTER_FOLDER", &self.folder)
            // Port 0: one that is free, asked for again by `port` since a restarted container gets another.
            .env("MUSTER_HTTP_PORT", "0")
            .env("MUSTER_DNS_PORT", "0")
            .env("MUSTER_EDGE_PORT", "0");
        command
    }

    /// Builds the images, starts everything with so many instances of `web`, and waits until it is healthy.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn up(&self, web: usize) -> Result<()> {
        let scale = format!("web={web}");
        self.compose(&[
            "up",
            "--build",
            "--detach",
            "--wait",
            "--wait-timeout",
            "120",
            "--scale",
            &scale,
        ])?;
        Ok(())
    }

    /// Makes it so many instances of `web`; those there are stay as they are, dead ones are started again.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn scale(&self, web: usize) -> Result<()> {
        let scale = format!("web={web}");
        self.compose(&["up", "--detach", "--no-recreate", "--scale", &scale, "web"])?;
        Ok(())
    }

    /// The running containers of a service, by name.
    ///
    /// # Errors
    /// When the engine does not say.
    pub fn running(&self, service: &str) -> Result<Vec<Container>> {
        let text = docker(&[
            "ps",
            "--filter",
            &format!("label=com.docker.compose.project={}", self.project),
            "--filter",
            &format!("label=com.docker.compose.service={service}"),
            "--format",
            "{{.Names}} {{.ID}}",
        ])?;
        let mut containers: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, id)| Container { id: id.to_owned(), name: name.to_owned() })
            .collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    /// Where a port of a service is published now: host and port.
    ///
    /// # Errors
    /// When it is not, the container being down for instance.
    pub fn address(&self, service: &str, port: u16) -> Result<String> {
        let text = self.compose(&["port", service, &port.to_string()])?;
        let address = text.trim();
        ensure!(!address.ends_with(":0"), "{service}:{port} is not published");
        Ok(address.to_owned())
    }

    /// The network that the containers share.
    pub fn network(&self) -> String {
        format!("{}_default", self.project)
    }

    /// What the services wrote last, for a report.
    pub fn logs(&self) -> String {
        let mut args = vec!["logs", "--no-color", "--timestamps", "--tail", "60"];
        args.extend(SERVERS);
        args.extend(["muster", "registrator", "edge"]);
        self.compose(&args).unwrap_or_else(|error| format!("no logs: {error:#}"))
    }

    /// Takes everything down: containers, networks, volumes, and the images built for this stack.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn down(&self) -> Result<()> {
        self.compose(&["down", "--volumes", "--remove-orphans", "--rmi", "all", "--timeout", "5"])?;
        Ok(())
    }

    /// All that the engine still has of this project, one line for each thing.
    ///
    /// # Errors
    /// When the engine does not say.
    pub fn leftovers(&self) -> Result<String> {
        let label = format!("label=com.docker.compose.project={}", self.project);
        let mut left = String::new();
        let images = format!("reference={}-*", self.project);
        for (list, filter) in [
            (["ps", "--all"], &label),
            (["network", "ls"], &label),
            (["volume", "ls"], &label),
            (["image", "ls"], &images),
        ] {
            left += &docker(&[list[0], list[1], "--quiet", "--filter", filter])?;
        }
        Ok(left)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Quietly: a test that failed has said why, and one that passed has taken it down itself.
        let args = ["down", "--volumes", "--remove-orphans", "--rmi", "all", "--timeout", "1"];
        let _ = self.command().args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Runs `docker`.
///
/// # Errors
/// When it fails: its output.
pub fn docker(args: &[&str]) -> Result<String> {
    output(Command::new("docker").args(args))
}
