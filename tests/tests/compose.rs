//! The proof of the whole: containers register themselves, nginx follows, and neither a death nor a stop nor an agent
//! that is away costs a request. Real engine, real nginx, the stack of `docker-compose.yml` as a user starts it.

#![expect(clippy::print_stdout, reason = "the figures of a proof belong into its report")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    compose::{Container, SERVERS, Stack, docker},
    http,
    load::{Load, Pressure},
    wait::eventually,
};
use serde_json::Value;

/// The longest that a change may take to arrive. Usual are tenths of a second; a busy machine may be ten times slower.
const SOON: Duration = Duration::from_secs(20);

/// Instances of the service in the catalog.
#[derive(Debug, Default, PartialEq, Eq)]
struct Catalog {
    /// Addresses of all, by id.
    all: BTreeMap<String, String>,
    /// Ids of those that pass their checks.
    passing: BTreeSet<String>,
}

fn catalog(stack: &Stack) -> Result<Catalog> {
    let entries = http::get(&stack.address("muster", 8500)?, "/v1/health/service/web")?.json()?;
    let mut catalog = Catalog::default();
    for entry in entries.as_array().context("no list")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = &entry["Service"];
        catalog.all.insert(text(&service["ID"]), text(&service["Address"]));
        let checks = entry["Checks"].as_array().context("no checks")?;
        if checks.iter().all(|it| it["Status"] == "passing") {
            catalog.passing.insert(text(&service["ID"]));
        }
    }
    Ok(catalog)
}

/// The index of the service: it moves with every write to one of its instances or their checks.
fn index(stack: &Stack) -> Result<u64> {
    http::get(&stack.address("muster", 8500)?, "/v1/health/service/web")?.index()
}

/// When each instance and each of its checks was written last. The health of their node is not among them.
fn written(stack: &Stack) -> Result<BTreeMap<String, u64>> {
    let entries = http::get(&stack.address("muster", 8500)?, "/v1/health/service/web")?.json()?;
    let mut written = BTreeMap::new();
    for entry in entries.as_array().context("no list")? {
        let checks = entry["Checks"].as_array().context("no checks")?.iter();
        let checks =
            checks.filter(|it| it["CheckID"] != "serfHealth").map(|it| (&it["CheckID"], it));
        for (id, row) in checks.chain([(&entry["Service"]["ID"], &entry["Service"])]) {
            written.insert(id.to_string(), row["ModifyIndex"].as_u64().context("no index")?);
        }
    }
    Ok(written)
}

/// The instances that answer a number of requests through nginx, and that every one of them is answered.
fn reached(stack: &Stack, requests: u64) -> Result<BTreeMap<String, u64>> {
    let pressure = Pressure { clients: 1, pace: Duration::ZERO };
    let load = Load::start(&stack.address("edge", 80)?, pressure);
    let tally = load.finish(requests, SOON)?;
    tally.ensure_flawless()?;
    Ok(tally.instances)
}

/// Waits until the catalog holds exactly the running instances, all passing, and nginx reaches exactly these.
fn settled(stack: &Stack, count: usize) -> Result<Catalog> {
    let running = stack.running("web")?;
    ensure!(running.len() == count, "the engine runs {} of {count}", running.len());
    let names: BTreeSet<_> = running.iter().map(|it| it.id.clone()).collect();
    let what = format!("{count} passing instances in the catalog");
    let (catalog, in_catalog) = eventually(SOON, &what, || {
        let catalog = catalog(stack)?;
        ensure!(catalog.all.len() == count && catalog.passing.len() == count, "{catalog:?}");
        Ok(catalog)
    })?;
    let ((), in_nginx) =
        eventually(SOON, &format!("exactly {count} instances behind nginx"), || {
            let reached: BTreeSet<_> = reached(stack, 200)?.into_keys().collect();
            ensure!(reached == names, "reached {reached:?} of {names:?}");
            Ok(())
        })?;
    println!(
        "  {count} instances: in the catalog after {in_catalog:?}, behind nginx after {in_nginx:?} more"
    );
    Ok(catalog)
}

/// Waits until one instance is in neither the catalog nor nginx's configuration.
fn gone(stack: &Stack, address: &str) -> Result<()> {
    let ((), from_catalog) = eventually(SOON, "gone from the catalog", || {
        let all = catalog(stack)?.all;
        ensure!(!all.values().any(|it| it == address), "still there: {all:?}");
        Ok(())
    })?;
    let ((), from_nginx) = eventually(SOON, "gone from nginx", || {
        let config = stack.compose(&["exec", "-T", "edge", "nginx", "-T"])?;
        ensure!(!config.contains(&format!("{address}:")), "still there");
        Ok(())
    })?;
    println!(
        "  gone from the catalog after {from_catalog:?}, from nginx after {from_nginx:?} more"
    );
    Ok(())
}

