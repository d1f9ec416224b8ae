//! A pool on a network that is cut, heals, loses and is slow. Each agent has a network of its own; all of them, and the
//! agents, live in namespaces that the test makes and that the kernel removes with it.

use std::{
    env, fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    process::{Process, output},
    programs::program,
    wait::{eventually, pause},
};
use serde_json::json;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(90);
/// Longer than a silent member is believed to be there.
const WATCHED: Duration = Duration::from_secs(20);
/// Set where the namespaces are.
const INSIDE: &str = "MUSTER_TEST_INSIDE";

const NAMES: [&str; 4] = ["s1", "m1", "m2", "m3"];

fn run(program: &str, args: &str) -> Result<String> {
    output(Command::new(program).args(args.split(' ')))
}

fn address(name: &str) -> String {
    let number = NAMES.iter().position(|it| *it == name).expect("one of the agents");
    format!("10.77.0.{}", number + 1)
}

/// One agent in its own network.
struct Agent {
    name: &'static str,
    _process: Process,
}

impl Agent {
    fn start(name: &'static str, folder: &TempDir) -> Result<Self> {
        // A cable from its network to the switch that all share.
        run("ip", &format!("netns add {name}"))?;
        run("ip", &format!("link add {name} type veth peer name eth0 netns {name}"))?;
        run("ip", &format!("link set {name} master switch up"))?;
        run("ip", &format!("-n {name} addr add {}/24 dev eth0", address(name)))?;
        run("ip", &format!("-n {name} link set lo up"))?;
        run("ip", &format!("-n {name} link set eth0 up"))?;
        let file = folder.path().join(format!("{name}.json"));
        let mut config = json!({
            "node_name": name,
            "bind_addr": address(name),
            "data_dir": folder.path().join(name),
            "retry_join": [address("s1")],
            "retry_interval": "1s",
        });
        if name == "s1" {
            config["server"] = json!(true);
            config["bootstrap_expect"] = json!(1);
        }
        fs::write(&file, serde_json::to_vec(&config)?)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).arg(program("muster"));
        command.arg("agent").arg("-config-file").arg(file);
        let process = Process::spawn(command, &folder.path().join(format!("{name}.log")))?;
        Ok(Self { name, _process: process })
    }

    /// What a command prints in its network.
    fn cli(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("ip");
        output(command.args(["netns", "exec", self.name]).arg(program("muster")).args(args))
    }

    /// How it sees a member.
    fn sees(&self, name: &str) -> Result<String> {
        let table = self.cli(&["members"])?;
        let row = table.lines().find(|row| row.split_whitespace().next() == Some(name));
        let status = row.and_then(|row| row.split_whitespace().nth(2));
        Ok(status.with_context(|| format!("{name} is not in {table}"))?.to_owned())
    }
}

fn all_see(agents: &[Agent], name: &str, status: &str) -> Result<()> {
    for agent in agents.iter().filter(|it| it.name != name) {
        eventually(LIMIT, &format!("{} sees {name} as {status}", agent.name), || {
            let seen = agent.sees(name)?;
            ensure!(seen == status, "{seen}");
            Ok(())
        })?;
    }
    Ok(())
}

fn whole(agents: &[Agent]) -> Result<()> {
    NAMES.iter().try_for_each(|name| all_see(agents, name, "alive"))
}

/// While this lasts nobody may take anybody for dead.
fn nobody_dies(agents: &[Agent], why: &str) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        for agent in agents {
            let table = agent.cli(&["members"])?;
            ensure!(!table.contains("failed"), "{why}: {} sees\n{table}", agent.name);
        }
        pause(Duration::from_millis(300));
    }
    Ok(())
}

/// The health of a node's agent, as the catalog has it.
fn critical_nodes(agents: &[Agent]) -> Result<String> {
    agents[0].cli(&["watch", "-type=checks", "-state=critical"])
}

/// Does the kernel have it?
fn netem(network: &str, what: &str) -> bool {
    run("tc", &format!("-n {network} qdisc add dev eth0 root netem {what}")).is_ok()
}

