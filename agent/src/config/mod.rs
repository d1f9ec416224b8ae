//! Configuration: what files and flags say on one side, resolved settings on the other.
//!
//! `keys` is the table of everything that may be written, `file` and `flags` turn text into keys, `written` lays them
//! over one another, and `resolve` makes of them, of defaults, addresses and limits a [`Config`], which holds the
//! settings that each part defines. A mistake stops the start and names key, value and fix.

mod debug;
mod definitions;
mod faults;
mod file;
mod flags;
mod follow;
mod hcl;
mod judge;
mod keys;
mod places;
mod resolve;
mod written;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use muster_client::types::ServiceDefinition;
use serde_json::Value;

use crate::{dns, http, local, raft, read, rpc, telemetry, upstream, watches};
use follow::Files;
pub use follow::{Followed, Pace, follow};
use resolve::resolve;
pub use resolve::{
    AclSettings, AclTokens, DownPolicy, GossipTuning, HttpAddress, Ports, Segment, Segments,
    UnixSockets,
};
use written::Written;

/// Reads a text in a language and judges it; for [`crate::fuzzing`].
pub(crate) fn read_anything(text: &str, language: &str) {
    let _ = Written::from_text(text, language);
}

/// The text of `muster agent -help`.
pub fn help() -> String {
    flags::help()
}

/// The names of the flags of `muster agent`, without their dashes.
pub(crate) fn flag_names() -> impl Iterator<Item = &'static str> {
    flags::names()
}

/// The configuration is wrong; the text is for the person who wrote it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The resolved configuration of one agent.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the reference's configuration"
)]
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything in memory, answers pretty-printed.
    pub dev: bool,
    /// Server mode.
    pub server: bool,
    /// This server may elect itself.
    pub bootstrap: bool,
    /// Servers to wait for before the first election; 0 when not used.
    pub bootstrap_expect: u32,
    /// Name of the datacenter, lower case.
    pub datacenter: String,
    /// Name of the node.
    pub node_name: String,
    /// UUID, if one was given; otherwise made once and kept.
    pub node_id: Option<String>,
    /// Folder for what must survive; `None` in development mode.
    pub data_dir: Option<PathBuf>,
    /// Address for traffic between agents.
    pub bind: IpAddr,
    /// Under which address others reach this agent.
    pub advertise: IpAddr,
    /// The same for other datacenters.
    pub advertise_wan: IpAddr,
    /// Ports; `None` is off.
    pub ports: Ports,
    /// Addresses of the HTTP interface.
    pub http_addresses: Vec<HttpAddress>,
    /// Settings of the HTTP interface.
    pub http: http::Settings,
    /// Open connections of one HTTP client; 0 is no limit.
    pub http_connections_per_client: usize,
    /// Rate limits on HTTP clients.
    pub http_rates: http::Rates,
    /// Owner and mode of the files of unix sockets.
    pub unix_sockets: UnixSockets,
    /// Addresses of the DNS interface.
    pub dns_addresses: Vec<SocketAddr>,
    /// Settings of the DNS interface.
    pub dns: dns::Settings,
    /// Access control.
    pub acl: AclSettings,
    /// What this agent registers. The node's id is filled in at the start.
    pub local: local::Settings,
    /// Reads on a server.
    pub read: read::Settings,
    /// What the agent asks servers.
    pub upstream: upstream::Settings,
    /// Agreement of servers. The server's id is filled in at the start.
    pub raft: raft::Settings,
    /// The gossip pool.
    pub gossip: GossipTuning,
    /// The segments of the network that this agent is in.
    pub segments: Segments,
    /// Limits on what another agent may ask of this one.
    pub rpc_limits: rpc::Limits,
    /// The log.
    pub log: telemetry::Settings,
    /// File for the process id.
    pub pid_file: Option<PathBuf>,
    /// Leave the cluster at SIGTERM.
    pub leave_on_terminate: bool,
    /// Do not leave the cluster at SIGINT.
    pub skip_leave_on_interrupt: bool,
    /// Run what operators ask for by `exec`.
    pub remote_exec: bool,
    /// Questions to follow.
    pub watches: Vec<watches::Definition>,
    /// Watches that are wrong, and why: told with other wrong definitions.
    wrong_watches: Vec<String>,
    /// Reload when files change.
    pub auto_reload_config: bool,
    /// The files that were read.
    pub followed: Followed,
    /// Worth saying once at start.
    pub warnings: Vec<String>,
    /// All keys as they were written, to tell a reload from a change that needs a restart.
    written: Written,
}