/// The address of a container in the stack's network.
fn address_of(stack: &Stack, container: &Container) -> Result<String> {
    let format =
        format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", stack.network());
    Ok(docker(&["inspect", "--format", &format, &container.id])?.trim().to_owned())
}

#[test]
fn whole_stack() -> Result<()> {
    let stack = Stack::new("proof")?;
    let proof = prove(&stack);
    if proof.is_err() {
        println!("--- logs of the stack ---\n{}", stack.logs());
    }
    proof
}

fn prove(stack: &Stack) -> Result<()> {
    let start = Instant::now();
    let step = |what: &str| println!("[{:6.1?}] {what}", start.elapsed());

    step("up, five instances");
    stack.up(5)?;
    settled(stack, 5)?;

    step("docker kill of one");
    let victim = first(stack)?;
    let address = address_of(stack, &victim)?;
    docker(&["kill", &victim.id])?;
    gone(stack, &address)?;
    settled(stack, 4)?;
    stack.scale(5)?;
    settled(stack, 5)?;

    step("docker stop of one under load");
    stop_under_load(stack)?;
    settled(stack, 4)?;

    step("eight instances");
    stack.scale(8)?;
    settled(stack, 8)?;

    step("restart of the registrator");
    restart_of_the_registrator_writes_nothing(stack)?;

    step("agent away, and back");
    agent_away_and_back(stack)?;

    step("a follower dies, then the leader");
    a_server_dies(stack, Role::Follower)?;
    a_server_dies(stack, Role::Leader)?;

    step("crash of the registrator while a container dies");
    ghosts_are_removed(stack, 8)?;

    step("down");
    stack.down()?;
    let left = stack.leftovers()?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    step("done");
    Ok(())
}

fn first(stack: &Stack) -> Result<Container> {
    stack.running("web")?.into_iter().next().context("no instance runs")
}

/// `docker stop` of one of five: no request fails of at least 20,000, on fresh and reused connections.
fn stop_under_load(stack: &Stack) -> Result<()> {
    let victim = first(stack)?;
    let address = address_of(stack, &victim)?;
    let pressure = Pressure { clients: 4, pace: Duration::from_millis(1) };
    let load = Load::start(&stack.address("edge", 80)?, pressure);
    load.wait_for(4000, SOON)?;
    docker(&["stop", &victim.id])?;
    gone(stack, &address)?;
    load.wait_for(4000, SOON)?;
    let tally = load.finish(20_000, Duration::from_mins(2))?;
    println!("  {}", tally.summary());
    tally.ensure_flawless()?;
    ensure!(tally.instances.contains_key(&victim.id), "the stopped instance had no part in this");
    // A reload closes the idle connections of the old workers, once each: one leaving instance makes at most two
    // reloads (draining, gone), so 8 reusing clients can meet it 16 times.
    ensure!(tally.closed_between <= 16, "{}", tally.summary());
    Ok(())
}

/// A registrator that starts finds everything as it should be, and writes nothing: the index of the service stands.
fn restart_of_the_registrator_writes_nothing(stack: &Stack) -> Result<()> {
    let before = index(stack)?;
    stack.compose(&["restart", "registrator"])?;
    // It works through the list of containers in one go, and a new one is registered only after that: when the
    // marker is in the catalog, whatever it wanted to write about the others is written.
    let marker = format!("{}-marker", stack.project());
    let label = format!("com.docker.compose.project={}", stack.project());
    let image = format!("{}-web", stack.project());
    docker(&[
        "run",
        "--detach",
        "--rm",
        "--name",
        &marker,
        "--label",
        &label,
        "--label",
        "SERVICE_NAME=marker",
        "--network",
        &stack.network(),
        &image,
    ])?;
    let seen = eventually(SOON, "the marker in the catalog", || {
        let marker =
            http::get(&stack.address("muster", 8500)?, "/v1/catalog/service/marker")?.json()?;
        ensure!(marker.as_array().is_some_and(|it| it.len() == 1), "{marker}");
        Ok(())
    });
    let after = index(stack);
    docker(&["rm", "--force", &marker])?;
    seen?;
    ensure!(
        after? == before,
        "the index of the service moved from {before}: the restart wrote to the catalog"
    );
    Ok(())
}

