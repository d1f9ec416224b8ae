//! How an agent behaves as a process: reloads, signals, logs, systemd, sockets, limits.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

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

    agent.configure("");
    agent.signal(Signal::SIGHUP);
    until("the service is gone", || agent.run(&["catalog", "services"]).1 == "consul\n");
}

#[test]
fn the_log_is_followed_kept_in_files_and_told_to_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let told = |what: &str| {
        let mut bytes = [0; 200];
        loop {
            let count = systemd.recv(&mut bytes).expect("systemd is told in time");
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.contains(what) {
                return;
            }
        }
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut agent = Agent::start_with(
        |folder| {
            let folder = folder.display();
            format!(
                r#""log_level":"debug","log_json":true,"log_file":"{folder}/kept.log","log_rotate_bytes":600,
                   "log_rotate_max_files":2,"pid_file":"{folder}/pid",
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
    assert!(agent.folder().join("pid").exists());

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
    assert!(!agent.folder().join("pid").exists());
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