/// Request of the command line.
#[derive(Debug)]
pub enum Wanted {
    /// Print the help text.
    Help,
    /// Start an agent.
    Agent(Box<Config>),
}

/// Reads the flags of `muster agent` and the files that they name.
pub fn from_args(args: &[String]) -> Result<Wanted, Error> {
    let line = flags::parse(args)?;
    if line.help {
        return Ok(Wanted::Help);
    }
    let mut followed = Followed::default();
    followed.add(&line.sources, Files::Configuration);
    let mut written = read_sources(&line.sources, line.format.as_deref())?;
    written.merge(line.keys);
    let config = resolve(&written, line.dev)?;
    let authorities = &config.local.authorities;
    followed.add(authorities.file.iter().chain(&authorities.folder), Files::All);
    Ok(Wanted::Agent(Box::new(Config { followed, ..config })))
}

/// Checks files and folders as `muster validate` does: everything but starting.
pub fn validate(sources: &[PathBuf], format: Option<&str>) -> Result<Config, Error> {
    resolve(&read_sources(sources, format)?, false)
}

/// The service definitions in files and folders, as written.
pub fn service_definitions(sources: &[PathBuf]) -> Result<Vec<Value>, Error> {
    Ok(read_sources(sources, None)?.definitions(&judge::SERVICES))
}

/// The services that files and folders define; a mistake in any of them is told before one is used.
pub fn services(sources: &[PathBuf]) -> Result<Vec<ServiceDefinition>, Error> {
    judge::services(&read_sources(sources, None)?)
}

impl Config {
    /// Keys that were changed since `before` and take effect only at the next start.
    pub fn needs_restart(&self, before: &Config) -> Vec<&'static str> {
        self.written.differences(&before.written)
    }

    /// This configuration with what a reload takes over from `newer`.
    #[must_use]
    pub fn reloaded(&self, newer: &Config) -> Config {
        let mut now = self.clone();
        now.log.level.clone_from(&newer.log.level);
        now.dns = newer.dns.clone();
        now.http_connections_per_client = newer.http_connections_per_client;
        now.http_rates.clone_from(&newer.http_rates);
        now.upstream.rate = newer.upstream.rate;
        now.local.node_meta.clone_from(&newer.local.node_meta);
        now.local.authorities.clone_from(&newer.local.authorities);
        now.local.services.clone_from(&newer.local.services);
        now.local.checks.clone_from(&newer.local.checks);
        now.watches.clone_from(&newer.watches);
        now
    }
}

/// Reads all files and folders; the mistakes of all of them are told together.
fn read_sources(sources: &[PathBuf], format: Option<&str>) -> Result<Written, Error> {
    let mut written = Written::default();
    let mut errors = Vec::new();
    for source in sources {
        let files = if source.is_dir() {
            let (files, lost) = Written::files_of(source)?;
            for link in lost {
                let link = link.display();
                written.warn(format!("`{link}` is not read: it is a link that leads nowhere"));
            }
            files
        } else {
            vec![source.clone()]
        };
        for file in files {
            match Written::from_file(&file, format) {
                Ok(keys) => written.merge(keys),
                Err(Error(what)) => errors.push(what),
            }
        }
    }
    if errors.is_empty() { Ok(written) } else { Err(Error(errors.join("\n"))) }
}

/// The reference's way of listing several errors.
fn list_errors(errors: &[String]) -> String {
    let plural = if errors.len() == 1 { "error" } else { "errors" };
    let lines = errors.join("\n\t* ");
    format!("{} {plural} occurred:\n\t* {lines}\n\n", errors.len())
}

#[cfg(test)]
mod proofs;
#[cfg(test)]
mod tests;
