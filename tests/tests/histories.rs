//! Histories by chance, of real processes: three servers and two other agents are killed, built anew, given other names,
//! leave and come back, while the leader is there or away. After each event those that vote are those that run, each
//! `serfHealth` has an agent that justifies it, each agent has its row, and writes go on.
//!
//! `MUSTER_REBUILT_ROUNDS` histories (1 without) of `MUSTER_REBUILT_EVENTS` events (4 without), the first with the seed
//! `MUSTER_REBUILT_SEED` (by chance without).

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_tests::{
    agents::Agent,
    servers::{LIMIT, client, cluster, holds, leader, put, voting},
    wait::{eventually, pause},
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

/// All is as it should be again, on a machine that does much else.
const SETTLED_MAX: Duration = Duration::from_mins(1);

/// What becomes of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    AsItWas,
    /// The same name, and nothing on its disk.
    BuiltAnew,
    /// Another name, and its old disk.
    Renamed,
}

struct History {
    rng: SmallRng,
    servers: Vec<Agent>,
    clients: Vec<Agent>,
    /// Names of agents that said good-bye, or go by another name, and of none that runs.
    left: BTreeSet<String>,
    names: u32,
    written: BTreeMap<String, String>,
}

fn name(agent: &Agent) -> String {
    agent.config["node_name"].as_str().unwrap_or_default().to_owned()
}

/// Name and state of each node that has a `serfHealth`.
fn healths(server: &Agent) -> Result<Vec<(String, String)>> {
    let checks = server.get("/v1/health/state/any")?.json()?;
    let checks = checks.as_array().context("a list")?.iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let own = checks.filter(|check| check["CheckID"] == "serfHealth");
    Ok(own.map(|check| (text(&check["Node"]), text(&check["Status"]))).collect())
}

/// Id and address of each node, by its name.
fn nodes(server: &Agent) -> Result<BTreeMap<String, String>> {
    let rows = server.get("/v1/catalog/nodes")?.json()?;
    let rows = rows.as_array().context("a list")?.iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(rows.map(|row| (text(&row["Node"]), text(&row["ID"]))).collect())
}

impl History {
    fn new(seed: u64) -> Result<History> {
        let servers = cluster(3, &json!({}))?;
        let mut clients = Vec::new();
        for name in ["one", "two"] {
            let mut agent = client(name, &servers, &json!({}))?;
            agent.start()?;
            clients.push(agent);
        }
        let mut history = History {
            rng: SmallRng::seed_from_u64(seed),
            servers,
            clients,
            left: BTreeSet::new(),
            names: 0,
            written: BTreeMap::new(),
        };
        history.settles("the beginning")?;
        Ok(history)
    }

    fn running(&self) -> impl Iterator<Item = &Agent> {
        self.servers.iter().chain(&self.clients).filter(|agent| agent.runs())
    }

    /// A server that runs.
    fn any_server(&mut self) -> usize {
        let running: Vec<usize> =
            (0..self.servers.len()).filter(|at| self.servers[*at].runs()).collect();
        *running.choose(&mut self.rng).expect("a majority runs")
    }

    fn write(&mut self) -> Result<()> {
        let through = self.any_server();
        let (key, value) = (format!("key-{}", self.written.len()), "v".to_owned());
        put(&self.servers[through], &key, &value)?;
        self.written.insert(key, value);
        Ok(())
    }

    /// What holds once nothing has happened for a while.
    fn is_settled(&self) -> Result<()> {
        let mut wanted = Vec::new();
        for server in self.servers.iter().filter(|server| server.runs()) {
            wanted.push(server.id()?);
        }
        wanted.sort();
        for server in self.servers.iter().filter(|server| server.runs()) {
            let voting = voting(server)?;
            ensure!(voting == wanted, "{} counts {voting:?}, there are {wanted:?}", name(server));
        }
        let server = self.servers.iter().find(|server| server.runs()).context("a server")?;
        let (rows, healths) = (nodes(server)?, healths(server)?);
        let mut running = BTreeMap::new();
        for agent in self.running() {
            running.insert(name(agent), agent.id()?);
        }
        for (node, health) in &healths {
            let there = running.get(node);
            let is_justified = match health.as_str() {
                "passing" => there.is_some() && there == rows.get(node),
                // It died, and nobody has said good-bye for it.
                "critical" => there.is_none() && !self.left.contains(node),
                _ => false,
            };
            ensure!(is_justified, "{node} is {health}: there are {running:?}, rows {rows:?}");
        }
        for (node, id) in &running {
            ensure!(rows.get(node) == Some(id), "{node} with {id} has no row: {rows:?}");
            let passing = (node.clone(), "passing".to_owned());
            ensure!(healths.contains(&passing), "{node} is not passing: {healths:?}");
        }
        for node in &self.left {
            ensure!(!rows.contains_key(node), "{node} has left and has a row: {rows:?}");
        }
        Ok(())
    }

