//! How an agent behaves as a process: reloads, signals, logs, systemd, sockets, limits.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::support::{Agent, until};

#[test]
fn a_reload_touches_what_differs_and_a_bad_file_changes_nothing() {
    let agent = Agent::start();
    agent.configure(
        r#""service":{"name":"web","port":80},"log_level":"debug","discard_check_output":true"#,
    );
    agent.expect(&["reload"], 0, "Configuration reload triggered\n", "");
    until("the service is there", || agent.run(&["catalog", "services"]).1 == "consul\nweb\n");
    let restart =
        "these keys were changed and take effect at the next start: keys=discard_check_output";
    assert!(agent.log().contains(restart), "{}", agent.log());

    agent.configure(r#""service":{"name":"web","prot":80}"#);
    let (code, _, err) = agent.run(&["reload"]);
    assert_eq!(code, 1);
    assert!(err.contains("invalid config key service.prot"), "{err}");
    assert!(err.contains("did you mean `service.port`?"), "{err}");
    agent.signal(Signal::SIGHUP);
    until("the log says why", || {
        agent.log().matches("the reload failed: nothing was changed").count() == 2
    });
    agent.expect(&["catalog", "services"], 0, "consul\nweb\n", "");

    agent.configure(r#""service":{"name":"web","port":80},"node_meta":{"rack":"7"}"#);
    agent.expect(&["reload"], 0, "Configuration reload triggered\n", "");
    until("the node is described", || {
        agent.run(&["catalog", "nodes", "-node-meta=rack=7"]).1.contains(agent.node())
    });

    agent.configure("");
    agent.signal(Signal::SIGHUP);
    until("the service is gone", || agent.run(&["catalog", "services"]).1 == "consul\n");
}

#[test]
fn an_agent_reloads_of_itself_when_its_files_change() {
    let more = r#""auto_reload_config":true"#;
    let agent = Agent::start_with(|_| more.to_owned(), &[]);
    let services = || agent.run(&["catalog", "services"]).1;
    // As deployments do it: a new file takes the place of the old one.
    let replace = |keys: &str| {
        let beside = agent.folder().join("more.json.new");
        fs::write(&beside, format!("{{{keys}}}")).unwrap();
        fs::rename(&beside, agent.folder().join("more.json")).unwrap();
    };
    replace(&format!(r#"{more},"service":{{"name":"web","port":80}}"#));
    until("the service is there", || services() == "consul\nweb\n");

    replace(&format!(
        r#"{more},"services":[{{"name":"web"}},{{"port":1}},{{"name":"db"}},{{"name":"x","check":{{"interval":"1s"}}}}]"#
    ));
    until("the log names file and causes", || {
        let log = agent.log();
        let file = agent.folder().join("more.json").display().to_string();
        log.contains("the reload failed: nothing was changed")
            && log.contains(&format!("{file}: service definition number 2: Missing service name"))
            && log.contains(&format!("{file}: service definition `x`: "))
    });
    assert_eq!(services(), "consul\nweb\n");

    replace(&format!(r#"{more},"service":{{"name":"db"}}"#));
    until("the file is right again", || services() == "consul\ndb\n");
}

#[test]
fn the_log_is_followed_kept_in_files_and_told_to_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let all = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&all);
    // It must read all the time: a full socket takes nothing more.
    std::thread::spawn(move || {
        let mut bytes = [0; 200];
        while let Ok(count) = systemd.recv(&mut bytes) {
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    let told = |what: &str| {
        until("systemd is told", || all.lock().unwrap().contains(what));
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut agent = Agent::start_with(
        |folder| {
            let folder = folder.display();
            format!(
                r#""log_level":"debug","log_json":true,"log_file":"{folder}/kept.log","log_rotate_bytes":600,
                   "log_rotate_max_files":2,"pid_file":"{folder}/new/pid",
                   "addresses":{{"http":"127.0.0.1 unix://{folder}/http.sock"}},"unix_sockets":{{"mode":"0600"}}"#
            )
        },
        &environment,
    );
    told("READY=1");
    told("WATCHDOG=1");

    let mode = fs::metadata(agent.folder().join("http.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = format!("-http-addr=unix://{}/http.sock", agent.folder().display());
    agent.expect(&["kv", "get", "-keys", &socket], 0, "", "");
    // A second start with the same files finds the interfaces taken, and leaves the first one's pid alone.
    let pid = || fs::read_to_string(agent.folder().join("new/pid")).unwrap();
    let first = pid();
    let [own, more] = ["agent.json", "more.json"].map(|name| agent.folder().join(name));
    let [own, more] = [&own, &more].map(|path| path.to_str().unwrap());
    let (code, _, err) = agent.run(&["agent", "-dev", "-config-file", own, "-config-file", more]);
    assert_eq!((code, pid()), (1, first), "{err}");

    let heard = agent.folder().join("heard");
    let mut monitor = agent.spawn_into(&["monitor", "-log-level=info"], &heard);
    let text = || fs::read_to_string(&heard).unwrap_or_default();
    until("the monitor hears of reloads", || {
        agent.run(&["reload"]);
        text().contains("[INFO]  agent.node.reload: the configuration was reloaded")
    });
    assert!(!text().contains("[DEBUG]"), "{}", text());
    told("RELOADING=1");
    let (code, _, err) = agent.run(&["monitor", "-log-level=loud"]);
    assert_eq!(code, 1);
    assert!(err.contains("Unknown log level: loud"), "{err}");

    let files = || {
        let entries = fs::read_dir(agent.folder()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains("/kept-")).collect::<Vec<_>>()
    };
    until("files are rotated", || {
        agent.run(&["reload"]);
        files().len() == 3
    });
    let line = fs::read_to_string(&files()[0]).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert!(line["@timestamp"].as_str().is_some_and(|moment| moment.ends_with('Z')), "{line}");

    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended(), Some(1));
    assert!(!agent.folder().join("new/pid").exists());
    assert_eq!(monitor.wait().unwrap().code(), Some(0));
    told("STOPPING=1");
}

#[test]
fn requests_above_the_rate_are_refused_until_a_reload_allows_them() {
    let agent = Agent::start();
    let ask = || {
        let mut stream = TcpStream::connect(agent.address()).unwrap();
        stream
            .write_all(b"GET /v1/catalog/nodes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask().starts_with("HTTP/1.1 200 "));
    agent.configure(
        r#""limits":{"request_limits":{"mode":"enforcing","read_rate":0.01,"write_rate":-1}}"#,
    );
    agent.expect(&["reload"], 0, "Configuration reload triggered\n", "");
    assert!(ask().starts_with("HTTP/1.1 200 "));
    let refused = ask();
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.to_lowercase().contains("\r\nretry-after: 60\r\n"), "{refused}");
    agent.configure(r#""limits":{"request_limits":{"mode":"permissive","read_rate":0.01}}"#);
    agent.expect(&["reload"], 0, "Configuration reload triggered\n", "");
    for _ in 0..3 {
        assert!(ask().starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn watches_of_the_configuration_tell_what_changed() {
    let agent = Agent::start_with(
        |folder| {
            let folder = folder.display();
            format!(
                r#""client_addr":"{{{{ GetAllInterfaces | include \"name\" \"^lo$\" | include \"type\" \"ipv4\" | attr \"address\" }}}}",
                   "watches":[{{"type":"keyprefix","prefix":"a/",
                     "args":["/bin/sh","-c","cat >> {folder}/told; echo \"$CONSUL_INDEX $MUSTER_CHANGES\" >> {folder}/told"]}}]"#
            )
        },
        &[],
    );
    let told = || fs::read_to_string(agent.folder().join("told")).unwrap_or_default();
    until("the watch tells at once", || told().starts_with("null\n"));
    agent.run(&["kv", "put", "a/color", "red"]);
    until("the watch tells of the key", || {
        told().contains(r#" {"added":["a/color"],"changed":{},"removed":[]}"#)
    });

    // A watch that is asked to stop is silent; a new one begins; a mistake changes neither.
    agent.configure(r#""watches":[{"type":"kye","handler":"x"}]"#);
    let (code, _, err) = agent.run(&["reload"]);
    assert_eq!(code, 1);
    assert!(err.contains("watches[0]: Unsupported watch type: kye"), "{err}");
    let second = agent.folder().join("second");
    agent.configure(&format!(
        r#""watches":[{{"type":"key","key":"a/color","handler":"cat > {}"}}]"#,
        second.display()
    ));
    agent.expect(&["reload"], 0, "Configuration reload triggered\n", "");
    until("the new watch tells", || {
        fs::read_to_string(&second).is_ok_and(|text| text.contains(r#""Value":"cmVk""#))
    });
    let before = told();
    agent.run(&["kv", "put", "a/color", "blue"]);
    until("the new watch tells again", || {
        fs::read_to_string(&second).is_ok_and(|text| text.contains(r#""Value":"Ymx1ZQ==""#))
    });
    assert_eq!(told(), before);
}

#[test]
fn a_service_is_explained_and_a_key_is_edited() {
    let agent = Agent::start();
    agent.configure(
        r#""service":{"name":"web","port":80,"check":{"id":"alive","ttl":"1m","status":"warning"}}"#,
    );
    agent.expect(&["reload"], 0, "Configuration reload triggered\n", "");
    let said = format!(
        "web on {} at 127.0.0.1:80\n    HTTP  not served: its check \"alive\" is warning\n    \
         DNS   served: no check is critical\nweb: 1 instances, 0 served over HTTP, 1 over DNS\n",
        agent.node()
    );
    until("the check is in the catalog", || agent.run(&["explain", "web"]).1 == said);
    let mut report = TcpStream::connect(agent.address()).unwrap();
    let request = "PUT /v1/agent/check/fail/alive?note=it+fell HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    report.write_all(request.as_bytes()).unwrap();
    std::io::read_to_string(report).unwrap();
    until("what the check said is told, and when", || {
        let told = agent.run(&["explain", "web"]).1;
        told.contains("check \"alive\" critical since 20") && told.contains("        it fell\n")
    });
    let (code, out, _) = agent.run(&["explain", "-tag=v2", "-format=json", "web"]);
    assert!(code == 1 && out.contains(r#""Why": "it has no tag \"v2\"""#), "{out}");
    let (code, _, err) = agent.run(&["explain", "wbe"]);
    assert_eq!(code, 1);
    assert!(err.contains("hint: did you mean `web`?"), "{err}");

    let taken = "Invalid key. Key must not begin with a '/': /lead\n";
    let failed = format!("Error! Failed writing data for key /lead: {taken}");
    let rows = r#"[{"key":"fine","value":"aGk="},{"key":"/lead","value":"aGk="}]"#;
    agent.expect(&["kv", "import", rows], 1, "", &failed);
    agent.expect(&["kv", "get", "-keys"], 0, "", "");
    agent.expect(&["kv", "delete", "/lead"], 0, "Success! Deleted key: lead\n", "");
    agent.expect(
        &["kv", "delete", "-recurse", "/le"],
        0,
        "Success! Deleted keys with prefix: le\n",
        "",
    );
    agent.expect(&["kv", "delete", "/"], 1, "", "Error! Missing KEY argument\n");
    agent.expect(&["watch", "-type=key", "-key=/lead"], 0, "null\n", "");

    let editor = agent.folder().join("editor");
    fs::write(&editor, "#!/bin/sh\nprintf blue > \"$1\"\n").unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    let line = format!("VISUAL={} exec $0 kv edit color", editor.display());
    let edit = || agent.run_shell(&line);
    assert_eq!(edit(), (0, "Success! Data written to: color\n".to_owned(), String::new()));
    assert_eq!(edit(), (0, "Nothing was changed.\n".to_owned(), String::new()));
    agent.expect(&["kv", "get", "color"], 0, "blue\n", "");
}

#[test]
fn idle_connections_to_gossip_leave_http_its_file_handles() {
    let folder = tempfile::tempdir().unwrap();
    let few = folder.path().join("muster");
    let script =
        format!("#!/bin/sh\nulimit -n 256\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_muster"));
    fs::write(&few, script).unwrap();
    fs::set_permissions(&few, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Agent::start_program(few.to_str().unwrap(), |_| String::new(), &[]);
    let [.., lan, _] = agent.ports();
    let idle: Vec<TcpStream> =
        (0..400).map(|_| TcpStream::connect(("127.0.0.1", lan)).unwrap()).collect();
    // New connections each: what is open already would prove nothing.
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        let (code, out, err) = agent.run(&["catalog", "nodes"]);
        assert!(code == 0 && out.contains(agent.node()), "{err}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    let other = Agent::start();
    let to = format!("127.0.0.1:{lan}");
    until("another agent joins", || {
        let (_, _, err) = other.run(&["join", &to]);
        // Two servers of their own do not become one, but they know each other.
        err.is_empty() && other.run(&["members"]).1.contains(agent.node())
    });
    drop(idle);
}