fn inside() -> Result<()> {
    // Names of networks are files; these are nobody else's.
    run("mount", "-t tmpfs tmpfs /run")?;
    run("ip", "link add switch type bridge")?;
    run("ip", "link set switch up")?;
    let folder = tempfile::Builder::new().prefix("muster-test-").tempdir()?;
    let agents = NAMES.map(|name| Agent::start(name, &folder));
    let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
    whole(&agents)?;

    // Cut off: both sides take each other for dead, and the catalog says so.
    run("ip", "link set m2 down")?;
    all_see(&agents[..2], "m2", "failed")?;
    all_see(&agents[2..3], "s1", "failed")?;
    eventually(LIMIT, "its health is critical", || {
        let critical = critical_nodes(&agents)?;
        ensure!(
            critical.contains("\"Node\": \"m2\"") && critical.contains("serfHealth"),
            "{critical}"
        );
        Ok(())
    })?;
    // Healed: nobody has to be told.
    run("ip", "link set m2 up")?;
    whole(&agents)?;
    eventually(LIMIT, "its health is passing", || {
        let critical = critical_nodes(&agents)?;
        ensure!(!critical.contains("m2"), "{critical}");
        Ok(())
    })?;

    // Two that cannot reach each other at all: others vouch for them.
    run("ip", &format!("-n m1 route add blackhole {}/32", address("m2")))?;
    run("ip", &format!("-n m2 route add blackhole {}/32", address("m1")))?;
    nobody_dies(&agents, "no path between two")?;
    run("ip", &format!("-n m1 route del blackhole {}/32", address("m2")))?;
    run("ip", &format!("-n m2 route del blackhole {}/32", address("m1")))?;

    // One member loses a third of all datagrams.
    let loses = "-p udp -m statistic --mode random --probability 0.33 -j DROP";
    if !netem("m1", "loss 33%") {
        for chain in ["INPUT", "OUTPUT"] {
            run("ip", &format!("netns exec m1 iptables -A {chain} {loses}"))?;
        }
    }
    nobody_dies(&agents, "a third of m1's datagrams is lost")?;
    // All datagrams of one member are lost: connections vouch for it.
    run("ip", "netns exec m3 iptables -A INPUT -p udp -j DROP")?;
    nobody_dies(&agents, "m3 hears no datagram")?;
    run("ip", "netns exec m3 iptables -F")?;
    // Where it did not lose, there is nothing to undo.
    let _ = run("tc", "-n m1 qdisc del dev eth0 root");
    run("ip", "netns exec m1 iptables -F")?;

    // A slow way: later than the first answer is expected. Without that part of the kernel the
    // member itself is slow.
    if netem("m3", "delay 300ms 100ms") {
        nobody_dies(&agents, "m3 is far away")?;
    } else {
        slow_member(&agents)?;
    }
    whole(&agents)
}

/// One member stops for half a second out of one and a half.
fn slow_member(agents: &[Agent]) -> Result<()> {
    let pids = run("ip", "netns pids m3")?;
    let over = Instant::now() + WATCHED + Duration::from_secs(2);
    let signal = |which: &str| {
        pids.split_whitespace().try_for_each(|pid| run("kill", &format!("{which} {pid}")).map(drop))
    };
    thread::scope(|scope| {
        let slowing = scope.spawn(|| -> Result<()> {
            while Instant::now() < over {
                signal("-STOP")?;
                pause(Duration::from_millis(500));
                signal("-CONT")?;
                pause(Duration::from_secs(1));
            }
            Ok(())
        });
        let watched = nobody_dies(&agents[..3], "m3 is slow");
        slowing.join().expect("no panic")?;
        watched
    })
}

#[test]
fn a_pool_lives_through_what_networks_do() -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return inside();
    }
    // What is built is built outside.
    program("muster");
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // With the first process of the namespaces all others go, however this test ends.
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(env::current_exe()?);
    command.args(["--exact", "a_pool_lives_through_what_networks_do", "--nocapture"]);
    let folder = program("muster").parent().context("a program is in a folder")?.to_owned();
    command.env(INSIDE, "1").env("MUSTER_PROGRAMS", folder).stdin(Stdio::null());
    output(&mut command).map(drop)
}