    fn settles(&mut self, after: &str) -> Result<()> {
        eventually(SETTLED_MAX, &format!("all is as it should be after {after}"), || {
            self.is_settled()
        })?;
        self.write()
    }

    fn agent(&mut self, at: usize) -> &mut Agent {
        let servers = self.servers.len();
        if at < servers { &mut self.servers[at] } else { &mut self.clients[at - servers] }
    }

    /// An agent dies or leaves, and comes back after a while, the same or another.
    fn goes_and_comes(&mut self, at: usize, leaves: bool, back: Return) -> Result<()> {
        self.goes(at, leaves)?;
        self.comes(at, back)
    }

    fn goes(&mut self, at: usize, leaves: bool) -> Result<()> {
        let agent = self.agent(at);
        if leaves {
            agent.cli(&["leave"])?;
            agent.ended(LIMIT)?;
            let name = name(agent);
            self.left.insert(name);
        } else {
            agent.kill()?;
        }
        let away = self.rng.random_range(0..6000);
        pause(Duration::from_millis(away));
        Ok(())
    }

    fn comes(&mut self, at: usize, back: Return) -> Result<()> {
        self.names += 1;
        let another = format!("name-{}", self.names);
        let agent = self.agent(at);
        let old = name(agent);
        match back {
            Return::AsItWas => {}
            Return::BuiltAnew => agent.wipe()?,
            Return::Renamed => agent.config["node_name"] = json!(another),
        }
        agent.start()?;
        let new = name(agent);
        if new != old {
            // Its rows went along with its id.
            self.left.insert(old);
        }
        self.left.remove(&new);
        Ok(())
    }

    fn event(&mut self) -> Result<String> {
        let all = self.servers.len() + self.clients.len();
        let at = self.rng.random_range(0..all);
        let leaves = self.rng.random_bool(0.3);
        let back = *[Return::AsItWas, Return::BuiltAnew, Return::BuiltAnew, Return::Renamed]
            .choose(&mut self.rng)
            .expect("there are some");
        let who = name(self.agent(at));
        let kind = if leaves { "leaves" } else { "dies" };
        if at >= self.servers.len() && self.rng.random_bool(0.5) {
            // While the leader is away, and comes back.
            let leading = leader(&self.servers)?;
            let anew = self.rng.random_bool(0.5);
            self.servers[leading].kill()?;
            self.goes(at, leaves)?;
            self.write()?;
            let first = self.rng.random_bool(0.5);
            if first {
                self.comes(at, back)?;
            }
            self.comes(leading, if anew { Return::BuiltAnew } else { Return::AsItWas })?;
            if !first {
                self.comes(at, back)?;
            }
            return Ok(format!(
                "{who} {kind} while the leader s{leading} is away and comes back {back:?}"
            ));
        }
        self.goes_and_comes(at, leaves, back)?;
        Ok(format!("{who} {kind} and comes back {back:?}"))
    }

    /// A server dies for good, and writes go on with all that was acknowledged.
    fn ends(mut self) -> Result<()> {
        let dies = self.rng.random_range(0..self.servers.len());
        self.servers[dies].kill()?;
        self.write()?;
        for server in self.servers.iter().filter(|server| server.runs()) {
            holds(server, &self.written)?;
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "a failing history shows its events")]
fn history(seed: u64, events: u64) -> Result<()> {
    let mut history = History::new(seed)?;
    for _ in 0..events {
        let event = history.event()?;
        println!("  {event}");
        history.settles(&event)?;
    }
    history.ends()
}

#[test]
fn after_any_history_of_processes_all_is_as_it_should_be() -> Result<()> {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("MUSTER_REBUILT_ROUNDS").unwrap_or(1);
    let events = number("MUSTER_REBUILT_EVENTS").unwrap_or(4);
    let first = number("MUSTER_REBUILT_SEED").unwrap_or_else(rand::random::<u64>);
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        let again = format!(
            "MUSTER_REBUILT_SEED={seed} MUSTER_REBUILT_ROUNDS=1 MUSTER_REBUILT_EVENTS={events} cargo nextest run -p muster-tests --test histories"
        );
        println!("seed {seed}; again: {again}");
        history(seed, events).with_context(|| again)?;
    }
    Ok(())
}