/// With the agent stopped nginx keeps serving; when it is back, everything is as before: only the health of its node was
/// written meanwhile, once as it went and once as it came.
fn agent_away_and_back(stack: &Stack) -> Result<()> {
    let before = catalog(stack)?;
    let written_before = written(stack)?;
    let pressure = Pressure { clients: 1, pace: Duration::from_millis(5) };
    let load = Load::start(&stack.address("edge", 80)?, pressure);
    stack.compose(&["stop", "muster"])?;
    load.wait_for(1500, Duration::from_mins(1))?;
    stack.compose(&["start", "muster"])?;
    let after = settled(stack, 8)?;
    load.wait_for(1500, Duration::from_mins(1))?;
    let tally = load.finish(0, SOON)?;
    println!("  {}", tally.summary());
    tally.ensure_flawless()?;
    ensure!(tally.instances.len() == 8, "not all had a part in this: {:?}", tally.instances);
    ensure!(after == before, "before {before:?}\nafter {after:?}");
    let written = written(stack)?;
    ensure!(
        written == written_before,
        "written anew: before {written_before:?}\nafter {written:?}"
    );
    // Nothing changed, so nothing was reloaded, and no connection was closed by that.
    ensure!(tally.closed_between == 0, "{}", tally.summary());
    Ok(())
}

/// A container that died while no registrator ran is removed at the registrator's next start.
fn ghosts_are_removed(stack: &Stack, running: usize) -> Result<()> {
    let victim = first(stack)?;
    let address = address_of(stack, &victim)?;
    for registrator in stack.running("registrator")? {
        docker(&["kill", &registrator.id])?;
    }
    docker(&["kill", &victim.id])?;
    ensure!(catalog(stack)?.all.values().any(|it| *it == address), "nobody was there to remove it");
    stack.compose(&["start", "registrator"])?;
    gone(stack, &address)?;
    settled(stack, running - 1)?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Leader,
    Follower,
}

/// Where the leader is, by its own account; an error as long as there is none.
fn leader(stack: &Stack) -> Result<String> {
    let leader = http::get(&stack.address("muster", 8500)?, "/v1/status/leader")?.json()?;
    let leader = leader.as_str().unwrap_or_default();
    ensure!(!leader.is_empty(), "no leader");
    Ok(leader.split(':').next().unwrap_or_default().to_owned())
}

/// All servers are alive, have caught up, and vote.
fn whole(stack: &Stack) -> Result<()> {
    let address = stack.address("muster", 8500)?;
    let (health, took) = eventually(Duration::from_mins(1), "three healthy servers", || {
        let health = http::get(&address, "/v1/operator/autopilot/health")?.json()?;
        let servers = health["Servers"].as_array().context("no servers")?;
        let voters = servers.iter().filter(|it| it["Voter"] == true && it["Healthy"] == true);
        ensure!(voters.count() == SERVERS.len(), "{health}");
        Ok(health)
    })?;
    println!("  three healthy servers after {took:?}, {} may die", health["FailureTolerance"]);
    Ok(())
}

/// `docker kill` of one of three servers: no request through nginx fails, and what starts meanwhile is found.
fn a_server_dies(stack: &Stack, role: Role) -> Result<()> {
    whole(stack)?;
    let before = stack.running("web")?.len();
    let at = leader(stack)?;
    let mut victim = None;
    for server in SERVERS {
        let container = stack.running(server)?.into_iter().next().context("a server is down")?;
        if (address_of(stack, &container)? == at) == (role == Role::Leader) {
            victim = Some(container);
        }
    }
    let victim = victim.with_context(|| format!("the leader {at} is none of the containers"))?;
    let pressure = Pressure { clients: 2, pace: Duration::from_millis(2) };
    let load = Load::start(&stack.address("edge", 80)?, pressure);
    load.wait_for(500, SOON)?;
    docker(&["kill", &victim.id])?;
    let killed = Instant::now();
    stack.scale(before + 1)?;
    settled(stack, before + 1)?;
    println!(
        "  {role:?} {} killed; a new instance was there after {:?}",
        victim.name,
        killed.elapsed()
    );
    ensure!(role == Role::Follower || leader(stack)? != at, "nobody else leads");
    stack.scale(before)?;
    settled(stack, before)?;
    docker(&["start", &victim.id])?;
    whole(stack)?;
    let tally = load.finish(0, SOON)?;
    println!("  {}", tally.summary());
    tally.ensure_flawless()
}
