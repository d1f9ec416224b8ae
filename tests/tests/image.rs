//! What a container of our images starts with, without an engine: the entry point of the agent's image, and programs
//! as the first process, to which all orphans come.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use muster_tests::{
    http,
    process::{Process, free_ports, output},
    programs::{program, workspace},
    wait::eventually,
};
use serde_json::json;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// The entry point with `muster` and `consul` in its path, and folders that this test may write to.
fn entrypoint(folder: &Path, muster: &Path) -> Result<Command> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["muster", "consul"] {
        if !bin.join(name).exists() {
            symlink(muster, bin.join(name))?;
        }
    }
    let mut command = Command::new(workspace().join("packaging/image/entrypoint.sh"));
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("CONSUL_DATA_DIR", folder.join("data"))
        .env("CONSUL_CONFIG_DIR", folder.join("config"));
    Ok(command)
}

/// A program that prints its arguments, and knows the command `members`.
fn printer(folder: &Path) -> Result<std::path::PathBuf> {
    let path = folder.join("printer");
    let text = "#!/bin/sh\n[ \"${2:-}\" = -help ] && [ \"$1\" != members ] && exit 127\nprintf '%s|' \"$@\"\n";
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Arguments, variables, and what is printed.
type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], String);

#[test]
fn arguments_become_an_agent_a_command_or_another_program() -> Result<()> {
    let folder = TempDir::new()?;
    let printer = printer(folder.path())?;
    let (data, config) = (folder.path().join("data"), folder.path().join("config"));
    let agent = format!("agent|-data-dir={}|-config-dir={}|", data.display(), config.display());
    let interface = |flag: &str, name: &str| {
        format!(
            "{flag}={{{{ GetAllInterfaces | include \"name\" \"^{name}$\" | include \"type\" \"IPv4\" | limit 1 | attr \"address\" }}}}|"
        )
    };
    let both = [("CONSUL_BIND_INTERFACE", "eth0"), ("CONSUL_CLIENT_INTERFACE", "lo")];
    let rows: [Row; 7] = [
        (&["agent", "-dev", "-client", "0.0.0.0"], &[], format!("{agent}-dev|-client|0.0.0.0|")),
        (
            &["agent", "-server"],
            &both,
            agent.clone() + &interface("-bind", "eth0") + &interface("-client", "lo") + "-server|",
        ),
        (&["members", "-wan"], &[], "members|-wan|".into()),
        (&["-version"], &[], "-version|".into()),
        (&["consul", "agent", "-dev"], &[], "agent|-dev|".into()),
        (&["echo", "a b"], &[], "a b\n".into()),
        (
            &["agent", "a b"],
            &[("CONSUL_LOCAL_CONFIG", "{\"a\": \"$x `y`\"}")],
            format!("{agent}a b|"),
        ),
    ];
    for (args, variables, expected) in rows {
        let mut command = entrypoint(folder.path(), &printer)?;
        let found = output(command.args(args).envs(variables.iter().copied()))?;
        ensure!(found.trim_end() == expected.trim_end(), "{args:?}: {found}, not {expected}");
    }
    let kept = config.join("local.json");
    ensure!(fs::read_to_string(&kept)? == "{\"a\": \"$x `y`\"}\n");
    ensure!(fs::metadata(&kept)?.permissions().mode() & 0o777 == 0o600, "it may hold secrets");
    Ok(())
}

