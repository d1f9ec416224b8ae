//! The command line as a user types it, against a running agent.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod configurations;
mod generated;
mod locks;
mod observe;
mod operate;
mod private;
mod process;
mod recorded;
mod reference;
mod secured;
mod support;

use std::fs;

use muster_client::ReadOptions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Agent, until};

#[test]
fn keys() {
    let agent = Agent::start();
    let file = agent.folder().join("value");
    fs::write(&file, b"from a file\n").unwrap();
    let at_file = format!("@{}", file.display());
    agent.expect(&["kv", "get", "a/none"], 1, "", "Error! No key exists at: a/none\n");
    agent.expect(&["kv", "put", "a/one", "1"], 0, "Success! Data written to: a/one\n", "");
    agent.expect(
        &["kv", "put", "-flags=42", "a/two", &at_file],
        0,
        "Success! Data written to: a/two\n",
        "",
    );
    agent.expect(&["kv", "put", "a/empty"], 0, "Success! Data written to: a/empty\n", "");
    let (code, out, _) = agent.run_with(&["kv", "put", "a/three", "-"], b"\x00from stdin");
    assert_eq!((code, out.as_str()), (0, "Success! Data written to: a/three\n"));
    agent.expect(&["kv", "get", "a/one"], 0, "1\n", "");
    agent.expect(&["kv", "get", "/a/one"], 0, "1\n", "");
    agent.expect(&["kv", "get", "-base64", "a/three"], 0, "AGZyb20gc3RkaW4=\n", "");
    agent.expect(&["kv", "get", "-keys", "a/"], 0, "a/empty\na/one\na/three\na/two\n", "");
    agent.expect(&["kv", "get", "-keys"], 0, "a/\n", "");
    agent.expect(
        &["kv", "get", "-recurse", "a/t"],
        0,
        "a/three:\0from stdin\na/two:from a file\n\n",
        "",
    );
    agent.expect(&["kv", "get", "-recurse", "zz"], 0, "", "");
    let (code, out, _) = agent.run(&["kv", "get", "-detailed", "a/two"]);
    let lines: Vec<_> = out.lines().filter(|line| !line.contains("Index ")).collect();
    assert_eq!(code, 0);
    assert_eq!(
        lines,
        [
            "Flags            42",
            "Key              a/two",
            "Session          -",
            "Value            from a file",
            ""
        ]
    );

    let lost = "Error! Did not write to a/one: CAS failed\n";
    agent.expect(&["kv", "put", "-cas", "-modify-index=0", "a/one", "2"], 1, "", lost);
    agent.expect(
        &["kv", "put", "-cas", "-modify-index=0", "a/new", "2"],
        0,
        "Success! Data written to: a/new\n",
        "",
    );

    let (_, exported, _) = agent.run(&["kv", "export", "a/t"]);
    assert_eq!(
        exported,
        "[\n\t{\n\t\t\"key\": \"a/three\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"AGZyb20gc3RkaW4=\"\n\t},\n\t{\n\t\t\"key\": \"a/two\",\n\t\t\"flags\": 42,\n\t\t\"value\": \"ZnJvbSBhIGZpbGUK\"\n\t}\n]\n"
    );
    agent.expect(
        &["kv", "delete", "-recurse", "a/"],
        0,
        "Success! Deleted keys with prefix: a/\n",
        "",
    );
    agent.expect(&["kv", "import", &exported], 0, "Imported: a/three\nImported: a/two\n", "");
    assert_eq!(agent.run(&["kv", "export", "a/t"]).1, exported);
    // A mistake in the second row: nothing is written.
    let broken = r#"[{"key":"b","value":""},{"key":"c","value":"?"}]"#;
    assert_eq!(agent.run(&["kv", "import", broken]).0, 1);
    agent.expect(&["kv", "get", "b"], 1, "", "Error! No key exists at: b\n");
    agent.expect(&["kv", "delete", "a/two"], 0, "Success! Deleted key: a/two\n", "");
    agent.expect(&["kv", "delete", "a/two"], 0, "Success! Deleted key: a/two\n", "");
}