#[test]
fn a_set_up_for_the_image_of_the_reference_starts_an_agent() -> Result<()> {
    let folder = TempDir::new()?;
    let [http, dns, server, lan] = free_ports();
    let mut command = entrypoint(folder.path(), &program("muster"))?;
    let local = json!({ "datacenter": "here", "ports":
        { "http": http, "dns": dns, "server": server, "serf_lan": lan, "serf_wan": -1 } });
    command
        .env("CONSUL_LOCAL_CONFIG", local.to_string())
        .env("CONSUL_BIND_INTERFACE", "lo")
        .env("CONSUL_CLIENT_INTERFACE", "lo")
        .args(["agent", "-server", "-bootstrap-expect=1"]);
    // The user's own file beside.
    fs::create_dir_all(folder.path().join("config"))?;
    fs::write(
        folder.path().join("config/own.json"),
        r#"{"service": {"name": "web", "port": 80}}"#,
    )?;
    let agent = Process::spawn(command, &folder.path().join("log"))?;
    let address = format!("127.0.0.1:{http}");
    let found = eventually(LIMIT, "the service is in the catalog", || {
        let rows = http::get(&address, "/v1/catalog/service/web")?.json()?;
        rows.get(0).cloned().context("not yet")
    });
    let (row, _) = found.with_context(|| agent.log_tail())?;
    ensure!(row["Datacenter"] == "here" && row["Address"] == "127.0.0.1", "{row}");
    ensure!(folder.path().join("data/node-id").exists(), "the data is where it belongs");
    Ok(())
}

/// Processes by id: parent and state.
fn processes() -> BTreeMap<u32, (u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.to_owned();
        Some((id, (fields.next()?.parse().ok()?, state)))
    };
    entries.filter_map(read).collect()
}

#[test]
fn orphans_are_collected_by_each_program_that_is_the_first_process() -> Result<()> {
    let folder = TempDir::new()?;
    let [http, dns, server, lan, wan] = free_ports();
    let config = folder.path().join("agent.json");
    let text = json!({ "ports":
        { "http": http, "dns": dns, "server": server, "serf_lan": lan, "serf_wan": wan },
        "enable_script_checks": true,
        "check": { "name": "leaves one behind", "interval": "1s", "args": ["sh", "-c", "(sleep 0.3 >/dev/null 2>&1 &) ; exit 0"] } });
    fs::write(&config, text.to_string())?;
    let template = folder.path().join("in.tpl");
    fs::write(&template, "{{ key(path=\"a\") }}")?;
    let path = |path: &Path| path.display().to_string();
    let state_dir = folder.path().join("state");
    let programs: [(&str, Vec<String>); 3] = [
        (
            "muster",
            ["agent", "-dev", "-bind=127.0.0.1", "-config-file", &path(&config)]
                .map(str::to_owned)
                .into(),
        ),
        (
            "muster-registrator",
            ["--retry-attempts=-1", "muster://127.0.0.1:1"].map(str::to_owned).into(),
        ),
        (
            "muster-template",
            [
                format!("--template={}:{}", path(&template), path(&folder.path().join("out"))),
                format!("--state-dir={}", path(&state_dir)),
            ]
            .into(),
        ),
    ];
    for (name, args) in programs {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--pid", "--fork", "--kill-child"]).arg(program(name)).args(args);
        command.env("DOCKER_HOST", format!("unix://{}", path(&folder.path().join("no.sock"))));
        command.env("CONSUL_HTTP_ADDR", "127.0.0.1:1");
        let outer = Process::spawn(command, &folder.path().join("log"))?;
        let (first, _) = eventually(LIMIT, "the first process", || {
            let all = processes();
            let child = all.iter().find(|(_, (parent, _))| *parent == outer.id());
            child.map(|(id, _)| *id).context("not yet")
        })?;
        let ended = folder.path().join(format!("{name}.ended"));
        let mut orphan = Command::new("nsenter");
        if !nix::unistd::geteuid().is_root() {
            orphan.args(["--user", "--preserve-credentials"]);
        }
        let script = format!("(sleep 0.1; touch {}) >/dev/null 2>&1 &", ended.display());
        output(orphan.args(["--pid", "--target", &first.to_string(), "sh", "-c", &script]))?;
        eventually(LIMIT, "the orphan and its like are gone", || {
            ensure!(ended.exists(), "it runs");
            let all = processes();
            ensure!(all.contains_key(&first), "{name} ended");
            // Neither dead ones nor such that are about to die.
            let left: Vec<_> = all.values().filter(|(parent, _)| *parent == first).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .with_context(|| format!("{name}: {}", outer.log_tail()))?;
    }
    Ok(())
}