#[test]
fn services_and_nodes() {
    let agent = Agent::start();
    let file = agent.folder().join("web.json");
    fs::write(
        &file,
        r#"{"service": {"name": "db", "id": "db-1", "port": 5432, "enable_tag_override": true}}"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    agent.expect(
        &[
            "services",
            "register",
            "-name=web",
            "-port=80",
            "-tag=v2",
            "-tag=a b",
            "-meta=k=v",
            "-tagged-address=wan=1.2.3.4:81",
        ],
        0,
        "Registered service: web\n",
        "",
    );
    agent.expect(&["services", "register", file], 0, "Registered service: db\n", "");
    until("both services are in the catalog", || {
        agent.run(&["catalog", "services", "-tags"]).1
            == "consul      \ndb          \nweb         a b,v2\n"
    });
    agent.expect(&["catalog", "services"], 0, "consul\ndb\nweb\n", "");
    agent.expect(&["catalog", "datacenters"], 0, "dc1\n", "");
    let (code, out, _) = agent.run(&["catalog", "nodes", "-service=web"]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((code, lines.len()), (0, 2), "{out}");
    assert!(lines[0].starts_with("Node") && lines[1].ends_with("  127.0.0.1  dc1"), "{out}");
    let nothing = "No nodes match the given query - try expanding your search.\n";
    agent.expect(&["catalog", "nodes", "-service=zz"], 0, "", nothing);
    let (code, _, err) = agent.run(&["catalog", "nodes", "-filter=Foo == 1"]);
    assert!(code == 1 && err.contains("Selector \"Foo\" is not valid"), "{err}");

    let (code, out, _) = agent.run(&["watch", "-type=service", "-service=web"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("            \"ID\": \"web\",\n") && out.contains("\"Port\": 80"),
        "{out}"
    );

    agent.expect(&["maint"], 0, "", "");
    agent.expect(
        &["maint", "-enable", "-service=web", "-reason=new disk"],
        0,
        "Service maintenance is now enabled for \"web\"\n",
        "",
    );
    agent.expect(&["maint"], 0, "Service:\n  ID:     web\n  Reason: new disk\n\n", "");
    agent.expect(
        &["maint", "-disable", "-service=web"],
        0,
        "Service maintenance is now disabled for \"web\"\n",
        "",
    );
    let unknown = "Error enabling service maintenance: Unexpected response code: 404 (No service registered with ID \"zz\")\n";
    agent.expect(&["maint", "-enable", "-service=zz"], 1, "", unknown);

    agent.expect(&["services", "deregister", file], 0, "Deregistered service: db-1\n", "");
    agent.expect(&["services", "deregister", "-id=web"], 0, "Deregistered service: web\n", "");
    agent.expect(&["services", "deregister", "-id=web"], 0, "Deregistered service: web\n", "");
    until("both services are gone", || agent.run(&["catalog", "services"]).1 == "consul\n");
}

#[test]
fn members_and_figures() {
    let agent = Agent::start();
    let (code, out, _) = agent.run(&["members"]);
    let head = out.lines().next().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(code, 0);
    assert_eq!(head, ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"]);
    let row = out.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!((row[0], row[2], row[3], row[7]), (agent.node(), "alive", "server", "<all>"));
    agent.expect(&["members", "-status=left"], 2, "", "");
    let (code, out, _) = agent.run(&["info"]);
    assert!(code == 0 && out.contains("raft:\n\t"), "{out}");
    let (code, out, _) = agent.run(&["event", "-name=deploy", "v42"]);
    assert!(code == 0 && out.starts_with("Event ID: "), "{out}");
    let (code, out, _) = agent.run(&["watch", "-type=event", "-name=deploy"]);
    assert!(code == 0 && out.contains("\"Payload\": \"djQy\""), "{out}");
    agent.expect(&["watch", "-type=key", "-key=none"], 0, "null\n", "");
    let (code, _, err) = agent.run(&["kv", "get", "-http-addr=unix:///nope", "x"]);
    assert_eq!(code, 1);
    let lines: Vec<_> = err.lines().collect();
    assert!(
        lines[0].starts_with("Error querying Muster agent: no agent answers at unix:///nope"),
        "{err}"
    );
    assert!(lines[1].starts_with("hint: is an agent running there?"), "{err}");
}

#[test]
fn a_watch_tells_its_child_every_change() {
    let agent = Agent::start();
    let told = agent.folder().join("told");
    let script = format!("cat >> {0}; echo \" at $CONSUL_INDEX\" >> {0}", told.display());
    let mut watch = agent.spawn(&["watch", "-type=key", "-key=color", &script]);
    let lines = || fs::read_to_string(&told).unwrap_or_default();
    until("the child is told at once", || lines().starts_with("null\n at "));
    agent.run(&["kv", "put", "color", "red"]);
    until("the child is told of red", || lines().contains(r#""Value":"cmVk""#));
    agent.run(&["kv", "put", "color", "blue"]);
    until("the child is told of blue", || lines().contains(r#""Value":"Ymx1ZQ==""#));
    until("the child has ended", || lines().matches(" at ").count() == 3);
    kill(Pid::from_raw(i32::try_from(watch.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = watch.wait().unwrap();
    assert_eq!(status.code(), Some(0));

    let (code, _, err) = agent.run(&["watch", "-type=key", "-key=color", "exit 3"]);
    assert_eq!((code, err.as_str()), (1, "Error executing handler: exit status 3\n"));
}

#[test]
fn a_lock_has_one_holder() {
    let agent = Agent::start();
    let [held, go] = ["held", "go"].map(|name| agent.folder().join(name));
    let script = format!(
        "echo $CONSUL_LOCK_HELD > {0}; while [ -e {0} ] && [ ! -e {1} ]; do sleep 0.05; done",
        held.display(),
        go.display()
    );
    let mut first = agent.spawn(&["lock", "job", &script]);
    until("the first has the lock", || fs::read_to_string(&held).is_ok_and(|t| t == "true\n"));
    let late = "Shutdown triggered or timeout during lock acquisition\n";
    agent.expect(&["lock", "-timeout=300ms", "job", "true"], 1, "", late);
    fs::write(&go, "").unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(0));
    agent.expect(&["lock", "job", "true"], 0, "", "");
    agent.expect(&["lock", "job", "exit 3"], 0, "", "Error running handler: exit status 3\n");
    let failed = "Error running handler: exit status 3\n";
    agent.expect(&["lock", "-child-exit-code", "job", "exit 3"], 2, "", failed);
    agent.expect(&["kv", "get", "-keys", "-separator=", "job"], 0, "", "");
}

#[test]
fn a_lock_for_two_has_two_holders() {
    let agent = Agent::start();
    let go = agent.folder().join("go");
    let mut holders = ["one", "two"].map(|name| {
        let held = agent.folder().join(name);
        let script = format!(
            "touch {0}; while [ -e {0} ] && [ ! -e {1} ]; do sleep 0.05; done",
            held.display(),
            go.display()
        );
        let holder = agent.spawn(&["lock", "-n=2", "pool", &script]);
        until("it has a place", || held.exists());
        holder
    });
    let late = "Shutdown triggered or timeout during lock acquisition\n";
    agent.expect(&["lock", "-n=2", "-timeout=300ms", "pool", "true"], 1, "", late);
    let (code, _, err) = agent.run(&["lock", "-n=3", "pool", "true"]);
    assert_eq!(code, 1);
    assert_eq!(err, "Lock acquisition failed: `pool` is for 2 holders, not for 3\n");
    fs::write(&go, "").unwrap();
    for holder in &mut holders {
        assert_eq!(holder.wait().unwrap().code(), Some(0));
    }
    until("nothing is left", || {
        agent.run(&["kv", "get", "-keys", "-separator=", "pool"]).1.is_empty()
    });
}

#[test]
fn a_lost_lock_ends_the_child() {
    let agent = Agent::start();
    let [held, ended] = ["held", "ended"].map(|name| agent.folder().join(name));
    let script = format!(
        "trap 'echo asked > {0}; exit 1' TERM; touch {1}; while [ -e {1} ]; do sleep 0.05; done",
        ended.display(),
        held.display()
    );
    let mut holder = agent.spawn(&["lock", "-child-exit-code", "job", &script]);
    until("the lock is held", || held.exists());
    let client = agent.client();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let sessions = client.session().list(&ReadOptions::default()).await.unwrap().value;
        assert_eq!(sessions.len(), 1);
        client.session().destroy(&sessions[0].id).await.unwrap();
    });
    until("the child was asked to end", || ended.exists());
    assert_eq!(holder.wait().unwrap().code(), Some(2));
}
